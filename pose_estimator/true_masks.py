"""Visible masks from true poses: what a segmenter without faults would say."""

import numpy as np

from .bop import LEAST_VISIBLE, Target
from .instance import Instance, mask_box
from .synthetic.render import RayCaster

# Rendered masks that differ more from the annotated count of visible pixels are not trusted:
# something that has no mesh stands in front, or the pose is off.
TRUSTED_DIFFERENCE = 0.1


class TrueMasks:
    """
    Makes instances from a BOP data set's annotations; a RecordedSegmenter's stand-in.

    Masks are read from mask_visib/ where it exists, else rendered: meshes of models/ at the true
    poses hide one another, and a mask is cut to the annotated box of the visible part.

    Parameters
    ----------
    dataset : BopDataset
    names : dict
        Object number -> label, of the objects that are wanted.

    Attributes
    ----------
    untrusted : list of Target
        Objects that were left out, although they are visible, because their rendered mask
        disagrees with the annotated number of visible pixels by more than 10 %.

    """

    def __init__(self, dataset, names):
        self.untrusted = []
        self._dataset = dataset
        self._names = names
        self._casters = {}

    def instances(self, scene_id, image_id, height, width):
        """Return the instances of an image, a list of Instance with score 1."""
        truths = self._dataset.truths(scene_id, image_id)
        masks = [self._dataset.visible_mask(scene_id, image_id, index)
                 for index in range(len(truths))]
        if any(mask is None for mask in masks):
            masks = self._render(scene_id, image_id, truths, height, width)
        found = []
        for truth, mask in zip(truths, masks):
            if truth.object_id not in self._names:
                continue
            box = mask_box(mask) if mask is not None else None
            if box is None:
                if truth.visible_fraction is None or truth.visible_fraction >= LEAST_VISIBLE:
                    self.untrusted.append(Target(scene_id, image_id, truth.object_id))
                continue
            found.append(Instance(self._names[truth.object_id], 1.0, box, mask, len(found) + 1))
        return found

    def _render(self, scene_id, image_id, truths, height, width):
        """Return the visible mask of each truth, None where it cannot be trusted."""
        camera = self._dataset.camera(scene_id, image_id, width, height)
        nearest = np.full((height, width), np.inf)
        owner = np.full((height, width), -1)
        for index, truth in enumerate(truths):
            depth = self._depth(truth, camera)
            if depth is not None:
                closer = depth < nearest
                nearest[closer] = depth[closer]
                owner[closer] = index
        return [self._trusted(owner == index, truth) for index, truth in enumerate(truths)]

    def _depth(self, truth, camera):
        """Return the depth (height, width) in metres of one object, infinite beside it."""
        if truth.object_id not in self._casters:
            is_known = truth.object_id in self._dataset.object_ids()
            self._casters[truth.object_id] = (
                RayCaster(self._dataset.mesh(truth.object_id)) if is_known else None)
        caster = self._casters[truth.object_id]
        if caster is None:
            return None
        pixels = camera.project(truth.pose.transform(caster.mesh.vertices))
        size = np.array([camera.width, camera.height])
        low = np.clip(np.floor(pixels.min(0)) - 1, 0, size).astype(int)
        high = np.clip(np.ceil(pixels.max(0)) + 2, 0, size).astype(int)
        depth = np.full((camera.height, camera.width), np.inf)
        if (high <= low).any():
            return depth
        seen = caster.render(truth.pose, camera.K, *(high - low).tolist(), tuple(low.tolist()))
        window = depth[low[1]:high[1], low[0]:high[0]]
        window[seen.mask] = seen.depth[seen.mask]
        return depth

    @staticmethod
    def _trusted(mask, truth):
        if truth.box_visible is not None:
            x0, y0, x1, y1 = np.round(truth.box_visible + 0.5).astype(int)
            inside = np.zeros_like(mask)
            inside[max(y0, 0):max(y1, 0), max(x0, 0):max(x1, 0)] = True
            mask = mask & inside
        expected = truth.pixels_visible
        if expected is not None and abs(mask.sum() - expected) > TRUSTED_DIFFERENCE * expected:
            return None
        return mask
