"""Pose errors, against values worked out by hand and against plain loops."""

import numpy as np
from pose_estimator import pose_error
from pose_estimator.camera import PinholeCamera
from pose_estimator.geometry import Pose, random_rotations
from pose_estimator.object_model import Symmetries
import pytest

POINTS = np.array([[0.1, 0, 0], [-0.1, 0, 0], [0, 0.05, 0], [0, -0.05, 0]])
CAMERA = PinholeCamera([[500, 0, 320], [0, 400, 240], [0, 0, 1]], 640, 480)
TRUTH = Pose(np.eye(3), [0, 0, 1.0])
HALF_TURN = Pose.from_rotvec([0, 0, np.pi], [0, 0, 0])
NONE, HALF = [Pose.identity()], [Pose.identity(), HALF_TURN]


def moved(*translation):
    return Pose(np.eye(3), np.add(TRUTH.t_m2c, translation))


def turned(degrees):
    return Pose.from_rotvec([0, 0, np.radians(degrees)], TRUTH.t_m2c)


def test_all_are_zero_at_the_truth():
    assert pose_error.add(TRUTH, TRUTH, POINTS) == 0
    assert pose_error.adi(TRUTH, TRUTH, POINTS) == 0
    assert pose_error.mssd(TRUTH, TRUTH, POINTS, NONE) == 0
    assert pose_error.mspd(TRUTH, TRUTH, POINTS, NONE, CAMERA) == 0
    assert pose_error.proj(TRUTH, TRUTH, POINTS, CAMERA) == 0
    assert pose_error.re(TRUTH, TRUTH) == pytest.approx(0, abs=1e-6)
    assert pose_error.te(TRUTH, TRUTH) == 0


def test_shift_sideways():
    estimate = moved(0.01, 0, 0)
    assert pose_error.add(estimate, TRUTH, POINTS) == pytest.approx(0.01)
    assert pose_error.adi(estimate, TRUTH, POINTS) == pytest.approx(0.01)
    assert pose_error.mssd(estimate, TRUTH, POINTS, NONE) == pytest.approx(0.01)
    assert pose_error.mspd(estimate, TRUTH, POINTS, NONE, CAMERA) == pytest.approx(5)
    assert pose_error.proj(estimate, TRUTH, POINTS, CAMERA) == pytest.approx(5)
    assert pose_error.te(estimate, TRUTH) == pytest.approx(0.01)


def test_half_a_turn_with_and_without_symmetry():
    estimate = turned(180)
    assert pose_error.add(estimate, TRUTH, POINTS) == pytest.approx((0.2 + 0.1) / 2)
    assert pose_error.adi(estimate, TRUTH, POINTS) == pytest.approx(0, abs=1e-12)
    assert pose_error.mssd(estimate, TRUTH, POINTS, NONE) == pytest.approx(0.2)
    assert pose_error.mssd(estimate, TRUTH, POINTS, HALF) == pytest.approx(0, abs=1e-12)
    assert pose_error.mspd(estimate, TRUTH, POINTS, NONE, CAMERA) == pytest.approx(100)
    assert pose_error.mspd(estimate, TRUTH, POINTS, HALF, CAMERA) == pytest.approx(0, abs=1e-9)
    assert pose_error.re(estimate, TRUTH) == pytest.approx(180)
    assert pose_error.re(estimate, TRUTH, HALF) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize('degrees', [1e-4, 0.5, 30, 90, 179.9])
def test_rotation_error_is_the_angle(degrees):
    assert pose_error.re(turned(degrees), TRUTH) == pytest.approx(degrees)
    assert pose_error.re(TRUTH, turned(degrees)) == pytest.approx(degrees)


def test_continuous_symmetry_forgives_a_turn_about_its_axis():
    symmetries = Symmetries.from_dict({'continuous': [{'axis': [0, 0, 1], 'offset': [0, 0, 0]}]})
    for degrees in (18, 90, 270):
        assert pose_error.mssd(turned(degrees), TRUTH, POINTS,
                               symmetries.transforms()) == pytest.approx(0, abs=1e-9)
    tilted = Pose.from_rotvec([0.2, 0, 0], TRUTH.t_m2c)
    assert pose_error.re(tilted, TRUTH, symmetries.transforms()) == pytest.approx(
        np.degrees(0.2), rel=1e-3)


def test_against_loops(rng=np.random.default_rng(3)):
    points = rng.normal(0, 0.05, (40, 3))
    first, second = (Pose(rotation, [0.1, 0.05, 0.9] + rng.normal(0, 0.02, 3))
                     for rotation in random_rotations(rng, 2))
    symmetries = [Pose.identity(), Pose.from_rotvec([0.3, 1, 0.2], [0.01, 0.02, 0])]
    at_first = [first.R_m2c @ point + first.t_m2c for point in points]
    at_second = [second.R_m2c @ point + second.t_m2c for point in points]

    def pixel(point):
        return (CAMERA.K @ point)[:2] / point[2]

    assert pose_error.add(first, second, points) == pytest.approx(
        np.mean([np.linalg.norm(a - b) for a, b in zip(at_first, at_second)]))
    assert pose_error.adi(first, second, points) == pytest.approx(
        np.mean([min(np.linalg.norm(a - b) for a in at_first) for b in at_second]))
    assert pose_error.proj(first, second, points, CAMERA) == pytest.approx(
        np.mean([np.linalg.norm(pixel(a) - pixel(b)) for a, b in zip(at_first, at_second)]))
    surface, pixels, angles = [], [], []
    for symmetry in symmetries:
        moved_points = [second.transform(symmetry.transform(point)) for point in points]
        surface.append(max(np.linalg.norm(a - b) for a, b in zip(at_first, moved_points)))
        pixels.append(max(np.linalg.norm(pixel(a) - pixel(b))
                          for a, b in zip(at_first, moved_points)))
        cosine = (np.trace(first.R_m2c.T @ second.R_m2c @ symmetry.R_m2c) - 1) / 2
        angles.append(np.degrees(np.arccos(cosine)))
    assert pose_error.mssd(first, second, points, symmetries) == pytest.approx(min(surface))
    assert pose_error.mspd(first, second, points, symmetries, CAMERA) == pytest.approx(
        min(pixels))
    assert pose_error.re(first, second, symmetries) == pytest.approx(min(angles))


def test_pose_in_the_cameras_own_plane_is_infinitely_far_off():
    estimate = Pose(np.eye(3), [0, 0, 0])
    assert not pose_error.mspd(estimate, TRUTH, POINTS, NONE, CAMERA) < 1e6
    assert not pose_error.proj(estimate, TRUTH, POINTS, CAMERA) < 1e6
