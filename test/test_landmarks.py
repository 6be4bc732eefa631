"""What is printed on a thing says where it is, also to a network that has learned nothing."""

from dataclasses import replace
import functools

import numpy as np
from pose_estimator import landmarks as module
from pose_estimator.assets import find
from pose_estimator.camera import CropCamera, PinholeCamera
from pose_estimator.geometry import Pose
from pose_estimator.instance import Instance, mask_box
from pose_estimator.keypoints.checkpoint import Checkpoint
from pose_estimator.keypoints.predictor import KeypointPredictor
from pose_estimator.landmarks import _twin, detect, FEWEST_INLIERS, Landmarks, look_at
from pose_estimator.mesh import make_mesh
from pose_estimator.object_model import object_from_mesh
from pose_estimator.pipeline import gather, PoseEstimator, sight
from pose_estimator.refinement.refiner import Refiner
from pose_estimator.refinement.surface import Surface
from pose_estimator.scoring import FEATURES
from pose_estimator.synthetic.backgrounds import random_background
from pose_estimator.synthetic.render import RayCaster
import pytest
from test_pipeline import make_checkpoint
import torch

CAMERAS = {
    'rectified': PinholeCamera(np.array([[600.0, 0, 320], [0, 590, 240], [0, 0, 1]]), 640, 480),
    'plumb_bob': PinholeCamera(np.array([[600.0, 0, 320], [0, 590, 240], [0, 0, 1]]), 640, 480,
                               [-0.2, 0.05, 0.001, -0.001, 0.0], 'plumb_bob')}
# Seen from above and aside, in a corner of the image.
TRUTH = Pose(np.array([[0.8, -0.6, 0], [-0.48, -0.64, -0.6], [0.36, 0.48, -0.8]]),
             [0.08, 0.05, 0.7])


@functools.cache
def book():
    return object_from_mesh('builtin:book', 'm', 'book')


@functools.cache
def landmarks():
    return Checkpoint.load(find('models') / 'book.safetensors').landmarks


@functools.cache
def picture(name):
    """Return image and mask of the book before something, as a camera sees it."""
    camera, (_, mesh) = CAMERAS[name], book()
    # Drawn without distortion, and looked up where the lens has it.
    ideal = PinholeCamera(np.array([[1200.0, 0, 800], [0, 1200, 600], [0, 0, 1]]), 1600, 1200)
    seen = RayCaster(mesh).render(TRUTH, ideal.K, 1600, 1200)
    light = 0.7 + 0.3 * -seen.normal[..., 2:]
    behind = random_background(np.random.default_rng(5), 1200, 1600)
    image = np.where(seen.mask[..., None], seen.albedo * light, behind).astype(np.uint8)
    y, x = np.mgrid[:480, :640]
    at = ideal.project(camera.rays(np.column_stack([x.ravel(), y.ravel()])))
    column, row = at.round().astype(int).T
    return image[row, column].reshape(480, 640, 3), seen.mask[row, column].reshape(480, 640)


@pytest.mark.parametrize('name', CAMERAS)
def test_book_found_by_its_print(name):
    image, mask = picture(name)
    crop = look_at(CAMERAS[name], mask_box(mask))
    found = landmarks().find(image, crop, book()[0].diameter)
    best = max(found, key=lambda one: one.inliers)
    assert best.inliers > 3 * FEWEST_INLIERS
    assert degrees(best.pose) < 2.0
    assert np.linalg.norm(best.pose.t_m2c - TRUTH.t_m2c) < 0.015 * TRUTH.t_m2c[2]


