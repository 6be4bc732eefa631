"""
Batches of virtual crops: views turned, zoomed, hidden in part, lit, and photographed badly.

Everything runs in torch on whole batches, on the CPU or a GPU, and takes its randomness from
one torch.Generator, so that the same seed gives the same data.
"""

from dataclasses import dataclass, fields, replace
import math
from typing import Any, Optional

import numpy as np
import torch
from torch.nn import functional

from .symmetry import canonical_pose, labelings
from .views import VIEW_SIZE
from ..errors import InputError
from ..geometry import Pose

CHANNELS = {'mask': ('mask',), 'rgb_mask': ('rgb', 'mask')}
# Side in pixels at which occlusion is worked out, and of the noise that shapes things.
_COARSE = 64
# Share of the batches whose photographs are sharpened.
SHARPENED = 0.35


@dataclass(frozen=True)
class CropConfig:
    """
    How crops are made; probabilities are per crop, lengths relative to the box or the crop.

    `roll` is the standard deviation in radians of a camera that is upright.

    The faults of masks and boxes follow what a real Mask R-CNN was seen to do: an outline that
    wobbles and lies more often too far in than out, parts of an object lost, its neighbours
    taken for it, a box about a part only. Outlines are never exact but for a share `mask_exact`
    of the crops: who sees many exact ones trusts the others.
    """

    size: int = 128
    margin: float = 1.4
    roll: float = 0.2
    box_shift: float = 0.08
    box_scale: float = 0.15
    box_partial: float = 0.15
    occluded: float = 0.8
    truncated: float = 0.1
    min_visible: float = 0.25
    mask_exact: float = 0.15
    mask_eroded: float = 0.02
    mask_dilated: float = 0.012
    mask_outline: float = 0.15
    mask_wobble: float = 0.2
    mask_part_lost: float = 0.12
    mask_bleeding: float = 0.3
    mask_dropped: float = 0.45
    resolution_loss: float = 0.85
    noise: float = 0.03

    @classmethod
    def from_dict(cls, values):
        """Return the configuration of a dict; unknown keys are refused."""
        unknown = set(values) - {one.name for one in fields(cls)}
        if unknown:
            raise InputError(f'crop configuration: unknown key {sorted(unknown)}')
        return cls(**values)

    def eased(self, severity):
        """Return the configuration with all faults at a share 0..1 of their strength."""
        return replace(self, **{name: severity * getattr(self, name) for name in _FAULTS})


# What makes a crop harder than a clear view of the object; outlines of masks are as bad in all.
_FAULTS = ('box_shift', 'box_scale', 'box_partial', 'occluded', 'truncated', 'mask_part_lost',
           'mask_bleeding', 'mask_dropped', 'noise')


@dataclass(frozen=True, eq=False)
class CropBatch:
    """
    Crops and their truth, of B samples.

    Attributes
    ----------
    rgb : tensor, shape (B, 3, S, S), or None
        0..1; None for network input 'mask'.
    mask : tensor, shape (B, 1, S, S)
        0..1, with a segmenter's faults.
    keypoints : tensor, shape (B, L, K, 2)
        x, y in crop pixels under each of L symmetric labelings.
    K : tensor, shape (B, 3, 3)
        Intrinsics of the crop camera.
    R_m2c, t_m2c : tensors, shapes (B, 3, 3), (B, 3)
        Pose in the crop camera's frame, metres.
    visible : tensor, shape (B,)
        Visible share of the silhouette.
    view : tensor of int, shape (B,)
        Which view of the bank each was cut from.
    seen : tensor, shape (B, 1, S, S)
        0..1, the mask without faults: what is visible of the object.

    """

    rgb: Optional[torch.Tensor]
    mask: torch.Tensor
    keypoints: torch.Tensor
    K: torch.Tensor
    R_m2c: torch.Tensor
    t_m2c: torch.Tensor
    visible: torch.Tensor
    view: torch.Tensor
    seen: torch.Tensor


