"""Poses smoothed over time."""

import numpy as np
from pose_estimator.geometry import Pose, random_rotations
from pose_estimator.pose_error import re
from pose_estimator.smoothing import Smoother
import pytest

COVARIANCE = np.diag([0.002, 0.002, 0.008, 0.02, 0.02, 0.02]) ** 2
ROOT = np.sqrt(np.diag(COVARIANCE))


def noisy(rng, pose):
    """Return a pose with an error of COVARIANCE."""
    error = rng.normal(0, 1, 6) * ROOT
    return Pose(Pose.from_rotvec(error[3:], np.zeros(3)).R_m2c @ pose.R_m2c,
                pose.t_m2c + error[:3])


@pytest.fixture
def still():
    """Give a pose, 200 noisy measurements of it at 10 Hz, and what the smoother makes of them."""
    rng = np.random.default_rng(0)
    pose, smoother = Pose(random_rotations(rng, 1)[0], np.array([0.1, 0.0, 0.8])), Smoother()
    measured = [noisy(rng, pose) for _ in range(200)]
    return pose, measured, [smoother.update(one, COVARIANCE, 0.1 * index)
                            for index, one in enumerate(measured)]


def test_what_stands_still_is_steadier_and_nearer_to_the_truth(still):
    pose, measured, smoothed = still
    for error in (lambda one: np.linalg.norm(one.t_m2c - pose.t_m2c), lambda one: re(one, pose)):
        before, after = (np.mean([error(one) for one in poses[20:]])
                         for poses in (measured, smoothed))
        assert after < 0.75 * before
    move = [np.mean([np.linalg.norm(second.t_m2c - first.t_m2c)
                     for first, second in zip(poses[20:], poses[21:])])
            for poses in (measured, smoothed)]
    assert move[1] < 0.5 * move[0]


def test_uncertain_direction_is_smoothed_most(still):
    pose, measured, smoothed = still
    spread = np.std([one.t_m2c for one in smoothed[20:]], 0) / ROOT[:3]
    assert spread[2] < spread[0] and spread[2] < 0.6


@pytest.mark.parametrize('turn', [np.pi, np.pi / 2, np.radians(31)])
def test_flip_is_not_smoothed_over(turn):
    smoother, first = Smoother(), Pose.from_rotvec([0.1, 0.2, 0.3], [0, 0, 0.8])
    flipped = first.compose(Pose.from_rotvec([0, 0, turn], [0, 0, 0]))
    wide = 100 * COVARIANCE  # the gate alone would let it in
    for step, pose in enumerate((first, first, flipped, flipped, first)):
        found = smoother.update(pose, wide, 0.1 * step)
        assert re(found, pose) < 0.01
        np.testing.assert_allclose(found.t_m2c, pose.t_m2c, atol=1e-9)


def test_jump_is_followed_at_once():
    smoother = Smoother()
    for step, x in enumerate((0.0, 0.0, 0.1, 0.1)):
        pose = Pose(np.eye(3), np.array([x, 0.0, 0.8]))
        assert smoother.update(pose, COVARIANCE, 0.1 * step).t_m2c[0] == pytest.approx(x)


def test_after_a_pause_the_new_pose_counts_more():
    shares = []
    for pause in (0.1, 10.0):
        smoother, stamp = Smoother(), 0.0
        for x, later in ((0.0, 0.0), (0.0, 0.1), (0.0, 0.1), (0.004, pause)):
            stamp += later
            found = smoother.update(Pose(np.eye(3), np.array([x, 0.0, 0.8])), COVARIANCE, stamp)
        shares.append(found.t_m2c[0] / 0.004)
    assert shares[0] < 0.65 < 0.9 < shares[1] < 1


def test_late_and_unsure_poses_pass_as_they_are():
    smoother, pose = Smoother(), Pose(np.eye(3), np.array([0.0, 0.0, 0.8]))
    moved = Pose(np.eye(3), np.array([0.001, 0.0, 0.8]))
    smoother.update(pose, COVARIANCE, 1.0)
    assert smoother.update(moved, COVARIANCE, 0.5) is moved
    assert smoother.update(moved, None, 2.0) is moved
    assert smoother.update(moved, np.full((6, 6), np.nan), 3.0) is moved
    assert 0 < smoother.update(moved, COVARIANCE, 4.0).t_m2c[0] < 0.001
