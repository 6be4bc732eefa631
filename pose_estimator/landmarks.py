"""What is printed on an object: places of its surface that are found again by their looks."""

from dataclasses import dataclass, replace
import functools

import cv2
import numpy as np
import torch

from .camera import CropCamera
from .geometry import Pose
from .pnp import refine

# Of the mesh this many views are drawn, from directions spread evenly, so many diameters away; the
# diameter has about so many pixels. They are drawn so many times finer, with so many pixels round.
VIEWS, DISTANCE, VIEW_SIZE, FINER, ROUND = 120, 4.0, 288, 2, 16
# The most that an object keeps, and the fewest for which it is worth while to look.
MOST, FEWEST = 5000, 150
# One place, seen in two views: nearer than this, diameters; and descriptors as far apart as this.
SAME_PLACE, SAME_LOOK = 0.012, 0.45
# Crops have so many pixels a side, the box 1/MARGIN of them, and so many features at most.
SIZE, MARGIN, FEATURES = 256, 1.15, 1000
# The nearest descriptor must be nearer than this times the nearest of another place, which is
# farther away than ELSEWHERE, diameters; of so many that are nearest.
RATIO, ELSEWHERE, NEAREST = 0.88, 0.05, 12
# Reprojection error of a match that agrees, of the crop's side, and the fewest that must, in
# spots of their own (docs/experiments.md).
RADIUS, FEWEST_INLIERS = 0.012, 10
ITERATIONS = 400
# Of equal things in one box so many are looked for.
MOST_ALIKE = 3
# Around a pose that is known, landmarks are looked for so far from where it has them, of the
# crop's side; and no farther, diameters in the mean, is it moved.
REACH, MOST_MOVED = 0.03, 0.1


@dataclass(frozen=True, eq=False)
class Features:
    """
    What is seen in the crop of an image.

    Attributes
    ----------
    crop : CropCamera
    pixels : array, shape (F, 2)
        x, y in the crop.
    roots : array of float32, shape (F, 128)
        RootSIFT.

    """

    crop: CropCamera
    pixels: np.ndarray
    roots: np.ndarray


@dataclass(frozen=True, eq=False)
class Sighting:
    """
    A pose that landmarks agree on.

    Attributes
    ----------
    pose : Pose
        Model to the camera that took the image.
    spots : array, shape (S, 2)
        x, y in the crop that agree with it, each but once.
    features : Features

    """

    pose: Pose
    spots: np.ndarray
    features: Features

    @property
    def inliers(self):
        """How many spots agree."""
        return len(self.spots)


