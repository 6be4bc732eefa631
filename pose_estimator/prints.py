"""Objects that are found anywhere in an image by what is printed on them."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from .camera import CropCamera, usual_camera
from .errors import InputError
from .instance import Instance, mask_box
from .keypoints.checkpoint import Checkpoint
from .landmarks import alike, detect, ELSEWHERE, look_at, RADIUS, root, Sighting, spots_of
from .pipeline import EXPLAINED, find_models
from .refinement.surface import draw, DRAWN

# A larger image is looked at with so many pixels along its longer side; so many features of it.
LONGEST, FEATURES = 1280, 3000
# Of each object so many landmarks, those that are seen from most directions, tell where to look.
HINTS = 1000
# So many hints in a window make it worth a thought, so many spots that agree on a pose worth to
# compare its features with all landmarks, and so many of these that agree worth a closer view.
FEWEST_HINTS, FEWEST_AGREEING, FEWEST_OF_ALL = 5, 4, 6
ITERATIONS = 150
# Windows have sides from this share of the image's shorter one on, each so many times the last.
SMALLEST, LARGER = 0.1, 1.5
# Of an object so many windows of an image are thought about at most.
MOST_WINDOWS = 6
# Of a thing that reaches beyond the image at least this share is in it.
LEAST_IN_VIEW = 0.2
# Two silhouettes that share this much, intersection over union, are of the same thing; so is a
# mask of the same label, of which the silhouette has EXPLAINED.
SAME = 0.5
# Of two things whose prints both are seen where they overlap, with more than this share of the
# spots, one is not there.
CONTESTED = 0.25


@dataclass(frozen=True, eq=False)
class Print:
    """
    An object that was found by its print.

    Attributes
    ----------
    label : str
        Name of the object model.
    sighting : Sighting
    mask : array of bool, shape (height, width)
        Silhouette of the whole object, also of what is hidden.

    """

    label: str
    sighting: Sighting
    mask: np.ndarray

    @property
    def score(self):
        """About the share of those with as many spots that are right (docs/segmentation.md)."""
        return 1 - 2 / self.sighting.inliers

    @property
    def spots(self):
        """Where in the image it was seen; x, y, shape (S, 2)."""
        return self.sighting.features.crop.to_image(self.sighting.spots)

    def is_of(self, instance):
        """Return whether it is of the same thing as an Instance, by whatever name."""
        return _iou(self.mask, instance.mask) >= SAME


class PrintFinder:
    """
    Finds objects by their landmarks, in a whole image.

    Features of the image are compared with a few landmarks of all objects. Where many of one
    object are near one another and some of them agree on a pose, it is looked for with all of its
    landmarks in a closer view (landmarks.py). What the same spots say twice is believed once, of
    what most spots agree on: products of one brand have part of their prints in common.

    Parameters
    ----------
    checkpoints : dict of label -> Checkpoint
        Those without landmarks or surface are left out.

    """

    def __init__(self, checkpoints):
        self._checkpoints = {label: one for label, one in checkpoints.items()
                             if one.landmarks is not None and one.surface is not None}
        if not self._checkpoints:
            return
        known = list(self._checkpoints.values())
        counts = [min(HINTS, len(one.landmarks.points)) for one in known]
        self._roots = torch.from_numpy(np.concatenate(
            [root(one.landmarks.descriptors[:HINTS]) for one in known]))
        self._owners = np.repeat(np.arange(len(known)), counts)
        self._numbers = np.concatenate([np.arange(count) for count in counts])
        # In diameters, and other objects are elsewhere.
        self._places = np.concatenate([one.landmarks.points[:HINTS] / one.model.diameter
                                       for one in known])
        self._places += 10 * self._owners[:, None]

    @property
    def labels(self):
        """What can be found."""
        return tuple(self._checkpoints)

    def find(self, image, camera, labels=None, where=None):
        """
        Find objects.

        Parameters
        ----------
        image : array of uint8, shape (height, width, 3)
            RGB.
        camera : PinholeCamera
            Without distortion; that of the image, or one about like it.
        labels : set of str or None
            Of what is looked for; None: of everything.
        where : array of bool, shape (height, width), or None
            Where it may be; None: everywhere.

        Returns
        -------
        list of Print
            What most spots agree on first.

        """
        sought = {index: label for index, label in enumerate(self._checkpoints)
                  if labels is None or label in labels}
        if not sought:
            return []
        seen = _Seen.of_image(image, where)
        if len(seen.pixels) < FEWEST_HINTS:
            return []
        rows = np.flatnonzero(np.isin(self._owners, list(sought)))
        which, row = alike(seen.roots, self._roots[rows], self._places[rows], ELSEWHERE)
        rows = rows[row]
        prints = []
        for index, label in sought.items():
            own = self._owners[rows] == index
            prints += _looked_for(label, self._checkpoints[label], image, camera, seen,
                                  which[own], self._numbers[rows[own]])
        prints.sort(key=lambda one: -one.sighting.inliers)
        kept: list = []
        for one in prints:
            if not any(_is_same(one, other) for other in kept):
                kept.append(one)
        return kept


@dataclass(frozen=True, eq=False)
class _Seen:
    """
    What is seen in an image, or in a part of it.

    Attributes
    ----------
    pixels : array, shape (F, 2)
        x, y in the image.
    roots : array of float32, shape (F, 128)
        RootSIFT.
    pixel : float
        How large a pixel was in which it was seen.

    """

    pixels: np.ndarray
    roots: np.ndarray
    pixel: float

    @classmethod
    def of_image(cls, image, where):
        """Return what is seen in an image; where: see PrintFinder.find."""
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        height, width = gray.shape
        small = min(1.0, LONGEST / max(height, width))
        if small < 1:
            gray = cv2.resize(gray, (round(width * small), round(height * small)),
                              interpolation=cv2.INTER_AREA)
        pixels, descriptors = detect(gray, FEATURES)
        seen = cls((pixels + 0.5) / small - 0.5, root(descriptors), 1 / small)
        return seen if where is None else seen.part(_at(where, seen.pixels))

    def part(self, chosen):
        """Return some of it; chosen: array of bool, shape (F,)."""
        return replace(self, pixels=self.pixels[chosen], roots=self.roots[chosen])

    def inside(self, box):
        """Return what is in a box x0, y0, x1, y1."""
        return self.part(((self.pixels >= box[:2]) & (self.pixels <= box[2:])).all(1))


def _looked_for(label, checkpoint, image, camera, seen, which, numbers):
    """
    Return Prints of one object, those of one thing several times.

    Of what is seen, some (which, indices of shape (M,)) looks like landmarks of the object
    (numbers, of shape (M,)).

    """
    prints: list = []
    points, pixels = checkpoint.landmarks.points[numbers], seen.pixels[which]
    for _ in range(MOST_WINDOWS):
        window = _fullest(pixels, camera)
        if window is None:
            break
        done = ((pixels >= window[:2]) & (pixels <= window[2:])).all(1)
        # There may be several of a kind in the window, so only those that agree are done with.
        agreeing = np.flatnonzero(done)[_agreeing(points[done], pixels[done], camera, seen.pixel,
                                                  FEWEST_AGREEING)]
        if len(agreeing):
            done = np.isin(np.arange(len(pixels)), agreeing)
            box = _around(pixels[done], camera)
            one = _found(label, checkpoint, image, camera, seen, box)
            if one is not None:
                prints.append(one)
                done |= _at(one.mask, pixels)
        points, pixels = points[~done], pixels[~done]
    return prints


def _found(label, checkpoint, image, camera, seen, box):
    """Return the Print in a box, looked at closely if that is worth while; None: there is none."""
    landmarks, diameter = checkpoint.landmarks, checkpoint.model.diameter
    part = seen.inside(box)
    which, where = landmarks.matched(part.roots, diameter)
    if not len(_agreeing(landmarks.points[where], part.pixels[which], camera, seen.pixel,
                         FEWEST_OF_ALL)):
        return None
    drawn = [(one, silhouette(checkpoint, one.pose, camera))
             for one in landmarks.find(image, look_at(camera, box), diameter)]
    drawn = [(one, mask) for one, mask in drawn if mask is not None]
    if not drawn:
        return None
    whole = mask_box(np.any([mask for _, mask in drawn], 0))
    sighting = landmarks.choose(image, look_at(camera, whole), [one for one, _ in drawn], diameter)
    mask = silhouette(checkpoint, sighting.pose, camera)
    return None if mask is None else Print(label, sighting, mask)


def _around(pixels, camera):
    """Return a box with some room about pixels."""
    low, high = pixels.min(0), pixels.max(0)
    room = 0.2 * (high - low).max() + 4
    return np.concatenate([np.maximum(low - room, -0.5), np.minimum(
        high + room, [camera.width - 0.5, camera.height - 0.5])])


def _fullest(pixels, camera):
    """Return the window x0, y0, x1, y1 with most pixels for its size; None: all have too few."""
    shorter = min(camera.width, camera.height)
    best, most = None, 0.0
    side = SMALLEST * shorter
    while len(pixels) >= FEWEST_HINTS and side <= shorter:
        # Windows are of two by two cells, so that they overlap by half.
        cells = np.floor(pixels / (side / 2)).astype(int) + 1
        count = np.zeros(cells.max(0) + 2)
        np.add.at(count, tuple(cells.T), 1)
        count = count[:-1, :-1] + count[1:, :-1] + count[:-1, 1:] + count[1:, 1:]
        column, row = np.unravel_index(count.argmax(), count.shape)
        worth = count.max() / (1 + 4 * side / shorter)
        if count.max() >= FEWEST_HINTS and worth > most:
            corner = (np.array([column, row]) - 1) * side / 2
            best, most = np.concatenate([corner, corner + side]), worth
        side *= LARGER
    return best


def _agreeing(points, pixels, camera, pixel, fewest):
    """
    Return which of these are where one pose has them, as far as two pixels tell.

    Parameters
    ----------
    points : array, shape (M, 3)
        Landmarks.
    pixels : array, shape (M, 2)
        Where they may have been seen.
    camera : PinholeCamera
        That sees them.
    pixel : float
        See _Seen.
    fewest : int
        So many spots must agree.

    Returns
    -------
    array of int, shape (N,)
        None of them where too few agree.

    """
    none = np.zeros(0, int)
    if len(pixels) < fewest:
        return none
    reach = max(2 * pixel, RADIUS * np.ptp(pixels, axis=0).max())
    try:
        found, _, _, inliers = cv2.solvePnPRansac(
            points.astype(float), pixels, camera.K, None, iterationsCount=ITERATIONS,
            reprojectionError=reach, confidence=0.99, flags=cv2.SOLVEPNP_AP3P)
    except cv2.error:
        return none
    if not found or inliers is None:
        return none
    return inliers[:, 0] if len(spots_of(pixels[inliers[:, 0]])) >= fewest else none


def silhouette(checkpoint, pose, camera):
    """
    Draw the silhouette of an object.

    Parameters
    ----------
    checkpoint : Checkpoint
        With its surface.
    pose : Pose
        Model to camera.
    camera : PinholeCamera
        Without distortion.

    Returns
    -------
    mask : array of bool, shape (height, width), or None
        None where it is behind the camera, or hardly in its view.

    """
    points = pose.transform(checkpoint.surface.points.astype(float))
    if (points[:, 2] <= 0).any():
        return None
    pixels = camera.project(points)
    low, high = pixels.min(0), pixels.max(0)
    inside = np.minimum(high, [camera.width, camera.height]) - np.maximum(low, 0)
    if np.prod(inside.clip(0)) <= LEAST_IN_VIEW * np.prod(high - low):
        return None
    crop = CropCamera.look_at(camera, np.concatenate([low, high]), 2 * DRAWN, 1.1)
    seen = pose.turned(crop.R_cam2crop)
    spots, look = checkpoint.surface.tensors()
    rotation, translation, K = (torch.from_numpy(each[None]).float()
                                for each in (seen.R_m2c, seen.t_m2c, crop.K))
    drawn = draw(spots[None], look[None], rotation, translation, K, crop.size).pixels[0, 0]
    drawn = cv2.resize(drawn.numpy(), (crop.size, crop.size), interpolation=cv2.INTER_LINEAR)
    image2crop = crop.K @ crop.R_cam2crop @ np.linalg.inv(camera.K)
    full = cv2.warpPerspective(drawn, image2crop, (camera.width, camera.height),
                               flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    # Points are drawn some of the drawing's large pixels wide, so that it reaches out too far.
    mask = full > 0.9
    return mask if mask.any() else None


def _is_same(one, other):
    """
    Return whether a Print is of what another one, on which more spots agree, is of.

    Of two things one is in front where both would be, and only its print is seen there.

    """
    both = one.mask & other.mask
    if not both.any():
        return False
    if one.label == other.label and _iou(one.mask, other.mask) > SAME:
        return True
    contested = min(_within(one, both), _within(other, both))
    return bool(contested > CONTESTED * one.sighting.inliers)


class PrintSegmenter:
    """
    A segmenter that knows objects by their prints alone.

    It needs no training but that of the objects' models, gives nothing a wrong name that has not
    its print, and finds nothing that has none, or shows none.

    Parameters
    ----------
    finder : PrintFinder
    min_score : float
        What is less sure is not told.

    """

    def __init__(self, finder, min_score=0.5):
        self._finder, self._min_score = finder, min_score

    @classmethod
    def from_directory(cls, directory, min_score=0.5):
        """Return the segmenter for those models of a directory that have landmarks."""
        paths = find_models(directory)
        finder = PrintFinder({name: Checkpoint.load(path) for name, path in paths.items()})
        if not finder.labels:
            raise InputError(f'{directory}: expected models of objects with prints on them, which '
                             f'their cards tell, got {", ".join(paths) or "none"}: take a '
                             'segmenter of train-segmenter')
        return cls(finder, min_score)

    @property
    def labels(self):
        """What can be found."""
        return self._finder.labels

    def segment(self, image):
        """
        Find the objects in an image.

        Parameters
        ----------
        image : array of uint8, shape (H, W, 3) or, grey, (H, W)
            RGB.

        Returns
        -------
        instances : list of Instance
            Best score first, ids counted from 1. Masks are those of the whole objects, also of
            what is hidden, unless by one another.

        """
        rgb = image if image.ndim == 3 else np.repeat(image[..., None], 3, 2)
        prints = self._finder.find(rgb, usual_camera(*rgb.shape[:2]))
        found = sorted(as_instances(prints, []), key=lambda one: -one.score)
        return [replace(one, id=number) for number, one in enumerate(found, 1)
                if one.score >= self._min_score]


def shared(prints, instances):
    """
    Tell which of a segmenter's instances are things whose print was seen.

    Parameters
    ----------
    prints : list of Print
        As found.
    instances : list of Instance
        Of the same image.

    Returns
    -------
    own : dict of int -> int
        For prints the instance of the same label, if there is one; numbers in the lists.
    misnamed : set of int
        Instances that have another label than the print on them.

    """
    own: dict = {}
    misnamed = set()
    for number, one in enumerate(prints):
        likeness = {index: _iou(one.mask, each.mask) for index, each in enumerate(instances)
                    if each.label == one.label and index not in own.values()
                    and (one.mask & each.mask).sum() >= EXPLAINED * max(each.mask.sum(), 1)}
        if likeness:
            own[number] = max(likeness, key=lambda index: likeness[index])
        misnamed |= {index for index, each in enumerate(instances)
                     if each.label != one.label and one.is_of(each)}
    return own, misnamed - set(own.values())


def as_instances(prints, others):
    """
    Return what was found by its print alone, without what hides it.

    Parameters
    ----------
    prints : list of Print
        As found.
    others : list of Instance
        Other things in the image. What is surer than a print is before it.

    Returns
    -------
    list of Instance
        Those of which nothing is left are not among them.

    """
    masks = [one.mask.copy() for one in prints]
    for one, mask in zip(prints, masks):
        for other in others:
            if other.score > one.score:
                mask &= ~other.mask
    for first in range(len(prints)):
        for second in range(first):
            both = prints[first].mask & prints[second].mask
            if both.any():
                # Print that is seen there is in front there.
                behind = min((first, second), key=lambda index: _within(prints[index], both))
                masks[behind] &= ~both
    return [Instance(one.label, one.score, mask_box(mask), mask)
            for one, mask in zip(prints, masks) if mask.any()]


def _within(one, region):
    """Return how many spots of a Print are within a region of the image."""
    return _at(region, one.spots).sum()


def _at(mask, pixels):
    """Return what a mask has at pixels (N, 2), or at its edge nearest to them."""
    height, width = mask.shape
    x, y = pixels.round().astype(int).T
    return mask[y.clip(0, height - 1), x.clip(0, width - 1)]


def _iou(first, second):
    """Return the intersection over union of two masks."""
    both = (first & second).sum()
    return both / max(first.sum() + second.sum() - both, 1)
