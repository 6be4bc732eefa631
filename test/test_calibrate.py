"""The command that measures a model anew and fits its score."""

from dataclasses import replace
import itertools
import os
from pathlib import Path
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
from pose_estimator.camera import CropCamera
from pose_estimator.cli import main
from pose_estimator.keypoints import report, train
from pose_estimator.keypoints.checkpoint import Checkpoint
from pose_estimator.keypoints.train import EASY, HELD_BACK, held_back_sampler, TrainConfig
from pose_estimator.landmarks import Landmarks
from pose_estimator.object_model import load_object
from pose_estimator.pipeline import Evidence, PoseEstimator, SURE_ENOUGH
from pose_estimator.pnp import PnPResult
from pose_estimator.refinement.refiner import NOT_REFINED
from pose_estimator.scoring import calibration_of, FEATURES, score
from pose_estimator.synthetic.crops import CropConfig
import pytest
import torch

MODELS = Path(__file__).resolve().parents[1] / 'models'


def copied(name, folder):
    """Return a copy of a shipped model; those that see masks alone are measured the fastest."""
    stem = name.split('.')[0]
    for file in (f'{name}.safetensors', f'{stem}.yaml'):
        shutil.copy(MODELS / file, folder / file)
    return folder / f'{name}.safetensors'


def test_score_is_fitted_anew_and_the_weights_stay(quick, tmp_path):
    path = copied('bottle.mask', tmp_path)
    shipped = Checkpoint.load(path)
    replace(shipped, calibration={'weights': [0.0] * 3}).save(path)
    assert not Checkpoint.load(path).is_calibrated
    assert main(['calibrate', str(path)]) == 0
    found = Checkpoint.load(path)
    assert found.is_calibrated and np.any(found.calibration['weights'])
    assert 0 < found.calibration['sure_score'] <= 1
    assert found.training['virtual_scores']['samples'] == 48
    assert all(torch.equal(found.weights[name], shipped.weights[name]) for name in shipped.weights)
    assert 'On 48 held-back virtual crops' in (tmp_path / 'bottle.mask.md').read_text()
    PoseEstimator([found])


@pytest.mark.parametrize('share, kept', [(0.9, False), (1.1, True)])
def test_landmarks_that_find_next_to_nothing_are_dropped(share, kept, tmp_path, monkeypatch):
    path = copied('book', tmp_path)
    checkpoint, (_, mesh) = Checkpoint.load(path), load_object(tmp_path / 'book.yaml')
    shipped = checkpoint.landmarks
    monkeypatch.setattr(train, 'held_back_sampler', lambda *_: None)
    monkeypatch.setattr(Landmarks, 'of_mesh', lambda *_: shipped)
    monkeypatch.setattr(train, 'write_report', lambda *_: None)
    monkeypatch.setattr(train, 'fit_sighted', lambda *_: {'bias': 1.0, 'slope': 2.0})

    def evaluate(one, sampler, config, refiner):
        assert one.landmarks is shipped and one.surface is not None
        scores = {'by_landmarks': share, 'add_0.1d': 50.0, 'keypoint_error_px': 3.0}
        return SimpleNamespace(scores=scores, calibration={
            key: value for key, value in checkpoint.calibration.items() if key != 'sighted'})

    monkeypatch.setattr(train, 'evaluate_virtually', evaluate)
    train.measure(replace(checkpoint, landmarks=None), mesh, path)
    again = Checkpoint.load(path)
    assert (again.landmarks is not None) == kept
    assert again.calibration.get('sighted') == ({'bias': 1.0, 'slope': 2.0} if kept else None)


def test_what_was_fitted_before_has_no_say(quick, tmp_path):
    path = copied('bottle.mask', tmp_path)
    calibrations = []
    for _ in range(2):
        assert main(['calibrate', str(path)]) == 0
        calibrations.append(Checkpoint.load(path).calibration)
    first, second = calibrations
    assert first == second


def test_the_sure_score_is_that_of_the_poses_as_they_are(quick, tmp_path, monkeypatch):
    # All are right, and none would be if it were a little farther away.
    asked = itertools.count()
    monkeypatch.setattr(report, 'adi', lambda pose, truth, points:
                        float(next(asked) % (1 + report.DISTANCES) > 0))
    path = copied('bottle.mask', tmp_path)
    assert main(['calibrate', str(path)]) == 0
    calibration = Checkpoint.load(path).calibration
    assert score(calibration['mean'], calibration) < 0.1
    assert calibration['sure_score'] < 0.1


