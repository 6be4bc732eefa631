"""The command evaluate: its table against the independent referee, its road from data to CSV."""

import json
from pathlib import Path
import subprocess
import sys
from types import SimpleNamespace

from bop_example import HEIGHT, IMAGES, true_pose, WIDTH, write_dataset
import numpy as np
from pose_estimator import evaluate
from pose_estimator.bop import BopDataset, read_results, Result, TARGETS, write_results
from pose_estimator.cli import main
from pose_estimator.errors import InputError
from pose_estimator.geometry import Pose
from pose_estimator.pipeline import PoseEstimator
from pose_estimator.true_masks import TrueMasks
import pytest

REFEREE = Path(__file__).resolve().parents[2] / 'shared' / 'tools' / 'score_bop.py'


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('bop'))


class Oracle:
    """An estimator that knows the true poses of bop_example, without one for masks' ids above."""

    needs_image = True

    def __init__(self, bop_ids):
        self.models = {name: SimpleNamespace(name=name, bop_id=number)
                       for name, number in bop_ids.items()}
        self.seen = []

    def estimate(self, image, instances, camera):
        """Return the true poses; the image is known by its camera's focal length."""
        assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
        key = next(key for key, one in IMAGES.items() if one[2] == camera.K[0, 0])
        self.seen.append(key)
        return [SimpleNamespace(name=one.label, score=0.9,
                                pose=true_pose(*key, self.models[one.label].bop_id))
                for one in instances if one.label in self.models]


@pytest.fixture
def oracle(monkeypatch):
    """Return a function that makes the commands use an Oracle."""
    def install(**bop_ids):
        estimator = Oracle(bop_ids)

        def from_directory(cls, *args, **options):
            estimator.options = options
            return estimator

        monkeypatch.setattr(PoseEstimator, 'from_directory', classmethod(from_directory))
        return estimator
    return install


def perturbed(dataset, rng, share=0.9):
    """Return random results: right, slightly wrong and hopeless ones, twice for some targets."""
    results = []
    for target in dataset.targets():
        truth = next(one for one in dataset.truths(target.scene_id, target.image_id)
                     if one.object_id == target.object_id)
        for _ in range(rng.integers(1, 3)):
            if rng.random() > share:
                continue
            size = rng.choice([0.01, 0.1, 1.0])
            noise = Pose.from_rotvec(rng.normal(0, size, 3), rng.normal(0, 0.1 * size, 3))
            pose = Pose(truth.pose.R_m2c @ noise.R_m2c, truth.pose.t_m2c + noise.t_m2c)
            # Few different scores, so that some are equal.
            results.append(Result(*target, round(float(rng.random()), 1), pose, 0.1))
    return results


def compare_with_referee(path, results_file, out, *options):
    """Assert that our table is the referee's."""
    if not REFEREE.is_file():
        pytest.skip(f'the independent referee is missing: {REFEREE}')
    report = out / 'referee.json'
    subprocess.run([sys.executable, str(REFEREE), str(path), str(results_file), '--json',
                    str(report), *options], check=True, capture_output=True, timeout=300)
    expected = json.loads(report.read_text())
    dataset = BopDataset(path)
    table = evaluate.score_table(evaluate.measure(dataset, read_results(results_file),
                                                  dataset.targets()))
    assert list(table) == list(expected)
    for name, row in expected.items():
        assert set(table[name]) == set(row) == set(evaluate.COLUMNS)
        for column, value in row.items():
            # The median angle by the arc cosine is good to 1e-6 degrees.
            tolerance = 1e-5 if column == 'rot_median_deg' else 1e-6
            assert table[name][column] == pytest.approx(value, abs=tolerance), (name, column)


@pytest.mark.slow
def test_table_is_the_referees_on_published_results(bop_data, tmp_path):
    path = bop_data('lmo_dev')
    compare_with_referee(path, path / 'peer_stacked_hourglass.csv', tmp_path)


@pytest.mark.slow
def test_table_is_the_referees_on_perturbed_poses(bop_data, tmp_path):
    path = bop_data('lmo_dev')
    write_results(tmp_path / 'out.csv', perturbed(BopDataset(path), np.random.default_rng(0)))
    compare_with_referee(path, tmp_path / 'out.csv', tmp_path)


