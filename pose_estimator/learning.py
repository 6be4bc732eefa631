"""What the trainings of keypoints and of refinement share: optimizers, rates, averages."""

import math

import torch

from .muon import Muon

# Steps between looks at the loss, each of which makes a GPU wait.
LOOK_EVERY = 20


def optimizers(network, rate, muon_rate):
    """Return Muon for the convolutions between the first and the last, AdamW for the rest."""
    inside = [weight for name, weight in network.named_parameters()
              if weight.ndim == 4
              and not name.startswith(('stem.0', 'heads', 'feed')) and '.up.' not in name]
    taken = {id(weight) for weight in inside}
    others = [weight for weight in network.parameters() if id(weight) not in taken]
    adam = torch.optim.AdamW(others, rate, weight_decay=1e-4, fused=True)
    return [adam, Muon(inside, muon_rate)]


def schedule(progress):
    """Return the share of the highest learning rate: a short rise, then half a cosine."""
    warm = 0.03
    if progress < warm:
        return 0.05 + 0.95 * progress / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


@torch.no_grad()
def follow(average, network, decay):
    """Move the average of the weights towards the network's."""
    ours, theirs = [], []
    for mine, its in zip(average.state_dict().values(), network.state_dict().values()):
        if mine.is_floating_point():
            ours.append(mine)
            theirs.append(its)
        else:
            mine.copy_(its)
    torch._foreach_lerp_(ours, theirs, 1 - decay)


def record(network, image, bfloat):
    """
    Let a GPU repeat what the network does as one piece (a CUDA graph), forward and backward.

    Started one by one, hundreds of small operations take longer than they run.

    Parameters
    ----------
    network : torch.nn.Module
        On the GPU, in training; its forward is replaced.
    image : tensor, shape (B, C, S, S)
        As all that it will be given.
    bfloat : bool
        Whether it works in bfloat16.

    """
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.autocast('cuda', torch.bfloat16, enabled=bfloat, cache_enabled=False):
        torch.cuda.make_graphed_callables(network, (image,))
