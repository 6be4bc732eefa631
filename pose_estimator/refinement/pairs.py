"""Virtual crops of many objects, each with a drawing of it under a pose somewhat wrong."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
import math
import multiprocessing

import numpy as np
import torch
from torch.nn import functional

from .flow import network_input, rotations
from .surface import draw, MARGIN, POINTS, Surface
from ..geometry import Pose
from ..mesh import farthest_points, mesh_diameter, sample_surface, surface_samples
from ..object_model import ObjectModel
from ..synthetic.crops import CropConfig, CropSampler
from ..synthetic.distractors import random_body
from ..synthetic.symmetry import canonical_pose
from ..synthetic.views import appearance_views, ViewBank

# Masks are left out more often than for keypoints: edges in the colours are more exact.
# Masks are as often too large as too small: who expects small ones sees the others' objects too
# near.
CROPS = CropConfig(mask_dropped=0.5, mask_eroded=0.01, mask_dilated=0.01, occluded=0.85,
                   margin=MARGIN)
# Standard deviations of a pose's faults: turn about each axis in radians, place in pixels of the
# crop, logarithm of the distance. All are multiplied by the same number from FAULTS, and so many
# times that for one in four.
TURN, PLACE, DISTANCE = math.radians(6), 2.5, 0.035
FAULTS, FAR_OFF = (0.1, 1.8), 2.5
# Turns about an axis of symmetry that are told apart.
TURNS = 90
# One random body in so many is drawn grey, as a mesh without colours would be.
GREY = 8


def random_objects(rng, count):
    """Return `count` random bodies as (ObjectModel, Mesh, Surface)."""
    objects = []
    for index in range(count):
        mesh = random_body(rng, 128, most_parts=4)
        points = farthest_points(sample_surface(mesh, 2048), 64)
        model = ObjectModel(f'body{index}', points[:8], tuple(f'p{n}' for n in range(8)),
                            np.stack([mesh.vertices.min(0), mesh.vertices.max(0)]),
                            mesh_diameter(mesh.vertices), points)
        # Not as even as those of known objects, which takes longer.
        points, normals, colors = surface_samples(mesh, POINTS, index)
        surface = Surface(points.astype(np.float32), normals.astype(np.float32), colors)
        if index % GREY == 0:
            surface.colors[:] = 180
        objects.append((model, mesh, surface))
    return objects


@dataclass(frozen=True, eq=False)
class Pairs:
    """
    What a PairSampler gives, of B samples.

    Attributes
    ----------
    image : tensor, shape (B, CHANNELS, S, S)
        See flow.network_input.
    shift : tensor, shape (B, h, w, 2)
        From where a point was drawn to where it is, pixels of the crop.
    is_seen : tensor of bool, shape (B, h, w)
        Where points were drawn.
    points : tensor, shape (B, h, w, 3)
        These points, model frame, metres.
    K, R_m2c, t_m2c : tensors, shapes (B, 3, 3), (B, 3, 3), (B, 3)
        Of the crop's camera, and the true pose; of those that look alike the one that is turned
        least from what was drawn.
    R_drawn, t_drawn : tensors, shapes (B, 3, 3), (B, 3)
        The pose under which the object was drawn.
    diameter : tensor, shape (B,)
        Of the object, metres.
    seen : tensor, shape (B, 1, S, S)
        0..1, the mask that a perfect segmenter would give.
    which : tensor of int, shape (B,)
        Number of the object.

    """

    image: torch.Tensor
    shift: torch.Tensor
    is_seen: torch.Tensor
    points: torch.Tensor
    K: torch.Tensor
    R_m2c: torch.Tensor
    t_m2c: torch.Tensor
    R_drawn: torch.Tensor
    t_drawn: torch.Tensor
    diameter: torch.Tensor
    seen: torch.Tensor
    which: torch.Tensor

    def to(self, device):
        """Return the same on a device."""
        return Pairs(*(getattr(self, one.name).to(device) for one in fields(self)))

    @classmethod
    def cat(cls, parts):
        """Return several as one."""
        return cls(*(torch.cat([getattr(part, one.name) for part in parts])
                     for one in fields(cls)))


class PairSampler:
    """
    Draws crops of several objects and the objects themselves beside them.

    Parameters
    ----------
    objects : list of (ObjectModel, Mesh, Surface)
    views : list of int
        How many views to render of each.
    scenery : dict
        'backgrounds' and 'bodies' for CropSampler.
    rng : numpy.random.Generator
        For the views.
    progress : callable
        Wraps the list of objects, to draw a bar.
    device : str or torch.device
        Where everything is made.
    processes : int
        How many render views.

    """

    def __init__(self, objects, views, scenery, rng, progress=iter, device='cpu', processes=1):
        tasks = [(model, mesh, count, rng.integers(2 ** 32))
                 for (model, mesh, _), count in zip(objects, views)]
        if processes > 1:
            with ProcessPoolExecutor(processes, multiprocessing.get_context('spawn')) as pool:
                banks = list(progress(pool.map(_views, tasks)))
        else:
            banks = list(progress(map(_views, tasks)))
        which = np.repeat(np.arange(len(views)), views)
        bank = ViewBank(*(np.concatenate(parts) for parts in zip(*banks)))
        self.device = torch.device(device)
        self._crops = CropSampler(bank, None, 'rgb_mask', CROPS, device=device, **scenery)
        self._which = torch.tensor(which, device=device)
        points, look = zip(*(surface.tensors(device) for _, _, surface in objects))
        self._points, self._look = torch.stack(points), torch.stack(look)
        self._centers = self._tensor([model.center for model, _, _ in objects])
        self._diameters = self._tensor([model.diameter for model, _, _ in objects])
        alike = [_alike(model.symmetries) for model, _, _ in objects]
        most = max(map(len, alike))
        # Those of fewer symmetries are as they are several times over.
        alike = [(them * most)[:most] for them in alike]
        self._alike_R = self._tensor([[pose.R_m2c for pose in them] for them in alike])
        self._alike_t = self._tensor([[pose.t_m2c for pose in them] for them in alike])
        self.seed(0)

    def _tensor(self, arrays):
        return torch.tensor(np.array(arrays), dtype=torch.float32, device=self.device)

    def seed(self, seed):
        """Start the randomness anew."""
        self._crops.seed(seed)
        self._random = torch.Generator(self.device).manual_seed(seed + 1)

    def points(self, which):
        """Return what is drawn of an object, given by its number, shape (N, 3)."""
        return self._points[which].double().cpu().numpy()

    def batch(self, count, severity=1.0):
        """Return Pairs of `count` samples, with a share of the crops' faults."""
        config = self._crops.config
        self._crops.config = config.eased(severity)
        crops = self._crops.batch(count, self._look_at_fault)
        self._crops.config = config
        which = self._which[crops.view]
        true, rotation, translation = self._fault
        # From the camera that was told where to look to that which does.
        turn = crops.R_m2c @ true.mT
        rotation, translation = turn @ rotation, (turn @ translation[..., None])[..., 0]
        drawn = draw(self._points[which], self._look[which], rotation, translation, crops.K,
                     config.size)
        true_R, true_t = self._nearest(crops.R_m2c, crops.t_m2c, which, rotation)
        flat = drawn.points.flatten(1, 2)
        shift = (_project(flat, true_R, true_t, crops.K)
                 - _project(flat, rotation, translation, crops.K))
        return Pairs(network_input(crops.rgb, crops.mask, drawn.pixels),
                     shift.view(*drawn.is_seen.shape, 2), drawn.is_seen, drawn.points, crops.K,
                     true_R, true_t, rotation, translation, self._diameters[which], crops.seen,
                     which)

    def _nearest(self, true_R, true_t, which, rotation):
        """Return of the true poses that look alike those that are turned least from others."""
        alike_R = true_R[:, None] @ self._alike_R[which]  # (B, S, 3, 3)
        best = (alike_R * rotation[:, None]).sum((2, 3)).argmax(1)
        rows = torch.arange(len(best), device=self.device)
        moved = torch.einsum('bij,bj->bi', true_R, self._alike_t[which, best])
        return alike_R[rows, best], moved + true_t

    def _look_at_fault(self, view, rotation, translation, K):
        """Make a faulty pose and return the box of what would be drawn; see CropSampler.batch."""
        which = self._which[view]
        points = self._points[which]
        seen, _ = _boxes(points, rotation, translation, K)
        faulty_R, faulty_t = self._faulty(
            rotation, translation, self._centers[which],
            MARGIN * seen / (self._crops.config.size * K[:, 0, 0]))
        self._fault = rotation, faulty_R, faulty_t
        extent, center = _boxes(points, faulty_R, faulty_t, K)
        return center, extent

    def _faulty(self, true_R, true_t, centers, pixel):
        """
        Return poses near the true ones.

        Parameters
        ----------
        true_R, true_t : tensors, shapes (B, 3, 3), (B, 3)
            These.
        centers : tensor, shape (B, 3)
            Of the objects, model frame.
        pixel : tensor, shape (B,)
            The size of a crop's pixel at a distance of 1.

        """
        count = len(centers)

        def uniform():
            return torch.rand(count, generator=self._random, device=self.device)

        def normal(*shape):
            return torch.randn(*shape, generator=self._random, device=self.device)

        scale = FAULTS[0] + (FAULTS[1] - FAULTS[0]) * uniform()
        scale = scale * torch.where(uniform() < 0.25, FAR_OFF, 1.0)
        rotation = rotations(normal(count, 3) * scale[:, None] * TURN) @ true_R
        middle = torch.einsum('bij,bj->bi', true_R, centers) + true_t
        moved = normal(count, 2) * (scale * PLACE * pixel)[:, None]
        depth = middle[:, 2] * torch.exp(normal(count) * scale * DISTANCE)
        ray = functional.pad(middle[:, :2] / middle[:, 2:] + moved, (0, 1), value=1.0)
        return rotation, ray * depth[:, None] - torch.einsum('bij,bj->bi', rotation, centers)


