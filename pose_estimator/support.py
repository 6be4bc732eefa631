"""
What things stand on: a plane that poses of an image agree on mends each of them.

The distance is what a single view tells worst of a pose. Things that rest on one plane tell it of
each other: where that plane is, say the others, and where a thing touches it, its own pose and
shape. Nothing is assumed of the camera, or of where a table is; where poses agree on no plane, as
in a bin or in a hand, they stay as they are.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from .geometry import Pose, rotation_of
from .mesh import farthest_points

# A thing at rest leans by so much, radians, and floats or sinks in by this share of its distance,
# one sigma each: tables are not flat, nor are meshes exact.
LEANS, FLOATS = np.radians(3.0), 0.005
# What leans by more, or by more than its pose is unsure of, rests on something else besides. It
# keeps its tilt, and is somewhere about the plane.
MOST_LEANING, FLOATS_LEANING = np.radians(10.0), 0.03
# Squared errors over their variance above which a thing leans, or does not stand on the plane (95
# and 99 % of those that do have less).
LEANING, APART = 6.0, 11.3
# Covariances, fitted on virtual crops, are about so much too small on photographs.
UNTOLD = 2.0
# So many things, the surest, say where a plane may be; all, by their scores, whether it is there.
MOST_CANDIDATES = 10
# It must be so much likelier (logarithm) that things stand on the plane than that they lie about,
# turned any way and over this share of their distance up and down. The one that tells most has set
# the plane, and counts for nothing.
ENOUGH, SPREAD = np.log(100), 0.3
# Two masks that share this much of the smaller one are of one thing.
SAME = 0.5
# So often the plane of the others is fitted, each time by how far they agree with the last one.
ROUNDS = 3
# Variance of a tilt that tells nothing.
UNTOLD_TILT = 1e2
# Directions are so far apart, radians; a thing rests where its middle, raised by no less than this
# share of the diameter, would be higher within TIPPED, radians.
APART_UPS, TIPPED, LEVEL = np.radians(6.0), np.radians(8.0), 0.002
CORNERS = 128
# Points this share of the diameter above the lowest touch the plane as well, about.
SOFT = 0.03


class Shape(NamedTuple):
    """
    How a thing can rest.

    Attributes
    ----------
    corners : array, shape (V, 3)
        Of its convex hull, model frame, metres.
    ups : array, shape (n, 3)
        Unit vectors that point up when it rests, model frame.
    feet : array, shape (n, 3)
        Middle of what touches the plane then, model frame, metres.

    """

    corners: np.ndarray
    ups: np.ndarray
    feet: np.ndarray

    @classmethod
    def of(cls, points, diameter):
        """
        Return the Shape of an object.

        For virtual scenes synthetic.views has the ways to rest with how often each of them comes
        about, by trimesh, which a robot does without.

        Parameters
        ----------
        points : array, shape (N, 3)
            Of the surface, model frame, metres.
        diameter : float
            Of the object, metres.

        """
        points = np.asarray(points, float)
        try:
            hull = ConvexHull(points)
        except (QhullError, ValueError):  # flat
            corners, ups = farthest_points(points, min(CORNERS, len(points))), np.eye(3)[2:]
            return cls(corners, ups, _feet(corners, ups, SOFT * diameter))
        corners = points[hull.vertices]
        # The hull's middle, of the pyramids from one point within to the faces.
        inside = corners.mean(0)
        faces = points[hull.simplices] - inside
        volumes = np.abs(np.linalg.det(faces))
        middle = inside + (volumes[:, None] * faces.sum(1) / 4).sum(0) / volumes.sum()
        if len(corners) > CORNERS:
            corners = farthest_points(corners, CORNERS)
        # As the mesh stands, and on each face, the widest first.
        widest = np.argsort(-np.linalg.norm(np.cross(
            faces[:, 1] - faces[:, 0], faces[:, 2] - faces[:, 0]), axis=1))
        ups = np.concatenate([[[0, 0, 1.0]], -hull.equations[widest, :3]])
        ups = ups[_apart(ups, APART_UPS)]
        tried = np.concatenate([ups[:, None], _around(ups, TIPPED / 2), _around(ups, TIPPED)], 1)
        heights = tried @ middle - (tried @ corners.T).min(-1)
        rests = heights[:, 0] <= heights.min(1) + LEVEL * diameter
        rests[0] = True
        return cls(corners, ups[rests], _feet(corners, ups[rests], SOFT * diameter))


@dataclass(frozen=True, eq=False)
class Thing:
    """
    A pose that may tell of a plane, and be told by one.

    Attributes
    ----------
    shape : Shape
    pose : Pose
        Model to camera, metres.
    covariance : array, shape (6, 6)
        As ObjectPose has it.
    score : float
    box : array, shape (4,)
    mask : array of bool, shape (height, width)

    """

    shape: Shape
    pose: Pose
    covariance: np.ndarray
    score: float
    box: np.ndarray
    mask: np.ndarray


class Standing(NamedTuple):
    """
    What the plane of the others says of a thing.

    Attributes
    ----------
    pose : Pose
        As it was where the thing does not stand on the plane.
    covariance : array, shape (6, 6)
        Likewise.
    squared_error : float
        From the plane, over its variance.

    """

    pose: Pose
    covariance: np.ndarray
    squared_error: float

    @property
    def is_on_plane(self):
        """Whether it stands there, so that the pose was mended."""
        return self.squared_error < APART


class _Contact(NamedTuple):
    """
    Where a thing touches each of M planes.

    The plane is that of the points x with n x = h; its unknowns are two small tilts of n, in the
    basis of `_basis`, and h. A thing measures all three: by its up and by where it touches.

    Attributes
    ----------
    error : array, shape (M, 3)
        Measured less that of the plane.
    by_pose : array, shape (M, 3, 6)
        Change of that with the pose.
    by_plane : array, shape (M, 3, 3)
        Change of what is expected with the plane's unknowns.
    variance : array, shape (M, 3, 3)
        Of the error.
    rests : array of bool, shape (M,)
        Whether it stands there as it can by itself.

    """

    error: np.ndarray
    by_pose: np.ndarray
    by_plane: np.ndarray
    variance: np.ndarray
    rests: np.ndarray

    @property
    def squared(self):
        """Squared errors over their variance, shape (M,)."""
        return _squared(self.error, self.variance)


def find_plane(things):
    """
    Find the plane that most things would rest on.

    Parameters
    ----------
    things : list of Thing
        Of one image.

    Returns
    -------
    plane : (array of shape (3,), float) or None
        Its unit normal n, up, and height h, metres: n x = h, below the camera. None for less than
        two things. Whether it is there is another question, see `stand`.

    """
    if len(things) < 2:
        return None
    placed = [_Placed(one) for one in things]
    surest = sorted(placed, key=lambda one: -one.weight)[:MOST_CANDIDATES]
    normals, heights = (np.concatenate(parts) for parts in zip(*(one.planes() for one in surest)))
    below = heights < 0
    normals, heights = normals[below], heights[below]
    if not len(normals):
        return None
    contacts = [one.contact(normals, heights) for one in placed]
    votes = sum(_agreement(*both) * both[1].rests for both in zip(placed, contacts))
    best = int(np.argmax(votes))
    return normals[best], float(heights[best])


def stand(things, plane):
    """
    Mend poses by what the others stand on.

    Parameters
    ----------
    things : list of Thing
        Of one image.
    plane : (array of shape (3,), float)
        Where it may be, from find_plane.

    Returns
    -------
    list of Standing or None
        None where the others and the thing itself are not enough to tell that a plane is there.

    """
    placed = [_Placed(one) for one in things]
    results = []
    for one, normal, height, covariance, told in zip(
            placed, *_planes_of_others(placed, _strangers(things), *plane)):
        standing, own = one.on(normal, height, covariance)
        results.append(standing if told > 0 and told + own >= ENOUGH else None)
    return results


class _Placed:
    """A Thing in the camera's frame."""

    def __init__(self, thing):
        self.thing = thing
        self.weight = thing.score
        self.covariance = UNTOLD * thing.covariance
        self.distance = np.linalg.norm(thing.pose.t_m2c)
        self.corners = thing.shape.corners @ thing.pose.R_m2c.T
        self.ups = thing.shape.ups @ thing.pose.R_m2c.T
        self.feet = thing.shape.feet @ thing.pose.R_m2c.T

    def planes(self):
        """Return normals (n, 3) and heights (n,) of the planes that it would rest on."""
        return self.ups, (self.ups * (self.feet + self.thing.pose.t_m2c)).sum(1)

    def contact(self, normals, heights):
        """Return its _Contact with planes, normals (M, 3) and heights (M,)."""
        count = len(normals)
        likeness = normals @ self.ups.T
        which = likeness.argmax(1)
        up, cosine = self.ups[which], likeness[np.arange(count), which]
        basis = _basis(normals).transpose(0, 2, 1)
        tilt = (basis @ up[:, :, None])[..., 0]
        by_pose = np.zeros((count, 3, 6))
        by_pose[:, :2, 3:] = -basis @ _cross(up)
        variance = by_pose[:, :2] @ self.covariance @ by_pose[:, :2].transpose(0, 2, 1)
        squared = _squared(tilt, variance + LEANS ** 2 * np.eye(2))
        rests = (cosine > np.cos(MOST_LEANING)) & (squared < LEANING)
        # What leans touches with its lowest corner.
        lowest = self.corners[(normals @ self.corners.T).argmin(1)]
        foot = np.where(rests[:, None], self.feet[which], lowest)
        at = foot + self.thing.pose.t_m2c
        error = np.column_stack([tilt, (normals * at).sum(1) - heights])
        by_pose[:, 2, :3] = normals
        by_pose[:, 2, 3:] = (_cross(foot) @ normals[:, :, None])[..., 0]
        by_plane = np.tile(np.eye(3), (count, 1, 1))
        by_plane[:, 2, :2] = -(basis @ at[:, :, None])[..., 0]
        variance = by_pose @ self.covariance @ by_pose.transpose(0, 2, 1)
        variance[:, 0, 0] += np.where(rests, LEANS ** 2, UNTOLD_TILT)
        variance[:, 1, 1] += np.where(rests, LEANS ** 2, UNTOLD_TILT)
        variance[:, 2, 2] += (np.where(rests, FLOATS, FLOATS_LEANING) * self.distance) ** 2
        return _Contact(error, by_pose, by_plane, variance, rests)

    def evidence(self, contact):
        """
        Return how much likelier the pose is on each plane than anyhow, logarithm or 0, shape (M,).

        The density of its height and, as it rests in one of its ways, of its tilt, over those of
        heights all over SPREAD and of tilts all over the sphere; of what leans, of its height.

        """
        spread, variance = SPREAD * self.distance, contact.variance
        there = np.where(contact.rests,
                         np.log(2 * spread / len(self.ups))
                         - np.log(2 * np.pi * np.linalg.det(variance)) / 2,
                         np.log(spread) - np.log(2 * np.pi * variance[:, 2, 2]) / 2)
        return np.maximum(there - contact.squared / 2, 0)

    def on(self, normal, height, covariance):
        """Return its Standing on a plane, whose unknowns have a covariance, and its evidence."""
        contact = self.contact(normal[None], np.array([height]))
        by_plane = contact.by_plane
        contact = contact._replace(variance=contact.variance
                                   + by_plane @ covariance @ by_plane.transpose(0, 2, 1))
        squared, evidence = float(contact.squared[0]), float(self.evidence(contact)[0])
        if not squared < APART:
            return Standing(self.thing.pose, self.thing.covariance, squared), evidence
        # The update of a Kalman filter (Kalman 1960).
        by_pose = contact.by_pose[0]
        gain = np.linalg.solve(contact.variance[0], by_pose @ self.covariance).T
        change = -gain @ contact.error[0]
        pose = Pose(rotation_of(change[3:]) @ self.thing.pose.R_m2c,
                    self.thing.pose.t_m2c + change[:3])
        left = self.covariance - gain @ by_pose @ self.covariance
        return Standing(pose, (left + left.T) / 2, squared), evidence


