"""Pinhole camera, lens distortion, and the virtual camera that looks at a crop."""

from dataclasses import dataclass, field, replace
from functools import cached_property
import math

import cv2
import numpy as np

from .errors import InputError
from .geometry import rotation_between

# ROS distortion models and the numbers of coefficients that each may have. All of these are
# OpenCV's model of that many coefficients; equidistant is OpenCV's fisheye model.
DISTORTION_MODELS = {
    '': (0,),
    'plumb_bob': (0, 4, 5),
    'rational_polynomial': (0, 8, 12, 14),
    'equidistant': (4,),
}


# No camera has a focal length, or a principal point so far off, of more pixels.
MOST_PIXELS = 1e6
MOST_DISTORTION = 1e4
# Crops look the image up once in so many of its pixels along each side, if that is at most so
# many times in one of their own.
SAMPLED, MOST_SAMPLES = 2.0, 8


def _undistort(pixels, matrix, distortion):
    """Return points on the plane z = 1, shape (N, 1, 2), of distorted pixels."""
    # The default of five iterations is not exact at the corners of wide lenses.
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 40, 1e-9)
    if hasattr(cv2, 'undistortPointsIter'):  # OpenCV 4
        return cv2.undistortPointsIter(pixels, matrix, distortion, None, None, criteria)
    return cv2.undistortPoints(pixels, matrix, distortion, criteria=criteria)


@dataclass(frozen=True, eq=False)
class PinholeCamera:
    """
    Pinhole camera in the optical frame of REP 103: z forward, x right, y down.

    Parameters
    ----------
    K : array, shape (3, 3)
        Intrinsics in pixels; the centre of the top left pixel is (0, 0).
    width, height : int
        Image size in pixels.
    distortion : array, shape (n,)
        Coefficients in OpenCV's order; empty or zero for a rectified image.
    distortion_model : str
        A key of DISTORTION_MODELS.

    Raises
    ------
    InputError
        For intrinsics that are not finite or not positive, an image without pixels, or
        a distortion model that is unknown here.

    """

    K: np.ndarray
    width: int
    height: int
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(0))
    distortion_model: str = ''

    def __post_init__(self):
        matrix = np.asarray(self.K, np.float64)
        distortion = np.asarray(self.distortion, np.float64).ravel()
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise InputError(f'K: expected a finite matrix of shape (3, 3), got {self.K}')
        if matrix[0, 0] == 0:
            raise InputError('K: expected a focal length above 0, got K[0] = 0: the camera is '
                             'uncalibrated; calibrate it (ros2 run camera_calibration ...)')
        if matrix[0, 0] < 0 or matrix[1, 1] <= 0:
            raise InputError(f'K: expected focal lengths above 0, got {matrix[0, 0]} and '
                             f'{matrix[1, 1]}')
        if (not np.allclose(matrix[2], (0, 0, 1)) or np.abs(matrix).max() > MOST_PIXELS
                or min(matrix[0, 0], matrix[1, 1]) < 1 / MOST_PIXELS
                or np.linalg.det(matrix) <= 0):
            raise InputError(f'K: expected rows fx 0 cx, 0 fy cy, 0 0 1 in pixels, got '
                             f'{matrix.tolist()}')
        if self.width < 1 or self.height < 1:
            raise InputError(f'image size: expected at least 1 x 1, got '
                             f'{self.width} x {self.height}')
        if self.distortion_model not in DISTORTION_MODELS:
            raise InputError(f'distortion_model: expected one of plumb_bob, '
                             f'rational_polynomial, equidistant, got '
                             f'{self.distortion_model!r}; rectify the images instead')
        allowed = DISTORTION_MODELS[self.distortion_model]
        if len(distortion) not in allowed:
            raise InputError(f'distortion: {self.distortion_model or "no model"} expects '
                             f'{" or ".join(map(str, allowed))} coefficients, '
                             f'got {len(distortion)}')
        if not np.isfinite(distortion).all():
            raise InputError('distortion: expected finite coefficients, got NaN or infinity')
        if np.abs(distortion).max(initial=0) > MOST_DISTORTION:
            raise InputError(f'distortion: expected coefficients below {MOST_DISTORTION:.0f}, got '
                             f'{distortion.tolist()}')
        object.__setattr__(self, 'K', matrix)
        object.__setattr__(self, 'distortion', distortion)

    @property
    def is_distorted(self):
        """Whether lens distortion has to be reckoned with."""
        return bool(np.any(self.distortion)) or self.distortion_model == 'equidistant'

    def resized(self, width, height):
        """Return the camera of the same image, shrunk or enlarged to width x height."""
        matrix = self.K.copy()
        for row, factor in enumerate((width / self.width, height / self.height)):
            matrix[row] *= factor
            matrix[row, 2] += (factor - 1) / 2  # pixels are counted from the first one's centre
        return replace(self, K=matrix, width=width, height=height)

    def project(self, points):
        """
        Project points of the camera frame into the image.

        Parameters
        ----------
        points : array, shape (N, 3)
            Camera frame, metres, z > 0.

        Returns
        -------
        pixels : array, shape (N, 2)
            x, y in pixels.

        """
        points = np.asarray(points, np.float64).reshape(-1, 3)
        if not self.is_distorted:
            image = points @ self.K.T
            return image[:, :2] / image[:, 2:]
        if not len(points):
            return np.zeros((0, 2))
        zero = np.zeros(3)
        if self.distortion_model == 'equidistant':
            pixels, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, self.K,
                                                  self.distortion)
        else:
            pixels, _ = cv2.projectPoints(points[:, None], zero, zero, self.K, self.distortion)
        return pixels.reshape(-1, 2)

    def rays(self, pixels):
        """
        Return the directions that pixels look along.

        Parameters
        ----------
        pixels : array, shape (N, 2)
            x, y in pixels.

        Returns
        -------
        rays : array, shape (N, 3)
            Camera frame, third component 1.

        """
        pixels = np.asarray(pixels, np.float64).reshape(-1, 2)
        if not self.is_distorted:
            homogeneous = np.column_stack([pixels, np.ones(len(pixels))])
            return homogeneous @ np.linalg.inv(self.K).T
        if not len(pixels):
            return np.zeros((0, 3))
        if self.distortion_model == 'equidistant':
            plane = cv2.fisheye.undistortPoints(pixels[:, None], self.K, self.distortion)
        else:
            plane = _undistort(pixels[:, None], self.K, self.distortion)
        return np.column_stack([plane.reshape(-1, 2), np.ones(len(pixels))])


