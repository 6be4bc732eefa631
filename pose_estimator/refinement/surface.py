"""What a mesh looks like, as coloured points that are drawn fast enough to compare with images."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..mesh import farthest_indices, surface_samples

# More points leave no holes in drawings of DRAWN pixels a side.
POINTS = 3072
DRAWN = 64
# Side of a crop over the longer side of the drawing's box, about which it is cut out.
MARGIN = 1.4
# What lies deeper than this behind the nearest point of a pixel is hidden, in diameters.
_THICKNESS = 0.03
# Of the depth, as integers that are compared together with the points' numbers.
_DEPTHS = 1 << 20


@dataclass(frozen=True, eq=False)
class Surface:
    """
    Points spread evenly over the surface of an object.

    Attributes
    ----------
    points : array of float32, shape (N, 3)
        Model frame, metres.
    normals : array of float32, shape (N, 3)
        Unit normals, model frame.
    colors : array of uint8, shape (N, 3)
        RGB; grey 180 where the mesh has none.

    """

    points: np.ndarray
    normals: np.ndarray
    colors: np.ndarray

    @classmethod
    def of_mesh(cls, mesh, count=POINTS, seed=0):
        """Return `count` points of a mesh, the same each time."""
        points, normals, colors = surface_samples(mesh, 4 * count, seed, apart=4)
        # As far apart as can be, they leave the fewest holes.
        chosen = farthest_indices(points, count)
        return cls(points[chosen].astype(np.float32), normals[chosen].astype(np.float32),
                   colors[chosen])

    def to_tensors(self):
        """Return what from_tensors reads: 12 bytes a point, exact to 1/65535 of the extent."""
        low, high = self.points.min(0), self.points.max(0)
        extent = np.maximum(high - low, 1e-9)
        # Torch has few operations on unsigned 16 bits, so they are stored with a sign.
        steps = np.round((self.points - low) / extent * 65535).astype(np.int32) - 32768
        return {'surface.bounds': torch.from_numpy(np.stack([low, high]).astype(np.float32)),
                'surface.points': torch.from_numpy(steps.astype(np.int16)),
                'surface.normals': torch.from_numpy(
                    np.round(self.normals * 127).astype(np.int8)),
                'surface.colors': torch.from_numpy(self.colors.astype(np.uint8))}

    @classmethod
    def from_tensors(cls, tensors):
        """
        Take a surface out of a dict of tensors.

        Returns
        -------
        Surface or None
            None where the dict has none.

        Raises
        ------
        ValueError
            For tensors that do not fit together.

        """
        if 'surface.points' not in tensors:
            return None
        names = ('bounds', 'points', 'normals', 'colors')
        missing = [name for name in names if f'surface.{name}' not in tensors]
        if missing:
            raise ValueError(f'the surface lacks its {missing[0]}')
        bounds, points, normals, colors = (tensors.pop(f'surface.{name}').numpy()
                                           for name in names)
        if not points.shape == normals.shape == colors.shape == (POINTS, 3):
            raise ValueError(f'surface: expected {POINTS} points with normals and colours, got '
                             f'{points.shape}, {normals.shape}, {colors.shape}')
        if bounds.shape != (2, 3) or not np.isfinite(bounds).all() or (
                bounds[1] < bounds[0]).any():
            raise ValueError('surface.bounds: expected two finite corners (2, 3), the lower one '
                             f'first, got {bounds.tolist()}')
        steps = (points.astype(np.float32) + 32768) / 65535
        return cls(bounds[0] + steps * (bounds[1] - bounds[0]),
                   normals.astype(np.float32) / 127, colors)

    def tensors(self, device='cpu'):
        """Return points and appearance as tensors, not to be changed; see draw."""
        return tuple(one.to(device) for one in self._tensors)

    @cached_property
    def _tensors(self):
        look = np.concatenate([self.colors / np.float32(255), self.normals], 1)
        return torch.from_numpy(np.array(self.points)), torch.from_numpy(look.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Drawing:
    """
    Objects as they would look under given poses.

    Attributes
    ----------
    pixels : tensor, shape (B, 7, DRAWN, DRAWN)
        Mask, R G B, normal in the camera's frame; zero beside the object.
    points : tensor, shape (B, DRAWN / 2, DRAWN / 2, 3)
        A visible point of the surface in each 2 x 2 pixels, model frame, metres.
    is_seen : tensor of bool, shape (B, DRAWN / 2, DRAWN / 2)
        Whether there is one.

    """

    pixels: torch.Tensor
    points: torch.Tensor
    is_seen: torch.Tensor


def draw(points, look, R_m2c, t_m2c, K, size):
    """
    Draw objects by their points.

    Parameters
    ----------
    points : tensor, shape (B, N, 3)
        Model frame, metres.
    look : tensor, shape (B, N, 6)
        Colours 0..1 and normals, model frame.
    R_m2c : tensor, shape (B, 3, 3)
        Of the pose, as t_m2c.
    t_m2c : tensor, shape (B, 3)
        Metres.
    K : tensor, shape (B, 3, 3)
        Intrinsics of the crops.
    size : int
        Side of the crops in pixels.

    Returns
    -------
    Drawing

    """
    count, number = points.shape[:2]
    seen = points @ R_m2c.mT + t_m2c[:, None]
    depth = seen[..., 2].clamp(min=1e-6)
    flat = seen @ K.mT
    shrink = size / DRAWN
    xy = (flat[..., :2] / flat[..., 2:].clamp(min=1e-6) + 0.5) / shrink - 0.5
    low = xy.floor()
    part = xy - low
    low = low.long()
    corners = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=points.device)
    cell = low[:, :, None] + corners  # (B, N, 4, 2)
    inside = ((cell >= 0) & (cell < DRAWN)).all(-1)
    place = cell[..., 1] * DRAWN + cell[..., 0]
    # What is outside goes to one more pixel, which is thrown away.
    place = torch.where(inside, place, DRAWN * DRAWN)
    near, far = depth.amin(1, keepdim=True), depth.amax(1, keepdim=True)
    extent = (far - near).clamp(min=1e-6)
    rank = ((depth - near) / extent * (_DEPTHS - 1)).long()
    key = rank * number + torch.arange(number, device=points.device)  # (B, N)
    empty = _DEPTHS * number
    nearest = torch.full((count, DRAWN * DRAWN + 1), empty, device=points.device)
    nearest.scatter_reduce_(1, place.flatten(1), key[:, :, None].expand(-1, -1, 4).flatten(1),
                            'amin')
    # Pixels show the mean of the points about their nearest one, by how near they are.
    front = torch.gather(nearest, 1, place.flatten(1)).view(count, number, 4) // number
    shown = inside & (rank[..., None] - front <= _THICKNESS * _DEPTHS)
    weight = torch.where(corners.bool(), part[:, :, None], 1 - part[:, :, None]).prod(-1)
    weight = weight * shown + 1e-4 * shown
    normals = look[..., 3:] @ R_m2c.mT
    # Towards the camera, as meshes with any order of corners need it.
    normals = torch.where((normals * seen).sum(-1, keepdim=True) > 0, -normals, normals)
    values = torch.cat([torch.ones_like(depth)[..., None], look[..., :3], normals], -1)
    sums = torch.zeros(count, DRAWN * DRAWN + 1, 7, device=points.device)
    for corner in range(4):
        sums.scatter_add_(1, place[:, :, corner, None].expand(-1, -1, 7),
                          values * weight[:, :, corner, None])
    sums = sums[:, :-1]
    pixels = sums / sums[..., :1].clamp(min=1e-8)
    pixels = pixels.mT.reshape(count, 7, DRAWN, DRAWN)
    half = DRAWN // 2
    first = nearest[:, :-1].view(count, half, 2, half, 2).amin((2, 4))  # (B, half, half)
    is_seen = first < empty
    chosen = torch.where(is_seen, first % number, 0).flatten(1)
    found = torch.gather(points, 1, chosen[..., None].expand(-1, -1, 3))
    return Drawing(pixels, found.view(count, half, half, 3), is_seen)
