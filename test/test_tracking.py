"""Objects keep their identity from image to image."""

import numpy as np
from pose_estimator.geometry import Pose
from pose_estimator.instance import Instance
from pose_estimator.object_model import object_from_mesh
from pose_estimator.pipeline import ObjectPose
from pose_estimator.tracking import Tracker
import pytest


@pytest.fixture(scope='module')
def models():
    bottle = {'continuous': [{'axis': [0, 0, 1], 'offset': [0, 0, 0]}]}
    return {'cup': object_from_mesh('builtin:cup', 'm', 'cup')[0],
            'bottle': object_from_mesh('builtin:bottle', 'm', 'bottle', symmetries=bottle)[0]}


def seen(name, place, turn=(0, 0, 0), score=0.9):
    """Return the ObjectPose of a thing at a place; None: without a pose."""
    pose = None if place is None else Pose.from_rotvec(turn, place)
    mask = np.zeros((4, 4), bool)
    return ObjectPose(name, Instance(name, 1.0, (0, 0, 4, 4), mask, 1), pose, score, np.eye(6),
                      np.zeros((8, 2)), np.ones(8), np.ones(8, bool), 1.0)


def ids(named):
    return [track.id for track, _ in named]


def test_two_cups_keep_their_names_in_whatever_order_they_come(models):
    tracker = Tracker(models)
    rng = np.random.default_rng(0)
    names = {}
    for step in range(40):
        places = {'left': (-0.2 + 0.003 * step, 0, 0.8), 'right': (0.25 - 0.003 * step, 0, 0.8)}
        order = list(places)
        rng.shuffle(order)
        named = tracker.update([seen('cup', np.array(places[key]) + rng.normal(0, 0.004, 3))
                                for key in order], 0.2 * step)
        for key, (track, _) in zip(order, named):
            assert names.setdefault(key, track.id) == track.id
    assert sorted(names.values()) == ['cup_1', 'cup_2']


def test_a_short_occlusion_keeps_the_name_a_long_one_does_not(models):
    tracker = Tracker(models, memory=1.0)
    tracker.update([seen('cup', (0, 0, 0.8)), seen('cup', (0.3, 0, 0.8))], 0.0)
    assert ids(tracker.update([seen('cup', (0.3, 0, 0.8))], 0.6)) == ['cup_2']
    both = tracker.update([seen('cup', (0.3, 0, 0.8)), seen('cup', (0, 0, 0.8))], 0.9)
    assert ids(both) == ['cup_2', 'cup_1']
    tracker.update([seen('cup', (0.3, 0, 0.8)), seen('cup', None)], 1.5)
    tracker.update([seen('cup', (0.3, 0, 0.8))], 2.2)
    assert [track.id for track in tracker.tracks] == ['cup_2']


def test_a_jump_is_another_object(models):
    tracker = Tracker(models)
    tracker.update([seen('cup', (0, 0, 0.8))], 0.0)
    assert ids(tracker.update([seen('cup', (0.4, 0, 0.8))], 0.1)) == ['cup_2']


def test_birth_after_some_sightings(models):
    tracker = Tracker(models, sightings=3)
    given = [ids(tracker.update([seen('cup', (0, 0, 0.8))], 0.1 * step)) for step in range(4)]
    assert given == [[], [], ['cup_1'], ['cup_1']]


def test_time_that_goes_back_forgets(models):
    tracker = Tracker(models, sightings=2)
    tracker.update([seen('cup', (0, 0, 0.8))], 5.0)
    assert ids(tracker.update([seen('cup', (0, 0, 0.8))], 5.1)) == ['cup_1']
    assert ids(tracker.update([seen('cup', (0, 0, 0.8))], 1.0)) == []


def test_a_late_image_changes_nothing(models):
    tracker = Tracker(models)
    tracker.update([seen('cup', (0, 0, 0.8))], 5.0)
    assert ids(tracker.update([seen('cup', (0.02, 0, 0.8)), seen('cup', (0.4, 0, 0.8))],
                              4.7)) == ['cup_1']
    assert [(track.id, track.seen) for track in tracker.tracks] == [('cup_1', 5.0)]


def test_a_round_thing_does_not_spin(models):
    tracker = Tracker(models)
    (_, first), = tracker.update([seen('bottle', (0, 0, 0.8), (0, 0, 0.1))], 0.0)
    (_, second), = tracker.update([seen('bottle', (0, 0, 0.8), (0, 0, 2.4))], 0.1)
    turn = Pose(second.pose.R_m2c @ first.pose.R_m2c.T, np.zeros(3)).rotvec
    assert np.degrees(np.linalg.norm(turn)) < 3
    (_, tilted), = tracker.update([seen('bottle', (0, 0, 0.8), (0.5, 0, 0))], 0.2)
    np.testing.assert_allclose(tilted.pose.R_m2c[:, 2],
                               Pose.from_rotvec((0.5, 0, 0), np.zeros(3)).R_m2c[:, 2], atol=1e-9)


def test_the_held_one_is_kept_until_it_dies(models):
    tracker = Tracker(models, memory=0.5)
    tracker.update([seen('cup', (0, 0, 0.8), score=0.8), seen('cup', (0.3, 0, 0.8))], 0.0)
    held = tracker.best('cup')
    assert held.id == 'cup_2'
    tracker.update([seen('cup', (0, 0, 0.8), score=0.99), seen('cup', (0.3, 0, 0.8), score=0.4)],
                   0.1)
    assert tracker.best('cup', held) is held
    tracker.update([seen('cup', (0, 0, 0.8))], 0.9)
    assert tracker.best('cup', held).id == 'cup_1'
    assert tracker.best('bottle') is None