class CropSampler:
    """
    Draws batches of crops from a bank of views.

    Parameters
    ----------
    bank : ViewBank
        With colours for 'rgb_mask'; silhouettes do for 'mask'.
    model : ObjectModel or None
        None: the bank's poses are taken as they are, and crops have no keypoints.
    network_input : str
        'mask' or 'rgb_mask'.
    config : CropConfig
    backgrounds : array of uint8, shape (N, size, size, 3), or None
        RGB; needed for 'rgb_mask'.
    bodies : array of uint8, shape (N, size, size, 4), or None
        RGBA, from distractors.body_bank: what stands before and behind the object. None: cut
        from plain shapes alone.
    recolor : bool
        Replace the mesh's colours by random materials.
    device : str
    seed : int

    """

    def __init__(self, bank, model, network_input, config, backgrounds=None, recolor=False,
                 device='cpu', seed=0, bodies=None):
        self.config = config
        self.network_input = network_input
        self.recolor = recolor
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        # For what is the same in all of a batch: a GPU that is asked for a number stops to wait.
        self._same = torch.Generator().manual_seed(seed)
        poses = [Pose(*pair) for pair in zip(bank.R_m2c, bank.t_m2c)]
        keypoints = np.zeros((len(poses), 1, 0, 3))
        if model is not None:
            symmetries = model.symmetries_for(network_input)
            poses = [canonical_pose(pose, symmetries) for pose in poses]
            keypoints = np.stack([labelings(pose, model.keypoints, symmetries)
                                  for pose in poses])  # (V, L, K, 3)
        self._rotation = self._tensor(np.stack([pose.R_m2c for pose in poses]))
        self._translation = self._tensor(np.stack([pose.t_m2c for pose in poses]))
        self._focal = self._tensor(bank.focal)
        self._upright = torch.from_numpy(bank.upright).to(self.device)
        self._pixels = torch.from_numpy(bank.pixels).to(self.device)
        self._keypoints = self._tensor(keypoints)
        self._backgrounds: Any = None
        if network_input == 'rgb_mask':
            self._backgrounds = torch.from_numpy(
                np.ascontiguousarray(backgrounds.transpose(0, 3, 1, 2))).to(self.device)
        self._bodies: Any = None
        if bodies is not None:
            self._bodies = torch.from_numpy(
                np.ascontiguousarray(bodies.transpose(0, 3, 1, 2))).to(self.device)

    def seed(self, seed):
        """Start the randomness anew."""
        self.generator.manual_seed(seed)
        self._same.manual_seed(seed)

    def seeds(self, count):
        """Return `count` seeds for batches that do not depend on one another."""
        return torch.randint(2 ** 62, (count,), generator=self.generator,
                             device=self.device).tolist()

    def _tensor(self, array):
        return torch.tensor(array, dtype=torch.float32, device=self.device)

    def _pick(self, low, high):
        """Return a number for all of a batch."""
        return low + (high - low) * torch.rand((), generator=self._same).item()

    def _uniform(self, low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=self.generator,
                                               device=self.device)

    def _normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def _chance(self, probability, count):
        """Return ones with a probability, else zeros, shape (count, 1, 1, 1)."""
        return (self._uniform(0, 1, count, 1, 1, 1) < probability).float()

    def batch(self, count, about=None):
        """
        Return a CropBatch of `count` samples.

        Parameters
        ----------
        count : int
            How many.
        about : callable or None
            Says what is looked at: given view (B,), R_m2c (B, 3, 3), t_m2c (B, 3) and K (B, 3, 3)
            of a camera that is rolled already but looks past the objects, it returns the centres
            (B, 2) and longer sides (B,) of boxes in that camera's pixels. None: at boxes about
            the visible parts, with their faults.

        """
        config, size = self.config, self.config.size
        view = torch.randint(len(self._focal), (count,), generator=self.generator,
                             device=self.device)
        roll = torch.where(self._upright[view], self._normal(count) * config.roll,
                           self._uniform(0, 2 * math.pi, count))
        roll = _roll_matrix(roll)
        focal = self._focal[view]
        base_K = _intrinsics(focal, VIEW_SIZE)
        pixels = self._pixels[view]

        # What hides the object, in a frame that is rolled already but still looks at it whole.
        coarse_K = _intrinsics(focal * _COARSE / VIEW_SIZE, _COARSE)
        coarse2base = base_K @ roll.mT @ _inverse_K(coarse_K)
        silhouette = _warp(pixels[:, :1].float() / 255, coarse2base, _COARSE)
        silhouette = (silhouette > 0.5).float()
        hidden, outside = self._hiding(count)
        before = None
        if self._bodies is not None:
            # Half of the occluders are bodies, the others plain shapes.
            before = self._place_bodies(count, 0.25, 1.0, 0.2, 1.1)
            chosen = self._chance(0.5, count)
            alpha = before.draw(_COARSE, alone=3)[:, :1]
            hidden = torch.where(chosen > 0, (alpha > 0.5).float()
                                 * self._chance(config.occluded, count), hidden)
        visible = silhouette * (1 - hidden) * (1 - outside)
        share = visible.sum((1, 2, 3)) / silhouette.sum((1, 2, 3)).clamp(min=1)
        unfit = (share < config.min_visible)[:, None, None, None]
        hidden, outside = hidden.masked_fill(unfit, 0), outside.masked_fill(unfit, 0)
        visible = silhouette * (1 - hidden) * (1 - outside)
        share = torch.where(unfit.flatten(), torch.ones_like(share), share)

        if about is None:
            center, extent = self._faulty_boxes(visible)
        else:
            center, extent = about(view, roll @ self._rotation[view],
                                   (roll @ self._translation[view][..., None])[..., 0], coarse_K)
        ray = torch.cat([(center - (_COARSE - 1) / 2), coarse_K[:, 0, :1]], 1)
        tilt = _rotation_to_axis(ray)
        crop_K = _intrinsics(coarse_K[:, 0, 0] * size / (config.margin * extent)
                             * (ray.norm(dim=1) / ray[:, 2]), size)
        crop2coarse = coarse_K @ tilt.mT @ _inverse_K(crop_K)
        seen = _warp(pixels.float() / 255, coarse2base @ crop2coarse, size)
        shade = _warp(torch.cat([hidden, 1 - outside], 1), crop2coarse, size, 'border')
        hidden, inside = shade.sub_(0.5).mul_(3).add_(0.5).clamp_(0, 1).split(1, 1)
        silhouette = seen[:, :1]
        visible = silhouette * (1 - hidden) * inside

        behind = None
        if self._bodies is not None:
            behind = self._place_bodies(count, 0.3, 1.0, 0.6, 1.3).draw(size, crop2coarse)
        mask = self._faulty_mask(visible, None if behind is None
                                 else behind[:, 3:] * (1 - silhouette) * (1 - hidden) * inside)
        rgb = None
        if self.network_input == 'rgb_mask':
            front = self._texture(count, size)
            if before is not None:
                colors = before.draw(size, crop2coarse)
                front = front + (colors[:, :3] - front) * chosen
            rgb = self._photograph(seen, hidden, front, behind) * inside
        turn = tilt @ roll
        rotation = turn @ self._rotation[view]
        translation = (turn @ self._translation[view][..., None])[..., 0]
        points = torch.einsum('bij,blkj->blki', rotation, self._keypoints[view])
        points = (points + translation[:, None, None]) @ crop_K[:, None].mT
        keypoints = points[..., :2] / points[..., 2:]
        return CropBatch(rgb, mask, keypoints, crop_K, rotation, translation, share, view,
                         visible)

    def _faulty_boxes(self, visible):
        """Return centres (B, 2) and longer sides (B,) of boxes that a segmenter might give."""
        config, count = self.config, len(visible)
        center, extent = _boxes(visible)
        center = center + extent[:, None] * config.box_shift * self._normal(count, 2)
        # Now and then the box is about a part of what is visible.
        part = self._chance(config.box_partial, count).flatten()
        center = center + (part * extent)[:, None] * self._uniform(-0.2, 0.2, count, 2)
        extent = extent * (1 - part * self._uniform(0, 0.4, count))
        return center, extent * torch.exp(config.box_scale * self._normal(count)).clamp(0.7, 1.5)

    def _blobs(self, count, cells, size, channels=1):
        """Return smooth noise (count, channels, size, size), about standard normal."""
        noise = self._normal(count, channels, cells, cells)
        return functional.interpolate(noise, size=(size, size), mode='bicubic',
                                      align_corners=False) * 1.3

    def _hiding(self, count):
        """Return where an occluder and where the image's outside is, (B, 1, 64, 64) each."""
        axis = torch.linspace(-1, 1, _COARSE, device=self.device)
        y, x = torch.meshgrid(axis, axis, indexing='ij')
        angle = self._uniform(0, 2 * math.pi, count, 1, 1)
        radius = self._uniform(0.2, 1.1, count, 1, 1)
        heading = self._uniform(0, 2 * math.pi, count, 1, 1)
        dx = x - radius * torch.cos(heading)
        dy = y - radius * torch.sin(heading)
        u = dx * torch.cos(angle) + dy * torch.sin(angle)
        v = dy * torch.cos(angle) - dx * torch.sin(angle)
        u = u / self._uniform(0.15, 0.8, count, 1, 1)
        v = v / self._uniform(0.1, 0.5, count, 1, 1)
        # From ellipse to rectangle; half of them with a rugged outline.
        power = self._uniform(1, 6, count, 1, 1)
        reach = (u.abs() ** power + v.abs() ** power) ** (1 / power)
        rugged = self._blobs(count, 7, _COARSE)[:, 0] * self._uniform(-0.3, 0.3, count, 1, 1)
        hidden = (reach + rugged.where(self._uniform(0, 1, count, 1, 1) < 0.5,
                                       torch.zeros_like(rugged)) < 1).float()[:, None]
        hidden = hidden * self._chance(self.config.occluded, count)
        side = torch.randint(4, (count, 1, 1), generator=self.generator, device=self.device)
        along = torch.where(side % 2 == 0, x.expand(count, -1, -1), y.expand(count, -1, -1))
        along = torch.where(side < 2, along, -along)
        outside = (along > self._uniform(-0.2, 0.9, count, 1, 1)).float()[:, None]
        return hidden, outside * self._chance(self.config.truncated, count)

    def _place_bodies(self, count, small, large, near, far):
        """
        Return random bodies at random places about the object.

        Parameters
        ----------
        count : int
            One for each sample.
        small, large : float
            Range of their sizes, relative to half the side of the coarse view.
        near, far : float
            Range of their distances from its middle, likewise.

        """
        side = self._bodies.shape[-1]
        chosen = torch.randint(len(self._bodies), (count,), generator=self.generator,
                               device=self.device)
        zoom = side / (_COARSE * self._uniform(small, large, count))  # body pixels a coarse one
        heading, reach = self._uniform(0, 2 * math.pi, count), self._uniform(near, far, count)
        place = torch.stack([torch.cos(heading), torch.sin(heading)], 1)
        place = (_COARSE - 1) / 2 + place * (reach * _COARSE / 2)[:, None]
        coarse2body = _roll_matrix(self._uniform(0, 2 * math.pi, count))
        coarse2body[:, :2, :2] *= zoom[:, None, None]
        coarse2body[:, :2, 2] = (side - 1) / 2 - torch.einsum('bij,bj->bi',
                                                              coarse2body[:, :2, :2], place)
        return _Placed(self._bodies, chosen, coarse2body)

    def _faulty_mask(self, visible, neighbours=None):
        """
        Return masks (B, 1, S, S), 0..1, as a segmenter might give them.

        Parameters
        ----------
        visible : tensor, shape (B, 1, S, S)
            What is seen of the objects.
        neighbours : tensor, shape (B, 1, S, S), or None
            What may be taken for them.

        """
        config, count, size = self.config, len(visible), visible.shape[-1]
        # Segmenters draw masks on a grid of about 28 x 28 over the box, and so does this.
        cells = round(28 * config.margin)
        # Most of them are too large or too small as a whole, by as much in all of the batch.
        grown = visible
        radius = round(self._pick(-config.mask_eroded, config.mask_dilated) * size)
        if radius:
            shape, sign, pad = 2 * abs(radius) + 1, math.copysign(1, radius), abs(radius)
            # Rows, then columns: the same as a square window, and cheaper.
            moved = functional.max_pool2d(sign * visible, (1, shape), 1, (0, pad))
            moved = sign * functional.max_pool2d(moved, (shape, 1), 1, (pad, 0))
            moved = moved.where(moved.sum((1, 2, 3), keepdim=True) > 0, visible)
            grown = torch.where(self._chance(0.7, count) > 0, moved, visible)
        whole = functional.interpolate(grown, size=(cells, cells), mode='area')
        # A blurred mask is a distance to its outline; moving the threshold moves that.
        soft = _blur(whole, self._pick(0.4, 1.2))
        shrink = self._uniform(-1, 1, count, 1, 1, 1) * config.mask_outline
        wobble = self._blobs(count, 9, cells) * self._uniform(0, 1, count, 1, 1, 1)
        mask = soft - shrink + wobble * config.mask_wobble * 4 * soft * (1 - soft)
        lost = self._blobs(count, 4, cells) - self._uniform(0, 1.2, count, 1, 1, 1)
        lost = lost.clamp(min=0) * self._chance(config.mask_part_lost, count)
        near = _blur(whole, 3.0) > 0.2
        more = self._blobs(count, 6, cells) - self._uniform(0.3, 1.2, count, 1, 1, 1)
        if neighbours is not None:
            # A neighbour is taken in as a whole, or rather what of it lies in a blob.
            beside = functional.interpolate(neighbours, size=(cells, cells), mode='area')
            beside = beside * (more > -0.8).float()
            whom = self._chance(0.5, count)
            more = more.clamp(min=0) * near * (1 - whom) + beside * whom
        else:
            more = more.clamp(min=0) * near
        more = more * self._chance(config.mask_bleeding, count)
        mask = mask + 2 * more - 2 * lost
        # Faults must not take everything.
        kept = (mask > 0.5).sum((1, 2, 3), keepdim=True) > 0.3 * whole.sum((1, 2, 3), keepdim=True)
        mask = torch.where(kept, mask, whole)
        mask = functional.interpolate(mask, size=(size, size), mode='bilinear',
                                      align_corners=False)
        mask = mask.sub_(0.5).mul_(8).add_(0.5).clamp_(0, 1)
        mask = torch.where(self._chance(config.mask_exact, count) > 0, visible, mask)
        if self.network_input == 'mask':
            return mask
        return mask * (1 - self._chance(config.mask_dropped, count))

    def _photograph(self, seen, hidden, front, behind):
        """Return RGB (B, 3, S, S), 0..1, of a lit object before and behind random things."""
        count, size = len(seen), seen.shape[-1]
        mask, albedo = seen[:, :1], seen[:, 1:4] / seen[:, :1].clamp(min=1e-3)
        if self.recolor:
            albedo = self._texture(count, size)
        normal = seen[:, 4:7] * 2 - 1
        albedo = albedo.clamp(0, 1) ** self._uniform(0.75, 1.35, count, 1, 1, 1)
        grey = albedo.mean(1, keepdim=True)
        albedo = grey + (albedo - grey) * self._uniform(0.5, 1.3, count, 1, 1, 1)
        # Scanned colours are not those that a camera sees.
        albedo = albedo * torch.exp(0.2 * self._normal(count, 3, 1, 1))
        light = self._uniform(0.4, 1.0, count, 1, 1, 1).expand(-1, 3, -1, -1)
        # Ceilings are brighter than the table below.
        above = self._normal(count, 3) * 0.3
        above[:, 1] -= 1
        above = functional.normalize(above, dim=1)
        light = light * (1 + _dot(normal, above) * self._uniform(0, 0.7, count, 1, 1, 1))
        gloss = torch.zeros_like(light)
        for strength in (0.9, 0.5):
            # Lights stand on the camera's side; the normals' frame is rolled, but so are they.
            way = self._normal(count, 3)
            way[:, 2] = -way[:, 2].abs() - 0.2
            way = functional.normalize(way, dim=1)
            color = 1 + 0.15 * self._normal(count, 3, 1, 1)
            color = color * self._uniform(0, strength, count, 1, 1, 1)
            light = light + color * _dot(normal, way).clamp_(min=0)
            half = way.clone()
            half[:, 2] -= 1
            half = functional.normalize(half, dim=1)
            shine = _dot(normal, half).clamp_(min=0) ** self._uniform(8, 60, count, 1, 1, 1)
            gloss = gloss + color * shine
        shadow = 1 - (self._blobs(count, 4, size).clamp(0, 1)
                      * self._uniform(0, 0.6, count, 1, 1, 1))
        rgb = albedo * light * shadow
        rgb = rgb + gloss * self._uniform(-0.4, 0.6, count, 1, 1, 1).clamp(min=0)
        background = self._texture(count, size, 0.3, 1.3)
        if behind is not None:
            background = background + (behind[:, :3] - background) * behind[:, 3:]
        background = background * (1 - self._cast_shadow(mask))
        rgb = background + (rgb - background) * mask
        rgb = rgb + (front - rgb) * hidden
        return self._sensor(rgb)

    def _cast_shadow(self, mask):
        """
        Return how dark the surroundings of objects are for their shadows, (B, 1, S, S), 0..1.

        Parameters
        ----------
        mask : tensor, shape (B, 1, S, S)
            The whole objects.

        """
        count, size = len(mask), mask.shape[-1]
        # Things stand on what they shade: most shadows lie below them, and the softer the wider.
        shift = torch.stack([0.1 * self._normal(count), 0.03 + 0.08 * self._normal(count)], 1)
        away = torch.eye(3, device=self.device).repeat(count, 1, 1)
        away[:, :2, 2] = -shift * (_COARSE - 1)
        small = functional.interpolate(mask, size=(_COARSE, _COARSE), mode='area')
        soft = _blur(_warp(small, away, _COARSE), self._pick(0.6, 4))
        strength = self._uniform(0, 0.8, count, 1, 1, 1) * self._chance(0.7, count)
        return functional.interpolate(soft * strength, size=(size, size), mode='bilinear',
                                      align_corners=False)

    def _texture(self, count, size, small=0.15, large=1.0):
        """
        Return random cuts of the backgrounds in random colours.

        Parameters
        ----------
        count, size : int
            How many, and their side in pixels.
        small, large : float
            Range of the cuts' sides, relative to the backgrounds'.

        Returns
        -------
        textures : tensor, shape (count, 3, size, size)

        """
        chosen = torch.randint(len(self._backgrounds), (count,), generator=self.generator,
                               device=self.device)
        zoom = torch.exp(self._uniform(math.log(small), math.log(large), count))
        angle = self._uniform(0, 2 * math.pi, count)
        width = self._backgrounds.shape[-1]
        cut = _roll_matrix(angle)
        cut[:, :2, :2] *= (zoom * width / size)[:, None, None]
        # The cut's middle falls somewhere on the background.
        middle = cut[:, :2, :2].sum(2) * ((size - 1) / 2)
        cut[:, :2, 2] = self._uniform(0.2, 0.8, count, 2) * width - middle
        picture = _warp(self._backgrounds[chosen].float() / 255, cut, size, 'reflection')
        gain = torch.exp(0.3 * self._normal(count, 1, 1, 1) + 0.12 * self._normal(count, 3, 1, 1))
        return (picture * gain + 0.1 * self._normal(count, 1, 1, 1)).clamp(0, 1)

    def _sensor(self, rgb):
        """Return what a camera makes of it: few pixels, blur, colour cast, noise."""
        count, size = len(rgb), rgb.shape[-1]
        exposure = torch.exp(0.2 * self._normal(count, 1, 1, 1)
                             + 0.06 * self._normal(count, 3, 1, 1))
        rgb = rgb * exposure + 0.04 * self._normal(count, 1, 1, 1)
        level = self._uniform(0, self.config.noise, count, 1, 1, 1)
        if self._pick(0, 1) < self.config.resolution_loss:
            # Far objects are few pixels, enlarged; one size for the batch.
            small = int(self._pick(0.3, 0.95) * size)
            rgb = functional.interpolate(rgb, size=(small, small), mode='area')
        if self._pick(0, 1) < 0.8:
            rgb = _blur(rgb, self._pick(0.3, 1.0))
        if self._pick(0, 1) < SHARPENED:
            # As many cameras do: a dark and a bright seam along every outline.
            amount = self._uniform(0, 1.2, count, 1, 1, 1)
            rgb = rgb + amount * (rgb - _blur(rgb, self._pick(0.6, 1.5)))
        if self._pick(0, 1) < 0.5:
            # Bayer patterns and JPEG keep few pixels of colour.
            grey = rgb.mean(1, keepdim=True)
            rgb = grey + _blur(rgb - grey, self._pick(0.6, 1.5))
        rgb = rgb + level * self._normal(*rgb.shape)
        rgb = rgb.clamp_(0, 1) ** self._uniform(0.75, 1.3, count, 1, 1, 1)
        if rgb.shape[-1] != size:
            rgb = functional.interpolate(rgb, size=(size, size), mode='bilinear',
                                         align_corners=False)
        return rgb


