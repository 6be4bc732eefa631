"""Heatmaps, network, checkpoint, predictor."""

from dataclasses import replace

import numpy as np
from pose_estimator.errors import InputError
from pose_estimator.keypoints.checkpoint import Checkpoint
from pose_estimator.keypoints.heatmaps import (
    cross_entropy, decode, encode, probabilities, squared_error, symmetric_loss)
from pose_estimator.keypoints.hourglass import (
    fold_batch_norms, HourglassConfig, StackedHourglass)
from pose_estimator.keypoints.predictor import KeypointPredictor
from pose_estimator.object_model import object_from_mesh
from pose_estimator.scoring import FEATURES
import pytest
from safetensors.torch import save_file
import torch

SMALL = HourglassConfig(in_channels=4, keypoints=8, input_size=64, heatmap_size=16, width=16)


def checkpoint(config=SMALL, network_input='rgb_mask'):
    model, _ = object_from_mesh('builtin:cup', 'm', 'cup', keypoints=config.keypoints)
    torch.manual_seed(0)
    calibration = {'mean': [0.0] * len(FEATURES), 'scale': [1.0] * len(FEATURES),
                   'weights': [0.0] * len(FEATURES), 'bias': 0.0,
                   'distance': {}}
    return Checkpoint(model, network_input, ('rgb', 'mask'), config, 1.4, 'cross_entropy',
                      calibration, StackedHourglass(config).state_dict())


def test_decode_is_the_inverse_of_encode():
    keypoints = 12 + 104 * torch.rand(5, 7, 2, generator=torch.Generator().manual_seed(0))
    heatmaps = encode(keypoints, 32, 128)
    found, confidence = decode(heatmaps, 128)
    # The window cuts the gaussian's tails off, unevenly: a twentieth of a cell.
    assert (found - keypoints).abs().max() < 0.2
    assert confidence.min() > 0.9


def test_keypoints_outside_the_crop_have_empty_targets_and_low_confidence():
    heatmaps = encode(torch.tensor([[[-30.0, 20], [140, 20], [60, 60]]]), 32, 128)
    assert heatmaps.sum((2, 3)).tolist()[0][:2] == [0, 0]
    assert heatmaps[0, 2].sum() == pytest.approx(1)
    assert decode(heatmaps, 128)[1][0, 0] == 0


def test_probabilities_leave_room_for_nowhere():
    sure_of_nothing = probabilities(torch.full((1, 1, 16, 16), -20.0))
    assert sure_of_nothing.sum() < 1e-5
    peak = torch.full((1, 1, 16, 16), -20.0)
    peak[0, 0, 3, 5] = 20
    keypoint, confidence = decode(probabilities(peak), 64)
    assert confidence.item() == pytest.approx(1, abs=1e-4)
    assert keypoint.tolist() == [[[21.5, 13.5]]]


@pytest.mark.parametrize('loss', [cross_entropy, squared_error])
def test_losses_are_smallest_at_the_truth(loss):
    target = encode(torch.tensor([[[[30.0, 40]]], [[[10.0, 20]]]]), 16, 64)  # (2, 1, 1, 16, 16)
    right = target[:, 0] * (2 * torch.pi) if loss is squared_error else (
        target[:, 0] + 1e-9).log() + 10
    wrong = right.flip(3)
    assert (loss(right, target) < loss(wrong, target) - 0.1).all()
    assert (loss(right, target) < loss(torch.zeros_like(right), target) - 0.1).all()


def test_symmetric_loss_takes_the_labeling_that_fits():
    places = torch.tensor([[[[30.0, 40]], [[10.0, 20]]]])  # two labelings of one keypoint
    targets = encode(places, 16, 64)
    second = (targets[:, 1] + 1e-9).log() + 10
    both = symmetric_loss([second], targets, 'cross_entropy')
    only = symmetric_loss([second], targets[:, 1:], 'cross_entropy')
    assert both.item() == pytest.approx(only.item())


@pytest.mark.parametrize('heatmap_size', [16, 32, 64])
def test_network_gives_heatmaps_of_every_module(heatmap_size):
    config = replace(SMALL, heatmap_size=heatmap_size, modules=3, depth=2)
    maps = StackedHourglass(config)(torch.zeros(2, 4, 64, 64))
    assert [one.shape for one in maps] == [(2, 8, heatmap_size, heatmap_size)] * 3


