"""Things are found anywhere in an image by what is printed on them."""

import functools
from types import SimpleNamespace

import cv2
import numpy as np
from pose_estimator.assets import find
from pose_estimator.camera import CropCamera, usual_camera
from pose_estimator.confirmed import ConfirmedSegmenter
from pose_estimator.demo.scene import DemoScene
from pose_estimator.errors import InputError
from pose_estimator.geometry import Pose
from pose_estimator.instance import Instance, mask_box
from pose_estimator.keypoints.checkpoint import Checkpoint
from pose_estimator.landmarks import Features, Sighting
from pose_estimator.prints import (
    as_instances, Print, PrintFinder, PrintSegmenter, shared, silhouette)
from pose_estimator.synthetic.backgrounds import random_background
from pose_estimator.synthetic.render import RayCaster
import pytest
from test_landmarks import book, CAMERAS, degrees, picture, TRUTH

CAMERA = CAMERAS['rectified']


@functools.cache
def checkpoint():
    return Checkpoint.load(find('models') / 'book.safetensors')


@functools.cache
def finder():
    return PrintFinder({'book': checkpoint()})


def iou(first, second):
    return (first & second).sum() / (first | second).sum()


def test_book_found_without_a_hint_where():
    image, mask = picture('rectified')
    found, = finder().find(image, CAMERA)
    assert found.label == 'book' and found.score > 0.9
    assert iou(found.mask, mask) > 0.94
    assert degrees(found.sighting.pose) < 2.0
    assert np.linalg.norm(found.sighting.pose.t_m2c - TRUTH.t_m2c) < 0.015 * TRUTH.t_m2c[2]
    # Where it was seen is on it.
    x, y = found.spots.round().astype(int).T
    assert len(x) > 30 and mask[y, x].mean() > 0.98


def test_large_images_are_looked_at_smaller():
    image, mask = picture('rectified')
    large = cv2.resize(image, (2560, 1920), interpolation=cv2.INTER_CUBIC)
    found, = finder().find(large, CAMERA.resized(2560, 1920))
    mask = cv2.resize(mask.view(np.uint8), (2560, 1920), interpolation=cv2.INTER_NEAREST) > 0
    assert iou(found.mask, mask) > 0.94
    assert degrees(found.sighting.pose) < 2.0


def test_only_what_is_looked_for_where_it_may_be():
    image, mask = picture('rectified')
    assert finder().labels == ('book',)
    assert finder().find(image, CAMERA, set()) == []
    assert finder().find(image, CAMERA, {'cup'}) == []
    assert finder().find(image, CAMERA, {'book'}, ~mask) == []
    assert len(finder().find(image, CAMERA, {'book'}, mask)) == 1


@pytest.mark.parametrize('image', [
    random_background(np.random.default_rng(9), 480, 640), np.zeros((480, 640, 3), np.uint8),
    np.full((480, 640, 3), 255, np.uint8), np.random.default_rng(1).integers(
        0, 256, (480, 640, 3), np.uint8), np.full((16, 16, 3), 99, np.uint8)],
    ids=['something else', 'black', 'white', 'noise', 'tiny'])
def test_nothing_found_where_nothing_is(image):
    assert finder().find(image, usual_camera(*image.shape[:2])) == []
    assert PrintSegmenter(finder()).segment(image) == []


@functools.cache
def pair():
    """Return an image of two books, the right one before the left one, and their masks."""
    caster = RayCaster(book()[1])
    near = Pose(TRUTH.R_m2c, [0.06, 0.0, 0.55])
    far = Pose(Pose.from_rotvec([0, 0, 0.5], np.zeros(3)).R_m2c @ TRUTH.R_m2c, [-0.08, 0.0, 0.75])
    image = random_background(np.random.default_rng(3), 1200, 1600)
    masks = []
    for pose in (far, near):
        seen = caster.render(pose, np.diag([2.5, 2.5, 1]) @ CAMERA.K, 1600, 1200)
        image = np.where(seen.mask[..., None], seen.albedo * 0.9, image)
        masks.append(cv2.resize(seen.mask.view(np.uint8), (640, 480),
                                interpolation=cv2.INTER_NEAREST) > 0)
    image = cv2.resize(image.astype(np.uint8), (640, 480), interpolation=cv2.INTER_AREA)
    return image, masks


def test_two_of_a_kind_one_before_the_other():
    image, (behind, before) = pair()
    assert (behind & before).sum() > 0.1 * behind.sum()
    found = PrintSegmenter(finder()).segment(image)
    assert [one.id for one in found] == [1, 2] and all(one.score > 0.8 for one in found)
    for mask in (before, behind & ~before):
        assert max(iou(one.mask, mask) for one in found) > 0.9


