"""Mask R-CNN (He et al. 2017): torchvision's, with a light backbone or with COCO weights."""

from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
import json
import logging
from pathlib import Path
from typing import Callable

import cv2
import numpy as np
from safetensors import safe_open, SafetensorError
from safetensors.torch import save
import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import (
    batched_nms, clip_boxes_to_image, FeaturePyramidNetwork, MultiScaleRoIAlign,
    remove_small_boxes)
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from .backbone import EfficientNetLite, IMAGE_MEAN, IMAGE_STD
from .pooling import PooledPyramid
from ..devices import torch_device
from ..errors import InputError
from ..instance import Instance
from ..packing import packed, unpacked
from ..runtimes import fastest, missing_packages, RUNTIMES

# Names of torchvision's pyramid maps at strides 4 to 64.
LEVELS = ('0', '1', '2', '3', 'pool')
FORMAT = 'pose_estimator segmenter 1'
# A pixel shows one object: of two masks that share more than this part of the smaller one, the
# better scored stays.
SAME_THING = 0.6
# Stages of EfficientNet-Lite that keep their ImageNet weights: what edges and textures are, real
# photographs taught better than virtual ones.
FROZEN_STAGES = 3
# The light variants look at an image made smaller and larger, and take the mean of what they see:
# that finds more, and takes less for what it is not (docs/segmentation.md).
SCALES = (2 / 3, 17 / 15)
# Weights of so many numbers or more are stored in 8 bits.
PACKED = 100_000
COCO_CLASS_MAP = {'book': 'book', 'bottle': 'bottle', 'cup': 'cup'}


@dataclass(frozen=True)
class MaskRCNNConfig:
    """
    Everything that fixes the network's shape; kept in the checkpoint.

    Attributes
    ----------
    labels : tuple of str
        Names of the objects, in the order of the classes 1, 2, ...
    variant : str
        One of VARIANTS; what follows the two sides is of the light ones, LITE, alone.
    short_side, long_side : int
        An image is resized to fit within these, pixels.
    channels : int
        Channels of the feature pyramid and of the mask head.
    box_features : int
        Width of the box head.
    mask_layers : int
        Convolutions of the mask head.
    anchor_sizes : tuple of int
        Side of the anchors at strides 4, 8, 16, 32 and 64, pixels of the resized image.
    anchor_ratios : tuple of float
        Height over width.
    proposals : int
        Regions that reach the box head.
    detections : int
        Most instances in an image.

    """

    labels: tuple
    variant: str = 'fast'
    short_side: int = 480
    long_side: int = 640
    channels: int = 64
    box_features: int = 256
    mask_layers: int = 3
    anchor_sizes: tuple = (16, 32, 64, 120, 200)
    anchor_ratios: tuple = (0.5, 1.0, 2.0)
    proposals: int = 100
    detections: int = 20

    def __post_init__(self):
        for name in ('labels', 'anchor_sizes', 'anchor_ratios'):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise InputError(f'labels: expected different names, got {self.labels}')
        if self.variant not in VARIANTS:
            raise InputError(f'variant: expected one of {", ".join(VARIANTS)}, got '
                             f'{self.variant!r}')


class DensePart(nn.Module):
    """Backbone, feature pyramid and the convolutions of the proposals, of a MaskRCNN."""

    def __init__(self, network):
        super().__init__()
        self.backbone = network.backbone
        self.head = network.rpn.head

    def forward(self, images):
        """Return a tuple of feature maps, objectness and box changes, one each per level."""
        maps = self.backbone(images)
        features = [maps[level] for level in LEVELS]
        objectness, changes = self.head(features)
        return (*features, *objectness, *changes)


class _LiteFPN(nn.Module):
    """EfficientNet-Lite with a feature pyramid at strides 4 to 64."""

    def __init__(self, size, channels):
        super().__init__()
        self.body = EfficientNetLite(size)
        self.fpn = FeaturePyramidNetwork(self.body.channels, channels,
                                         extra_blocks=LastLevelMaxPool())
        self.out_channels = channels
        # Faster on CPUs than torch's usual order of values.
        self.memory_format = torch.channels_last

    def forward(self, x):
        return self.fpn(self.body(x.contiguous(memory_format=self.memory_format)))


