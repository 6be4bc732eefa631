"""Rigid transforms."""

import numpy as np
from pose_estimator.errors import InputError
from pose_estimator.geometry import Pose, random_rotations, rotation_between
import pytest
from scipy.spatial.transform import Rotation

QUARTER = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], float)  # about z


def random_pose(rng):
    return Pose(random_rotations(rng, 1)[0], rng.normal(0, 1, 3))


def test_transform_is_rotation_then_translation():
    pose = Pose(QUARTER, [10, 20, 30])
    np.testing.assert_allclose(pose.transform([1, 2, 3]), [8, 21, 33])
    np.testing.assert_allclose(pose.transform([[1, 2, 3], [0, 0, 0]]),
                               [[8, 21, 33], [10, 20, 30]])
    assert pose.transform(np.zeros((4, 5, 3))).shape == (4, 5, 3)


def test_identity_changes_nothing():
    points = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(Pose.identity().transform(points), points)


def test_compose_applies_the_other_first():
    rng = np.random.default_rng(0)
    first, second = random_pose(rng), random_pose(rng)
    points = rng.normal(size=(5, 3))
    np.testing.assert_allclose(second.compose(first).transform(points),
                               second.transform(first.transform(points)))
    np.testing.assert_allclose(second.compose(first).matrix, second.matrix @ first.matrix)


def test_inverse():
    pose = random_pose(np.random.default_rng(1))
    np.testing.assert_allclose(pose.compose(pose.inverse()).matrix, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(pose.inverse().matrix, np.linalg.inv(pose.matrix), atol=1e-12)


def test_representations_round_trip():
    pose = random_pose(np.random.default_rng(2))
    np.testing.assert_allclose(Pose.from_matrix(pose.matrix).matrix, pose.matrix)
    np.testing.assert_allclose(Pose.from_matrix(pose.matrix.ravel().tolist()).matrix,
                               pose.matrix)
    np.testing.assert_allclose(Pose.from_rotvec(pose.rotvec, pose.t_m2c).matrix, pose.matrix)
    np.testing.assert_allclose(Rotation.from_quat(pose.quaternion).as_matrix(), pose.R_m2c)


def test_quaternion_is_x_y_z_w():
    half = np.sqrt(0.5)
    np.testing.assert_allclose(Pose(QUARTER, [0, 0, 0]).quaternion, [0, 0, half, half])


@pytest.mark.parametrize('rotation, translation, words', [
    (np.eye(4), [0, 0, 0], 'R_m2c: expected shape'),
    (np.eye(3), [0, 0], 't_m2c: expected shape'),
    (np.full((3, 3), np.nan), [0, 0, 0], 'finite'),
    (np.eye(3), [0, np.inf, 0], 'finite'),
    (np.diag([1, 1, -1]), [0, 0, 0], 'rotation matrix'),
    (1.1 * np.eye(3), [0, 0, 0], 'rotation matrix'),
    (np.zeros((3, 3)), [0, 0, 0], 'rotation matrix'),
])
def test_bad_pose(rotation, translation, words):
    with pytest.raises(InputError, match=words):
        Pose(rotation, translation)


def test_random_rotations_are_rotations_and_repeatable():
    rotations = random_rotations(np.random.default_rng(3), 500)
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1),
                               np.broadcast_to(np.eye(3), (500, 3, 3)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    assert abs(rotations.mean(0)).max() < 0.1  # no direction is preferred
    np.testing.assert_array_equal(rotations, random_rotations(np.random.default_rng(3), 500))


@pytest.mark.parametrize('source, target', [
    ([0, 0, 1], [0, 0, 5]), ([1, 2, 3], [-2, 0.1, 4]), ([0, 0, 1], [0, 0, -1]),
    ([3, 0, 0], [-1, 0, 0]), ([1, 1, 1], [-1, -1, -1]), ([0, 0, 1], [1e-9, 0, 1])])
def test_rotation_between(source, target):
    rotation = rotation_between(source, target)
    Pose(rotation, np.zeros(3))
    source, target = np.array(source, float), np.array(target, float)
    np.testing.assert_allclose(rotation @ source / np.linalg.norm(source),
                               target / np.linalg.norm(target), atol=1e-9)
    angle = np.degrees(Rotation.from_matrix(rotation).magnitude())
    cosine = source @ target / np.linalg.norm(source) / np.linalg.norm(target)
    assert angle == pytest.approx(np.degrees(np.arccos(np.clip(cosine, -1, 1))), abs=1e-5)