def fake(label, box, spots, camera=CAMERA):
    """Return a Print with a mask that fills a box, seen at spots (S, 2) of the image."""
    crop = CropCamera.look_at(camera, box, 256, 1.15)
    mask = np.zeros((camera.height, camera.width), bool)
    mask[box[1]:box[3], box[0]:box[2]] = True
    features = Features(crop, np.zeros((0, 2)), np.zeros((0, 128), np.float32))
    return Print(label, Sighting(TRUTH, crop.to_crop(spots), features), mask)


def grid(x0, y0, x1, y1, count=5):
    x, y = np.meshgrid(np.linspace(x0, x1, count), np.linspace(y0, y1, count))
    return np.column_stack([x.ravel(), y.ravel()])


def instance(label, score, box, number=1):
    mask = np.zeros((CAMERA.height, CAMERA.width), bool)
    mask[box[1]:box[3], box[0]:box[2]] = True
    return Instance(label, score, mask_box(mask), mask, number)


def test_of_two_that_contradict_one_another_the_better_seen_is_there(monkeypatch):
    better = fake('gravy', [100, 100, 300, 300], grid(110, 110, 290, 290, 7))
    worse = fake('sauce', [150, 150, 250, 250], grid(160, 160, 240, 240))
    before = fake('sauce', [250, 150, 380, 250], grid(260, 160, 370, 240))
    behind = fake('soup', [250, 150, 380, 250], grid(310, 160, 370, 240))
    monkeypatch.setattr('pose_estimator.prints._looked_for',
                        lambda label, *_: {'gravy': [better], 'sauce': given}[label])
    both = PrintFinder({'gravy': checkpoint(), 'sauce': checkpoint()})
    image, _ = picture('rectified')
    free = fake('gravy', [100, 100, 300, 300], grid(110, 110, 240, 290, 7))
    for better, given, kept in ((better, [worse], [better]), (free, [before], [free, before]),
                                (better, [behind], [better, behind])):
        assert both.find(image, CAMERA) == kept


def test_silhouettes_of_a_kind_that_nearly_coincide_are_of_one_thing(monkeypatch):
    left = grid(105, 105, 150, 290)
    first = fake('book', [100, 100, 300, 300], np.concatenate([left, left + [10, 0]]))
    second = fake('book', [110, 100, 310, 300], grid(250, 105, 290, 290))
    beside = fake('book', [290, 100, 490, 300], grid(320, 105, 480, 290))
    monkeypatch.setattr('pose_estimator.prints._looked_for',
                        lambda *_: [second, first, beside])
    image, _ = picture('rectified')
    assert finder().find(image, CAMERA) == [first, beside]


def test_instances_that_prints_are_of():
    one = fake('soup', [100, 100, 200, 300], grid(110, 110, 190, 290))
    right = instance('soup', 0.4, [100, 100, 200, 210])
    elsewhere = instance('soup', 0.4, [400, 100, 500, 300])
    wrong = instance('bleach', 0.6, [105, 100, 205, 300])
    small = instance('spoon', 0.6, [120, 120, 160, 160])
    assert shared([one], [elsewhere, right, wrong, small]) == ({0: 1}, {2})
    assert shared([one], [wrong]) == ({}, {0})
    assert shared([one], []) == ({}, set()) and shared([], [wrong]) == ({}, set())
    # The bleach's own print is on it too.
    other = fake('bleach', [105, 100, 205, 300], grid(110, 110, 190, 290))
    assert shared([one, other], [right, wrong]) == ({0: 0, 1: 1}, set())


def test_what_is_surer_or_shows_its_print_is_before():
    one = fake('soup', [100, 100, 200, 300], grid(110, 110, 145, 190))
    other = fake('rice', [150, 100, 250, 300], grid(160, 110, 240, 290))
    surer, unsure = (instance('spoon', score, [100, 250, 250, 300]) for score in (0.99, 0.6))
    soup, rice = as_instances([one, other], [surer, unsure])
    assert soup.label == 'soup' and soup.score == one.score == pytest.approx(1 - 2 / 25)
    np.testing.assert_array_equal(rice.box, [149.5, 99.5, 249.5, 249.5])
    np.testing.assert_array_equal(soup.box, [99.5, 99.5, 149.5, 249.5])
    hidden = instance('door', 0.99, [0, 0, 640, 480])
    assert as_instances([one], [hidden]) == []


