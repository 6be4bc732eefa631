"""Weights of networks in 8 bits: half the size of half precision."""

import torch

STEP = '.step'


def packed(weights, least=0):
    """
    Return weights of layers as whole steps, an own step for each output channel.

    Parameters
    ----------
    weights : dict of tensors
        State of a network.
    least : int
        Smaller weights stay in half precision.

    Returns
    -------
    tensors : dict of tensors
        int8 with float16 steps beside them; all others in half precision, whole numbers as they
        are.

    """
    tensors = {}
    for name, weight in weights.items():
        if weight.is_floating_point() and weight.ndim > 1 and weight.numel() >= least:
            largest = weight.float().abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
            # Steps that half precision holds, and none of nothing.
            step = (largest / 127).clamp(min=1e-6).half()
            tensors[name + STEP] = step.contiguous()
            weight = (weight.float() / step.float()).round().clamp(-127, 127).to(torch.int8)
        elif weight.is_floating_point():
            weight = weight.half()
        tensors[name] = weight.contiguous()
    return tensors


def unpacked(tensors):
    """
    Return what `packed` was given, but for rounding.

    Raises
    ------
    ValueError
        For steps without what they are the steps of, or of another shape.

    """
    weights = dict(tensors)
    for name in [name for name in weights if name.endswith(STEP)]:
        step, whole = weights.pop(name), weights.get(name[:-len(STEP)])
        if (whole is None or whole.dtype != torch.int8
                or step.shape != (len(whole), *[1] * (whole.ndim - 1))):
            raise ValueError(f'{name} goes with no weights in 8 bits')
        weights[name[:-len(STEP)]] = whole.float() * step.float()
    return weights