def _planes_of_others(placed, strangers, normal, height):
    """
    Return for each of N things the plane that those speak for who are strangers to it.

    Parameters
    ----------
    placed : list of _Placed
        The things.
    strangers : array of bool, shape (N, N)
        Which of them are not one and the same.
    normal, height
        Of the plane that most agree on.

    Returns
    -------
    normals : array, shape (N, 3)
    heights : array, shape (N,)
    covariances : array, shape (N, 3, 3)
        Of the unknowns; see _Contact.
    evidence : array, shape (N,)
        Of all of them but the one that tells most, as far as they agree.

    """
    count = len(placed)
    normals, heights = np.tile(normal, (count, 1)), np.full(count, height)
    for _ in range(ROUNDS):  # iteratively reweighted least squares
        told, wanted = np.tile(1e-9 * np.eye(3), (count, 1, 1)), np.zeros((count, 3))
        evidence, most = np.zeros(count), np.zeros(count)
        for one, is_stranger in zip(placed, strangers):
            contact = one.contact(normals, heights)
            weight = _agreement(one, contact) * is_stranger
            information = np.linalg.inv(contact.variance) * weight[:, None, None]
            turned = contact.by_plane.transpose(0, 2, 1) @ information
            told += turned @ contact.by_plane
            wanted += (turned @ contact.error[:, :, None])[..., 0]
            spoken = weight * one.evidence(contact)
            evidence += spoken
            most = np.maximum(most, spoken)
        step = np.linalg.solve(told, wanted[:, :, None])
        normals = normals + (_basis(normals) @ step[:, :2])[..., 0]
        heights = heights + step[:, 2, 0]
        length = np.linalg.norm(normals, axis=1)
        normals, heights = normals / length[:, None], heights / length
    return normals, heights, np.linalg.inv(told), evidence - most


