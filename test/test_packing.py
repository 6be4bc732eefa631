"""Weights in 8 bits come back but for rounding."""

from pose_estimator.packing import packed, unpacked
import pytest
import torch


def test_weights_come_back_but_for_rounding():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(6, 4, 3, 3, generator=generator) * torch.logspace(-4, 1, 6)[:, None, None,
                                                                                   None]
    wide[2] = 0
    weights = {'a.weight': wide, 'a.bias': torch.randn(6, generator=generator),
               'a.num_batches_tracked': torch.tensor(7)}
    stored = packed(weights)
    assert stored['a.weight'].dtype == torch.int8
    found = unpacked(stored)
    assert set(found) == set(weights)
    step = wide.abs().amax((1, 2, 3)) / 127
    apart = (found['a.weight'] - wide).abs().amax((1, 2, 3))
    assert (apart <= 0.6 * step + 1e-6).all()
    assert not found['a.weight'][2].any()
    assert torch.allclose(found['a.bias'].float(), weights['a.bias'], atol=2e-3)
    assert found['a.num_batches_tracked'] == 7
    again = packed(found)
    assert all(torch.equal(again[name], stored[name]) for name in stored)


def test_only_large_weights_of_any_layer_are_packed_where_wanted():
    weights = {'linear.weight': torch.randn(40, 30), 'conv.weight': torch.randn(40, 3, 1, 1)}
    stored = packed(weights, least=1000)
    assert stored['linear.weight'].dtype == torch.int8
    assert stored['conv.weight'].dtype == torch.float16
    found = unpacked(stored)
    assert torch.allclose(found['linear.weight'], weights['linear.weight'], atol=0.02)
    assert torch.allclose(found['conv.weight'].float(), weights['conv.weight'], atol=0.005)


def test_steps_without_weights_are_refused():
    stored = packed({'a.weight': torch.ones(2, 3, 1, 1)})
    for broken in ({'a.weight.step': stored['a.weight.step']},
                   {**stored, 'a.weight': torch.ones(2, 3, 1, 1)},
                   {**stored, 'a.weight.step': torch.ones(3, 1, 1, 1)}):
        with pytest.raises(ValueError, match='a.weight.step goes with no weights'):
            unpacked(broken)
