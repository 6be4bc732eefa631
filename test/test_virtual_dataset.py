"""Data sets of virtual scenes: what is written is true, and evaluate reads it."""

import json
from pathlib import Path

import numpy as np
from pose_estimator import evaluate
from pose_estimator.bop import BopDataset, Result
from pose_estimator.cli import main
from pose_estimator.evaluate_segmenter import object_names
from pose_estimator.object_model import load_object
from pose_estimator.synthetic.render import RayCaster
import pytest

MODELS = Path(__file__).resolve().parents[1] / 'models'
NAMES = ('book', 'bottle')


def make(folder, *options, names=NAMES):
    return main(['virtual-dataset', *(str(MODELS / f'{name}.yaml') for name in names),
                 '--output', str(folder), *options])


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp('virtual') / 'scenes'
    assert make(folder, '--images', '8', '--size', '320x240') == 0
    return BopDataset(folder)


def test_masks_are_where_the_true_poses_have_the_objects(written):
    assert written.names() == {1: 'book', 2: 'bottle'}
    casters = {number: RayCaster(load_object(MODELS / f'{name}.yaml')[1])
               for number, name in written.names().items()}
    offsets = []
    for scene_id, image_id in written.images():
        assert written.image(scene_id, image_id).shape == (240, 320, 3)
        camera = written.camera(scene_id, image_id, 320, 240)
        for index, truth in enumerate(written.truths(scene_id, image_id)):
            mask = written.visible_mask(scene_id, image_id, index)
            assert truth.pixels_visible == mask.sum()
            drawn = casters[truth.object_id].render(truth.pose, camera.K, 320, 240).mask
            assert np.count_nonzero(mask & ~drawn) < 0.05 * mask.sum() + 5
            if truth.visible_fraction > 0.999:
                assert np.count_nonzero(mask ^ drawn) < 0.1 * drawn.sum()
                offsets.append([np.mean(one) - np.mean(other)
                                for one, other in zip(np.nonzero(mask), np.nonzero(drawn))])
    assert len(offsets) >= 4
    assert np.abs(np.mean(offsets, 0)).max() < 0.1  # pixels


def test_true_poses_of_all_copies_are_right(written):
    counts = written.instance_counts()
    assert max(counts.values()) > 1 and len(counts) == len(written.targets())
    rng = np.random.default_rng(0)
    results = [Result(scene_id, image_id, truth.object_id, float(rng.random()), truth.pose)
               for scene_id, image_id in written.images()
               for truth in written.truths(scene_id, image_id) if truth.visible_fraction >= 0.1]
    row = evaluate.summarize(evaluate.measure(written, results, written.targets()))
    assert row['targets'] == len(results) == sum(counts.values())
    assert row['missing'] == 0
    assert [row[key] for key in ('add', '5cm5deg', 'mssd', 'mspd', 'at95')] == [100] * 5


def test_objects_are_known_by_name(written, tmp_path, capsys):
    assert object_names(written, ['cup', 'book']) == {1: 'book'}
    assert main(['evaluate', str(written.path), '--models', str(MODELS), '--masks', 'true',
                 '--objects', '2', '--output', str(tmp_path / 'out.csv')]) == 0
    printed = capsys.readouterr().out
    assert 'models: bottle (2)' in printed and 'Objects without' not in printed


def test_prints_alone_are_measured(written, tmp_path, capsys):
    table = tmp_path / 'table.json'
    assert main(['evaluate-segmenter', str(written.path), '--prints', str(MODELS), '--objects',
                 '1', '--json', str(table)]) == 0
    assert 'scenes, prints: 8 images' in capsys.readouterr().out
    found = json.loads(table.read_text())
    assert found['targets'] > 5 and found['rows']['any score']['recall'] > 0


def test_empty_scenes_are_of_other_things(tmp_path):
    assert make(tmp_path / 'none', '--images', '2', '--size', '96x72', '--empty') == 0
    dataset = BopDataset(tmp_path / 'none')
    assert len(dataset.images()) == 2 and dataset.targets() == []
    assert not any(dataset.truths(*image) for image in dataset.images())


def test_the_same_seed_gives_the_same_scenes(tmp_path):
    for folder in ('first', 'second'):
        assert make(tmp_path / folder, '--images', '2', '--size', '96x72', '--seed', '3',
                    names=('cup',)) == 0
    first, second = (json.loads((tmp_path / folder / 'test/000001/scene_gt.json').read_text())
                     for folder in ('first', 'second'))
    assert first == second and first['0'] != first['1']


@pytest.mark.parametrize('options, words', [
    (('--size', '640'), "--size: expected 640x480 or the like, 64 or more each, got '640'"),
    (('--size', '32x32'), '--size: expected'),
    (('--distances', '2', '1'), '--distances: expected 0 < NEAR < FAR, got 2 and 1'),
    (('--images', '0'), '--images: expected at least 1, got 0')])
def test_bad_options(tmp_path, capsys, options, words):
    assert make(tmp_path / 'out', *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_nothing_is_written_over(tmp_path, capsys):
    (tmp_path / 'mine.txt').write_text('')
    assert make(tmp_path) == 2
    assert 'expected no such folder or an empty one' in capsys.readouterr().err


def test_two_objects_of_one_name(tmp_path, capsys):
    assert make(tmp_path / 'out', names=('cup', 'cup')) == 2
    assert 'expected different names, got cup, cup' in capsys.readouterr().err
