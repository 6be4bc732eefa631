"""evaluate-segmenter: matching, figures, and the command on a small rendered data set."""

import json

from bop_example import write_dataset
import numpy as np
from pose_estimator import cli
from pose_estimator.evaluate_segmenter import (
    best_scored, CocoScores, mask_iou, match, object_names, Scores, TrueObject)
from pose_estimator.instance import box_iou, Instance, mask_box
import pytest


def mask_of(left, top, width, height):
    mask = np.zeros((60, 80), bool)
    mask[top:top + height, left:left + width] = True
    return mask


def found(label, score, *place):
    mask = mask_of(*place)
    return Instance(label, score, mask_box(mask), mask)


def true(label, *place, counts=True, trusted=True):
    mask = mask_of(*place)
    return TrueObject(label, mask_box(mask), mask if trusted else None, counts)


def test_overlaps():
    first, second = mask_of(0, 0, 10, 10), mask_of(5, 0, 10, 10)
    assert mask_iou(first, second) == pytest.approx(1 / 3)
    assert box_iou(mask_box(first), mask_box(second)) == pytest.approx(1 / 3)
    assert box_iou(mask_box(first), mask_box(mask_of(20, 20, 5, 5))) == 0
    assert mask_iou(first, first) == box_iou(mask_box(first), mask_box(first)) == 1


def test_second_detection_of_a_thing_is_false():
    truths = [true('cup', 10, 10, 20, 20), true('cup', 50, 10, 20, 20)]
    instances = [found('cup', 0.6, 10, 10, 20, 19), found('cup', 0.9, 11, 10, 20, 20),
                 found('cup', 0.8, 50, 10, 20, 18), found('mug', 0.7, 50, 10, 20, 20),
                 found('cup', 0.5, 30, 30, 20, 20)]
    assert [one.truth for one in match(instances, truths)] == [None, 0, 1, None, None]


def test_figures():
    scores = Scores()
    scores.add([found('cup', 0.9, 10, 10, 20, 20), found('cup', 0.3, 30, 30, 20, 20),
                found('can', 0.7, 52, 10, 18, 20)],
               [true('cup', 10, 10, 20, 20), true('can', 50, 10, 20, 20, trusted=False)])
    # The best-scored one misses: the second does not count for recall.
    scores.add([found('cup', 0.9, 50, 30, 20, 20), found('cup', 0.6, 10, 10, 20, 10)],
               [true('cup', 10, 10, 20, 20), true('can', 0, 0, 4, 4, counts=False)])
    row = scores.row()
    assert row['targets'] == 3 and scores.trusted == 2
    assert row['recall'] == pytest.approx(2 / 3)
    assert row['mask_iou'] == 1 and row['mask_size'] == 1, 'of the only one with a trusted mask'
    assert row['false_per_image'] == 1.0, 'the stray one in each image'
    assert scores.row(0.5)['false_per_image'] == 0.5
    assert scores.row(0.8)['recall'] == pytest.approx(1 / 3)
    assert scores.row(label='can')['recall'] == 1
    assert scores.threshold_of_recall(0.6) == 0.7
    assert scores.threshold_of_recall(0.9) is None
    hidden = [true('cup', 10, 10, 20, 20, counts=False)]
    scores.add([found('cup', 0.9, 10, 10, 20, 20)], hidden)
    assert scores.row()['recall'] == pytest.approx(2 / 3)
    assert scores.row()['false_per_image'] == pytest.approx(2 / 3)


def test_best_scored_are_as_many_as_there_are():
    instances = [found('cup', score, 0, 0, 5, 5) for score in (0.2, 0.9, 0.5)]
    truths = [true('cup', 0, 0, 5, 5), true('cup', 9, 9, 5, 5)]
    assert [one.score for one in best_scored(instances, truths)] == [0.9, 0.5]
    assert best_scored(instances, []) == []