@dataclass(frozen=True, eq=False)
class Landmarks:
    """
    Places of an object's surface with what they look like.

    Attributes
    ----------
    points : array of float32, shape (N, 3)
        Model frame, metres.
    descriptors : array of uint8, shape (N, 128)
        SIFT (Lowe 2004).

    """

    points: np.ndarray
    descriptors: np.ndarray

    @classmethod
    def of_mesh(cls, model, mesh, progress=iter):
        """
        Return the landmarks of a mesh; None where too little is printed on it.

        Parameters
        ----------
        model : ObjectModel
            The object.
        mesh : Mesh
            Its mesh.
        progress : callable
            Wraps the iterable of views, to draw a bar.

        """
        from .synthetic.render import RayCaster
        if not mesh.has_appearance:
            return None
        caster = RayCaster(mesh)
        seen = [_seen_from(caster, model, direction)
                for direction in progress(_directions(VIEWS))]
        points, descriptors = (np.concatenate(each) for each in zip(*seen))
        views = np.repeat(np.arange(VIEWS), [len(where) for where, _ in seen])
        chosen = _repeated(points, descriptors, views, model.diameter)
        if len(chosen) < FEWEST:
            return None
        return cls(points[chosen].astype(np.float32), descriptors[chosen])

    def to_tensors(self):
        """Return what from_tensors reads."""
        return {'landmarks.points': torch.from_numpy(self.points),
                'landmarks.descriptors': torch.from_numpy(self.descriptors)}

    @classmethod
    def from_tensors(cls, tensors):
        """
        Take landmarks out of a dict of tensors.

        Returns
        -------
        Landmarks or None
            None where the dict has none.

        Raises
        ------
        ValueError
            For tensors that do not fit together.

        """
        if 'landmarks.points' not in tensors:
            return None
        if 'landmarks.descriptors' not in tensors:
            raise ValueError('the landmarks lack their descriptors')
        points, descriptors = (tensors.pop(f'landmarks.{name}').numpy()
                               for name in ('points', 'descriptors'))
        if (points.ndim != 2 or points.shape[1] != 3 or descriptors.shape != (len(points), 128)
                or descriptors.dtype != np.uint8 or not np.isfinite(points).all()):
            raise ValueError('landmarks: expected finite points (N, 3) with descriptors (N, 128) '
                             f'of 8 bits, got {points.shape}, {descriptors.shape} of '
                             f'{descriptors.dtype}')
        return cls(points, descriptors)

    @functools.cached_property
    def _roots(self):
        return torch.from_numpy(root(self.descriptors))

    def find(self, image, crop, diameter, is_it=None):
        """
        Find the object.

        Parameters
        ----------
        image : array of uint8, shape (height, width, 3)
            RGB, of the crop's camera.
        crop : CropCamera
            Of SIZE pixels a side.
        diameter : float
            Of the object, metres.
        is_it : callable or None
            Whether a pose, model to camera, may be that of the thing that is looked for, not of
            another one beside it; None: of any.

        Returns
        -------
        list of Sighting
            Poses, each of them, where the landmarks lie about in a plane, with its twin; none
            after the first that is_it.

        """
        features = _features(image, crop)
        if len(features.pixels) < FEWEST_INLIERS:
            return []
        which, where = self.matched(features.roots, diameter)
        if len(which) < FEWEST_INLIERS:
            return []
        pixels, points = features.pixels[which], self.points[where].astype(float)
        sightings: list = []
        for _ in range(MOST_ALIKE):
            found, agreeing = _agreed(points, pixels, features)
            sightings += found
            if not found or is_it is None or any(is_it(one.pose) for one in found):
                break
            pixels, points = pixels[~agreeing], points[~agreeing]
        return sightings

    def align(self, pose, sighting, diameter):
        """
        Bring a pose to where the print is.

        Near where it is expected a landmark is known from fewer others, so that many more are
        found than by looking for it everywhere.

        Parameters
        ----------
        pose : Pose
            Model to camera, near the true one.
        sighting : Sighting
            Of `find`, in that image.
        diameter : float
            Of the object, metres.

        Returns
        -------
        Pose or None
            None where fewer landmarks agree than on the sighting, or on something else.

        """
        found = self._found_near(pose, sighting.features, diameter)
        if found is None or found.inliers < sighting.inliers:
            return None
        points = self.points.astype(float)
        moved = np.linalg.norm(found.pose.transform(points) - pose.transform(points), axis=1)
        return None if moved.mean() > MOST_MOVED * diameter else found.pose

    def choose(self, image, crop, sightings, diameter):
        """
        Tell a pose from its twin by looking at the whole of the object.

        Parameters
        ----------
        image : array of uint8, shape (height, width, 3)
            RGB, of the crop's camera.
        crop : CropCamera
            Of SIZE pixels a side, with all of the object in it.
        sightings : list of Sighting
            At least one, of the same thing.
        diameter : float
            Of the object, metres.

        Returns
        -------
        Sighting
            The one near which most spots agree, with the pose on which they do.

        """
        features = _features(image, crop)
        best, most = sightings[0], 0
        for one in sightings:
            found = self._found_near(one.pose, features, diameter)
            if found is not None and found.inliers > most:
                best, most = replace(one, pose=found.pose), found.inliers
        return best

    def _found_near(self, pose, features, diameter):
        """Return the Sighting of what agrees near a pose; None: too little."""
        crop, pixels = features.crop, features.pixels
        near = pose.turned(crop.R_cam2crop)
        seen = near.transform(self.points.astype(float))
        if (seen[:, 2] <= 0).any():
            return None
        which, where = self._matched_near(features.roots, pixels, crop.project(seen),
                                          REACH * crop.size, diameter)
        if len(which) < FEWEST_INLIERS:
            return None
        points, pixels = self.points[where].astype(float), pixels[which]
        settled, inliers = _settled(near, points, pixels, np.arange(len(which)), crop)
        spots = spots_of(pixels[inliers])
        return Sighting(settled.turned(crop.R_cam2crop.T), spots, features) if len(
            spots) >= FEWEST_INLIERS else None

    def _matched_near(self, roots, pixels, expected, reach, diameter):
        """Return as matched does, but only landmarks that are expected (N, 2) within reach."""
        from scipy.spatial import cKDTree
        pairs = cKDTree(pixels).sparse_distance_matrix(cKDTree(expected), reach,
                                                       output_type='ndarray')
        which, where = pairs['i'], pairs['j']
        if not len(which):
            return which, where
        product = np.einsum('ij,ij->i', roots[which], self._roots.numpy()[where])
        order = np.lexsort([-product, which])
        which, where, product = which[order], where[order], product[order]
        first = np.flatnonzero(np.diff(which, prepend=-1))  # the likest one of each feature
        best = np.repeat(where[first], np.diff(first, append=len(which)))
        away = np.linalg.norm(self.points[where] - self.points[best], axis=1)
        other = np.maximum.reduceat(np.where(away > ELSEWHERE * diameter, product, 0.5),
                                    first)
        apart, beyond = (np.sqrt(np.maximum(2 - 2 * one, 0)) for one in (product[first], other))
        good = first[apart < RATIO * beyond]
        return which[good], where[good]

    def matched(self, roots, diameter):
        """
        Tell which features are landmarks.

        Parameters
        ----------
        roots : array of float32, shape (F, 128)
            RootSIFT of the features.
        diameter : float
            Of the object, metres.

        Returns
        -------
        which, where : arrays of int, shape (M,)
            Of the features, and of the landmarks that they are.

        """
        return alike(roots, self._roots, self.points, ELSEWHERE * diameter)