@dataclass(frozen=True, eq=False)
class _Placed:
    """Bodies in the coarse view: pictures, which of them, and homographies to their pixels."""

    pictures: torch.Tensor
    chosen: torch.Tensor
    coarse2body: torch.Tensor

    def draw(self, size, to_coarse=None, alone=None):
        """Return RGBA (B, 4, size, size), 0..1, or one channel alone, zero beside them."""
        pictures = self.pictures[self.chosen]
        if alone is not None:
            pictures = pictures[:, alone:alone + 1]
        homography = self.coarse2body if to_coarse is None else self.coarse2body @ to_coarse
        return _warp(pictures.float() / 255, homography, size)


def _intrinsics(focal, size):
    """Return K (B, 3, 3) of focal lengths (B,) for a square image."""
    K = torch.zeros(len(focal), 3, 3, device=focal.device)
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, 0, 2] = K[:, 1, 2] = (size - 1) / 2
    K[:, 2, 2] = 1
    return K


def _inverse_K(K):
    """Return the inverse of intrinsics (B, 3, 3) without skew."""
    inverse = torch.zeros_like(K)
    inverse[:, 0, 0], inverse[:, 1, 1] = 1 / K[:, 0, 0], 1 / K[:, 1, 1]
    inverse[:, :2, 2] = -K[:, :2, 2] * inverse[:, (0, 1), (0, 1)]
    inverse[:, 2, 2] = 1
    return inverse


