"""Keypoints <-> heatmaps, and the losses between them: encoder and decoder side by side."""

import torch
from torch.nn import functional

# Standard deviation in cells of the gaussian that stands for a keypoint.
SIGMA = 1.0
# The decoder averages over this many cells to each side of the maximum.
REACH = 2


def encode(keypoints, heatmap_size, input_size):
    """
    Return target heatmaps, one gaussian each; all zero for a keypoint outside the crop.

    Parameters
    ----------
    keypoints : tensor, shape (..., 2)
        x, y in crop pixels.
    heatmap_size, input_size : int
        Sides in cells and in pixels.

    Returns
    -------
    heatmaps : tensor, shape (..., heatmap_size, heatmap_size)
        Each sums to 1 or 0.

    """
    cell = pixels_to_cells(keypoints, heatmap_size, input_size)
    axis = torch.arange(heatmap_size, dtype=torch.float32, device=keypoints.device)
    x = torch.exp(-0.5 * ((axis - cell[..., :1]) / SIGMA) ** 2)
    y = torch.exp(-0.5 * ((axis - cell[..., 1:]) / SIGMA) ** 2)
    heatmap = y[..., :, None] * x[..., None, :]
    heatmap = heatmap / heatmap.sum((-1, -2), keepdim=True).clamp(min=1e-9)
    inside = ((cell > -0.5) & (cell < heatmap_size - 0.5)).all(-1)
    return heatmap * inside[..., None, None]


def pixels_to_cells(keypoints, heatmap_size, input_size):
    """Return positions in cells: the middle of the first cell is 0, that of its pixels too."""
    stride = input_size / heatmap_size
    return (keypoints + 0.5) / stride - 0.5


def cells_to_pixels(cells, heatmap_size, input_size):
    """Return positions in crop pixels, the inverse of pixels_to_cells."""
    stride = input_size / heatmap_size
    return (cells + 0.5) * stride - 0.5


def probabilities(logits):
    """
    Return the share of belief in each cell.

    A softmax over all cells and one place more, 'not in the crop', whose logit is 0.

    Parameters
    ----------
    logits : tensor, shape (B, K, h, w)
        What the network gives.

    Returns
    -------
    probability : tensor, shape (B, K, h, w)
        Sums to at most 1 over a heatmap.

    """
    flat = logits.flatten(2)
    nowhere = torch.zeros_like(flat[..., :1])
    return functional.softmax(torch.cat([flat, nowhere], 2), 2)[..., :-1].reshape(logits.shape)


def decode(heatmaps, input_size):
    """
    Return keypoints from heatmaps of probability: the mean around the maximum.

    Parameters
    ----------
    heatmaps : tensor, shape (B, K, h, h)
        Not negative.
    input_size : int
        Side of the crop in pixels.

    Returns
    -------
    keypoints : tensor, shape (B, K, 2)
        x, y in crop pixels.
    confidence : tensor, shape (B, K)
        Share of belief around the maximum.

    """
    batch, count, size, _ = heatmaps.shape
    peak = heatmaps.flatten(2).argmax(2)
    offset = torch.arange(-REACH, REACH + 1, device=heatmaps.device)
    columns = (peak % size)[..., None] + offset  # (B, K, 5)
    rows = (peak // size)[..., None] + offset
    padded = functional.pad(heatmaps, (REACH,) * 4)
    index = (rows + REACH)[..., :, None] * (size + 2 * REACH) + (columns + REACH)[..., None, :]
    window = padded.flatten(2).gather(2, index.flatten(2))
    window = window.reshape(batch, count, 2 * REACH + 1, 2 * REACH + 1)
    mass = window.sum((2, 3))
    weight = window / mass.clamp(min=1e-9)[..., None, None]
    x, y = (weight.sum(2) * columns).sum(2), (weight.sum(3) * rows).sum(2)
    return cells_to_pixels(torch.stack([x, y], -1), size, input_size), mass


def cross_entropy(logits, targets):
    """
    Return the spatial cross-entropy of each labeling, averaged over keypoints.

    Parameters
    ----------
    logits : tensor, shape (B, K, h, w)
        What the network gives.
    targets : tensor, shape (B, L, K, h, w)
        From encode; L symmetric labelings.

    Returns
    -------
    loss : tensor, shape (B, L)

    """
    flat = logits.flatten(2)
    log = functional.log_softmax(torch.cat([flat, torch.zeros_like(flat[..., :1])], 2), 2)
    targets = targets.flatten(3)
    nowhere = 1 - targets.sum(3)
    cells = torch.einsum('bkc,blkc->bl', log[..., :-1], targets)
    return -(cells + torch.einsum('bk,blk->bl', log[..., -1], nowhere)) / logits.shape[1]


def squared_error(logits, targets):
    """
    Return the paper's l2 loss against gaussians with a maximum of 1; see cross_entropy.

    The heatmaps themselves are compared, without softmax, and summed over cells.
    """
    peak = 1 / (2 * torch.pi * SIGMA ** 2)
    difference = logits[:, None] - targets / peak
    return (difference ** 2).sum((3, 4)).mean(2)


LOSSES = {'cross_entropy': cross_entropy, 'l2': squared_error}
# How heatmaps of belief come from what the network gives, by loss.
ACTIVATIONS = {'cross_entropy': probabilities, 'l2': lambda logits: logits.clamp(min=0)}


def symmetric_loss(heatmaps, targets, loss):
    """
    Return the loss of all modules under the labeling that fits the last one best.

    Parameters
    ----------
    heatmaps : list of tensors, shape (B, K, h, w)
        Of each module.
    targets : tensor, shape (B, L, K, h, w)
        From encode; L symmetric labelings.
    loss : str
        A key of LOSSES.

    """
    losses = [LOSSES[loss](one, targets) for one in heatmaps]  # each (B, L)
    best = losses[-1].detach().argmin(1, keepdim=True)
    return sum(one.gather(1, best).mean() for one in losses)
