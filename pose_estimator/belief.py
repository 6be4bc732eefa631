"""Where keypoints may be, from several looks at a crop, and the pose that agrees with it best."""

from dataclasses import dataclass

import cv2
import numpy as np

from .geometry import Pose, rotation_of
from .pnp import project

# The looks see past the edges of the crop, by this share of its side.
BEYOND = 0.125
# Standard deviations, in cells, of the windows in which a pose draws its keypoints to where the
# network believes them: wide ones first, which reach far, narrow ones last, which are exact.
WINDOWS = (2.5, 1.2, 0.8)
# After this many windows only this many of the poses go on.
TRIED, KEPT = 2, 3
# That of the windows in which belief is looked up, which is finer than cells are.
SMOOTH = 0.5
# Cells that are farther away than any belief.
OUTSIDE = 1e3
# Belief in a cell that costs a keypoint out of place no more than this.
FLOOR = 1e-3


@dataclass(frozen=True, eq=False)
class Belief:
    """
    The network's belief about K keypoints of one object, in cells over its crop.

    Attributes
    ----------
    maps : array of float32, shape (K, n, n)
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
        back = crop.R_cam2crop.T @ np.linalg.inv(crop.K)
        for heatmap, look in zip(heatmaps, looks):
            warp = look2cell @ look.K @ look.R_cam2crop @ back @ cell2crop
            seen = cv2.warpPerspective(
                np.ascontiguousarray(heatmap.transpose(1, 2, 0)), warp, (total, total),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            # A zoomed look spreads the same belief over more of its cells.
            maps += seen.reshape(maps.shape) * abs(np.linalg.det(warp[:2, :2]))
        return cls(np.ascontiguousarray(maps.transpose(2, 0, 1)) / len(looks), stride, beyond)

    def to_cells(self, pixels):
        """Return positions in cells of pixels of the crop, shape (..., 2)."""
        return (pixels + 0.5) / self.stride - 0.5 + self.origin

    def to_pixels(self, cells):
        """Return pixels of the crop of positions in cells, the inverse of to_cells."""
        return (cells - self.origin + 0.5) * self.stride - 0.5

    def near(self, pixels, sigma):
        """
        Look at the belief in round gaussian windows about pixels of the crop.

        Parameters
        ----------
        pixels : array, shape (H, K, 2)
            Of each keypoint, as each of H poses has it.
        sigma : float
            Standard deviation of the windows, cells.

        Returns
        -------
        mean : array, shape (H, K, 2)
            Of the belief there, pixels of the crop.
        mass : array, shape (H, K)
            Not a mean but a sum, in which the middle of a window counts in full.

        """
        across, down = self._windows(pixels, sigma)  # (K, n, H) each
        axis, count = np.arange(len(down[0]), dtype=np.float32)[:, None], across.shape[2]
        rows = self.maps @ np.concatenate([across, across * axis], 2)
        x = (rows[..., count:] * down).sum(1)
        rows = rows[..., :count] * down
        mass = rows.sum(1)
        mean = np.stack([x, (rows * axis).sum(1)], -1) / np.maximum(mass, 1e-9)[..., None]
        return self.to_pixels(mean.swapaxes(0, 1)), mass.T

    def likelihood(self, pixels):
        """Return the mean log of the belief at pixels (H, K, 2), shape (H,)."""
        across, down = self._windows(pixels, SMOOTH)
        whole = _gaussian(np.arange(-4, 5), SMOOTH).sum() ** 2
        belief = ((self.maps @ across) * down).sum(1) / whole
        return np.log(FLOOR + belief).mean(0)

    def _windows(self, pixels, sigma):
        """
        Return weights of columns and of rows about pixels (H, K, 2), shape (K, n, H) each.

        Gaussians at whole cells from the middle, and linear in between: belief is blurred, and
        the blurred one looked up bilinearly.

        """
        size = self.maps.shape[-1]
        # Whatever is far outside has no belief near.
        cells = np.nan_to_num(self.to_cells(pixels), nan=-OUTSIDE).clip(-OUTSIDE, OUTSIDE)
        away = np.abs(np.arange(size)[:, None] - cells.transpose(2, 1, 0)[:, :, None])
        steps = np.arange(size + 1)
        weight = np.where(steps < size, _gaussian(steps, sigma), 0)
        return np.interp(away, steps, weight).astype(np.float32)  # (2, K, n, H)


def _gaussian(away, sigma):
    """Return 1 in the middle, and less and less away from there."""
    return np.exp(-0.5 * (away / sigma) ** 2)


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
        for _ in range(1 if step == 0 else 2):
            seen, jacobian = project(rotation, translation, points, K)
            target, mass = belief.near(seen, sigma)
            rotation, translation = _gauss_newton(rotation, translation, jacobian, seen - target,
                                                  mass + 1e-6)
        if step + 1 == TRIED and len(rotation) > KEPT:
            value = belief.likelihood(project(rotation, translation, points, K)[0])
            best = np.argsort(-value, kind='stable')[:KEPT]
            rotation, translation = rotation[best], translation[best]
    seen, _ = project(rotation, translation, points, K)
    value = belief.likelihood(seen)
    winner = int(value.argmax())
    pixels, mass = belief.near(seen[winner:winner + 1], WINDOWS[-1])
    return (Pose(rotation[winner], translation[winner]), pixels[0].astype(float),
            np.clip(mass[0], 0, 1).astype(float), float(value[winner]))


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