def _features(image, crop):
    """Return the Features of a crop of an image."""
    pixels, descriptors = detect(cv2.cvtColor(crop.crop(image), cv2.COLOR_RGB2GRAY), FEATURES)
    return Features(crop, pixels, root(descriptors))


def alike(roots, known, places, elsewhere):
    """
    Return what looks like one place and like no other.

    Parameters
    ----------
    roots : array of float32, shape (F, 128)
        RootSIFT of what is seen.
    known : tensor, shape (N, 128)
        And of the landmarks.
    places : array, shape (N, 3)
        Where these are.
    elsewhere : float
        What is farther apart is another place.

    Returns
    -------
    which, where : arrays of int, shape (M,)
        Of what is seen, and of the landmarks.

    """
    products = torch.from_numpy(roots) @ known.T
    value, best = (each.numpy() for each in products.topk(min(NEAREST, products.shape[1])))
    apart = np.sqrt(np.maximum(2 - 2 * value, 0))
    away = np.linalg.norm(places[best] - places[best[:, :1]], axis=2) > elsewhere
    other = np.where(away.any(1), apart[np.arange(len(best)), away.argmax(1)], apart[:, -1])
    which = np.flatnonzero(apart[:, 0] < RATIO * other)
    return which, best[which, 0]


def _agreed(points, pixels, features):
    """Return the Sightings of the pose that most matches agree on, and which ones do (M,)."""
    crop, sightings, agreeing = features.crop, [], np.zeros(len(pixels), bool)
    if len(pixels) < FEWEST_INLIERS:
        return sightings, agreeing
    try:
        found, rotvec, translation, inliers = cv2.solvePnPRansac(
            points, pixels, crop.K, None, iterationsCount=ITERATIONS,
            reprojectionError=RADIUS * crop.size, confidence=0.999, flags=cv2.SOLVEPNP_AP3P)
    except cv2.error:
        return sightings, agreeing
    if not found or inliers is None or len(inliers) < FEWEST_INLIERS:
        return sightings, agreeing
    inliers = inliers[:, 0]
    agreeing[inliers] = True
    pose = Pose.from_rotvec(rotvec, translation)
    for start in (pose, _twin(pose, points[inliers])):
        settled, own = _settled(start, points, pixels, inliers, crop)
        spots = spots_of(pixels[own])
        if len(spots) >= FEWEST_INLIERS:
            sightings.append(Sighting(settled.turned(crop.R_cam2crop.T), spots, features))
            agreeing[own] = True
    return sightings, agreeing


def _settled(pose, points, pixels, inliers, crop):
    """Return the pose near one, in the crop's frame, and who agrees; none if too few."""
    radius = RADIUS * crop.size
    for _ in range(2):
        pose, _ = refine(pose, points[inliers], pixels[inliers], np.ones(len(inliers)), crop.K,
                         radius / 2)
        seen = pose.transform(points)
        if (seen[:, 2] <= 0).any():
            return pose, inliers[:0]
        error = np.linalg.norm(crop.project(seen) - pixels, axis=1)
        inliers = np.flatnonzero(error < radius)
        if len(inliers) < FEWEST_INLIERS:
            return pose, inliers[:0]
    return pose, inliers


def spots_of(pixels):
    """
    Return the spots of the image (S, 2) that features (N, 2) lie in.

    A spot may have several, one for each direction that it could be said to have.

    """
    return np.unique(pixels.round(), axis=0)


def _twin(pose, points):
    """
    Return the other pose in which the plane through points looks much the same.

    Far away, a plane that is mirrored in depth cannot be told from the plane.

    """
    middle = points.mean(0)
    normal = pose.R_m2c @ np.linalg.svd(points - middle)[2][2]
    centre = pose.transform(middle[None])[0]
    sight = centre / np.linalg.norm(centre)
    mirror = (np.eye(3) - 2 * np.outer(sight, sight)) @ (np.eye(3) - 2 * np.outer(normal, normal))
    rotation = mirror @ pose.R_m2c
    return Pose(rotation, centre - rotation @ middle)


def _directions(count):
    """Return unit vectors (count, 3) spread over the sphere (a Fibonacci lattice)."""
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    radius = np.sqrt(1 - z ** 2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], 1)


