"""What a segmenter says about one object in an image."""

from dataclasses import dataclass

import cv2
import numpy as np

from .errors import InputError


@dataclass(frozen=True, eq=False)
class Instance:
    """
    One segmented object.

    Parameters
    ----------
    label : str
        Name of the object model.
    score : float
        The segmenter's confidence, 0..1.
    box : array, shape (4,)
        x0, y0, x1, y1 in pixels: edges of the box in continuous image coordinates, where the
        centre of the top left pixel is (0, 0), so that one pixel's box is
        (-0.5, -0.5, 0.5, 0.5).
    mask : array of bool, shape (height, width)
        Visible pixels of the object in the image.
    id : int
        Number within the image, from 1; the grey value in a label image.

    """

    label: str
    score: float
    box: np.ndarray
    mask: np.ndarray
    id: int = 0

    def __post_init__(self):
        box = np.asarray(self.box, np.float64)
        mask = np.asarray(self.mask)
        if box.shape != (4,) or not np.isfinite(box).all():
            raise InputError(f'box: expected 4 finite numbers x0 y0 x1 y1, got {self.box}')
        if mask.ndim != 2:
            raise InputError(f'mask: expected shape (height, width), got {mask.shape}')
        object.__setattr__(self, 'box', box)
        object.__setattr__(self, 'mask', mask if mask.dtype == bool else mask != 0)


def mask_box(mask):
    """Return the box (x0, y0, x1, y1) of a mask's pixels, see Instance; None if it is empty."""
    columns = np.flatnonzero(mask.any(0))
    rows = np.flatnonzero(mask.any(1))
    if not len(columns):
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float) - 0.5


def widened(mask, pixels):
    """Return a mask with its outline moved outwards by so many pixels."""
    box = mask_box(mask)
    if box is None or pixels < 1:
        return mask
    edge = int(np.ceil(pixels)) + 1
    low = np.maximum(np.ceil(box[:2]).astype(int) - edge, 0)
    high = np.floor(box[2:]).astype(int) + edge + 1
    window = np.s_[low[1]:high[1], low[0]:high[0]]
    distance = cv2.distanceTransform((~mask[window]).view(np.uint8), cv2.DIST_L2,
                                     cv2.DIST_MASK_PRECISE)
    wide = mask.copy()
    wide[window] = distance <= pixels
    return wide


def box_iou(first, second):
    """Return the intersection over union of two boxes, shape (4,) each."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    both = np.prod(np.maximum(high - low, 0))
    areas = [np.prod(box[2:] - box[:2]) for box in (first, second)]
    return both / max(sum(areas) - both, 1e-9)


def label_image(instances, height, width):
    """
    Draw instances into one image of labels, the best score on top.

    Returns
    -------
    labels : array of uint16, shape (height, width)
        0 where there is no instance, else its id.

    """
    labels = np.zeros((height, width), np.uint16)
    for instance in sorted(instances, key=lambda one: one.score):
        labels[instance.mask] = instance.id
    return labels