def test_a_pose_is_told_from_its_twin_by_the_whole():
    image, mask = picture('rectified')
    model, camera = book()[0], CAMERAS['rectified']
    low, high = np.split(mask_box(mask), 2)
    # The title alone.
    part = look_at(camera, np.concatenate([low, low + 0.6 * (high - low)]))
    one = landmarks().find(image, part, model.diameter)[0]
    near = one.pose.turned(part.R_cam2crop)
    mirrored = _twin(near, landmarks().points).turned(part.R_cam2crop.T)
    wrong = replace(one, pose=mirrored)
    assert degrees(mirrored) > 20
    whole = look_at(camera, mask_box(mask))
    for given in ([one, wrong], [wrong, one]):
        chosen = landmarks().choose(image, whole, given, model.diameter)
        assert degrees(chosen.pose) < 1.0 and chosen.inliers == one.inliers
    nowhere = replace(one, pose=Pose(TRUTH.R_m2c, [0, 0, -0.7]))
    assert landmarks().choose(image, whole, [nowhere], model.diameter) is nowhere


def degrees(pose):
    turn = np.trace(pose.R_m2c @ TRUTH.R_m2c.T)
    return np.degrees(np.arccos(min((turn - 1) / 2, 1)))


@pytest.mark.parametrize('name', CAMERAS)
def test_pose_beside_is_brought_to_the_print(name):
    image, mask = picture(name)
    model = book()[0]
    found = landmarks().find(image, look_at(CAMERAS[name], mask_box(mask)), model.diameter)
    best = max(found, key=lambda one: one.inliers)
    turn = Pose.from_rotvec(np.radians([1.0, -1.0, 1.5]), np.zeros(3)).R_m2c
    beside = Pose(turn @ TRUTH.R_m2c, TRUTH.t_m2c * 1.01 + [0.002, -0.001, 0])
    aligned = landmarks().align(beside, best, model.diameter)
    assert degrees(beside) > 2.0 > 0.5 > degrees(aligned)
    assert np.linalg.norm(aligned.t_m2c - TRUTH.t_m2c) < 0.004 * TRUTH.t_m2c[2]
    # Where nothing of the print is expected, or behind the camera, it is not.
    for away in ([0.5, 0, 0.8], [0, 0, -0.7]):
        assert landmarks().align(Pose(TRUTH.R_m2c, away), best, model.diameter) is None


def test_landmarks_of_a_mesh(monkeypatch):
    monkeypatch.setattr(module, 'VIEWS', 40)
    model, mesh = book()
    made = Landmarks.of_mesh(model, mesh)
    assert module.FEWEST <= len(made.points) < len(landmarks().points)
    pixel = model.diameter / module.VIEW_SIZE
    assert (made.points >= mesh.vertices.min(0) - pixel / 2).all()
    assert (made.points <= mesh.vertices.max(0) + pixel / 2).all()
    image, mask = picture('rectified')
    found = made.find(image, look_at(CAMERAS['rectified'], mask_box(mask)), model.diameter)
    assert degrees(max(found, key=lambda one: one.inliers).pose) < 2.0


@pytest.mark.parametrize('image', [
    random_background(np.random.default_rng(9), 480, 640), np.zeros((480, 640, 3), np.uint8),
    np.full((480, 640, 3), 255, np.uint8)], ids=['something else', 'black', 'white'])
def test_nothing_found_where_it_is_not(image):
    crop = look_at(CAMERAS['rectified'], [200, 150, 420, 330])
    assert landmarks().find(image, crop, book()[0].diameter) == []


def test_network_that_knows_nothing_is_not_needed():
    model, mesh = book()
    image, mask = picture('rectified')
    camera = CAMERAS['rectified']
    instance = Instance('book', 0.9, mask_box(mask), mask, 1)
    blank = replace(make_checkpoint(model), surface=Surface.of_mesh(mesh))
    without, = PoseEstimator([blank], min_score=0.0).estimate(image, [instance], camera)
    assert without.pose is None
    taught = replace(blank, landmarks=landmarks())
    found, = PoseEstimator([taught], min_score=0.0).estimate(image, [instance], camera)
    away = found.pose.transform(model.points) - TRUTH.transform(model.points)
    assert np.linalg.norm(away, axis=1).mean() < 0.05 * model.diameter
    assert np.isfinite(found.covariance).all() and np.isfinite(found.reprojection_error)


