"""Where keypoints may be, from several looks at a crop, and the pose that agrees with it best."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from .geometry import Pose, rotation_of
from .pnp import INLIER_RADIUS, MIN_BELIEF, normal_matrix, PnPResult, project

# The looks see past the edges of the crop, by this share of its side.
BEYOND = 0.125
# Standard deviations, in cells, of the windows in which a pose draws its keypoints to where the
# network believes them: wide ones first, which reach far, narrow ones last, which are exact.
WINDOWS = (2.5, 1.2, 0.8)
# After this many windows only this many of the poses go on.
TRIED, KEPT = 2, 3
# Belief in a cell that costs a keypoint out of place no more than this.
FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class Belief:
    """
    The network's belief about K keypoints of one object, in cells over its crop.

    Attributes
    ----------
    maps : array of float32, shape (n, n, K)
        Share of belief in each cell; the sum of each map is at most about 1.
    stride : float
        Side of a cell in pixels of the crop.
    origin : float
        The crop's first pixel lies at this cell, minus half a pixel; see to_cells.

    """

    maps: np.ndarray
    stride: float
    origin: float

    @classmethod
    def of_looks(cls, heatmaps, looks, crop):
        """
        Return the mean belief of several looks.

        Parameters
        ----------
        heatmaps : array of float32, shape (L, K, h, h)
            Of the network, one for each look.
        looks : list of CropCamera
            Cameras of the same centre, L of them.
        crop : CropCamera
            The one in whose image the belief is wanted.

        Returns
        -------
        Belief

        """
        side = heatmaps.shape[-1]
        stride = crop.size / side
        beyond = round(BEYOND * side)
        total = side + 2 * beyond
        cell2crop = np.array([[stride, 0, (0.5 - beyond) * stride - 0.5],
                              [0, stride, (0.5 - beyond) * stride - 0.5], [0, 0, 1]])
        look2cell = np.array([[1 / stride, 0, 0.5 / stride - 0.5],
                              [0, 1 / stride, 0.5 / stride - 0.5], [0, 0, 1]])
        maps = np.zeros((total, total, heatmaps.shape[1]), np.float32)
        back = crop.R_cam2crop.T @ crop.inverse_K
        for heatmap, look in zip(heatmaps, looks):
            warp = look2cell @ look.K @ look.R_cam2crop @ back @ cell2crop
            seen = cv2.warpPerspective(
                np.ascontiguousarray(heatmap.transpose(1, 2, 0)), warp, (total, total),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            # A zoomed look spreads the same belief over more of its cells.
            maps += seen.reshape(maps.shape) * abs(np.linalg.det(warp[:2, :2]))
        return cls(maps / len(looks), stride, beyond)

    @cached_property
    def _moments(self):
        """The maps, and they times each cell's x and y, shape (n, n, 3 K)."""
        axis = np.arange(len(self.maps), dtype=np.float32)
        return np.concatenate([self.maps, self.maps * axis[:, None],
                               self.maps * axis[:, None, None]], 2)

    def to_cells(self, pixels):
        """Return positions in cells of pixels of the crop, shape (..., 2)."""
        return (pixels + 0.5) / self.stride - 0.5 + self.origin

    def to_pixels(self, cells):
        """Return pixels of the crop of positions in cells, the inverse of to_cells."""
        return (cells - self.origin + 0.5) * self.stride - 0.5

    def window(self, sigma):
        """Return a function pixels (H, K, 2) -> mean (H, K, 2), mass (H, K) of the belief near."""
        size, _, count = self.maps.shape
        blurred = cv2.GaussianBlur(self._moments, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        # Not a mean but a sum in the window, in which the middle counts in full.
        blurred = blurred.reshape(size, size, 3, count) * np.float32(2 * np.pi * sigma ** 2)
        blurred = _framed(blurred)

        def near(pixels):
            found = _sample(blurred, self.to_cells(pixels))
            mass = found[:, 0]
            weight = np.maximum(mass, 1e-9)
            return self.to_pixels((found[:, 1:] / weight[:, None]).swapaxes(1, 2)), mass

        return near

    def likelihood(self, pixels):
        """Return the mean log of the belief at pixels (H, K, 2), shape (H,)."""
        size, _, count = self.maps.shape
        smooth = cv2.GaussianBlur(self.maps, (0, 0), 0.5, borderType=cv2.BORDER_CONSTANT)
        smooth = _framed(smooth.reshape(size, size, 1, count))
        belief = _sample(smooth, self.to_cells(pixels))[..., 0, :]
        return np.log(FLOOR + belief).mean(1)


def _framed(maps):
    """Return maps (n, n, M, K) with two rows and columns of zeros about them."""
    framed = np.zeros((len(maps) + 4, len(maps) + 4, *maps.shape[2:]), np.float32)
    framed[2:-2, 2:-2] = maps
    return framed


def _sample(framed, cells):
    """Return maps (n, n, M, K), framed, at cells (H, K, 2), bilinearly, shape (H, M, K)."""
    side, _, kinds, count = framed.shape
    # Whatever lies outside lies on the frame.
    cells = np.clip(np.nan_to_num(cells, nan=-2.0), -2, side - 4.0) + 2
    low = cells.astype(int)
    right, down = np.moveaxis((cells - low).astype(np.float32), 2, 0)[:, :, None]  # (H, 1, K)
    across, below = kinds * count, side * kinds * count  # steps to the next cell
    place = (low[..., 1] * below + low[..., 0] * across + np.arange(count))[:, None]
    place = place + np.arange(kinds)[:, None] * count  # (H, M, K)
    values = framed.ravel()
    upper = values[place] * (1 - right) + values[place + across] * right
    lower = values[place + below] * (1 - right) + values[place + below + across] * right
    return upper * (1 - down) + lower * down


def most_believed_pose(hypotheses, belief, points, K):
    """
    Return the pose that the belief agrees with best, starting from several.

    Each hypothesis is drawn by mean shift towards where belief is (Comaniciu & Meer 2002), by
    Gauss-Newton on all keypoints at once, so that a keypoint in doubt between two places goes
    where the others say.

    Parameters
    ----------
    hypotheses : list of Pose
        At least one.
    belief : Belief
        Of the crop.
    points : array, shape (K, 3)
        Keypoints, model frame, metres.
    K : array, shape (3, 3)
        Intrinsics of the crop.

    Returns
    -------
    pose : Pose
    pixels : array, shape (K, 2)
        Where near its keypoints the belief is, x, y in the crop.
    mass : array, shape (K,)
        How much of the belief is there, 0..1.
    likelihood : float
        Mean log of the belief at the pose's keypoints.

    """
    rotation = np.stack([pose.R_m2c for pose in hypotheses])
    translation = np.stack([pose.t_m2c for pose in hypotheses])
    for step, sigma in enumerate(WINDOWS):
        near = belief.window(sigma)
        for _ in range(1 if step == 0 else 2):
            seen, jacobian = project(rotation, translation, points, K)
            target, mass = near(seen)
            rotation, translation = _gauss_newton(rotation, translation, jacobian, seen - target,
                                                  mass + 1e-6)
        if step + 1 == TRIED and len(rotation) > KEPT:
            value = belief.likelihood(project(rotation, translation, points, K)[0])
            best = np.argsort(-value, kind='stable')[:KEPT]
            rotation, translation = rotation[best], translation[best]
    seen, _ = project(rotation, translation, points, K)
    value = belief.likelihood(seen)
    winner = int(value.argmax())
    pixels, mass = near(seen[winner:winner + 1])
    return (Pose(rotation[winner], translation[winner]), pixels[0].astype(float),
            np.clip(mass[0], 0, 1).astype(float), float(value[winner]))


def judge(pose, points, belief, crop):
    """
    Judge a pose that does not come of the keypoints by them.

    Parameters
    ----------
    pose : Pose
        Model to crop camera.
    points : array, shape (K, 3)
        Keypoints, model frame, metres.
    belief : Belief
        Of the crop.
    crop : CropCamera
        In whose frame the pose is.

    Returns
    -------
    result : PnPResult
        Of the pose as it is.
    likelihood : float
        Mean log of the belief at its keypoints.

    """
    seen, jacobian = project(pose.R_m2c[None], pose.t_m2c[None], points, crop.K)
    pixels, mass = belief.window(WINDOWS[-1])(seen)
    error = np.linalg.norm(seen[0] - pixels[0], axis=1)
    inliers = (mass[0] >= MIN_BELIEF) & (error < INLIER_RADIUS * crop.size)
    rms = (float(np.sqrt((error[inliers] ** 2).mean())) if inliers.any()
           else INLIER_RADIUS * crop.size)
    normal, _ = normal_matrix(jacobian[0], np.ones(len(points)))
    covariance = max(rms, 0.25) ** 2 * np.linalg.pinv(normal, hermitian=True)
    return PnPResult(pose, covariance, inliers, rms), float(belief.likelihood(seen)[0])


def _gauss_newton(rotation, translation, jacobian, error, weight):
    """Return H poses after one step that lessens the errors (H, K, 2) of their keypoints."""
    weighted = jacobian * weight[..., None, None]
    count = len(rotation)
    weighted = weighted.reshape(count, -1, 6).swapaxes(1, 2)  # (H, 6, 2 K)
    normal = weighted @ jacobian.reshape(count, -1, 6)
    gradient = (weighted @ error.reshape(count, -1, 1))[..., 0]
    diagonal = np.einsum('haa->ha', normal)
    normal = normal + np.eye(6) * (1e-3 * diagonal + 1e-9)[:, None]
    step = -np.linalg.solve(normal, gradient[..., None])[..., 0]
    # No leaps: at most half a radian, and a third of the distance.
    turn = np.linalg.norm(step[:, 3:], axis=1, keepdims=True)
    step[:, 3:] *= np.minimum(1, 0.5 / np.maximum(turn, 1e-9))
    move = np.linalg.norm(step[:, :3], axis=1, keepdims=True)
    step[:, :3] *= np.minimum(1, 0.3 * translation[:, 2:] / np.maximum(move, 1e-9))
    rotation = np.stack([rotation_of(one) for one in step[:, 3:]]) @ rotation
    return rotation, translation + step[:, :3]
