"""Poses from keypoints, by round trips: virtual camera, project, solve, compare."""

import numpy as np
from pose_estimator.geometry import Pose, random_rotations
from pose_estimator.pnp import MIN_INLIERS, PnPResult, propose, refine, settle
import pytest
from scipy.spatial.transform import Rotation

K = np.array([[500.0, 0, 63.5], [0, 500, 63.5], [0, 0, 1]])
SIZE = 128


def scene(seed, count=32):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.05, 0.05, (count, 3))
    pose = Pose(random_rotations(rng, 1)[0], [0.01, -0.02, 0.6])
    camera = pose.transform(points) @ K.T
    return rng, points, pose, camera[:, :2] / camera[:, 2:]


def solve(points, pixels, confidence):
    """Propose a pose and settle it, as the pipeline does."""
    pose, reason = propose(points, pixels, confidence, K, SIZE)
    if pose is None:
        return PnPResult(None, None, np.zeros(len(points), bool), np.nan, reason)
    return settle(pose, points, pixels, confidence, K, SIZE)


def angle(pose, truth):
    return np.degrees(np.linalg.norm(
        Rotation.from_matrix(pose.R_m2c @ truth.R_m2c.T).as_rotvec()))


@pytest.mark.parametrize('seed', range(20))
def test_exact_keypoints_give_the_exact_pose(seed):
    _, points, truth, pixels = scene(seed)
    result = solve(points, pixels, np.ones(len(points)))
    assert angle(result.pose, truth) < 1e-3
    np.testing.assert_allclose(result.pose.t_m2c, truth.t_m2c, atol=1e-6)
    assert result.inliers.all()
    assert result.reprojection_error < 1e-3
    assert result.reason == ''


@pytest.mark.parametrize('seed', range(20))
def test_a_fifth_of_outliers_is_found_out(seed):
    rng, points, truth, pixels = scene(seed)
    wrong = rng.choice(len(points), len(points) // 5, replace=False)
    pixels = pixels + rng.normal(0, 0.3, pixels.shape)
    pixels[wrong] += rng.choice([-1, 1], (len(wrong), 2)) * rng.uniform(15, 40, (len(wrong), 2))
    result = solve(points, pixels, np.ones(len(points)))
    assert angle(result.pose, truth) < 3
    assert not result.inliers[wrong].any()
    assert result.inliers.sum() == len(points) - len(wrong)


def test_unsure_keypoints_take_no_part():
    rng, points, truth, pixels = scene(3)
    confidence = np.ones(len(points))
    confidence[:20] = 0.01
    pixels = pixels.copy()
    pixels[:20] = rng.uniform(0, SIZE, (20, 2))
    result = solve(points, pixels, confidence)
    assert angle(result.pose, truth) < 1e-3
    assert not result.inliers[:20].any()


def test_too_few_sure_keypoints_give_no_pose_but_a_reason():
    _, points, _, pixels = scene(4)
    confidence = np.zeros(len(points))
    confidence[:MIN_INLIERS - 1] = 1
    result = solve(points, pixels, confidence)
    assert result.pose is None
    assert result.reason == f'only {MIN_INLIERS - 1} keypoints are sure, {MIN_INLIERS} are needed'


def test_nonsense_gives_no_sure_pose():
    rng, points, _, _ = scene(5)
    agreed = []
    for _ in range(20):
        pixels = rng.uniform(0, SIZE, (len(points), 2))
        result = solve(points, pixels, np.ones(len(points)))
        agreed.append(result.inliers.mean() if result.pose else 0)
    assert max(agreed) < 0.5


def test_nan_keypoints_are_left_out():
    _, points, truth, pixels = scene(6)
    pixels = pixels.copy()
    pixels[0] = np.nan
    result = solve(points, pixels, np.ones(len(points)))
    assert angle(result.pose, truth) < 1e-3
    assert not result.inliers[0]


def test_refinement_reaches_the_minimum_from_nearby():
    rng, points, truth, pixels = scene(7)
    start = Pose(Rotation.from_rotvec([0.1, -0.05, 0.1]).as_matrix() @ truth.R_m2c,
                 truth.t_m2c + [0.005, 0.005, 0.03])
    pose, normal = refine(start, points, pixels, np.ones(len(points)), K, 2.0)
    assert angle(pose, truth) < 1e-2
    assert np.linalg.eigvalsh(normal).min() > 0


def test_covariance_matches_the_scatter_of_poses():
    errors, expected = [], []
    _, points, truth, exact = scene(8)
    rng = np.random.default_rng(9)
    for _ in range(300):
        pixels = exact + rng.normal(0, 0.8, exact.shape)
        result = solve(points, pixels, np.ones(len(points)))
        turn = Rotation.from_matrix(result.pose.R_m2c @ truth.R_m2c.T).as_rotvec()
        error = np.concatenate([result.pose.t_m2c - truth.t_m2c, turn])
        errors.append(error)
        expected.append(error @ np.linalg.inv(result.covariance) @ error)
    # The normalised squared error of a true covariance is 6 on average; the variance itself
    # is estimated from 58 residuals, which adds a little.
    assert 5 < np.mean(expected) < 8
    ratio = np.std(errors, 0) / np.sqrt(np.diag(result.covariance))
    assert (0.6 < ratio).all() and (ratio < 1.6).all()


def test_turned_results_are_those_of_the_turned_camera():
    rotation, model2camera = random_rotations(np.random.default_rng(5), 2)
    spread = np.diag([1.0, 2, 3, 4, 5, 6])
    found = PnPResult(Pose(model2camera, [0.1, 0.2, 0.7]), spread, np.ones(4, bool), 0.5)
    turned = found.turned(rotation)
    points = np.random.default_rng(6).normal(size=(5, 3))
    np.testing.assert_allclose(turned.pose.transform(points),
                               found.pose.transform(points) @ rotation.T)
    for part in (slice(0, 3), slice(3, 6)):
        np.testing.assert_allclose(turned.covariance[part, part],
                                   rotation @ spread[part, part] @ rotation.T)
    np.testing.assert_allclose(turned.turned(rotation.T).pose.matrix, found.pose.matrix)
    assert PnPResult(None, None, found.inliers, np.nan).turned(rotation).pose is None
