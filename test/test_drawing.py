"""Annotated pictures."""

from types import SimpleNamespace

import numpy as np
from pose_estimator import drawing
from pose_estimator.camera import PinholeCamera
from pose_estimator.geometry import Pose
from pose_estimator.instance import Instance
from pose_estimator.object_model import ObjectModel
import pytest

K = np.array([[500, 0, 320], [0, 500, 240], [0, 0, 1]], float)
CAMERAS = [PinholeCamera(K, 640, 480),
           PinholeCamera(K, 640, 480, [-0.3, 0.1, 0, 0, 0], 'plumb_bob'),
           PinholeCamera(K, 640, 480, [0.05, 0.01, 0, 0], 'equidistant')]
BOUNDS = np.array([[-0.1, -0.05, -0.03], [0.1, 0.05, 0.03]])


def model():
    corners = ObjectModel('box', np.zeros((0, 3)), (), BOUNDS, 0.24, np.zeros((0, 3))).corners
    return ObjectModel('box', corners, tuple('abcdefgh'), BOUNDS, 0.24, corners)


def found_object(camera, pose, inliers=True, reason=''):
    keypoints = np.zeros((8, 2))
    if pose is not None:
        keypoints = camera.project(pose.transform(model().keypoints))
    instance = Instance('box', 0.9, [300, 200, 340, 240], np.zeros((480, 640), bool), 1)
    return SimpleNamespace(name='box', instance=instance, pose=pose, score=0.75,
                           keypoints=keypoints, inliers=np.full(8, inliers), reason=reason)


def draw(camera, *found):
    blank = np.zeros((480, 640, 3), np.uint8)
    picture = drawing.draw_poses(blank, found, camera, {'box': model()})
    assert not blank.any()  # a copy
    return picture


def has_colour(picture, colour):
    # Smoothed lines reach their full colour at few pixels.
    return (np.abs(picture.astype(int) - colour) < 60).all(-1)


@pytest.mark.parametrize('camera', CAMERAS, ids=['plane', 'plumb_bob', 'equidistant'])
def test_box_lies_where_its_corners_project(camera):
    pose = Pose.from_rotvec([0.3, 0.4, 0.1], [0.03, -0.02, 0.6])
    found = found_object(camera, pose)
    found.keypoints = np.full((8, 2), np.nan)
    picture = draw(camera, found)
    blue = has_colour(picture, drawing.BLUE)
    corners = camera.project(pose.transform(model().corners))
    for first, second in drawing.EDGES:
        middle = pose.transform(model().corners[[first, second]].mean(0))
        for x, y in [corners[first], corners[second], camera.project(middle)[0]]:
            x, y = int(round(x)), int(round(y))
            assert blue[y - 2:y + 3, x - 2:x + 3].any(), (first, second)
    rows, columns = np.nonzero(blue)
    assert columns.min() > corners[:, 0].min() - 3 and columns.max() < corners[:, 0].max() + 3
    assert rows.min() > corners[:, 1].min() - 3 and rows.max() < corners[:, 1].max() + 3


def test_inliers_are_dots_and_outliers_are_rings():
    pose = Pose(np.eye(3), [0, 0, 0.6])
    areas = [has_colour(draw(CAMERAS[0], found_object(CAMERAS[0], pose, inliers)),
                        drawing.RED).sum() for inliers in (True, False)]
    assert areas[0] > areas[1]


@pytest.mark.parametrize('camera', CAMERAS, ids=['plane', 'plumb_bob', 'equidistant'])
@pytest.mark.parametrize('translation', [
    (0, 0, 0.02), (0, 0, -0.5), (5, 0, 0.1), (-0.3, 0.3, 0.3), (0, 0, 1e-9), (1e6, 0, 1)])
def test_behind_the_camera_or_far_outside_the_image(camera, translation):
    pose = Pose.from_rotvec([0.3, 0.4, 0.1], translation)
    found = found_object(camera, Pose(np.eye(3), [0, 0, 1]))
    found.pose = pose
    found.keypoints = np.full((8, 2), np.nan)
    found.keypoints[0] = 1e12, -1e12
    picture = draw(camera, found)
    assert picture.shape == (480, 640, 3)
    if translation[2] < 0:
        assert not has_colour(picture, drawing.BLUE).any()


def test_line_across_the_image_plane_is_cut_not_mirrored():
    # From before the camera to behind it, on the right: the visible part leaves to the right.
    line = drawing._View(CAMERAS[0]).line(np.array([0.1, 0, 1.0]), np.array([0.1, 0, -1.0]))
    assert line[:, 0].min() == pytest.approx(370)
    assert 639 < line[:, 0].max() < 720


def test_instance_without_pose_is_a_grey_box_with_its_reason(monkeypatch):
    written = []
    monkeypatch.setattr(drawing, '_draw_label', lambda _, text, *rest: written.append(text))
    picture = draw(CAMERAS[0], found_object(CAMERAS[0], None, reason='too few keypoints'))
    grey = has_colour(picture, drawing.GREY)
    assert grey[220, 298:302].any() and grey[220, 338:342].any()
    assert not grey[210:230, 310:330].any()
    assert written == ['box: too few keypoints']


def test_labels_do_not_cover_one_another():
    taken = []
    picture = np.zeros((480, 640, 3), np.uint8)
    for _ in range(5):
        drawing._draw_label(picture, 'box 0.75', (100, 100), drawing.WHITE, 1.0, taken)
    for index, one in enumerate(taken):
        for other in taken[:index]:
            assert one[3] <= other[1] or other[3] <= one[1]


def test_label_longer_than_the_image():
    picture = np.zeros((40, 60, 3), np.uint8)
    drawing._draw_label(picture, 'long ' * 40, (50, -100), drawing.WHITE, 1.0, [])
    assert picture.any()