@dataclass(frozen=True, eq=False)
class CropCamera:
    """
    Virtual pinhole camera at the real one's centre that looks at a box of its image.

    It has no distortion, so what it sees is an exact perspective image wherever in the
    original image the box lay.

    Attributes
    ----------
    K : array, shape (3, 3)
        Intrinsics of the square crop in pixels.
    size : int
        Width and height of the crop in pixels.
    R_cam2crop : array, shape (3, 3)
        Rotation from the real camera's frame to the crop camera's.
    camera : PinholeCamera
        The real camera.

    """

    K: np.ndarray
    size: int
    R_cam2crop: np.ndarray
    camera: PinholeCamera

    @classmethod
    def look_at(cls, camera, box, size, margin):
        """
        Return the camera whose axis meets the centre of `box`, which fills 1/margin of it.

        Parameters
        ----------
        camera : PinholeCamera
            The real camera.
        box : array, shape (4,)
            x0, y0, x1, y1 in pixels, see Instance.
        size : int
            Width and height of the crop in pixels.
        margin : float
            Side of the crop over the longer side of the box.

        """
        x0, y0, x1, y1 = np.asarray(box, np.float64)
        if not (x1 > x0 and y1 > y0):
            raise InputError(f'box: expected x0 < x1 and y0 < y1, got {[x0, y0, x1, y1]}')
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        sides = camera.rays([[x, y], [x0, y], [x1, y], [x, y0], [x, y1]])
        rotation = rotation_between(sides[0], [0, 0, 1])
        seen = sides @ rotation.T
        seen = seen[1:, :2] / seen[1:, 2:]
        extent = max(seen[1, 0] - seen[0, 0], seen[3, 1] - seen[2, 1])
        focal = size / (margin * extent)
        middle = (size - 1) / 2
        return cls(np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]]), size,
                   rotation, camera)

    @cached_property
    def inverse_K(self):
        """Inverse of K, shape (3, 3)."""
        return np.linalg.inv(self.K)

    def turned(self, degrees, zoom):
        """Return this camera rolled clockwise about its axis and with a longer focal length."""
        angle = np.radians(degrees)
        roll = np.array([[np.cos(angle), np.sin(angle), 0],
                         [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        return replace(self, K=self.K * [[zoom, 1, 1], [1, zoom, 1], [1, 1, 1]],
                       R_cam2crop=roll @ self.R_cam2crop)

    def transfer(self, pixels, other):
        """Return the pixels (N, 2) of another crop of the same image that show the same."""
        pixels = np.asarray(pixels, np.float64).reshape(-1, 2)
        rays = np.column_stack([pixels, np.ones(len(pixels))]) @ self.inverse_K.T
        rays = rays @ (other.K @ other.R_cam2crop @ self.R_cam2crop.T).T
        return rays[:, :2] / rays[:, 2:]

    def crop(self, image, interpolation=cv2.INTER_LINEAR):
        """
        Return what this camera sees of the real camera's image, zero outside it.

        A pixel that is much larger than the image's is the mean of several places in it: prints
        and noise would alias otherwise.

        Parameters
        ----------
        image : array, shape (height, width[, channels])
            Of the real camera; bool, integers or floats.
        interpolation : int
            OpenCV's flag; with another one than this nothing is averaged.

        Returns
        -------
        crop : array, shape (size, size[, channels])

        """
        if image.dtype == bool:
            image = image.astype(np.uint8)
        span = np.sqrt(self.camera.K[0, 0] * self.camera.K[1, 1]) / self.K[0, 0]
        fine = min(math.ceil(span / SAMPLED - 0.25), MOST_SAMPLES)
        if fine <= 1 or interpolation != cv2.INTER_LINEAR:
            return self._sampled(image, interpolation)
        K = np.diag([fine, fine, 1.0]) @ self.K
        K[:2, 2] += (fine - 1) / 2
        sampled = replace(self, K=K, size=fine * self.size)._sampled(image, interpolation)
        return cv2.resize(sampled, (self.size, self.size), interpolation=cv2.INTER_AREA)

    def _sampled(self, image, interpolation):
        """Return the crop, each pixel the image where its middle is."""
        if not self.camera.is_distorted:
            crop2image = self.camera.K @ self.R_cam2crop.T @ self.inverse_K
            return cv2.warpPerspective(image, crop2image, (self.size, self.size),
                                       flags=interpolation | cv2.WARP_INVERSE_MAP,
                                       borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        x, y = np.meshgrid(np.arange(self.size), np.arange(self.size))
        pixels = self.to_image(np.column_stack([x.ravel(), y.ravel()]))
        maps = pixels.reshape(self.size, self.size, 2).astype(np.float32)
        return cv2.remap(image, maps, None, interpolation, borderMode=cv2.BORDER_CONSTANT)

    def project(self, points):
        """Return the crop pixels (N, 2) of points (N, 3) in this camera's frame."""
        seen = points @ self.K.T
        return seen[:, :2] / seen[:, 2:]

    def to_image(self, pixels):
        """Return the pixels (N, 2) of the real image that show what these crop pixels show."""
        pixels = np.asarray(pixels, np.float64).reshape(-1, 2)
        rays = np.column_stack([pixels, np.ones(len(pixels))]) @ self.inverse_K.T
        return self.camera.project(rays @ self.R_cam2crop)

    def to_crop(self, pixels):
        """Return the crop pixels (N, 2) that show what these pixels of the real image show."""
        rays = self.camera.rays(pixels) @ self.R_cam2crop.T @ self.K.T
        return rays[:, :2] / rays[:, 2:]


def usual_camera(height, width):
    """Return a camera as most are: which one took an image matters little where things are."""
    focal = float(max(height, width))
    return PinholeCamera(np.array([[focal, 0, (width - 1) / 2],
                                   [0, focal, (height - 1) / 2], [0, 0, 1]]), width, height)