def _agreement(one, contact):
    """Return how much a thing speaks for each plane, shape (M,): its score, or less."""
    squared = contact.squared
    # Slower than by a gaussian: what is a little off still tells something.
    return one.weight * np.exp(-squared / 6) * (squared < 3 * APART)


def _strangers(things):
    """Return which things are not one and the same, array of bool, shape (N, N)."""
    strangers = ~np.eye(len(things), dtype=bool)
    sizes = [one.mask.sum() for one in things]
    for i, one in enumerate(things):
        for j, other in enumerate(things[:i]):
            x0, y0 = np.floor(np.maximum(one.box[:2], other.box[:2])).astype(int).clip(0)
            x1, y1 = np.ceil(np.minimum(one.box[2:], other.box[2:])).astype(int).clip(0)
            both = (one.mask[y0:y1 + 1, x0:x1 + 1] & other.mask[y0:y1 + 1, x0:x1 + 1]).sum()
            if both > SAME * min(sizes[i], sizes[j]):
                strangers[i, j] = strangers[j, i] = False
    return strangers


def _squared(error, variance):
    """Return squared errors (M, n) over variances (M, n, n), shape (M,)."""
    return (error * np.linalg.solve(variance, error[:, :, None])[..., 0]).sum(1)


def _feet(corners, ups, soft):
    """Return the middles (n, 3) of what is lowest of corners (V, 3) when ups (n, 3) are up."""
    heights = ups @ corners.T
    low = heights.min(1, keepdims=True)
    share = np.exp((low - heights) / soft)
    middle = share @ corners / share.sum(1, keepdims=True)
    return middle + (low - (middle * ups).sum(1, keepdims=True)) * ups