@pytest.mark.parametrize('seed', range(4))
def test_table_is_the_referees_on_the_example(example, tmp_path, seed):
    rng = np.random.default_rng(seed)
    write_results(tmp_path / 'out.csv', perturbed(BopDataset(example), rng, share=0.7))
    compare_with_referee(example, tmp_path / 'out.csv', tmp_path, '--symmetric-adds', '2')


def test_results_without_finite_numbers_are_missing(example, tmp_path):
    (tmp_path / 'out.csv').write_text('scene_id,im_id,obj_id,score,R,t,time\n'
                                      '1,3,1,0.9,nan 0 0 0 1 0 0 0 1,0 0 400,-1\n')
    dataset = BopDataset(example)
    table = evaluate.score_table(evaluate.measure(
        dataset, read_results(tmp_path / 'out.csv'), dataset.targets()))
    assert table['all']['missing'] == 5 and table['all']['at95'] == 0
    compare_with_referee(example, tmp_path / 'out.csv', tmp_path, '--symmetric-adds', '2')


def test_at95_is_the_longest_prefix_that_is_95_percent_right():
    # Scores fall; the third of 40 is wrong, and so are the last 10.
    errors = [evaluate.Errors(1, score=1 - 0.01 * index, add=0.5 if index in (2, *range(30, 40))
                              else 0.01) for index in range(40)]
    row = evaluate.summarize(errors)
    # 30 poses with one wrong are 96.7 % right, 31 with two wrong are 93.5 %.
    assert row['at95'] == pytest.approx(100 * 30 / 40)
    assert row['add'] == pytest.approx(100 * 29 / 40)
    assert evaluate.summarize([evaluate.Errors(1)])['at95'] == 0


def test_oracle_is_right_everywhere_with_each_images_own_camera(example):
    dataset = BopDataset(example)
    estimator = Oracle({'one': 1, 'two': 2})
    masks = TrueMasks(dataset, {1: 'one', 2: 'two'})
    results = evaluate.evaluate(estimator, dataset, masks.instances)
    assert estimator.seen == sorted(IMAGES)
    assert [(one.scene_id, one.image_id, one.object_id) for one in results] == [
        tuple(one) for one in dataset.targets()]
    times = {(one.scene_id, one.image_id, one.time) for one in results}
    assert len(times) == len(IMAGES) and min(times)[2] > 0  # one of the whole image
    table = evaluate.score_table(evaluate.measure(dataset, results, dataset.targets()))
    for row in table.values():
        assert row['missing'] == 0
        assert [row[key] for key in ('add', 'proj5', '5cm5deg', 'mssd', 'mspd', 'at95')] == [
            pytest.approx(100)] * 6
        assert row['trans_median_mm'] == pytest.approx(0, abs=1e-6)


def test_best_score_counts_and_the_first_of_equals(example):
    dataset = BopDataset(example)
    good = true_pose(1, 3, 1)
    bad = Pose(good.R_m2c, good.t_m2c + [0, 0, 0.5])
    target = [one for one in dataset.targets() if one[:] == (1, 3, 1)]

    def add_of(*scored):
        results = [Result(1, 3, 1, score, pose) for score, pose in scored]
        return evaluate.measure(dataset, results, target)[0].add

    assert add_of((0.3, bad), (0.4, good)) < 0.01 < add_of((0.5, bad), (0.4, good))
    assert add_of((0.4, good), (0.4, bad)) < 0.01 < add_of((0.4, bad), (0.4, good))


@pytest.fixture
def twice(tmp_path):
    """The example with a second instance of object 1 in one image; returns all its truths."""
    write_dataset(tmp_path)
    folder = tmp_path / 'test/000001'
    for name, own in (('scene_gt', {'cam_t_m2c': [60.0, 50.0, 500.0]}), ('scene_gt_info', {})):
        values = json.loads((folder / f'{name}.json').read_text())
        values['7'].append({**values['7'][0], **own})
        (folder / f'{name}.json').write_text(json.dumps(values))
    targets = json.loads((tmp_path / TARGETS).read_text())
    target = next(one for one in targets if (one['im_id'], one['obj_id']) == (7, 1))
    target['inst_count'] = 2
    (tmp_path / TARGETS).write_text(json.dumps([target]))
    dataset = BopDataset(tmp_path)
    return dataset, [one.pose for one in dataset.truths(1, 7) if one.object_id == 1]