def test_score_sees_how_many_agree():
    model, mesh = book()
    image, mask = picture('rectified')
    camera, instance = CAMERAS['rectified'], Instance('book', 0.9, mask_box(mask), mask, 1)
    checkpoint = replace(make_checkpoint(model), surface=Surface.of_mesh(mesh),
                         landmarks=landmarks())
    sightings = sight(checkpoint, image, [instance], camera)
    seen, = gather(KeypointPredictor(checkpoint), image, [instance], camera, Refiner.shipped(),
                   sightings=sightings)
    most = max(one.inliers for one in sightings[0])
    assert FEWEST_INLIERS <= seen.landmarks <= most
    assert seen.features(model.diameter)[FEATURES.index('landmarks')] == np.log1p(seen.landmarks)


def test_print_of_another_one_beside_does_not_count():
    model, mesh = book()
    image, mask = picture('rectified')
    x0, y0, x1, y1 = mask_box(mask)
    # All of the book is in the box, but the mask is of something at its edge.
    beside = np.zeros_like(mask)
    beside[int(y0):int(y1), int(x1):int(x1) + 40] = True
    instance = Instance('book', 0.9, np.array([x0, y0, x1 + 40, y1]), beside, 1)
    checkpoint = replace(make_checkpoint(model), surface=Surface.of_mesh(mesh),
                         landmarks=landmarks())
    assert sight(checkpoint, image, [instance], CAMERAS['rectified'])[0]
    found, = PoseEstimator([checkpoint], min_score=0.0).estimate(
        image, [instance], CAMERAS['rectified'])
    assert found.pose is None


def test_the_right_one_of_two_alike_is_found():
    model, mesh = book()
    camera = CAMERAS['rectified']
    turn = Pose.from_rotvec([0, 0, 0.4], np.zeros(3)).R_m2c
    behind = Pose(turn @ TRUTH.R_m2c, TRUTH.t_m2c + [-0.12, 0, 0.06])
    front, back = (RayCaster(mesh).render(one, camera.K, 640, 480) for one in (TRUTH, behind))
    image = np.where(back.mask[..., None], back.albedo,
                     random_background(np.random.default_rng(5), 480, 640))
    image = np.where(front.mask[..., None], front.albedo, image).astype(np.uint8)
    hidden = back.mask & ~front.mask
    assert 0.6 < hidden.sum() / back.mask.sum() < 0.8
    # In one box both are seen, the one in front better.
    box = mask_box(front.mask | back.mask)
    checkpoint = replace(make_checkpoint(model), surface=Surface.of_mesh(mesh),
                         landmarks=landmarks())
    for mask, true in ((hidden, behind), (front.mask, TRUTH)):
        found, = PoseEstimator([checkpoint], min_score=0.0).estimate(
            image, [Instance('book', 0.9, box, mask, 1)], camera)
        away = found.pose.transform(model.points) - true.transform(model.points)
        assert np.linalg.norm(away, axis=1).mean() < 0.1 * model.diameter


def test_masks_alone_see_no_print():
    model, _ = book()
    _, mask = picture('rectified')
    instance = Instance('book', 0.9, mask_box(mask), mask, 1)
    checkpoint = replace(make_checkpoint(model, 'mask'), landmarks=landmarks())
    assert sight(checkpoint, None, [instance], CAMERAS['rectified']) == [[]]


def test_twin_of_a_plane_looks_alike_from_afar():
    rng = np.random.default_rng(3)
    points = np.column_stack([rng.uniform(-0.1, 0.1, (30, 2)), np.full(30, 0.02)])
    pose = Pose(TRUTH.R_m2c, [0.3, -0.1, 8.0])
    twin = _twin(pose, points)
    K = CAMERAS['rectified'].K

    def project(one):
        seen = one.transform(points) @ K.T
        return seen[:, :2] / seen[:, 2:]

    assert np.abs(project(pose) - project(twin)).max() < 0.2
    turn = np.trace(pose.R_m2c @ twin.R_m2c.T)
    assert np.degrees(np.arccos((turn - 1) / 2)) > 30