@dataclass(frozen=True, eq=False)
class _View:
    """An image in one of its sizes: maps, and proposals (N, 4) in pixels of the first."""

    features: PooledPyramid
    factors: torch.Tensor
    proposals: torch.Tensor

    def pool(self, pooling, boxes):
        """Return the features of boxes, shape (N, 4), that are in pixels of the first size."""
        return self.features.pool(pooling, boxes * self.factors)

    def shifted(self, boxes):
        """
        Return boxes whose masks lie in this size where those of `boxes` lie in the first.

        roi_align takes the centre of the first pixel as (0, 0), see paste_mask, and half a pixel
        is less of a larger image.

        """
        return boxes + (0.5 - 0.5 / self.factors)


def build_network(config):
    """
    Return torchvision's MaskRCNN of a MaskRCNNConfig, with random weights.

    Class 0 is the background, class i + 1 is config.labels[i].

    """
    return VARIANTS[config.variant](config)


def _accurate(config):
    """Return torchvision's maskrcnn_resnet50_fpn_v2."""
    return maskrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None, num_classes=len(config.labels) + 1,
        min_size=config.short_side, max_size=config.long_side)


def _light(config, size):
    """Return a light one: EfficientNet-Lite, narrow heads, few proposals."""
    classes = len(config.labels) + 1
    anchors = AnchorGenerator(tuple((size,) for size in config.anchor_sizes),
                              (config.anchor_ratios,) * len(config.anchor_sizes))
    # Objects of 56 pixels leave the finest level for boxes; masks stay on it twice as long.
    box_pool = MultiScaleRoIAlign(['0', '1', '2', '3'], 7, 2, canonical_scale=112)
    mask_pool = MultiScaleRoIAlign(['0', '1', '2', '3'], 14, 2, canonical_scale=224)
    network = MaskRCNN(
        _LiteFPN(size, config.channels), min_size=config.short_side, max_size=config.long_side,
        image_mean=IMAGE_MEAN, image_std=IMAGE_STD, rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=300, rpn_post_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=2 * config.proposals, rpn_post_nms_top_n_test=config.proposals,
        rpn_batch_size_per_image=128, box_roi_pool=box_pool,
        box_head=TwoMLPHead(config.channels * 49, config.box_features),
        box_predictor=FastRCNNPredictor(config.box_features, classes),
        box_batch_size_per_image=64, box_detections_per_img=config.detections,
        mask_roi_pool=mask_pool,
        mask_head=MaskRCNNHeads(config.channels, (config.channels,) * config.mask_layers, 1),
        mask_predictor=MaskRCNNPredictor(config.channels, config.channels, classes))
    return network.to(memory_format=torch.channels_last)


# Which EfficientNet-Lite the light variants have.
LITE = {'fast': 0, 'medium': 2}
VARIANTS: dict[str, Callable] = {'accurate': _accurate}
VARIANTS.update((name, partial(_light, size=size)) for name, size in LITE.items())


def load_pretrained(network, config):
    """
    Give a new network the weights that its variant starts from.

    The light ones take ImageNet's, which come with a package. 'accurate' takes torchvision's COCO
    weights, all but those of the classes, where they can be downloaded, and says so where not.

    Returns
    -------
    pretrained : bool

    """
    if config.variant in LITE:
        network.backbone.body.load_imagenet()
        return True
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights as Weights
    try:
        state = Weights.DEFAULT.get_state_dict(progress=False)
    except (OSError, RuntimeError) as error:
        print(f'starting from random weights: {Weights.DEFAULT.url} cannot be had ({error})')
        return False
    copy_fitting(network, state)
    return True


def copy_fitting(network, state, with_classes=False):
    """Take the weights of a state dict, those of its classes if wanted; return how many fit."""
    mine = network.state_dict()
    fitting = {name: value for name, value in state.items()
               if (with_classes or 'box_predictor' not in name and 'mask_fcn_logits' not in name)
               and name in mine and mine[name].shape == value.shape}
    network.load_state_dict(fitting, strict=False)
    return len(fitting)


