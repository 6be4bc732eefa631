"""Muon (Jordan et al. 2024): momentum whose every step is made orthogonal, for convolutions."""

from collections import defaultdict

import torch

MOMENTUM = 0.95
WEIGHT_DECAY = 0.01
# Coefficients of the quintic Newton-Schulz iteration, which pulls all singular values to about 1.
NEWTON_SCHULZ, ITERATIONS = (3.4445, -4.7750, 2.0315), 5


class Muon(torch.optim.Optimizer):
    """
    Optimizer of convolution weights, taken as matrices of a row for each output channel.

    Parameters
    ----------
    parameters : iterable of tensors
        Of two or more dimensions.
    lr : float
        Length of a step: every singular value of a square matrix moves by it.

    """

    def __init__(self, parameters, lr):
        super().__init__(parameters, {'lr': lr})

    @torch.no_grad()
    def step(self, closure=None):
        """Take a step."""
        for group in self.param_groups:
            # Weights of one shape go through the iteration together: on a GPU, starting the
            # many small products one by one would take longer than all the rest of a step.
            shapes = defaultdict(list)
            for weight in group['params']:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state['momentum'] = torch.zeros_like(weight)
                shapes[len(weight), weight[0].numel()].append(weight)
            for (rows, columns), weights in shapes.items():
                grads = [weight.grad for weight in weights]
                momenta = [self.state[weight]['momentum'] for weight in weights]
                torch._foreach_mul_(momenta, MOMENTUM)
                torch._foreach_add_(momenta, grads)
                ahead = torch._foreach_add(grads, momenta, alpha=MOMENTUM)
                steps = orthogonalise(torch.stack([one.reshape(rows, columns)
                                                   for one in ahead]))
                torch._foreach_mul_(weights, 1 - group['lr'] * WEIGHT_DECAY)
                torch._foreach_add_(weights, [step.reshape(weight.shape)
                                              for step, weight in zip(steps, weights)],
                                    alpha=-group['lr'] * max(1, rows / columns) ** 0.5)


def orthogonalise(matrices):
    """Return about U V^T of matrices U S V^T, shape (..., rows, columns)."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    matrices = matrices.mT if is_tall else matrices
    matrices = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = matrices @ matrices.mT
        matrices = a * matrices + (b * gram + c * gram @ gram) @ matrices
    return matrices.mT if is_tall else matrices
