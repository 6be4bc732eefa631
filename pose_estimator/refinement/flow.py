"""Where the points of a drawn object are in the photograph, and the pose that this speaks for."""

import numpy as np
import torch
from torch.nn import functional

from .surface import DRAWN
from ..geometry import Pose, rotation_of
from ..keypoints.inputs import prepare_input
from ..pnp import normal_matrix, project

# Photograph R G B and mask, drawing's mask, R G B and normals.
CHANNELS = 11
# What the network says of each cell: a shift x, y, the log of its expected error, and which of
# its FINE x FINE parts show the object; what it must know for that tells it how large things are.
FINE = 4
OUTPUTS = 3 + FINE * FINE
# Pixels of the crop in one unit of the network's shifts.
UNIT = 8.0
# Bounds of the expected error in pixels of the crop.
SURE, UNSURE = 0.1, 40.0
# So few cells of an object say nothing.
LEAST_CELLS = 20


def network_input(rgb, mask, drawn):
    """
    Return what the network sees.

    Parameters
    ----------
    rgb : tensor, shape (B, 3, S, S)
        Photograph, 0..1.
    mask : tensor, shape (B, 1, S, S)
        The segmenter's, 0..1.
    drawn : tensor, shape (B, 7, DRAWN, DRAWN)
        Of surface.draw, under the pose that is to be mended.

    Returns
    -------
    image : tensor, shape (B, 11, S, S)
        Around 0.

    """
    size = rgb.shape[-1]
    presence = drawn[:, :1]
    shape = torch.cat([presence * 2 - 1, (drawn[:, 1:4] - 0.45) * 4 * presence,
                       drawn[:, 4:7] * 2], 1)
    shape = functional.interpolate(shape, scale_factor=size // DRAWN, mode='nearest')
    return torch.cat([prepare_input(rgb, mask), shape], 1)


def read(output):
    """
    Return what the network's output means.

    Returns
    -------
    shift : tensor, shape (B, h, w, 2)
        x, y in pixels of the crop.
    error : tensor, shape (B, h, w)
        How far off that is expected to be, pixels of the crop.

    """
    shift = output[:, :2].permute(0, 2, 3, 1) * UNIT
    error = (output[:, 2] * 2 + 0.7).clamp(float(np.log(SURE)), float(np.log(UNSURE))).exp()
    return shift, error


def loss(outputs, pairs):
    """
    Return what training minimises, a tensor of one number.

    Parameters
    ----------
    outputs : list of tensors, shape (B, OUTPUTS, h, w)
        Of each of the network's hourglasses.
    pairs : Pairs
        What it saw.

    """
    parts = functional.pixel_unshuffle(pairs.seen, FINE)
    value = 2 * away_from_pose(outputs[-1], pairs)
    for index, output in enumerate(outputs):
        part = unlikelihood(output, pairs.shift, pairs.is_seen)
        part = part + functional.binary_cross_entropy_with_logits(output[:, 3:], parts)
        value = value + part * (1 if index + 1 == len(outputs) else 0.5)
    return value


def unlikelihood(output, target, is_seen):
    """
    Return the negative log likelihood of shifts under a round Laplace distribution.

    Parameters
    ----------
    output : tensor, shape (B, OUTPUTS, h, w)
        Of the network.
    target : tensor, shape (B, h, w, 2)
        True shifts, pixels of the crop.
    is_seen : tensor of bool, shape (B, h, w)
        Where there are any.

    """
    shift, error = read(output)
    away = ((shift - target) ** 2).sum(-1).add(1e-4).sqrt()
    value = away / error + 2 * error.log()
    return (value * is_seen).sum() / is_seen.sum().clamp(min=1)


def away_from_pose(output, pairs, steps=3):
    """
    Return how far the visible points lie from the true ones under the pose that shifts speak for.

    Errors that all cells have in common, as when a thing is taken for larger than it is, weigh
    here as much as they do in a pose, and not as little as in the likelihood of each cell.

    Parameters
    ----------
    output : tensor, shape (B, OUTPUTS, h, w)
        Of the network.
    pairs : Pairs
        What it saw.
    steps : int
        Of Gauss-Newton, through which the gradient goes.

    Returns
    -------
    away : tensor of one number
        Mean of log(1 + 2 x), x being the mean distance over 0.1 diameters.

    """
    shift, error = (one.flatten(1, 2) for one in read(output))
    points, there = pairs.points.flatten(1, 2), pairs.is_seen.flatten(1).float()
    rotation, translation = pairs.R_drawn, pairs.t_drawn
    target = _project(points, rotation, translation, pairs.K)[0] + shift
    for _ in range(steps):
        seen, jacobian = _project(points, rotation, translation, pairs.K)
        residual = seen - target
        away = residual.detach().pow(2).sum(-1).add(1e-6).sqrt()
        weight = there / (error * torch.maximum(away, error.detach()))
        weight = weight / weight.mean(1, keepdim=True).clamp(min=1e-6)
        weighed = jacobian * weight[:, :, None, None]
        normal = torch.einsum('bnki,bnkj->bij', weighed, jacobian)
        gradient = torch.einsum('bnki,bnk->bi', weighed, residual)
        # Metres and radians are brought to one scale, which single precision needs.
        scale = torch.diagonal(normal, dim1=1, dim2=2).clamp(min=1e-12).sqrt()
        even = normal / (scale[:, :, None] * scale[:, None]) + 1e-3 * torch.eye(
            6, device=normal.device)
        step = -torch.linalg.solve_ex(even, gradient / scale)[0] / scale
        # A network that has learned nothing yet speaks for anything.
        move = step[:, :3] / translation[:, 2:].abs().clamp(min=1e-3)
        step = torch.cat([move.clamp(-0.3, 0.3) * translation[:, 2:].abs(),
                          step[:, 3:].clamp(-0.5, 0.5)], 1)
        rotation = rotations(step[:, 3:]) @ rotation
        translation = translation + step[:, :3]
    found = points @ rotation.mT + translation[:, None]
    true = points @ pairs.R_m2c.mT + pairs.t_m2c[:, None]
    apart = (found - true).pow(2).sum(-1).add(1e-10).sqrt()
    apart = (apart * there).sum(1) / there.sum(1).clamp(min=1) / (0.1 * pairs.diameter)
    # Few cells fix no pose.
    enough = (there.sum(1) >= LEAST_CELLS).float()
    return (torch.log1p(2 * apart) * enough).sum() / enough.sum().clamp(min=1)


def _project(points, rotation, translation, K):
    """Return pixels (B, N, 2) of points (B, N, 3), and their change by t and R (B, N, 2, 6)."""
    turned = points @ rotation.mT
    x, y, z = (turned + translation[:, None]).unbind(-1)
    z = z.clamp(min=1e-3)
    focal = K[:, :1, 0]
    pixels = torch.stack([focal * x / z, focal * y / z], -1) + K[:, None, :2, 2]
    nil = torch.zeros_like(z)
    moved = torch.stack([torch.stack([focal / z, nil, -focal * x / z ** 2], -1),
                         torch.stack([nil, focal / z, -focal * y / z ** 2], -1)], -2)
    return pixels, torch.cat([moved, -moved @ _cross(turned)], -1)


def rotations(vectors):
    """Return matrices (B, 3, 3) that turn about vectors (B, 3) by their lengths (Rodrigues)."""
    angle = vectors.norm(dim=1).clamp(min=1e-6)[:, None, None]
    cross = _cross(vectors) / angle
    eye = torch.eye(3, device=vectors.device)
    return eye + torch.sin(angle) * cross + (1 - torch.cos(angle)) * cross @ cross


def _cross(vectors):
    """Return matrices (..., 3, 3) that multiply by vectors (..., 3) in the cross product."""
    x, y, z = vectors.unbind(-1)
    nil = torch.zeros_like(x)
    return torch.stack([torch.stack([nil, -z, y], -1), torch.stack([z, nil, -x], -1),
                        torch.stack([-y, x, nil], -1)], -2)


def settle(pose, points, shift, error, K, steps=4):
    """
    Return the pose under which points lie where the network saw them.

    Gauss-Newton on all points, weighed as the Laplace distribution has it (Holland & Welsch
    1977).

    Parameters
    ----------
    pose : Pose
        Under which the points were drawn.
    points : array, shape (N, 3)
        Model frame, metres.
    shift : array, shape (N, 2)
        Pixels of the crop.
    error : array, shape (N,)
        Expected errors of the shifts, pixels.
    K : array, shape (3, 3)
        Intrinsics of the crop.
    steps : int
        How often the pose is moved.

    Returns
    -------
    pose : Pose
    normal : array, shape (6, 6)
        J^T W J of the last step, as in pnp.refine.
    away : array, shape (N,)
        What of the shifts no pose explains, pixels.

    Raises
    ------
    numpy.linalg.LinAlgError
        Where the shifts fix no pose.

    """
    rotation, translation = pose.R_m2c, pose.t_m2c
    target = project(rotation[None], translation[None], points, K)[0][0] + shift
    for _ in range(steps):
        seen, jacobian = project(rotation[None], translation[None], points, K)
        residual = seen[0] - target
        away = np.sqrt((residual ** 2).sum(1))
        weight = 1 / (error * np.maximum(away, error))
        normal, weighed = normal_matrix(jacobian[0], weight)
        gradient = weighed @ residual.ravel()
        damped = normal + np.diag(1e-4 * np.diag(normal) + 1e-12)
        step = -np.linalg.solve(damped, gradient)
        if not np.isfinite(step).all():
            raise np.linalg.LinAlgError('the shifts fix no pose')
        rotation, translation = rotation_of(step[3:]) @ rotation, translation + step[:3]
    return Pose(rotation, translation), normal, away
