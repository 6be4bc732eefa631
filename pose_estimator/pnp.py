"""From keypoints to a pose: solvePnPRansac, refinement on the inliers, covariance."""

from dataclasses import dataclass, replace
from typing import Optional

import cv2
import numpy as np

from .geometry import Pose, rotation_of

# Keypoints below this confidence take no part.
MIN_CONFIDENCE = 0.1
# Nor, once there is a pose, those with less belief than this near where the pose has them.
MIN_BELIEF = 0.03
# Six points fix a pose with some to spare; fewer agree with anything.
MIN_INLIERS = 6
# Reprojection error of an inlier, relative to the side of the crop.
INLIER_RADIUS = 0.035
RANSAC_ITERATIONS = 50
RANSAC_SOLVER = cv2.SOLVEPNP_AP3P
REFINE_STEPS = 8


@dataclass(frozen=True, eq=False)
class PnPResult:
    """
    What came of the keypoints of one object.

    Attributes
    ----------
    pose : Pose or None
        Model to camera; None when the keypoints are not to be trusted.
    covariance : array, shape (6, 6), or None
        Of (x, y, z, rot x, rot y, rot z): the origin's position in the camera frame and a
        rotation about the camera's axes that follows R_m2c; m^2, rad^2.
    inliers : array of bool, shape (K,)
    reprojection_error : float
        Root mean square over the inliers, pixels; NaN without a pose.
    reason : str
        Why there is no pose, else ''.

    """

    pose: Optional[Pose]
    covariance: Optional[np.ndarray]
    inliers: np.ndarray
    reprojection_error: float
    reason: str = ''

    def turned(self, rotation):
        """Return it in the frame of a camera at the same place, to which `rotation` leads."""
        if self.pose is None:
            return self
        both = np.kron(np.eye(2), rotation)
        return replace(self, pose=self.pose.turned(rotation),
                       covariance=both @ self.covariance @ both.T)


def propose(points, pixels, confidence, K, size):
    """
    Return the pose that most keypoints agree with, by solvePnPRansac.

    Parameters
    ----------
    points : array, shape (K, 3)
        Model frame, metres.
    pixels : array, shape (K, 2)
        x, y of each in an image without distortion.
    confidence : array, shape (K,)
        0..1.
    K : array, shape (3, 3)
        Intrinsics.
    size : float
        Extent of the object's crop in pixels, the scale of what counts as an error.

    Returns
    -------
    pose : Pose or None
        Not refined.
    reason : str
        Why there is no pose, else ''.

    """
    used = np.flatnonzero((confidence >= MIN_CONFIDENCE) & np.isfinite(pixels).all(1))
    if len(used) < MIN_INLIERS:
        return None, f'only {len(used)} keypoints are sure, {MIN_INLIERS} are needed'
    try:
        found, rotvec, translation, chosen = cv2.solvePnPRansac(
            points[used], pixels[used], K, None, iterationsCount=RANSAC_ITERATIONS,
            reprojectionError=INLIER_RADIUS * size, confidence=0.99, flags=RANSAC_SOLVER)
    except cv2.error:
        found, chosen = False, None
    chosen = () if chosen is None else chosen
    if not found or len(chosen) < MIN_INLIERS:
        return None, f'only {len(chosen)} keypoints agree on a pose, {MIN_INLIERS} are needed'
    return Pose.from_rotvec(rotvec, translation), ''


def settle(pose, points, pixels, confidence, K, size):
    """
    Refine a pose on its inliers and judge it.

    Parameters
    ----------
    pose : Pose
        Start.
    points, pixels, confidence, K, size
        As for propose.

    Returns
    -------
    PnPResult

    """
    nothing = np.zeros(len(points), bool)
    radius = INLIER_RADIUS * size
    inliers = used = np.flatnonzero((confidence >= MIN_BELIEF) & np.isfinite(pixels).all(1))
    if len(inliers) < MIN_INLIERS:
        return PnPResult(None, None, nothing, np.nan,
                         f'only {len(inliers)} keypoints are sure, {MIN_INLIERS} are needed')
    for _ in range(2):  # refine, and once more with the inliers of the refined pose
        pose, normal = refine(pose, points[inliers], pixels[inliers], confidence[inliers], K,
                              radius / 2)
        camera = pose.transform(points)
        if not np.isfinite(camera).all() or (camera[:, 2] <= 0).any():
            return PnPResult(None, None, nothing, np.nan, 'the pose lies behind the camera')
        error = np.linalg.norm((camera @ K.T)[:, :2] / camera[:, 2:] - pixels, axis=1)
        inliers = used[error[used] < radius]
        if len(inliers) < MIN_INLIERS:
            return PnPResult(None, None, nothing, np.nan,
                             f'only {len(inliers)} keypoints agree on a pose, '
                             f'{MIN_INLIERS} are needed')
    agree = nothing.copy()
    agree[inliers] = True
    rms = float(np.sqrt((error[inliers] ** 2).mean()))
    # Two coordinates a point, less the six unknowns; never surer than a quarter of a pixel.
    variance = max((error[inliers] ** 2).sum() / max(2 * len(inliers) - 6, 1), 0.25 ** 2)
    return PnPResult(pose, variance * np.linalg.pinv(normal, hermitian=True), agree, rms)


