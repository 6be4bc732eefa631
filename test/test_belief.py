"""Belief about keypoints over several looks, and the pose that agrees with it."""

import numpy as np
from pose_estimator.belief import Belief, most_believed_pose
from pose_estimator.camera import CropCamera, PinholeCamera
from pose_estimator.geometry import Pose, random_rotations
from pose_estimator.keypoints.heatmaps import encode
from pose_estimator.pipeline import LOOKS
import pytest
import torch

CAMERA = PinholeCamera(np.array([[600.0, 0, 320], [0, 600.0, 240], [0, 0, 1]]), 640, 480)
CROP = CropCamera.look_at(CAMERA, (250, 150, 350, 250), 128, 1.4)
POINTS = np.random.default_rng(4).uniform(-0.05, 0.05, (16, 3))


def true_pose(seed):
    ray = CAMERA.rays([[300, 200]])[0]
    turn = random_rotations(np.random.default_rng(seed), 1)[0]
    return Pose(CROP.R_cam2crop, np.zeros(3)).compose(Pose(turn, 0.8 * ray))


def project(pose):
    seen = pose.transform(POINTS) @ CROP.K.T
    return seen[:, :2] / seen[:, 2:]


def looks_at(pixels, false=None):
    """Return looks and what a network sees in them: gaussians, half of each at `false`."""
    looks = [CROP.turned(*look) for look in LOOKS]
    heatmaps = []
    for look in looks:
        maps = [encode(torch.tensor(CROP.transfer(places, look)), 32, 128).numpy()
                for places in ([pixels] if false is None else [pixels, false])]
        heatmaps.append(np.mean(maps, 0))
    return looks, np.stack(heatmaps).astype(np.float32)


def test_belief_of_looks_lies_at_the_keypoints():
    pixels = project(true_pose(0))
    looks, heatmaps = looks_at(pixels)
    belief = Belief.of_looks(heatmaps, looks, CROP)
    near, mass = belief.window(1.5)(pixels[None] + 1.0)
    np.testing.assert_allclose(near[0], pixels, atol=0.8)
    assert (mass > 0.4).all()
    np.testing.assert_allclose(belief.to_pixels(belief.to_cells(pixels)), pixels)
    assert belief.likelihood(pixels[None]) > belief.likelihood(pixels[None] + 6)


@pytest.mark.parametrize('seed', range(4))
def test_pose_agrees_with_the_belief(seed):
    truth = true_pose(seed)
    looks, heatmaps = looks_at(project(truth))
    belief = Belief.of_looks(heatmaps, looks, CROP)
    off = Pose.from_rotvec([0.15, -0.1, 0.1], [0.004, -0.003, 0.03])
    start = Pose(off.R_m2c @ truth.R_m2c, truth.t_m2c + off.t_m2c)
    pose, pixels, mass, _ = most_believed_pose([start], belief, POINTS, CROP.K)
    np.testing.assert_allclose(pixels, project(truth), atol=0.6)
    np.testing.assert_allclose(pose.t_m2c, truth.t_m2c, rtol=0.01, atol=1e-3)
    assert (mass > 0.3).all()


def test_two_places_for_each_keypoint_are_settled_together():
    """Single keypoints cannot tell which of two places is right, all of them together can."""
    truth = true_pose(1)
    rng = np.random.default_rng(0)
    false = project(truth) + rng.uniform(12, 25, (16, 2)) * rng.choice([-1, 1], (16, 2))
    looks, heatmaps = looks_at(project(truth), false)
    belief = Belief.of_looks(heatmaps, looks, CROP)
    wrong = true_pose(2)
    near_truth = Pose(truth.R_m2c, truth.t_m2c * 1.05)
    pose, pixels, _, likelihood = most_believed_pose([wrong, near_truth], belief, POINTS, CROP.K)
    np.testing.assert_allclose(pixels, project(truth), atol=1.0)
    np.testing.assert_allclose(pose.t_m2c, truth.t_m2c, rtol=0.02, atol=1e-3)
    assert likelihood > belief.likelihood(project(wrong)[None])


def test_a_hypothesis_behind_the_camera_does_no_harm():
    truth = true_pose(3)
    looks, heatmaps = looks_at(project(truth))
    behind = Pose(truth.R_m2c, truth.t_m2c * [1, 1, 0.01])
    pose, *_ = most_believed_pose([behind, truth], Belief.of_looks(heatmaps, looks, CROP), POINTS,
                                  CROP.K)
    np.testing.assert_allclose(pose.t_m2c, truth.t_m2c, rtol=0.01, atol=1e-3)