def _apart(directions, angle):
    """Return numbers of directions (N, 3) that are so far apart, the first ones first."""
    like, chosen = np.cos(angle), []
    left = np.arange(len(directions))
    while len(left):
        chosen.append(left[0])
        left = left[directions[left] @ directions[left[0]] < like]
    return chosen


def _around(directions, angle, count=12):
    """Return unit vectors all around each of (N, 3), an angle away, shape (N, count, 3)."""
    turn = np.arange(count) * 2 * np.pi / count
    across = _basis(directions) @ np.stack([np.cos(turn), np.sin(turn)])
    return np.cos(angle) * directions[:, None] + np.sin(angle) * across.transpose(0, 2, 1)


def _basis(normals):
    """Return two unit vectors across each normal (M, 3), shape (M, 3, 2) (Duff et al. 2017)."""
    x, y, z = normals.T
    sign = np.where(z < 0, -1.0, 1.0)
    scale = -1 / (sign + z)
    both = x * y * scale
    return np.stack([1 + sign * x * x * scale, both, sign * both, sign + y * y * scale,
                     -sign * x, -y], 1).reshape(-1, 3, 2)


def _cross(vectors):
    """Return the matrices (M, 3, 3) that multiply by vectors (M, 3) from the left, v x."""
    x, y, z = vectors.T
    zero = np.zeros(len(vectors))
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
