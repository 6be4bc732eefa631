"""How often prints are seen, and what a segmenter's scores make of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from pose_estimator import confirmed, sighting
from pose_estimator.confirmed import ConfirmedSegmenter
from pose_estimator.demo.scene import DemoScene
from pose_estimator.instance import Instance, mask_box
from pose_estimator.keypoints.checkpoint import Checkpoint
from pose_estimator.keypoints.predictor import KeypointPredictor
from pose_estimator.object_model import load_object
from pose_estimator.sighting import fit_sighted, sight_chance
from pose_estimator.synthetic.render import RayCaster
import pytest

MODELS = Path(__file__).resolve().parents[1] / 'models'
SIGHTED = {'bias': 0.1, 'slope': 2.0}


@pytest.fixture(scope='module')
def book():
    return Checkpoint.load(MODELS / 'book.safetensors')


def odds(chance):
    return chance / (1 - chance)


def test_chance_by_the_longer_side():
    def chance(width, height):
        return sight_chance(SIGHTED, np.array([7, 9, 7 + width, 9 + height], float))

    assert chance(100, 30) == chance(30, 100) == pytest.approx(1 / (1 + np.exp(-0.1)))
    assert odds(chance(200, 10)) == pytest.approx(np.exp(2) * odds(chance(100, 10)))
    assert 0 < chance(0, 0) < 1e-5


def test_larger_things_are_seen_more_often(book, monkeypatch):
    monkeypatch.setattr(sighting, 'SCENES', 10)
    _, mesh = load_object(MODELS / 'book.yaml')
    found = fit_sighted(book, mesh)
    assert found['instances'] > 10 and 0 < found['share'] < 1 and found['slope'] > 0.1


def test_shipped_book_knows_how_often_its_print_is_seen(book):
    chances = [sight_chance(book.calibration['sighted'], np.array([0, 0, side, side]))
               for side in (50, 100, 200, 400)]
    assert 0.05 < chances[0] < chances[1] < chances[2] < chances[3] < 0.9


@pytest.fixture(scope='module')
def seen(book):
    """Return an image, the book's true instance in it, and one of the same mask elsewhere."""
    scene, caster = DemoScene(31), RayCaster(load_object(MODELS / 'book.yaml')[1])
    for moment in np.linspace(0, scene.duration, 24, endpoint=False):
        frame = scene.frame(float(moment))
        if frame.visible['book'] < 0.95:
            continue
        camera = scene.camera
        mask = caster.render(frame.poses['book'], camera.K, camera.width, camera.height).mask
        x0, _, x1, _ = mask_box(mask)
        away = np.roll(mask, camera.width // 2, 1)
        if x0 > 60 and x1 < camera.width / 2 - 20:
            return frame.image, [Instance('book', 0.5, mask_box(one), one, number)
                                 for number, one in enumerate((mask, away), 1)]
    raise AssertionError('expected a book at the left, got none')


class Segmenter:
    """Finds what it is given."""

    labels, ignored = ('book',), {}

    def __init__(self, instances):
        self._instances = instances

    def segment(self, image):
        """Return instances."""
        return self._instances


def scores(book, image, instances, **calibration):
    known = {key: value for key, value in book.calibration.items() if key != 'sighted'}
    predictor = KeypointPredictor(replace(book, calibration={**known, **calibration}))
    found = ConfirmedSegmenter(Segmenter(instances), {'book': predictor}, 0.0).segment(image)
    return [next(one.score for one in found if np.array_equal(one.box, asked.box))
            for asked in instances]


@pytest.fixture
def in_doubt(monkeypatch):
    """Have prints looked for whatever the networks say."""
    monkeypatch.setattr(confirmed, 'SURE', 1.0)
    monkeypatch.setattr(confirmed, 'LEAST_SCORE', 0.0)


def test_prints_confirm_what_is_there_and_nothing_else(book, seen, in_doubt):
    image, instances = seen
    before = scores(book, image, instances)
    after = scores(book, image, instances, sighted=SIGHTED)
    chance = sight_chance(SIGHTED, instances[0].box)
    assert 0.5 < chance < confirmed.MOST_SIGHTED
    rise, fall = np.divide([odds(one) for one in after], [odds(one) for one in before])
    assert rise == pytest.approx(chance / confirmed.FALSELY_SIGHTED)
    assert fall == pytest.approx((1 - chance) / (1 - confirmed.FALSELY_SIGHTED))


def test_a_print_that_must_be_seen_may_be_another_one_than_the_meshs(book, seen, in_doubt):
    image, (_, away) = seen
    before, = scores(book, image, [away])
    after, = scores(book, image, [away], sighted={'bias': 50.0, 'slope': 0.0})
    assert odds(after) / odds(before) == pytest.approx(0.2 / 0.98)


def test_what_is_sure_is_not_looked_at_for_its_print(book, seen, monkeypatch):
    asked = []

    def sight(checkpoint, image, instances, camera):
        asked.extend(instances)
        return [[] for _ in instances]

    monkeypatch.setattr(confirmed, 'sight', sight)
    image, (instance, _) = seen
    for extreme in (0.9999, 1e-6):  # nor what is hopeless
        given = [replace(instance, score=extreme)]
        assert scores(book, image, given, sighted=SIGHTED) == scores(book, image, given)
    assert not asked
    doubtful, = scores(book, image, [instance])
    odd = (1 - doubtful) / doubtful  # so that networks and segmenter together say one in two
    scores(book, image, [replace(instance, score=odd / (1 + odd))], sighted=SIGHTED)
    assert len(asked) == 1