def test_symmetric_objects_are_judged_by_add_s_the_others_by_add(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(report, 'adi', lambda pose, truth, points: 0.0)
    for name, is_symmetric in (('bottle', True), ('cup', False)):
        path = copied(f'{name}.mask', tmp_path)
        assert main(['calibrate', str(path)]) == 0
        found = Checkpoint.load(path)
        scores = found.training['virtual_scores']
        assert (scores['add_0.1d'] == 100 - scores['no_pose']) == is_symmetric
        # The score of a middling pose knows that all are right.
        assert (score(found.calibration['mean'], found.calibration) > 0.99) == is_symmetric


@pytest.mark.parametrize('first, second, expected', [
    (None, None, None), (None, 0.9, None), (0.2, None, 0.2), (0.2, 0.41, 0.41), (0.2, 0.39, 0.2),
    (0.2, 0.1, 0.2), (0.004, 0.9, 0.004), (SURE_ENOUGH, 0.9, SURE_ENOUGH)])
def test_report_takes_the_pose_that_the_pipeline_would(first, second, expected):
    ways = [chance and ('outcome', chance, way)
            for chance, way in ((first, True), (second, False))]
    taken = report._taken(*ways)
    assert (taken and taken[1]) == expected
    # Masks are all that some networks see.
    assert taken is None or taken[2] == (expected == first)
    assert report._taken(ways[0]) == ways[0]


def test_a_model_that_finds_next_to_nothing_is_never_sure(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(report, 'LEAST_FITTED', 49)
    path = copied('bottle', tmp_path)
    assert main(['calibrate', str(path)]) == 0
    found = Checkpoint.load(path)
    assert found.is_calibrated and found.calibration['sure_score'] == 1
    for use_masks in (True, False):
        assert score(np.ones(len(FEATURES)), calibration_of(found.calibration, use_masks)) < 0.01


def test_model_without_its_object_is_refused(tmp_path, capsys):
    shutil.copy(MODELS / 'bottle.safetensors', tmp_path)
    assert main(['calibrate', str(tmp_path / 'bottle.safetensors')]) == 2
    assert 'bottle.yaml: expected the object' in capsys.readouterr().err


def test_soft_masks_are_taken_whole(monkeypatch):
    """The masks that scores are fitted to were chosen so; see docs/experiments.md."""
    mask = torch.zeros(2, 1, 40, 40)
    mask[:, :, 10:30, 10:30] = 0.3
    mask[:, :, 12:28, 12:28] = 0.7
    batch = SimpleNamespace(mask=mask, rgb=None, K=torch.eye(3).repeat(2, 1, 1),
                            keypoints=torch.zeros(2, 1, 4, 2))
    checkpoint = SimpleNamespace(model=SimpleNamespace(name='cup'), margin=1.25)
    given, crops = [], []

    def gather(predictor, image, instances, camera, refiner, use_masks, sightings):
        given.extend(instances)
        crop = CropCamera.look_at(camera, instances[0].box + [3, 2, 4, 5], 32, 1.25)
        crops.append(crop)
        nothing = PnPResult(None, None, np.zeros(4, bool), np.nan, 'nothing')
        return [Evidence(crop, instances[0].mask, np.zeros((4, 2)), np.zeros(4), np.zeros(4),
                         -np.inf, np.zeros(2), NOT_REFINED, nothing)]

    monkeypatch.setattr(report, 'gather', gather)
    predictor = SimpleNamespace(size=32, checkpoint=checkpoint)
    pictures = list(report._pictures(predictor, batch))
    found = list(report._look(predictor, None, batch, pictures, [None, None], True))
    assert [int(one.mask.sum()) for one in given] == [20 * 20] * 2
    # Keypoints lie where they were seen, in whichever crop that was.
    for (seen, _, _), one, crop in zip(found, given, crops):
        first = CropCamera.look_at(crop.camera, one.box, 32, 1.25)
        np.testing.assert_allclose(first.to_image(seen.pixels), crop.to_image(np.zeros((4, 2))))


def test_several_processes_find_what_one_does(quick, monkeypatch):
    monkeypatch.setattr(report.os, 'sched_getaffinity', lambda process: {0, 1})
    torch.set_num_threads(1)  # as the others; with more, last digits differ
    checkpoint = Checkpoint.load(MODELS / 'cup.safetensors')
    _, mesh = load_object(MODELS / 'cup.yaml')
    config = TrainConfig(samples=1, network=checkpoint.config, crops=CropConfig(
        checkpoint.config.input_size, checkpoint.margin, **HELD_BACK))
    monkeypatch.setattr(report, 'SAMPLES', 32)
    found = []
    for least in (2, 1):  # batches of a process, of two
        monkeypatch.setattr(report, 'LEAST_BATCHES', least)
        sampler = held_back_sampler(checkpoint.model, mesh, config)
        found.append(report.evaluate_virtually(checkpoint, sampler, EASY, fit=False))
    first, second = found
    assert first.scores == second.scores and first.scores['samples'] == 32
    np.testing.assert_array_equal(first.visible, second.visible)
    assert len(first.pictures) == len(second.pictures) == report.PICTURES
    for one, other in zip(first.pictures, second.pictures):
        for array, same in zip(one, other):
            np.testing.assert_array_equal(array, same)


def test_what_fails_in_a_process_fails_in_a_script_that_has_no_guard(tmp_path):
    """Processes that are spawned run the script that spawns them, unless they are kept from it."""
    script = tmp_path / 'script.py'
    script.write_text(f"""import numpy as np
from pose_estimator.keypoints import report, train
from pose_estimator.keypoints.checkpoint import Checkpoint
print('begun')
report.LEAST_BATCHES = 1
report.os.sched_getaffinity = lambda process: (0, 1)
list(report._Batches(Checkpoint.load({str(MODELS / 'cup.safetensors')!r}), None, None, (True,),
                     np.ones(2), [0, 1]).each(report._examine, 'measuring'))
""")
    done = subprocess.run([sys.executable, str(script)], cwd=MODELS.parent, capture_output=True,
                          env={**os.environ, 'PYTHONPATH': str(MODELS.parent)}, text=True,
                          timeout=120)
    assert done.stdout == 'begun\n'
    assert done.stderr.rstrip().endswith("'NoneType' object has no attribute 'config'")
    assert '_RemoteTraceback' in done.stderr