def _roll_matrix(angle):
    """Return rotations about z, shape (B, 3, 3)."""
    R = torch.zeros(len(angle), 3, 3, device=angle.device)
    R[:, 0, 0] = R[:, 1, 1] = torch.cos(angle)
    R[:, 0, 1], R[:, 1, 0] = -torch.sin(angle), torch.sin(angle)
    R[:, 2, 2] = 1
    return R


def _rotation_to_axis(rays):
    """Return the smallest rotations (B, 3, 3) that turn rays (B, 3), z > 0, onto z."""
    x, y, z = functional.normalize(rays, dim=1).unbind(1)
    # Rodrigues with axis (y, -x, 0) and cosine z, in closed form.
    scale = 1 / (1 + z)
    return torch.stack([1 - x * x * scale, -x * y * scale, -x,
                        -x * y * scale, 1 - y * y * scale, -y,
                        x, y, z], 1).reshape(-1, 3, 3)


def _warp(images, homography, size, padding='zeros'):
    """Return (B, C, size, size): pixel p shows the image (B, C, h, w) at homography p."""
    height, width = images.shape[-2:]
    # To grid_sample's coordinates, where the image reaches from -1 to 1.
    first, second, third = homography.unbind(1)
    scaled = (first * (2 / width) + third * (1 / width - 1),
              second * (2 / height) + third * (1 / height - 1), third)
    axis = torch.arange(size, dtype=torch.float32, device=images.device)
    x, y, z = (row[:, :1, None] * axis + (row[:, 1:2] * axis + row[:, 2:])[:, :, None]
               for row in scaled)  # (B, size, size) each, sums of rows and columns
    z = z.reciprocal_()
    return functional.grid_sample(images, torch.stack([x.mul_(z), y.mul_(z)], -1),
                                  padding_mode=padding, align_corners=False)