def test_bottom_of_the_hourglass_is_4_by_4():
    network = StackedHourglass(replace(SMALL, heatmap_size=32))
    seen = []
    for module in network.modules():
        module.register_forward_hook(
            lambda _, __, out: seen.append(out.shape[-1]) if torch.is_tensor(out) else None)
    network(torch.zeros(1, 4, 64, 64))
    assert min(seen) == 4


@pytest.mark.parametrize('values, words', [
    ({'heatmap_size': 24}, 'heatmap_size: expected a power of 2'),
    ({'input_size': 96, 'heatmap_size': 16}, 'input_size: expected 1, 2, 4 or 8 times'),
    ({'width': 30}, 'width: expected a multiple of 8'),
    ({'modules': 0}, 'modules: expected at least 1')])
def test_impossible_networks_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        replace(SMALL, **values)


def test_unknown_configuration_keys_are_refused():
    with pytest.raises(InputError, match='unknown key.*widht'):
        HourglassConfig.from_dict({'widht': 64})


def test_folding_batch_norms_changes_nothing():
    network = StackedHourglass(SMALL)
    image = torch.randn(4, 4, 64, 64)
    network.train()
    for _ in range(3):
        network(image)
    network.eval()
    before = network(image)[-1]
    after = fold_batch_norms(network)(image)[-1]
    assert (before - after).abs().max() < 1e-4
    assert not any(isinstance(one, torch.nn.BatchNorm2d) for one in network.modules())


def test_checkpoint_round_trip(tmp_path):
    path = tmp_path / 'cup.safetensors'
    original = checkpoint()
    original.save(path)
    loaded = Checkpoint.load(path)
    assert loaded.config == original.config
    assert loaded.model.name == 'cup'
    np.testing.assert_allclose(loaded.model.keypoints, original.model.keypoints)
    image = torch.rand(1, 4, 64, 64)
    difference = loaded.network()(image)[-1] - original.network()(image)[-1]
    assert difference.abs().max() < 0.05  # 8 bits


def test_bad_weight_files_are_refused_with_words(tmp_path):
    path = tmp_path / 'cup.safetensors'
    with pytest.raises(InputError, match='got no such file; train one'):
        Checkpoint.load(path)
    checkpoint().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(InputError, match='damaged or foreign'):
        Checkpoint.load(path)
    path.write_bytes(b'')
    with pytest.raises(InputError, match='damaged or foreign'):
        Checkpoint.load(path)
    torch.save({'weights': torch.zeros(3)}, path)
    with pytest.raises(InputError, match='damaged or foreign'):
        Checkpoint.load(path)
    save_file({'a': torch.zeros(3)}, path, {'pose_estimator': '[]'})
    with pytest.raises(InputError, match='expected a keypoint model of format'):
        Checkpoint.load(path)
    save_file({'a': torch.zeros(3)}, path)
    with pytest.raises(InputError, match='expected a keypoint model of format'):
        Checkpoint.load(path)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / 'cup.safetensors'
    original = checkpoint()
    weights = dict(original.weights)
    del weights['heads.0.weight']
    replace(original, weights=weights).save(path)
    with pytest.raises(InputError, match='do not fit the configuration, first heads.0.weight'):
        Checkpoint.load(path)
    weights['heads.0.weight'] = torch.full_like(original.weights['heads.0.weight'], np.inf)
    replace(original, weights=weights).save(path)
    with pytest.raises(InputError, match='got NaN or infinity in heads.0.weight'):
        Checkpoint.load(path)


def test_damaged_calibrations_are_refused(tmp_path):
    path, original = tmp_path / 'cup.safetensors', checkpoint()
    for damaged in ({}, {**original.calibration, 'without_mask': None},
                    {**original.calibration, 'without_mask': {'weights': 3}}):
        replace(original, calibration=damaged).save(path)
        with pytest.raises(InputError, match='damaged description of the model'):
            Checkpoint.load(path)


def test_predictor_takes_and_gives_numpy():
    predictor = KeypointPredictor(checkpoint())
    rng = np.random.default_rng(0)
    found = predictor.predict(rng.integers(0, 255, (3, 64, 64, 3), np.uint8),
                              np.full((3, 64, 64), 255, np.uint8))
    assert found.pixels.shape == (3, 8, 2)
    assert found.confidence.shape == (3, 8)
    assert ((0 <= found.confidence) & (found.confidence <= 1.001)).all()
    with pytest.raises(InputError, match='device: expected cpu or a GPU'):
        KeypointPredictor(checkpoint(), 'nowhere')
