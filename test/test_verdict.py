"""The demo's judgement."""

import numpy as np
from pose_estimator.demo.verdict import Finding, Judge, Truth
from pose_estimator.geometry import Pose
from pose_estimator.object_model import object_from_mesh, Symmetries
import pytest

SYMMETRIES = {'bottle': {'continuous': [{'axis': [0, 0, 1]}]}}
TRUE = Pose.from_rotvec([0.3, -0.2, 0.5], [0.05, 0.02, 0.8])


@pytest.fixture(scope='module')
def judge():
    """Give a judge of cup and bottle."""
    return Judge({name: object_from_mesh(f'builtin:{name}', 'm', name,
                                         symmetries=SYMMETRIES.get(name))[0]
                  for name in ('cup', 'bottle')}, 'rgb_mask')


def truth(visible=1.0, handle=True):
    """Return the truth of a frame."""
    return Truth({'cup': TRUE, 'bottle': TRUE}, {'cup': visible, 'bottle': visible}, handle)


def finding(name, turn=(0, 0, 0), shift=(0, 0, 0)):
    """Return a pose that is turned about the object's axes and shifted in the camera's frame."""
    turned = TRUE.compose(Pose.from_rotvec(np.radians(turn), np.zeros(3)))
    return Finding(name, f'{name}_1', Pose(turned.R_m2c, turned.t_m2c + shift), 0.9, 0.1)


@pytest.mark.parametrize('name, turn, handle, degrees', [
    ('cup', (0, 0, 0), True, 0), ('cup', (0, 0, 90), True, 90), ('cup', (0, 0, 90), False, 0),
    ('cup', (20, 0, 0), False, 20), ('bottle', (0, 0, 77.3), True, 0),
    ('bottle', (0, 30, 0), True, 30), ('bottle', (180, 0, 0), True, 180),
])
def test_angle_counts_what_can_be_seen(judge, name, turn, handle, degrees):
    error = judge.measure(finding(name, turn), truth(handle=handle))
    assert error.degrees == pytest.approx(degrees, abs=0.6)
    assert error.is_right == (degrees <= 10)


def test_distance_is_a_share_of_the_true_one(judge):
    error = judge.measure(finding('cup', shift=(0, 0, 0.03)), truth())
    assert error.metres == pytest.approx(0.03)
    assert error.share == pytest.approx(0.03 / np.linalg.norm(TRUE.t_m2c))
    assert error.is_right
    assert not judge.measure(finding('cup', shift=(0, 0, 0.05)), truth()).is_right


def summary(judge, frames):
    """Return the cup's summary of frames (visible, findings)."""
    truths = {stamp: truth(visible) for stamp, (visible, _) in enumerate(frames)}
    findings = {stamp: found for stamp, (_, found) in enumerate(frames)}
    return next(one for one in judge.summarise(truths, findings) if one.name == 'cup')


def test_passes_when_found_often_enough_and_right(judge):
    good, bad = [finding('cup')], [finding('cup', turn=(0, 0, 40))]
    assert summary(judge, [(1, good)] * 8 + [(1, [])] * 2).passed
    assert not summary(judge, [(1, good)] * 7 + [(1, [])] * 3).passed
    assert summary(judge, [(1, good)] * 9 + [(1, bad)]).passed
    assert not summary(judge, [(1, good)] * 8 + [(1, bad)] * 2).passed


def test_hidden_frames_do_not_count(judge):
    good, bad = [finding('cup')], [finding('cup', turn=(0, 0, 40))]
    hidden = summary(judge, [(0.4, good)] * 5 + [(0.39, bad)] * 50 + [(0.0, [])] * 50)
    assert (hidden.frames, hidden.found, hidden.right) == (5, 5, 5)
    assert hidden.passed


def test_nothing_seen_is_no_success(judge):
    assert not summary(judge, [(0.1, [])] * 10).passed
    assert not summary(judge, []).passed


def test_a_wrong_second_pose_counts_against(judge):
    both = [finding('cup'), finding('cup', shift=(0.3, 0, 0))]
    assert not summary(judge, [(1, both)] * 10).passed


def test_input_mask_is_judged_by_the_shape(judge):
    half_turn = [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    model, _ = object_from_mesh('builtin:cup', 'm', 'box', symmetries={},
                                shape_symmetries={'discrete': [half_turn]})
    assert model.symmetries == Symmetries()
    true = Truth({'box': TRUE}, {'box': 1.0}, True)
    for network_input, degrees in (('mask', 0), ('rgb_mask', 180)):
        error = Judge({'box': model}, network_input).measure(finding('box', (0, 0, 180)), true)
        assert error.degrees == pytest.approx(degrees, abs=1e-3)
