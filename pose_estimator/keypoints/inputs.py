"""What the network sees: colours and mask as one tensor."""

import torch


def prepare_input(rgb, mask):
    """
    Return the network's input of crops; the only place that scales pixels.

    Parameters
    ----------
    rgb : tensor, shape (B, 3, S, S), or None
        0..1.
    mask : tensor, shape (B, 1, S, S)
        0..1.

    Returns
    -------
    image : tensor, shape (B, 4 or 1, S, S)
        Around 0.

    """
    mask = mask * 2 - 1
    return mask if rgb is None else torch.cat([(rgb - 0.45) * 4, mask], 1)