def refine(pose, points, pixels, confidence, K, scale):
    """
    Minimise the reprojection error by Levenberg-Marquardt with Cauchy's weights.

    Parameters
    ----------
    pose : Pose
        Start.
    points, pixels, confidence, K
        As for propose.
    scale : float
        Error in pixels at which a point's weight is halved.

    Returns
    -------
    pose : Pose
    normal : array, shape (6, 6)
        J^T W J at the pose, weights of mean 1: the inverse covariance for errors of one pixel.

    """
    def weigh(residual):
        weight = confidence / (1 + (residual ** 2).sum(1) / scale ** 2)
        return weight / max(weight.mean(), 1e-9)

    damping = 1e-3
    rotation, translation = pose.R_m2c, pose.t_m2c
    residual, jacobian = _residual(rotation, translation, points, pixels, K)
    weight = weigh(residual)
    cost = (weight[:, None] * residual ** 2).sum()
    for _ in range(REFINE_STEPS):
        normal, weighed = normal_matrix(jacobian, weight)
        gradient = weighed @ residual.ravel()
        scaled = normal + damping * np.diag(np.diag(normal) + 1e-12)
        try:
            step = -np.linalg.solve(scaled, gradient)
        except np.linalg.LinAlgError:
            break
        if not np.isfinite(step).all():
            break
        trial = rotation_of(step[3:]) @ rotation, translation + step[:3]
        if (points @ trial[0][2] + trial[1][2] <= 0).any():
            damping *= 10
            continue
        trial_residual, trial_jacobian = _residual(*trial, points, pixels, K)
        trial_cost = (weight[:, None] * trial_residual ** 2).sum()
        if trial_cost >= cost:
            damping *= 10
            if damping > 1e6:
                break
            continue
        done = cost - trial_cost < 1e-9 * cost
        (rotation, translation), residual, jacobian = trial, trial_residual, trial_jacobian
        weight, damping = weigh(residual), damping / 10
        cost = (weight[:, None] * residual ** 2).sum()
        if done:
            break
    return Pose(rotation, translation), normal_matrix(jacobian, weight)[0]


def normal_matrix(jacobian, weight):
    """
    Return what Gauss-Newton solves.

    Parameters
    ----------
    jacobian : array, shape (N, 2, 6)
        Of the residuals.
    weight : array, shape (N,)
        Of each point.

    Returns
    -------
    normal : array, shape (6, 6)
        J^T W J.
    weighed : array, shape (6, 2 N)
        J^T W.

    """
    flat = jacobian.reshape(-1, 6)
    weighed = flat.T * weight.repeat(2)
    return weighed @ flat, weighed


def _residual(rotation, translation, points, pixels, K):
    """Return reprojection errors (N, 2) and their derivatives (N, 2, 6); see project."""
    seen, jacobian = project(rotation[None], translation[None], points, K)
    return seen[0] - pixels, jacobian[0]


def project(rotation, translation, points, K):
    """
    Project points under several poses.

    Parameters
    ----------
    rotation, translation : arrays, shapes (H, 3, 3), (H, 3)
        Model to camera, metres.
    points : array, shape (N, 3)
        Model frame, metres.
    K : array, shape (3, 3)
        Intrinsics.

    Returns
    -------
    pixels : array, shape (H, N, 2)
        What is behind the camera comes as if it were just before it.
    jacobian : array, shape (H, N, 2, 6)
        By a shift of the origin and a turn about the camera's axes after R_m2c, so that a
        point x moves by shift + turn x (R x).

    """
    turned = points @ rotation.swapaxes(-1, -2)  # (H, N, 3)
    a, b, c = turned[..., 0], turned[..., 1], turned[..., 2]
    inverse = 1 / np.maximum(c + translation[:, 2:], 1e-6)
    x, y = (a + translation[:, :1]) * inverse, (b + translation[:, 1:2]) * inverse
    (fx, skew, cx), (_, fy, cy) = K[:2].tolist()
    pixels, jacobian = np.empty((*x.shape, 2)), np.empty((*x.shape, 2, 6))
    across, down = fx * x + skew * y, fy * y
    pixels[..., 0], pixels[..., 1] = across + cx, down + cy
    for row, (p, q, r) in enumerate(((fx * inverse, skew * inverse, -across * inverse),
                                     (0 * inverse, fy * inverse, -down * inverse))):
        derivative = jacobian[..., row, :]
        derivative[..., 0], derivative[..., 1], derivative[..., 2] = p, q, r
        # d(w x p)/dw = -[p]x, so these are cross products, for which numpy's own are slow.
        derivative[..., 3], derivative[..., 4] = b * r - c * q, c * p - a * r
        derivative[..., 5] = a * q - b * p
    return pixels, jacobian