def test_each_of_several_instances_is_compared_with_its_own_truth(twice):
    dataset, (first, second) = twice
    wrong = Pose(first.R_m2c, first.t_m2c + [0, 0, 0.5])

    def right(*poses):
        results = [Result(1, 7, 1, 1 - index / 10, pose) for index, pose in enumerate(poses)]
        errors = evaluate.measure(dataset, results, dataset.targets())
        assert len(errors) == 2
        return (sum(one.add < 0.1 for one in errors),
                sum(not np.isfinite(one.score) for one in errors))

    assert right(second, first) == right(first, second) == (2, 0)
    assert right(second) == right(first) == (1, 1)
    assert right(first, first) == right(wrong, second) == right(first, wrong) == (1, 0)
    # As many count as are asked for, those with the best scores.
    assert right(wrong, first, second) == (1, 0)
    assert right() == (0, 2)


def test_what_is_hardly_seen_is_asked_for_last(twice):
    dataset, (first, second) = twice
    file = dataset.path / 'test/000001/scene_gt_info.json'
    values = json.loads(file.read_text())
    values['7'][0]['visib_fract'] = 0.05
    file.write_text(json.dumps(values))
    targets = json.loads((dataset.path / TARGETS).read_text())
    targets[0]['inst_count'] = 1
    (dataset.path / TARGETS).write_text(json.dumps(targets))
    near, = evaluate.pair(dataset, [Result(1, 7, 1, 0.9, first)], dataset.targets())
    assert np.array_equal(near.truth.pose.t_m2c, second.t_m2c)


def test_more_instances_than_true_poses(twice):
    dataset, _ = twice
    targets = json.loads((dataset.path / TARGETS).read_text())
    targets[0]['inst_count'] = 3
    (dataset.path / TARGETS).write_text(json.dumps(targets))
    with pytest.raises(InputError, match='names 3 of object 1 in image 7 .* has 2 true poses'):
        evaluate.measure(dataset, [], dataset.targets())


def command(path, out, *options):
    return main(['evaluate', str(path), '--models', str(path), '--output',
                 str(out / 'results.csv'), *options])


def test_command(example, tmp_path, oracle, capsys):
    oracle(box=1)
    assert command(example, tmp_path, '--detections', str(example / 'detections.json'),
                   '--json', str(tmp_path / 'table.json')) == 0
    printed = capsys.readouterr().out
    assert 'box (1)' in printed
    assert 'Objects without a model, all their targets missing: 2' in printed
    assert 'Detections without a model: category 2, 3' in printed
    assert 'Median error of the 2 targets with a pose: 0.0 cm, 0.0 degrees' in printed
    results = read_results(tmp_path / 'results.csv')
    assert [one.object_id for one in results] == [1, 1]
    report = json.loads((tmp_path / 'table.json').read_text())
    assert report['table']['all']['missing'] == 3
    assert report['table']['obj 1']['add'] == 100
    assert report['table']['obj 2']['rot_median_deg'] is None  # JSON knows no infinity
    assert report['detections_without_model'] == {'2': 3}
    compare_with_referee(example, tmp_path / 'results.csv', tmp_path, '--symmetric-adds', '2')


@pytest.mark.parametrize('option, left_out', [
    ((), None), (('--no-landmarks',), 'use_landmarks'), (('--no-refinement',), 'refine'),
    (('--no-support',), 'use_support')])
def test_what_is_left_out_for_measuring(example, tmp_path, oracle, option, left_out):
    estimator = oracle(box=1)
    assert command(example, tmp_path, '--masks', 'true', *option) == 0
    assert {name: estimator.options[name] for name in ('refine', 'use_landmarks', 'use_support')} \
        == {name: name != left_out for name in ('refine', 'use_landmarks', 'use_support')}


def test_command_with_some_objects(example, tmp_path, oracle, capsys):
    oracle(box=1, other=2)
    assert command(example, tmp_path, '--detections', str(example / 'detections.json'),
                   '--objects', '2') == 0
    printed = capsys.readouterr().out
    assert 'obj 1' not in printed and 'without a model' not in printed
    assert {one.object_id for one in read_results(tmp_path / 'results.csv')} == {2}