@pytest.mark.parametrize('colors', [None, np.array([[40, 90, 200]], np.uint8)],
                         ids=['no colours', 'one colour'])
def test_things_without_print_have_none(colors, monkeypatch):
    monkeypatch.setattr(module, 'VIEWS', 12)
    model, mesh = book()
    if colors is not None:
        colors = colors.repeat(len(mesh.vertices), 0)
    assert Landmarks.of_mesh(model, make_mesh(mesh.vertices, mesh.faces, colors)) is None


def test_kept_in_the_file(tmp_path):
    model, mesh = book()
    path = tmp_path / 'book.safetensors'
    checkpoint = make_checkpoint(model)
    replace(checkpoint, surface=Surface.of_mesh(mesh), landmarks=landmarks()).save(path)
    loaded = Checkpoint.load(path)
    np.testing.assert_array_equal(loaded.landmarks.points, landmarks().points)
    np.testing.assert_array_equal(loaded.landmarks.descriptors, landmarks().descriptors)
    assert not any(name.startswith('landmarks.') for name in loaded.weights)


@pytest.mark.parametrize('spoil', [
    {'points': torch.zeros(7, 3)}, {'points': torch.full((5, 3), torch.nan)},
    {'descriptors': torch.zeros(5, 64, dtype=torch.uint8)},
    {'descriptors': torch.zeros(5, 128)}, {'descriptors': None}])
def test_damaged_ones_refused(spoil):
    tensors = {'points': torch.zeros(5, 3),
               'descriptors': torch.zeros(5, 128, dtype=torch.uint8), **spoil}
    with pytest.raises(ValueError, match='landmarks'):
        Landmarks.from_tensors({f'landmarks.{name}': tensor for name, tensor in tensors.items()
                                if tensor is not None})


def test_crop_fills_what_it_looks_at():
    crop = look_at(CAMERAS['rectified'], [100, 100, 300, 250])
    assert isinstance(crop, CropCamera)
    corners = crop.to_image([[0, 0], [crop.size - 1, crop.size - 1]])
    assert (corners[0] < [100, 100]).all() and (corners[1] > [300, 250]).all()


def test_landmarks_can_be_left_out():
    models = find('models')
    for use_landmarks in (True, False):
        estimator = PoseEstimator.from_directory(models, objects=['book'],
                                                 use_landmarks=use_landmarks)
        checkpoint = estimator._predictors['book'].checkpoint
        assert (checkpoint.landmarks is not None) == use_landmarks


def test_features_are_where_they_are_seen():
    # OpenCV's are a quarter of a pixel beside; a release that mends that is to be noticed here.
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :256]
    centres = np.array([[x, y] for x in range(30, 240, 40) for y in range(30, 240, 40)])
    centres = centres + rng.uniform(-3, 3, centres.shape)
    sizes = rng.uniform(2, 5, len(centres))
    picture = sum(np.exp(-((x - one[0]) ** 2 + (y - one[1]) ** 2) / (2 * size ** 2))
                  for one, size in zip(centres, sizes))
    pixels, descriptors = detect((40 + 200 * picture / picture.max()).astype(np.uint8), 0)
    assert descriptors.shape == (len(pixels), 128)
    apart = np.linalg.norm(pixels[:, None] - centres, axis=2)
    near = apart.min(1) < 1
    assert near.sum() >= 0.8 * len(centres)
    offset = (pixels - centres[apart.argmin(1)])[near]
    assert np.abs(np.median(offset, 0)).max() < 0.06
    nothing, _ = detect(np.zeros((64, 64), np.uint8), 0)
    assert nothing.shape == (0, 2)