def test_average_precision():
    pytest.importorskip('pycocotools')
    coco = CocoScores(['cup', 'can'])
    coco.add([found('cup', 0.9, 10, 10, 20, 20), found('can', 0.8, 50, 10, 20, 20)],
             [true('cup', 10, 10, 20, 20), true('can', 50, 10, 20, 20)], 60, 80)
    precisions = coco.average_precisions()
    assert precisions == {'box': (pytest.approx(1), pytest.approx(1)),
                          'mask': (pytest.approx(1), pytest.approx(1))}
    # Half a mask in the right box; the other class is found where nothing is.
    coco.add([found('cup', 0.7, 10, 10, 20, 20), found('can', 0.95, 30, 30, 9, 9)],
             [true('cup', 10, 10, 20, 20, trusted=False), true('can', 50, 10, 20, 20)], 60, 80)
    precisions = coco.average_precisions()
    assert precisions['mask'][1] == pytest.approx(0.5 * (1 + 0.25), abs=0.01)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    pytest.importorskip('embreex')
    return write_dataset(tmp_path_factory.mktemp('bop'))


def test_perfect_detections(dataset, tmp_path, capsys):
    table = tmp_path / 'table.json'
    again = tmp_path / 'again.json'
    assert cli.main(['evaluate-segmenter', str(dataset), '--detections',
                     str(dataset / 'detections.json'), '--json', str(table), '--output',
                     str(again), '--equal-recall', '1']) == 0
    values = json.loads(table.read_text())
    assert values['images'] == 3 and values['targets'] == values['trusted_masks'] == 5
    row = values['rows']['any score']
    assert row['recall'] == 1 and row['mask_iou'] == 1 and row['false_per_image'] == 0
    assert set(values['rows']) == {'any score', '>= 0.5', '>= 0.900', 'obj_000001',
                                   'obj_000002'}
    # What it writes can be read again, and is the same.
    first, second = (json.loads(path.read_text()) for path in (dataset / 'detections.json',
                                                               again))
    assert [one['segmentation'] for one in first] == [one['segmentation'] for one in second]
    assert [one['bbox'] for one in first] == [one['bbox'] for one in second]
    assert '5 of them' in capsys.readouterr().out


def test_only_some_objects(dataset, tmp_path):
    table = tmp_path / 'table.json'
    assert cli.main(['evaluate-segmenter', str(dataset), '--detections',
                     str(dataset / 'detections.json'), '--objects', '1', '--json',
                     str(table)]) == 0
    assert json.loads(table.read_text())['targets'] == 2


def test_segmenter_of_other_objects_is_all_false(dataset, tmp_path):
    torch = pytest.importorskip('torch')
    from pose_estimator.segmentation.mask_rcnn import (
        build_network, MaskRCNNConfig, save_checkpoint)
    torch.manual_seed(0)
    config = MaskRCNNConfig(('mug',), channels=16, box_features=32, mask_layers=1, proposals=10)
    weights = tmp_path / 'mug.safetensors'
    network = build_network(config)
    with torch.no_grad():  # whatever it finds has a mask
        network.roi_heads.mask_predictor.mask_fcn_logits.bias.fill_(9)
    save_checkpoint(weights, network, config)
    table = tmp_path / 'table.json'
    assert cli.main(['evaluate-segmenter', str(dataset), '--weights', str(weights),
                     '--min-score', '0', '--json', str(table)]) == 0
    values = json.loads(table.read_text())
    assert values['rows']['>= 0']['false_per_image'] > 0 and values['targets'] == 0
    assert values['seconds_median'] > 0


def test_names_of_objects(dataset):
    from pose_estimator.bop import BopDataset
    names = object_names(BopDataset(dataset), ['obj_000002', 'obj_000077', 'cup'])
    assert names == {2: 'obj_000002'}


def test_refusals(dataset, tmp_path):
    detections = ['--detections', str(dataset / 'detections.json')]
    for extra in (['--min-score', '2'], ['--equal-recall', '-1'],
                  ['--output', str(tmp_path / 'none' / 'a.json')]):
        assert cli.main(['evaluate-segmenter', str(dataset), *detections, *extra]) == 2
    assert cli.main(['evaluate-segmenter', str(dataset), '--weights', 'none.safetensors']) == 2