def _boxes(points, rotation, translation, K):
    """Return longer sides (B,) and centres (B, 2) of the boxes about points (B, N, 3), pixels."""
    pixels = _project(points, rotation, translation, K)
    low, high = pixels.amin(1), pixels.amax(1)
    return (high - low).amax(1).clamp(min=1.0), (low + high) / 2


def _views(task):
    """Return the fields of a ViewBank of (ObjectModel, Mesh, number of views, seed)."""
    model, mesh, count, seed = task
    bank = appearance_views(model, mesh, count, np.random.default_rng(seed))
    poses = [canonical_pose(Pose(*pair), model.symmetries)
             for pair in zip(bank.R_m2c, bank.t_m2c)]
    return (np.stack([pose.R_m2c for pose in poses]), np.stack([pose.t_m2c for pose in poses]),
            bank.focal, bank.upright, bank.pixels)


def _project(points, rotation, translation, K):
    """Return pixels (B, N, 2) of points (B, N, 3)."""
    seen = (points @ rotation.mT + translation[:, None]) @ K.mT
    return seen[..., :2] / seen[..., 2:].clamp(min=1e-6)


def _alike(symmetries):
    """Return the poses, model to model, that an object looks the same under; identity first."""
    turns = [Pose(np.eye(3), np.zeros(3))]
    for axis, offset in symmetries.continuous:
        offset = np.array(offset)
        angles = 2 * np.pi * np.arange(TURNS) / TURNS
        steps = [Pose.from_rotvec(np.array(axis) * angle, np.zeros(3)) for angle in angles]
        turns = [Pose(step.R_m2c, offset - step.R_m2c @ offset) for step in steps]
    return turns + [turn.compose(one) for turn in turns for one in symmetries.discrete]