def _seen_from(caster, model, direction):
    """Return points (N, 3) and descriptors (N, 128) of what is seen from a direction."""
    aside = np.cross([0, 0, 1.0], -direction)
    aside /= np.linalg.norm(aside)
    rotation = np.stack([aside, np.cross(-direction, aside), -direction])
    pose = Pose(rotation, [0, 0, DISTANCE * model.diameter] - rotation @ model.center)
    # Drawn finer and shrunk: hard edges would be features that no camera sees.
    focal = FINER * VIEW_SIZE * (DISTANCE - 0.5)
    spots = pose.transform(model.points)
    spots = focal * spots[:, :2] / spots[:, 2:]
    low = FINER * np.floor(spots.min(0) / FINER - ROUND).astype(int)
    width, height = FINER * np.ceil(spots.max(0) / FINER + ROUND).astype(int) - low
    seen = caster.render(pose, np.diag([focal, focal, 1.0]), width, height, low)
    light = 0.5 + 0.5 * np.clip(-seen.normal[..., 2:], 0, 1)
    picture = np.where(seen.mask[..., None], seen.albedo * light, 110.0).astype(np.uint8)
    size = (width // FINER, height // FINER)
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    inside = cv2.erode(seen.mask.view(np.uint8), np.ones((9, 9), np.uint8))
    inside = cv2.resize(inside, size, interpolation=cv2.INTER_NEAREST)
    pixels, descriptors = detect(gray, 0, inside)
    pixels = (pixels + 0.5) * FINER - 0.5
    x, y = pixels.round().astype(int).clip(0, [width - 1, height - 1]).T
    rays = np.column_stack([(pixels + low) / focal, np.ones(len(pixels))])
    points = (rays * seen.depth[y, x][:, None] - pose.t_m2c) @ rotation
    # What is seen edge on is found again from nowhere else.
    good = (seen.depth[y, x] > 0) & (seen.normal[y, x, 2] < -0.5)
    return points[good], descriptors[good].astype(np.uint8)


def _repeated(points, descriptors, views, diameter):
    """
    Choose landmarks that are seen from several views, each but once.

    Returns
    -------
    chosen : array of int, shape (N,)
        Those that are seen most often first.

    """
    from scipy.spatial import cKDTree
    roots = root(descriptors)
    pairs = cKDTree(points).query_pairs(SAME_PLACE * diameter, output_type='ndarray')
    pairs = pairs[views[pairs[:, 0]] != views[pairs[:, 1]]]
    products = np.concatenate([(roots[part[:, 0]] * roots[part[:, 1]]).sum(1) for part in
                               np.array_split(pairs, len(pairs) // 100000 + 1)])
    pairs = pairs[products > 1 - SAME_LOOK ** 2 / 2]
    count = np.bincount(pairs.ravel(), minlength=len(points))
    first, second = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.argsort(first, kind='stable')
    first, second = first[order], second[order]
    begin = np.searchsorted(first, np.arange(len(points) + 1))
    is_free = count > 0
    chosen = []
    for index in np.argsort(-count, kind='stable'):
        if is_free[index]:
            chosen.append(index)
            is_free[second[begin[index]:begin[index + 1]]] = False
            if len(chosen) == MOST:
                break
    return np.array(chosen, int)


def detect(gray, most, mask=None):
    """
    Find SIFT features.

    Parameters
    ----------
    gray : array of uint8, shape (H, W)
        Where features are looked for.
    most : int
        Those that stand out most, so many of them; 0: all.
    mask : array of uint8, shape (H, W), or None
        Nonzero where they may be.

    Returns
    -------
    pixels : array, shape (F, 2)
        x, y; the centre of the top left pixel is (0, 0).
    descriptors : array of float32, shape (F, 128)
        Whole numbers from 0 to 255.

    """
    keypoints, descriptors = _detector(most).detectAndCompute(gray, mask)
    if descriptors is None:
        return np.zeros((0, 2)), np.zeros((0, 128), np.float32)
    # OpenCV halves places of an image of twice the size, as if pixels were counted from corners.
    return np.array([one.pt for one in keypoints]) - 0.25, descriptors


@functools.lru_cache(maxsize=None)
def _detector(count):
    return cv2.SIFT_create(nfeatures=count, contrastThreshold=0.02)  # type: ignore[attr-defined]


def root(descriptors):
    """
    Return RootSIFT: unit vectors, in which Hellinger's distance is Euclid's.

    Parameters
    ----------
    descriptors : array, shape (F, 128)
        SIFT's. (Arandjelovic and Zisserman 2012)

    """
    values = np.sqrt(descriptors.astype(np.float32))
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)


def look_at(camera, box):
    """Return the CropCamera for Landmarks.find."""
    return CropCamera.look_at(camera, box, SIZE, MARGIN)
