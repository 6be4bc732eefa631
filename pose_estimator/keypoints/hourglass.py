"""Stacked hourglass network (Newell et al. 2016, as in Pujolle & Hayashi 2020)."""

from dataclasses import dataclass, fields

import torch
from torch import nn
from torch.nn import functional

from ..errors import InputError

# Side of the feature maps at the bottom of each hourglass, as in the paper.
BOTTOM = 4


@dataclass(frozen=True)
class HourglassConfig:
    """
    Shape of the network.

    Attributes
    ----------
    in_channels : int
        Channels of the input.
    keypoints : int
        Number of heatmaps.
    input_size : int
        Side of the input in pixels, a power of 2.
    heatmap_size : int
        Side of the heatmaps; the stem shrinks the input to it, by 1, 2, 4 or 8.
    width : int
        Channels at the heatmaps' resolution.
    growth : int
        Channels more after each pooling: where the maps are small, they cost little.
    depth : int
        Blocks between poolings.
    modules : int
        Hourglasses in a row, each with heatmaps of its own (intermediate supervision).
    stem_blocks : int
        Blocks before the stem's first pooling, for what must be exact to less than a pixel.

    """

    in_channels: int = 4
    keypoints: int = 32
    input_size: int = 128
    heatmap_size: int = 32
    width: int = 64
    growth: int = 24
    depth: int = 1
    modules: int = 2
    stem_blocks: int = 0

    def __post_init__(self):
        shrink = self.input_size // max(self.heatmap_size, 1)
        if self.heatmap_size < 2 * BOTTOM or self.heatmap_size & (self.heatmap_size - 1):
            raise InputError(f'heatmap_size: expected a power of 2 from {2 * BOTTOM}, '
                             f'got {self.heatmap_size}')
        if shrink not in (1, 2, 4, 8) or shrink * self.heatmap_size != self.input_size:
            raise InputError(f'input_size: expected 1, 2, 4 or 8 times heatmap_size, got '
                             f'{self.input_size} and {self.heatmap_size}')
        for name, least in (('in_channels', 1), ('keypoints', 1), ('depth', 1), ('modules', 1),
                            ('stem_blocks', 0)):
            if getattr(self, name) < least:
                raise InputError(f'{name}: expected at least {least}, got {getattr(self, name)}')
        if self.width < 8 or self.width % 8:
            raise InputError(f'width: expected a multiple of 8, got {self.width}')
        if self.growth < 0 or self.growth % 8:
            raise InputError(f'growth: expected a multiple of 8 or 0, got {self.growth}')

    @classmethod
    def from_dict(cls, values):
        """Return the configuration of a dict; unknown keys are refused."""
        unknown = set(values) - {one.name for one in fields(cls)}
        if unknown:
            raise InputError(f'network configuration: unknown key {sorted(unknown)}')
        return cls(**values)


class Residual(nn.Module):
    """Bottleneck residual block that adds its input, through 1 x 1 where widths differ."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        middle = out_channels // 2
        self.layers = nn.Sequential(
            _conv(in_channels, middle, 1), nn.ReLU(inplace=True),
            _conv(middle, middle, 3), nn.ReLU(inplace=True),
            # No batch norm on the wide end: on a CPU it would cost as much as the rest.
            nn.Conv2d(middle, out_channels, 1))
        self.skip = (nn.Identity() if in_channels == out_channels
                     else nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x):
        """Return features of the same size."""
        return functional.relu(self.layers(x) + self.skip(x))


class Hourglass(nn.Module):
    """Max-pooling down to 4 x 4, deconvolution back up, residual layers across."""

    def __init__(self, size, width, growth, depth):
        super().__init__()
        half, wider = size // 2, width + growth
        self.across = _blocks(width, width, depth)
        self.down = _blocks(width, wider, depth)
        self.inner = (Hourglass(half, wider, growth, depth) if half > BOTTOM
                      else _blocks(wider, wider, depth))
        self.up = nn.ConvTranspose2d(wider, width, 2, 2)

    def forward(self, x):
        """Return features of the same size."""
        lower = self.inner(self.down(functional.max_pool2d(x, 2)))
        return self.across(x) + self.up(lower)


class StackedHourglass(nn.Module):
    """
    Several hourglasses in a row; each gives heatmaps that are fed into the next.

    Parameters
    ----------
    config : HourglassConfig

    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, shrink = config.width, config.input_size // config.heatmap_size
        stem = [_conv(config.in_channels, width // 2, 7, stride=min(shrink, 2)),
                nn.ReLU(inplace=True)]
        stem += [Residual(width // 2, width // 2) for _ in range(config.stem_blocks)]
        while shrink > 2:
            stem.append(nn.MaxPool2d(2))
            shrink //= 2
        self.stem = nn.Sequential(*stem, Residual(width // 2, width))
        self.hourglasses = nn.ModuleList(
            Hourglass(config.heatmap_size, width, config.growth, config.depth)
            for _ in range(config.modules))
        self.features = nn.ModuleList(Residual(width, width) for _ in range(config.modules))
        self.heads = nn.ModuleList(
            nn.Conv2d(width, config.keypoints, 1) for _ in range(config.modules))
        self.feed_features = nn.ModuleList(
            nn.Conv2d(width, width, 1) for _ in range(config.modules - 1))
        self.feed_heatmaps = nn.ModuleList(
            nn.Conv2d(config.keypoints, width, 1) for _ in range(config.modules - 1))

    def forward(self, image):
        """
        Return the heatmaps of every module.

        Parameters
        ----------
        image : tensor, shape (B, in_channels, input_size, input_size)
            From inputs.prepare_input.

        Returns
        -------
        heatmaps : list of tensors, shape (B, keypoints, heatmap_size, heatmap_size)
            The last is the answer.

        """
        x = self.stem(image)
        heatmaps = []
        for index, hourglass in enumerate(self.hourglasses):
            features = self.features[index](hourglass(x))
            heatmaps.append(self.heads[index](features))
            if index + 1 < len(self.hourglasses):
                x = (x + self.feed_features[index](features)
                     + self.feed_heatmaps[index](heatmaps[-1]))
        return heatmaps


def _conv(in_channels, out_channels, kernel, stride=1):
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels))


def _blocks(in_channels, out_channels, depth):
    return nn.Sequential(*[Residual(out_channels if index else in_channels, out_channels)
                           for index in range(depth)])


def fold_batch_norms(network):
    """Return the network in eval mode with its batch norms folded into the convolutions."""
    network = network.eval()
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                if isinstance(module[index + 1], nn.BatchNorm2d):
                    module[index] = torch.nn.utils.fuse_conv_bn_eval(module[index],
                                                                     module[index + 1])
                    module[index + 1] = nn.Identity()
    return network
