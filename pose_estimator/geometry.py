"""Rigid transforms."""

from dataclasses import dataclass
import math

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from .errors import InputError


@dataclass(frozen=True)
class Pose:
    """
    Rigid transform of points from a model frame to a camera frame, x_c = R_m2c x_m + t_m2c.

    Parameters
    ----------
    R_m2c : array, shape (3, 3)
        Rotation matrix.
    t_m2c : array, shape (3,)
        Translation in metres.

    Raises
    ------
    InputError
        If a shape is wrong, a value is not finite, or R_m2c is no rotation (1 % off).

    """

    R_m2c: np.ndarray
    t_m2c: np.ndarray

    def __post_init__(self):
        rotation = np.asarray(self.R_m2c, np.float64)
        translation = np.asarray(self.t_m2c, np.float64)
        if rotation.shape != (3, 3):
            raise InputError(f'R_m2c: expected shape (3, 3), got {rotation.shape}')
        if translation.shape != (3,):
            raise InputError(f't_m2c: expected shape (3,), got {translation.shape}')
        rows = rotation.tolist()
        if not all(map(math.isfinite, [*rows[0], *rows[1], *rows[2], *translation.tolist()])):
            raise InputError('pose: expected finite numbers, got NaN or infinity')
        if not _is_rotation(*rows):
            raise InputError('R_m2c: expected a rotation matrix (orthonormal, determinant 1)')
        object.__setattr__(self, 'R_m2c', rotation)
        object.__setattr__(self, 't_m2c', translation)

    @classmethod
    def identity(cls):
        """Return the pose that changes nothing."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def from_matrix(cls, matrix):
        """Return the pose of a homogeneous matrix, shape (4, 4) or 16 numbers row by row."""
        matrix = np.asarray(matrix, np.float64).reshape(4, 4)
        return cls(matrix[:3, :3], matrix[:3, 3])

    @classmethod
    def from_rotvec(cls, rotvec, t_m2c):
        """Return the pose of a rotation vector (axis times angle in rad), as OpenCV uses."""
        return cls(rotation_of(rotvec), np.ravel(t_m2c))

    @property
    def rotvec(self):
        """Rotation vector, shape (3,), axis times angle in rad."""
        return Rotation.from_matrix(self.R_m2c).as_rotvec()

    @property
    def quaternion(self):
        """Unit quaternion in the order x, y, z, w of geometry_msgs."""
        return Rotation.from_matrix(self.R_m2c).as_quat()

    @property
    def matrix(self):
        """Homogeneous matrix, shape (4, 4)."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.R_m2c
        matrix[:3, 3] = self.t_m2c
        return matrix

    def transform(self, points):
        """Return points (..., 3) in the camera frame, given in the model frame, in metres."""
        return np.asarray(points) @ self.R_m2c.T + self.t_m2c

    def compose(self, other):
        """Return the pose that applies `other` first, then this one."""
        return Pose(self.R_m2c @ other.R_m2c, self.R_m2c @ other.t_m2c + self.t_m2c)

    def turned(self, rotation):
        """Return it as a camera at the same place has it, to whose frame `rotation` leads."""
        return Pose(rotation @ self.R_m2c, rotation @ self.t_m2c)

    def inverse(self):
        """Return the pose from the camera frame to the model frame."""
        return Pose(self.R_m2c.T, -self.R_m2c.T @ self.t_m2c)


def _is_rotation(x, y, z):
    """Return whether three rows of finite numbers are orthonormal, to 1 %, and right-handed."""
    # Poses are made hundreds of times an image, and NumPy takes seven times as long for so little.
    (a, b, c), (d, e, f), (g, h, i) = x, y, z
    return (abs(a * a + b * b + c * c - 1) <= 1e-2 and abs(d * d + e * e + f * f - 1) <= 1e-2
            and abs(g * g + h * h + i * i - 1) <= 1e-2 and abs(a * d + b * e + c * f) <= 1e-2
            and abs(a * g + b * h + c * i) <= 1e-2 and abs(d * g + e * h + f * i) <= 1e-2
            and a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g) > 0)


def rotation_of(rotvec):
    """Return the rotation matrix of a rotation vector (axis times angle in rad)."""
    # SciPy's own takes ten times as long, and solvers turn poses hundreds of times an image.
    return cv2.Rodrigues(np.asarray(rotvec, np.float64).reshape(3, 1))[0]


def random_rotations(rng, count):
    """Return rotation matrices, shape (count, 3, 3), uniform on SO(3) (Shoemake 1992)."""
    quaternions = rng.standard_normal((count, 4))
    return Rotation.from_quat(quaternions).as_matrix()


def rotation_between(source, target):
    """Return the smallest rotation, shape (3, 3), that turns direction source into target."""
    source = np.asarray(source, np.float64) / np.linalg.norm(source)
    target = np.asarray(target, np.float64) / np.linalg.norm(target)
    axis = np.cross(source, target)
    sine, cosine = np.linalg.norm(axis), source @ target
    if sine < 1e-12:
        if cosine > 0:
            return np.eye(3)
        # Opposite directions: half a turn about any axis perpendicular to both.
        axis = np.cross(source, np.eye(3)[np.argmin(np.abs(source))])
        return Rotation.from_rotvec(np.pi * axis / np.linalg.norm(axis)).as_matrix()
    return Rotation.from_rotvec(axis / sine * np.arctan2(sine, cosine)).as_matrix()
