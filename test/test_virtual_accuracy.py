"""What the shipped models reach on virtual crops that no training saw; seeds are fixed."""

from pathlib import Path

from pose_estimator.keypoints import report, train
from pose_estimator.keypoints.checkpoint import Checkpoint
from pose_estimator.keypoints.train import EASY, HELD_BACK, held_back_sampler, TrainConfig
from pose_estimator.object_model import load_object
from pose_estimator.synthetic.crops import CropConfig
import pytest

MODELS = Path(__file__).resolve().parents[1] / 'models'
# Percent within ADD 0.1 d (of the bottle, which is symmetric, ADD-S) and pixels of a keypoint, a
# little worse than measured on crops that are blurred, sharpened and cluttered more than those of
# the models' training.
LIMITS = {'book': (54, 4.1), 'bottle': (79, 2.3), 'cup': (64, 5.9)}
# Faults of masks when these three were trained.
THEIRS = {'mask_eroded': 0.012, 'mask_dilated': 0.008, 'mask_dropped': 0.3}
# Percent within ADD 0.1 d with score, distance and covariance as shipped.
LEAST_AS_SHIPPED = {'book': 55, 'bottle': 78, 'cup': 63}


def measure(name, samples, monkeypatch, fit, **faults):
    """Return the scores of a shipped model on held-back virtual crops, with faults of masks."""
    monkeypatch.setattr(report, 'SAMPLES', samples)
    checkpoint = Checkpoint.load(MODELS / f'{name}.safetensors')
    _, mesh = load_object(MODELS / f'{name}.yaml')
    config = TrainConfig(checkpoint.network_input, samples=1, views=96,
                         network=checkpoint.config,
                         crops=CropConfig(checkpoint.config.input_size, checkpoint.margin,
                                          **faults))
    sampler = held_back_sampler(checkpoint.model, mesh, config)
    scores = report.evaluate_virtually(checkpoint, sampler, EASY, fit).scores
    print(scores)
    return scores


@pytest.mark.slow
@pytest.mark.parametrize('name', LIMITS)
def test_shipped_models_on_held_back_virtual_crops(name, monkeypatch):
    scores = measure(name, 96, monkeypatch, fit=True, **THEIRS)
    least, most = LIMITS[name]
    assert scores['add_0.1d'] >= least
    assert scores['keypoint_error_px'] <= most


@pytest.mark.slow
@pytest.mark.parametrize('name', LIMITS)
def test_shipped_scores_and_covariances_on_crops_that_none_was_fitted_to(name, monkeypatch):
    monkeypatch.setattr(train, 'REPORT_SEED', 4711)
    scores = measure(name, 144, monkeypatch, fit=False, **HELD_BACK)
    assert scores['add_0.1d'] >= LEAST_AS_SHIPPED[name]
    assert scores['calibration_error'] <= 0.12
    # The covariance says how far off a right pose may be: 6 and 95 % if it were perfect.
    assert 4 <= scores['mean_nees'] <= 9
    assert scores['covered_95'] >= 80