def early_layers(network, config):
    """Return the modules whose pretrained weights are kept as they are."""
    body = network.backbone.body
    if config.variant in LITE:
        return [body.stem, *body.stages[:FROZEN_STAGES]]
    return [body.conv1, body.bn1, body.layer1]


def save_checkpoint(path, network, config, **facts):
    """
    Write weights as safetensors with the config and facts (JSON values) inside.

    The largest weights are in 8 bits, others in half precision (docs/experiments.md). The file
    appears whole or not at all.

    """
    path = Path(path)
    state = packed({name: value.detach() for name, value in network.state_dict().items()}, PACKED)
    metadata = {'format': FORMAT, 'config': json.dumps(asdict(config)),
                'facts': json.dumps(facts)}
    unfinished = path.with_name(path.name + '.part')
    # Not save_file, which makes files that only their owner can read.
    unfinished.write_bytes(save(state, metadata))
    unfinished.replace(path)


def load_checkpoint(path):
    """
    Read what save_checkpoint wrote.

    Returns
    -------
    network : MaskRCNN
        In evaluation mode, float32.
    config : MaskRCNNConfig
    facts : dict

    Raises
    ------
    InputError
        For a file that is missing, truncated, foreign or of other shapes.

    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'{path}: expected segmenter weights, got no such file; make them with '
                         'python -m pose_estimator train-segmenter')
    try:
        with safe_open(path, 'pt') as file:
            metadata = file.metadata() or {}
            state = unpacked({name: file.get_tensor(name) for name in file.keys()})
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f'{path}: expected segmenter weights, got a file that is truncated or '
                         f'no safetensors ({error})') from error
    if metadata.get('format') != FORMAT:
        raise InputError(f'{path}: expected weights of format {FORMAT!r}, got '
                         f'{metadata.get("format")!r}')
    try:
        config = MaskRCNNConfig(**json.loads(metadata['config']))
        facts = json.loads(metadata['facts'])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f'{path}: expected a config of {FORMAT!r}, got {error}') from error
    network = build_network(config)
    wanted = network.state_dict()
    wrong = sorted(set(wanted) ^ set(state))
    wrong += [name for name in wanted if name in state
              and wanted[name].shape != state[name].shape]
    if wrong:
        raise InputError(f'{path}: expected the weights of its config, but {len(wrong)} differ, '
                         f'the first is {wrong[0]}')
    network.load_state_dict({name: value.to(wanted[name].dtype)
                             for name, value in state.items()})
    return network.eval(), config, facts


class MaskRCNNSegmenter:
    """
    Finds objects with a Mask R-CNN.

    Parameters
    ----------
    network : MaskRCNN
    names : list of str
        Name of each class, the background first.
    short_side, long_side : int
        An image is resized to fit within these, pixels.
    device : str
        'cpu', 'cuda', ...
    min_score : float
        Detections below are dropped.
    class_map : dict of name -> label, or None
        What the segmenter's classes are called outside; a class that it lacks is ignored and
        counted. None keeps all names.
    runtime : str
        One of runtimes.RUNTIMES; default: the fastest that is there.
    scales : sequence of float
        The image is looked at so many times, each time at these times its size.
    twice : bool
        Whether regions are classified once more in the boxes that come out.

    Attributes
    ----------
    labels : tuple of str
    runtime : str
    ignored : Counter
        How often each unmapped class was detected.

    """

    def __init__(self, network, names, short_side, long_side, device='cpu', min_score=0.5,
                 class_map=None, runtime=None, scales=(1.0,), twice=False):
        unknown = sorted(set(class_map or ()) - set(names[1:]))
        if unknown:
            raise InputError(f'class_map: expected classes of the segmenter '
                             f'({", ".join(names[1:])}), got {", ".join(unknown)}')
        if not 0 <= min_score <= 1:
            raise InputError(f'min_score: expected 0 to 1, got {min_score}')
        self._names = list(names)
        self._class_map = ({name: name for name in names[1:]} if class_map is None
                           else dict(class_map))
        self.labels = tuple(dict.fromkeys(self._class_map.values()))
        self.ignored = Counter()
        self._sides, self._is_reduced = (short_side, long_side), False
        self._scales, self._twice = scales, twice
        self._device = torch_device(device)
        self._network = network.to(self._device).eval()
        self._network.roi_heads.score_thresh = min_score
        # On GPUs in float32, as it was measured.
        is_on_cpu = self._device.type == 'cpu'
        self.runtime = runtime or (fastest(self._device) if is_on_cpu else 'eager')
        if self.runtime not in RUNTIMES:
            raise InputError(f'runtime: expected one of {", ".join(RUNTIMES)}, got '
                             f'{self.runtime!r}')
        missing = missing_packages(self.runtime)
        if missing:
            raise InputError(f'runtime: expected {" and ".join(missing)} for {self.runtime}, got '
                             f'no such package: pip install {" ".join(missing)}')
        self._dense = RUNTIMES[self.runtime](DensePart(self._network).eval())
        mean, spread = (torch.tensor(values, device=self._device).view(1, 3, 1, 1)
                        for values in (network.transform.image_mean, network.transform.image_std))
        self._gain, self._offset = 1 / (255 * spread), mean / spread
        if self.runtime != 'eager':  # what has to be compiled is, before the first image comes
            self._find(np.zeros((short_side, long_side, 3), np.uint8))

    @classmethod
    def from_checkpoint(cls, path, device='cpu', min_score=0.5, class_map=None, runtime=None):
        """Return the segmenter of a file that train-segmenter wrote."""
        network, config, _ = load_checkpoint(path)
        return cls.of(network, config, device, min_score, class_map, runtime)

    @classmethod
    def of(cls, network, config, device='cpu', min_score=0.5, class_map=None, runtime=None):
        """Return the segmenter of a network and its MaskRCNNConfig."""
        is_light = config.variant in LITE  # for which alone this was measured
        return cls(network, ['background', *config.labels], config.short_side, config.long_side,
                   device, min_score, class_map, runtime, SCALES if is_light else (1.0,), is_light)

    @classmethod
    def coco(cls, device='cpu', min_score=0.5, class_map=None):
        """
        Return torchvision's ResNet-50 with its COCO weights, downloaded at the first use.

        `class_map` defaults to book, bottle and cup.

        """
        from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights as Weights
        weights = Weights.DEFAULT
        try:
            network = maskrcnn_resnet50_fpn_v2(weights=weights, min_size=480, max_size=640)
        except (OSError, RuntimeError) as error:
            raise InputError(f'COCO weights: expected to download {weights.url}, got {error}; '
                             'connect to the internet, or use weights trained by '
                             'train-segmenter') from error
        names = list(weights.meta['categories'])
        return cls(network, names, 480, 640, device, min_score,
                   COCO_CLASS_MAP if class_map is None else class_map)

    def segment(self, image):
        """
        Find the objects in an image.

        Parameters
        ----------
        image : array of uint8, shape (H, W, 3) or, grey, (H, W)
            RGB, at least 16 x 16.

        Returns
        -------
        instances : list of Instance
            Best score first, ids counted from 1.

        Raises
        ------
        InputError
            For anything else, and when the GPU's memory does not suffice: at the first time a
            smaller input is tried, and kept.

        """
        image = np.asarray(image)
        if image.ndim == 2 and image.dtype == np.uint8:
            image = np.repeat(image[..., None], 3, 2)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(f'image: expected RGB of uint8, shape (H, W, 3), got '
                             f'{image.dtype} of shape {image.shape}')
        height, width = image.shape[:2]
        if min(height, width) < 16:
            raise InputError(f'image: expected at least 16 x 16 pixels, got {width} x {height}')
        try:
            return self._find(image)
        except torch.cuda.OutOfMemoryError as error:
            if self._is_reduced:
                raise InputError(f'image: expected less than the memory of {self._device} holds, '
                                 f'got {width} x {height}') from error
        self._is_reduced = True
        self._sides = tuple(side * 2 // 3 for side in self._sides)
        logging.getLogger(__name__).warning(
            'out of memory on %s: images are reduced to %d x %d from now on', self._device,
            *self._sides[::-1])
        return self.segment(image)

    def _find(self, image):
        height, width = image.shape[:2]
        views = [self._resized(image, scale) for scale in self._scales]
        boxes, labels, scores, masks = self._detect(views)
        size = views[0].shape[1::-1]
        factors = np.array([width / size[0], height / size[1]])
        instances = []
        for box, name, score, mask in zip(boxes, labels, scores, masks):
            if name not in self._class_map:
                self.ignored[name] += 1
                continue
            pasted = paste_mask(mask, box, factors, width, height)
            # The network counts from a pixel's edge, Instance from its centre.
            found = Instance(self._class_map[name], float(score),
                             box * np.tile(factors, 2) - 0.5, pasted, len(instances) + 1)
            if pasted.any() and all(_overlap(found, other) <= SAME_THING for other in instances):
                instances.append(found)
        return instances

    def _resized(self, image, scale):
        height, width = image.shape[:2]
        short, long = (side * scale for side in self._sides)
        factor = min(short / min(height, width), long / max(height, width))
        size = max(1, round(width * factor)), max(1, round(height * factor))
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1
                          else cv2.INTER_LINEAR)

    @torch.inference_mode()
    def _detect(self, images):
        """
        Run the network.

        Regions that the proposals of any image name are looked at in all of them.

        Parameters
        ----------
        images : list of arrays of uint8, shape (h, w, 3)
            The same in different sizes.

        Returns
        -------
        boxes : array, shape (N, 4)
            x0, y0, x1, y1 in pixels of the first image, edges at whole numbers.
        names : list of str
        scores : array, shape (N,)
            Falling.
        masks : array of float32, shape (N, M, M)
            Probability over the box.

        """
        views = [self._view(image, images[0].shape[:2]) for image in images]
        heads = self._network.roi_heads
        proposals = torch.cat([view.proposals for view in views])
        chances, changes = self._classify(views, proposals)
        if self._twice:
            # What is seen in boxes nearer to the things is surer (docs/segmentation.md).
            boxes = heads.box_coder.decode(changes, [proposals]).reshape(*chances.shape, 4)
            likeliest = (chances[:, 1:].argmax(1) + 1)[:, None, None].expand(-1, 1, 4)
            proposals = clip_boxes_to_image(boxes.gather(1, likeliest)[:, 0], images[0].shape[:2])
            chances, changes = self._classify(views, proposals)
        boxes, scores, labels = (one[0] for one in heads.postprocess_detections(
            chances.clamp(min=1e-9).log(), changes, [proposals], [images[0].shape[:2]]))
        masks = torch.stack([
            heads.mask_predictor(heads.mask_head(
                view.pool(heads.mask_roi_pool, view.shifted(boxes)))).sigmoid()
            for view in views]).mean(0)  # (N, classes, M, M)
        masks = masks[torch.arange(len(labels), device=labels.device), labels]
        boxes, scores, labels, masks = (one.float().cpu().numpy()
                                        for one in (boxes, scores, labels, masks))
        return boxes, [self._names[int(label)] for label in labels], scores, masks

    def _classify(self, views, regions):
        """Return what regions (N, 4) show, (N, classes) of 0..1, and how each class moves them."""
        heads = self._network.roi_heads
        seen = [heads.box_predictor(heads.box_head(view.pool(heads.box_roi_pool, regions)))
                for view in views]
        return tuple(torch.stack(one).mean(0) for one in zip(
            *((functional.softmax(logits, -1), changes) for logits, changes in seen)))

    def _view(self, image, first):
        """Return the _View of an image; `first` are height and width in the first of its sizes."""
        height, width = image.shape[:2]
        # Sides that are multiples of 32, as the strides want it.
        padded = torch.zeros(1, 3, height + -height % 32, width + -width % 32)
        for plane, channel in zip(padded[0], cv2.split(image)):
            plane[:height, :width] = torch.from_numpy(channel)
        padded = padded.to(self._device)
        padded[..., :height, :width].mul_(self._gain).sub_(self._offset)
        outputs = self._dense(padded)
        count = len(LEVELS)
        # Not more regions than one image alone would have.
        most = -(-self._network.rpn.post_nms_top_n() // len(self._scales))
        proposals = self._proposals(padded.shape[2:], (height, width), outputs[count:2 * count],
                                    outputs[2 * count:])[:most]
        factors = proposals.new_tensor([width / first[1], height / first[0]] * 2)
        # Regions are of the maps that have a stride of their own, all but the last.
        return _View(PooledPyramid(outputs[:count - 1], padded.shape[2]), factors,
                     proposals / factors)

    def _proposals(self, padded, sides, objectness, changes):
        """
        Return where something may be, shape (N, 4), likeliest first.

        What torchvision's RegionProposalNetwork gives, but only boxes that count are decoded.

        Parameters
        ----------
        padded, sides : tuples of int
            Height and width of what the network saw, and of the image in it.
        objectness, changes : lists of tensors, shape (1, A, h, w) and (1, 4 A, h, w)
            Of each level's A anchors.

        """
        rpn = self._network.rpn
        boxes, scores, levels = [], [], []
        for level, (score, change) in enumerate(zip(objectness, changes)):
            anchors, (height, width) = rpn.anchor_generator.cell_anchors[level], score.shape[2:]
            score, index = score.flatten().topk(min(rpn.pre_nms_top_n(), score.numel()))
            which, place = index // (height * width), index % (height * width)
            x, y = (place % width * (padded[1] // width), place // width * (padded[0] // height))
            anchors = anchors.to(score)[which] + torch.stack([x, y, x, y], 1)
            change = change.reshape(-1, 4, height * width)[which, :, place]
            boxes.append(rpn.box_coder.decode_single(change, anchors))
            scores.append(score)
            levels.append(torch.full_like(index, level))
        boxes, scores, levels = (torch.cat(each) for each in (boxes, scores, levels))
        boxes = clip_boxes_to_image(boxes, sides)
        kept = remove_small_boxes(boxes, rpn.min_size)
        kept = kept[batched_nms(boxes[kept], scores[kept], levels[kept], rpn.nms_thresh)]
        return boxes[kept[:rpn.post_nms_top_n()]]


def paste_mask(mask, box, factors, width, height, threshold=0.5):
    """
    Lay a mask over its box in an image.

    Parameters
    ----------
    mask : array of float32, shape (M, M)
        Probabilities.
    box : array, shape (4,)
        x0, y0, x1, y1 as the network gives them, in pixels of the resized image.
    factors : array, shape (2,)
        Width and height of the image over those of the resized one.
    width, height : int
        Of the image.
    threshold : float
        Probabilities from here on are the object.

    Returns
    -------
    pasted : array of bool, shape (height, width)

    """
    pasted = np.zeros((height, width), bool)
    x0, y0, x1, y1 = box * np.tile(factors, 2)
    left, top = max(int(np.floor(x0)), 0), max(int(np.floor(y0)), 0)
    right, bottom = min(int(np.ceil(x1)), width), min(int(np.ceil(y1)), height)
    if right <= left or bottom <= top:
        return pasted
    # roi_align, which cut the masks that the network learnt from, takes the centre of the
    # first pixel as (0, 0), though boxes count from its edge: pixel centres of the image in
    # that count, then in cells of the mask.
    x = (np.arange(left, right) + 0.5) / factors[0] - 0.5
    y = (np.arange(top, bottom) + 0.5) / factors[1] - 0.5
    u = (x - box[0]) / max(box[2] - box[0], 1e-6) * mask.shape[1] - 0.5
    v = (y - box[1]) / max(box[3] - box[1], 1e-6) * mask.shape[0] - 0.5
    maps = np.stack(np.meshgrid(u, v), -1).astype(np.float32)
    pasted[top:bottom, left:right] = cv2.remap(
        mask, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) >= threshold
    return pasted


def _overlap(first, second):
    """Return the part of the smaller one of two instances' masks that both cover."""
    x0, y0 = np.maximum(first.box[:2], second.box[:2]).astype(int) - 1
    x1, y1 = np.minimum(first.box[2:], second.box[2:]).astype(int) + 2
    if x0 >= x1 or y0 >= y1:
        return 0.0
    where = np.s_[max(y0, 0):y1, max(x0, 0):x1]
    both = np.count_nonzero(first.mask[where] & second.mask[where])
    smaller = min(np.count_nonzero(first.mask), np.count_nonzero(second.mask))
    return both / smaller if both else 0.0
