"""Muon's steps have all singular values near one, and they lower a loss."""

from pose_estimator.muon import Muon, orthogonalise
import pytest
import torch


@pytest.mark.parametrize('shape', [(32, 32), (16, 144), (64, 9)])
def test_orthogonal_whatever_the_gradient_is(shape):
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(*shape, generator=generator)
    # Singular values over two decades.
    u, values, vh = torch.linalg.svd(left, full_matrices=False)
    matrix = u @ torch.diag(torch.logspace(0, -2, len(values))) @ vh
    found = orthogonalise(matrix)
    assert found.shape == matrix.shape
    singular = torch.linalg.svdvals(found)
    assert 0.3 < singular.min() and singular.max() < 1.3
    # Its directions are those of the matrix.
    assert (torch.diag(u.T @ found @ vh.T) > 0.3).all()


def test_a_step_goes_against_the_gradient_by_its_length():
    weight = torch.nn.Parameter(torch.zeros(8, 2, 2, 2))
    optimizer = Muon([weight], 0.1)
    gradient = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    weight.grad = gradient.reshape(8, 2, 2, 2)
    optimizer.step()
    moved = weight.detach().reshape(8, 8)
    assert (moved * gradient).sum() < 0
    singular = torch.linalg.svdvals(moved)
    assert 0.03 < singular.min() and singular.max() < 0.13


def test_it_learns_what_a_convolution_does():
    generator = torch.Generator().manual_seed(2)
    truth = torch.randn(6, 4, 3, 3, generator=generator) / 6
    weight = torch.nn.Parameter(torch.zeros_like(truth))
    optimizer = Muon([weight], 0.02)
    losses = []
    for _ in range(150):
        image = torch.randn(4, 4, 12, 12, generator=generator)
        difference = torch.nn.functional.conv2d(image, weight - truth)
        loss = (difference ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