def test_command_with_true_masks_leaves_out_the_untrusted(tmp_path, oracle, capsys):
    write_dataset(tmp_path)
    file = tmp_path / 'test/000001/scene_gt_info.json'
    values = json.loads(file.read_text())
    values['3'][0]['px_count_visib'] *= 2
    file.write_text(json.dumps(values))
    oracle(box=1, other=2)
    assert command(tmp_path, tmp_path, '--masks', 'true') == 0
    printed = capsys.readouterr().out
    assert '1 of 5 targets have no trustworthy one' in printed
    assert read_results(tmp_path / 'results.csv')[0].object_id == 2


def test_detections_are_not_chosen_by_targets_or_truth(tmp_path, oracle):
    write_dataset(tmp_path)
    oracle(box=1, other=2)
    targets = json.loads((tmp_path / TARGETS).read_text())
    kept = [one for one in targets if one['obj_id'] == 2]
    (tmp_path / TARGETS).write_text(json.dumps(kept))
    assert command(tmp_path, tmp_path, '--detections', str(tmp_path / 'detections.json')) == 0
    # Object 1 is no target any more; its detections are estimated all the same.
    assert sum(one.object_id == 1 for one in read_results(tmp_path / 'results.csv')) == 2


def test_two_models_of_one_number_are_refused():
    models = {'a': SimpleNamespace(bop_id=1), 'b': SimpleNamespace(bop_id=1)}
    with pytest.raises(InputError, match='a and b both have bop_id 1'):
        evaluate.names_by_number(models)


def refused(capsys, code, words):
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith('error: ') and '\n' not in error and 'Traceback' not in error
    assert words in error, error


def test_missing_folder(tmp_path, capsys):
    refused(capsys, command(tmp_path / 'none', tmp_path, '--detections', 'x.json'),
            'no such folder')


def test_no_targets(tmp_path, capsys):
    write_dataset(tmp_path)
    (tmp_path / TARGETS).unlink()
    refused(capsys, command(tmp_path, tmp_path, '--detections', 'x.json'), TARGETS)


def test_no_targets_of_these_objects(example, tmp_path, capsys):
    refused(capsys, command(example, tmp_path, '--detections', 'x.json', '--objects', '99'),
            'targets of objects [99]')


def test_no_masks(example, tmp_path, capsys):
    refused(capsys, command(example, tmp_path), '--detections')


def test_no_models(example, tmp_path, capsys):
    refused(capsys, command(example, tmp_path, '--detections', 'x.json'), 'models')


def test_poses_that_are_not_mended_anyway(example, tmp_path, capsys):
    refused(capsys, command(example, tmp_path, '--masks', 'true', '--input', 'mask',
                            '--no-refinement'), '--no-refinement: expected input rgb_mask')


def test_models_without_a_number(example, tmp_path, oracle, capsys):
    oracle(box=None)
    refused(capsys, command(example, tmp_path, '--detections', 'x.json'), '--bop-id')


def test_output_folder_missing(example, tmp_path, oracle, capsys):
    oracle(box=1)
    refused(capsys, command(example, tmp_path / 'none', '--detections', 'x.json'),
            'existing folder')


@pytest.mark.parametrize('content', [None, '', '[', '{"a": 1}', '[{"a": 1}]'])
def test_bad_detections(example, tmp_path, oracle, capsys, content):
    oracle(box=1)
    if content is not None:
        (tmp_path / 'bad.json').write_text(content)
    refused(capsys, command(example, tmp_path, '--detections', str(tmp_path / 'bad.json')),
            'bad.json')


@pytest.mark.parametrize('content', [b'', b'not weights', b'\x10\x00\x00\x00\x00\x00\x00\x00{}'])
def test_bad_weights(example, tmp_path, capsys, content):
    (tmp_path / 'box.safetensors').write_bytes(content)
    code = main(['evaluate', str(example), '--models', str(tmp_path), '--output',
                 str(tmp_path / 'out.csv'), '--detections', str(example / 'detections.json')])
    refused(capsys, code, 'box.safetensors')
