"""Muon (Jordan et al. 2024): momentum whose every step is made orthogonal, for convolutions."""

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
            for weight in group['params']:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state['momentum'] = torch.zeros_like(weight)
                state['momentum'].mul_(MOMENTUM).add_(weight.grad)
                ahead = weight.grad + MOMENTUM * state['momentum']
                step = orthogonalise(ahead.reshape(len(weight), -1))
                rows, columns = step.shape
                weight.mul_(1 - group['lr'] * WEIGHT_DECAY)
                weight.add_(step.reshape(weight.shape),
                            alpha=-group['lr'] * max(1, rows / columns) ** 0.5)


def orthogonalise(matrix):
    """Return about U V^T of a matrix U S V^T, shape (rows, columns)."""
    a, b, c = NEWTON_SCHULZ
    is_tall = matrix.shape[0] > matrix.shape[1]
    matrix = matrix.T if is_tall else matrix
    matrix = matrix / (matrix.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = matrix @ matrix.T
        matrix = a * matrix + (b * gram + c * gram @ gram) @ matrix
    return matrix.T if is_tall else matrix