def _dot(images, vectors):
    """Return images (B, 3, h, w) times vectors (B, 3), summed: (B, 1, h, w)."""
    x, y, z = vectors[:, :, None, None].split(1, 1)
    return images[:, :1] * x + images[:, 1:2] * y + images[:, 2:] * z


def _blur(images, sigma):
    """Return images (B, C, h, w) after a gaussian blur of `sigma` pixels."""
    radius = max(1, math.ceil(2.2 * sigma))
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(-radius, radius + 1)]
    # Sums of shifted images: a convolution of one channel is far slower on a CPU.
    for axis, pad in ((3, (radius, radius, 0, 0)), (2, (0, 0, radius, radius))):
        wide = functional.pad(images, pad, mode='replicate')
        images = sum(wide.narrow(axis, step, images.shape[axis]) * (weight / sum(weights))
                     for step, weight in enumerate(weights))
    return images


def _boxes(masks):
    """Return centres (B, 2) and longer sides (B,) in pixels of the masks' boxes."""
    size = masks.shape[-1]
    found = []
    for axis in (2, 3):  # over rows: columns that are hit, and the other way round
        hit = masks[:, 0].amax(axis - 1)  # (B, size)
        index = torch.arange(size, dtype=torch.float32, device=masks.device)
        low = torch.where(hit > 0, index, float(size)).amin(1)
        high = torch.where(hit > 0, index, -1.0).amax(1)
        found.append(((low + high) / 2, (high - low + 1).clamp(min=1)))
    (x, width), (y, height) = found
    return torch.stack([x, y], 1), torch.maximum(width, height)
