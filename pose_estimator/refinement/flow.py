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
# What the network says of each cell: a shift x, y and the log of its expected error.
OUTPUTS = 3
# Pixels of the crop in one unit of the network's shifts.
UNIT = 8.0
# Bounds of the expected error in pixels of the crop.
SURE, UNSURE = 0.1, 40.0


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


def loss(output, target, is_seen):
    """
    Return the negative log likelihood of shifts under a round Laplace distribution.

    Parameters
    ----------
    output : tensor, shape (B, 3, h, w)
        Of the network.
    target : tensor, shape (B, h, w, 2)
        True shifts, pixels of the crop.
    is_seen : tensor of bool, shape (B, h, w)
        Where there are any.

    """
    shift, error = read(output)
    away = ((shift - target) ** 2).sum(-1).add(1e-4).sqrt()
    value = away / error + 2 * error.log()
    return value[is_seen].mean()


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
