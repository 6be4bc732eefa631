"""What the shipped models reach on virtual crops that no training saw; seeds are fixed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from pose_estimator.demo.scene import DemoScene
from pose_estimator.instance import Instance, mask_box
from pose_estimator.keypoints import report, train
from pose_estimator.keypoints.checkpoint import Checkpoint
from pose_estimator.keypoints.train import EASY, HELD_BACK, held_back_sampler, TrainConfig
from pose_estimator.object_model import load_object
from pose_estimator.pipeline import PoseEstimator, sight
from pose_estimator.pose_error import add, proj
from pose_estimator.synthetic.crops import CropConfig
from pose_estimator.synthetic.render import RayCaster
import pytest

MODELS = Path(__file__).resolve().parents[1] / 'models'
# Percent within ADD 0.1 d (of the bottle, which is symmetric, ADD-S) and pixels of a keypoint, a
# little worse than measured here, with score, distance and covariance as shipped.
LIMITS = {'book': (66, 3.8), 'bottle': (82, 2.3), 'cup': (69, 5.1)}


@pytest.mark.slow
@pytest.mark.parametrize('name', LIMITS)
def test_shipped_models_on_virtual_crops_that_nothing_was_fitted_to(name, monkeypatch):
    monkeypatch.setattr(train, 'REPORT_SEED', 4711)
    monkeypatch.setattr(report, 'SAMPLES', 96)
    checkpoint = Checkpoint.load(MODELS / f'{name}.safetensors')
    _, mesh = load_object(MODELS / f'{name}.yaml')
    config = TrainConfig(checkpoint.network_input, samples=1, views=96,
                         network=checkpoint.config,
                         crops=CropConfig(checkpoint.config.input_size, checkpoint.margin,
                                          **HELD_BACK))
    sampler = held_back_sampler(checkpoint.model, mesh, config)
    scores = report.evaluate_virtually(checkpoint, sampler, EASY, fit=False).scores
    print(scores)
    least, most = LIMITS[name]
    assert scores['add_0.1d'] >= least
    assert scores['keypoint_error_px'] <= most
    assert scores['calibration_error'] <= 0.12
    # The covariance says how far off a right pose may be: 6 and 95 % if it were perfect.
    assert 4 <= scores['mean_nees'] <= 9
    assert scores['covered_95'] >= 80


def test_prints_halve_the_projection_error_of_the_book():
    checkpoint = Checkpoint.load(MODELS / 'book.safetensors')
    model, mesh = load_object(MODELS / 'book.yaml')
    scene, caster = DemoScene(31), RayCaster(mesh)
    taught = PoseEstimator([checkpoint], min_score=0.0)
    without = PoseEstimator([replace(checkpoint, landmarks=None)], min_score=0.0)
    frames, seen, errors = 0, 0, []
    for moment in np.linspace(0, scene.duration, 24, endpoint=False):
        frame = scene.frame(float(moment))
        if frame.visible['book'] < 0.95:
            continue
        true = frame.poses['book']
        mask = caster.render(true, scene.camera.K, scene.camera.width, scene.camera.height).mask
        instance = Instance('book', 1.0, mask_box(mask), mask, 1)
        frames += 1
        if sight(checkpoint, frame.image, [instance], scene.camera)[0]:
            seen += 1
            poses = [one.estimate(frame.image, [instance], scene.camera)[0].pose
                     for one in (taught, without)]
            errors.append([[proj(pose, true, model.points, scene.camera),
                            add(pose, true, model.points) / model.diameter] for pose in poses])
    ours, theirs = np.median(errors, axis=0)
    mean, mean_without = np.mean(errors, axis=0)[:, 1]
    print(f'{seen} of {frames} seen; median projection error, ADD: {ours[0]:.3f} px, '
          f'{ours[1]:.4f} d, without print {theirs[0]:.3f} px, {theirs[1]:.4f} d; mean ADD '
          f'{mean:.4f} and {mean_without:.4f} d')
    # 19 of 20; 0.258 px and 0.0104 d, without 0.614 and 0.0096, means 0.0100 and 0.0152.
    assert frames > 15 and seen > 0.85 * frames
    assert ours[0] < 0.4 and ours[0] < 0.65 * theirs[0]
    # Medians of ADD without print change by a quarter with a grey value of a few pixels.
    assert ours[1] < 0.011 and mean < 0.9 * mean_without
    assert (np.array(errors)[:, 0, 1] < 0.1).all()