class Segmenter:
    """Finds what it is given."""

    labels, ignored = ('book', 'cup'), {}

    def __init__(self, *instances):
        self._instances = list(instances)

    def segment(self, image):
        """Return instances."""
        return self._instances


@pytest.mark.parametrize('score, label, expected', [
    (0.3, 'book', 'raised'), (0.6, 'book', 'raised'), (0.97, 'book', 'left'),
    (0.9, 'cup', 'renamed'), (None, None, 'found')])
def test_segmenter_is_helped_where_it_is_not_sure(score, label, expected):
    image, mask = picture('rectified')
    given = [] if score is None else [Instance(label, score, mask_box(mask), mask, 1)]
    found, = ConfirmedSegmenter(Segmenter(*given), {}, finder=finder()).segment(image)
    assert found.label == 'book' and found.id == 1
    if expected == 'left':
        assert found.score == 0.97
    else:
        assert found.score > 0.95
    if expected in ('left', 'raised'):
        assert found.mask is mask
    else:
        assert iou(found.mask, mask) > 0.9


def test_what_is_sure_keeps_its_name(monkeypatch):
    image, mask = picture('rectified')
    cup = Instance('cup', 0.97, mask_box(mask), mask, 1)
    # Nothing is looked for on it, nor believed that is seen there from beside.
    assert [one.label for one in ConfirmedSegmenter(
        Segmenter(cup), {}, finder=finder()).segment(image)] == ['cup']
    there = finder().find(image, CAMERA)
    monkeypatch.setattr(PrintFinder, 'find', lambda *_: there)
    assert [one.label for one in ConfirmedSegmenter(
        Segmenter(cup), {}, finder=finder()).segment(image)] == ['cup']


def test_labels_that_are_surely_found_are_not_looked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(PrintFinder, 'find',
                        lambda self, image, camera, labels, where: asked.append(
                            (labels, where.sum())) or [])
    image, mask = picture('rectified')
    sure = Instance('book', 0.96, mask_box(mask), mask, 1)
    both = PrintFinder({'book': checkpoint(), 'cup': checkpoint()})
    ConfirmedSegmenter(Segmenter(sure), {}, finder=both).segment(image)
    ConfirmedSegmenter(Segmenter(sure), {}, finder=finder()).segment(image)
    assert asked == [({'cup'}, 640 * 480 - mask.sum())]


def test_shipped_models_find_the_demos_book_without_a_segmenter():
    segmenter = PrintSegmenter.from_directory(find('models'))
    assert segmenter.labels == ('book',)
    scene, caster = DemoScene(31), RayCaster(book()[1])
    found = total = 0
    for moment in np.linspace(0, scene.duration, 8, endpoint=False):
        frame = scene.frame(float(moment))
        mask = caster.render(frame.poses['book'], scene.camera.K, scene.camera.width,
                             scene.camera.height).mask
        instances = segmenter.segment(frame.image)
        if frame.visible['book'] > 0.7:
            total += 1
            found += any(iou(one.mask, mask) > 0.6 for one in instances)
        assert all(iou(one.mask, mask) > 0.4 for one in instances)
    assert total > 2 and found >= 0.4 * total


def test_models_without_prints_are_refused(tmp_path):
    with pytest.raises(InputError, match='objects with prints .* got none: .* train-segmenter'):
        PrintSegmenter.from_directory(tmp_path)


def test_node_takes_the_folder_of_the_models():
    from pose_estimator.nodes.segmenters import make_segmenter
    for weights in ('', str(find('models')), str(find('models') / 'segmenter.safetensors')):
        options = SimpleNamespace(segmenter='prints', weights=weights, min_score=0.9,
                                  class_map=[''])
        assert make_segmenter(options).labels == ('book',)
    found, = make_segmenter(options).segment(picture('rectified')[0])
    assert found.score > 0.9
    options.min_score = 0.999
    assert make_segmenter(options).segment(picture('rectified')[0]) == []
    options.class_map = ['novel=book']
    with pytest.raises(InputError, match='class_map: expected none'):
        make_segmenter(options)


def test_silhouettes_of_what_is_out_of_view():
    assert silhouette(checkpoint(), Pose(TRUTH.R_m2c, [0, 0, -0.7]), CAMERA) is None
    assert silhouette(checkpoint(), Pose(TRUTH.R_m2c, [5, 0, 0.7]), CAMERA) is None
    assert silhouette(checkpoint(), Pose(TRUTH.R_m2c, [0, 0, 0.02]), CAMERA) is None
    half = silhouette(checkpoint(), Pose(TRUTH.R_m2c, [0.37, 0, 0.7]), CAMERA)
    assert half is not None and half[:, -1].any() and not half[:, 0].any()
