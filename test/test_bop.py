"""BOP data sets and result files."""

import json

from bop_example import HEIGHT, IMAGES, intrinsics, true_pose, WIDTH, write_dataset
import numpy as np
from pose_estimator import bop
from pose_estimator.errors import InputError
from pose_estimator.geometry import Pose, random_rotations
from pose_estimator.true_masks import TrueMasks
import pytest


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp('bop'))


@pytest.fixture
def dataset(path):
    return bop.BopDataset(path)


def test_images_are_those_of_the_targets(dataset):
    assert dataset.images() == sorted(IMAGES)
    assert len(dataset.targets()) == 5
    assert dataset.targets()[0] == bop.Target(1, 3, 1)


def test_without_targets_images_are_all(tmp_path):
    write_dataset(tmp_path)
    (tmp_path / bop.TARGETS).unlink()
    dataset = bop.BopDataset(tmp_path)
    assert dataset.images() == sorted(IMAGES)
    with pytest.raises(InputError, match='test_targets_bop19.json: expected a file'):
        dataset.targets()


@pytest.mark.parametrize('image', sorted(IMAGES))
def test_each_image_has_its_own_pixels_and_camera(dataset, image):
    pixels = dataset.image(*image)
    assert pixels.shape == (HEIGHT, WIDTH, 3) and pixels.dtype == np.uint8
    assert abs(pixels[0, 0].astype(int) - 120).max() < 4
    camera = dataset.camera(*image, WIDTH, HEIGHT)
    np.testing.assert_allclose(camera.K, intrinsics(IMAGES[image][2]))
    assert not camera.is_distorted


def test_colours_are_rgb(dataset):
    # The mesh's colours at a visible pixel, not blue and red exchanged.
    mesh = dataset.mesh(1)
    pose = dataset.truths(1, 3)[0].pose
    pixels = dataset.camera(1, 3, WIDTH, HEIGHT).project(pose.transform(mesh.vertices))
    image = dataset.image(1, 3).astype(int)
    near = np.argsort(pose.transform(mesh.vertices)[:, 2])[0]
    x, y = np.round(pixels[near]).astype(int)
    patch = image[y - 1:y + 2, x - 1:x + 2].reshape(-1, 3)
    colour = mesh.colors[near].astype(int)
    assert (abs(patch - colour).sum(-1).min() < abs(patch - colour[::-1]).sum(-1).min())


def test_truths_are_metres(dataset):
    truths = dataset.truths(1, 3)
    assert [one.object_id for one in truths] == [1, 2]
    for truth in truths:
        expected = true_pose(1, 3, truth.object_id)
        np.testing.assert_allclose(truth.pose.matrix, expected.matrix, atol=1e-9)
        assert truth.visible_fraction > 0.5 and truth.pixels_visible > 100
        x0, y0, x1, y1 = truth.box_visible
        assert -0.5 <= x0 < x1 <= WIDTH - 0.5 and -0.5 <= y0 < y1 <= HEIGHT - 0.5


def test_rotation_off_orthonormal_is_mended_and_kept(tmp_path):
    write_dataset(tmp_path)
    file = tmp_path / 'test/000001/scene_gt.json'
    values = json.loads(file.read_text())
    values['3'][0]['cam_R_m2c'] = (1.001 * np.array(values['3'][0]['cam_R_m2c'])).tolist()
    file.write_text(json.dumps(values))
    truth = bop.BopDataset(tmp_path).truths(1, 3)[0]
    np.testing.assert_allclose(truth.pose.R_m2c, true_pose(1, 3, 1).R_m2c, atol=1e-9)
    np.testing.assert_allclose(truth.given_pose.R_m2c, 1.001 * truth.pose.R_m2c, atol=1e-9)


def test_models_are_metres(dataset):
    assert dataset.object_ids() == [1, 2]
    assert dataset.diameter(1) == pytest.approx(np.linalg.norm([0.06, 0.04, 0.03]))
    np.testing.assert_allclose(np.ptp(dataset.error_points(1), axis=0), [0.06, 0.04, 0.03])
    np.testing.assert_allclose(np.ptp(dataset.mesh(2).vertices, axis=0), [0.07, 0.04, 0.03])
    assert len(dataset.symmetries(1).transforms()) == 1
    assert len(dataset.symmetries(2).transforms()) == 2


def test_true_masks_are_the_rendered_ones(dataset):
    masks = TrueMasks(dataset, {1: 'one', 2: 'two'})
    detections = json.loads((dataset.path / 'detections.json').read_text())
    for image in dataset.images():
        instances = masks.instances(*image, HEIGHT, WIDTH)
        assert [one.id for one in instances] == list(range(1, len(instances) + 1))
        expected = [one for one in detections if (one['scene_id'], one['image_id']) == image]
        assert len(instances) == len(expected)
        for instance, detection in zip(instances, expected):
            x, y, width, height = detection['bbox']
            np.testing.assert_allclose(
                instance.box, [x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5])
            assert instance.mask.sum() == sum(detection['segmentation']['counts'][1::2])
    assert not masks.untrusted


def test_true_masks_that_disagree_with_the_count_are_left_out(tmp_path):
    write_dataset(tmp_path)
    file = tmp_path / 'test/000001/scene_gt_info.json'
    values = json.loads(file.read_text())
    values['3'][1]['px_count_visib'] //= 2
    file.write_text(json.dumps(values))
    masks = TrueMasks(bop.BopDataset(tmp_path), {1: 'one', 2: 'two'})
    assert [one.label for one in masks.instances(1, 3, HEIGHT, WIDTH)] == ['one']
    assert masks.untrusted == [bop.Target(1, 3, 2)]


def test_results_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    results = [bop.Result(2, index, 5, rng.random(), Pose(rotation, rng.normal(0, 1, 3)), 0.25)
               for index, rotation in enumerate(random_rotations(rng, 5))]
    bop.write_results(tmp_path / 'out.csv', results)
    lines = (tmp_path / 'out.csv').read_text().splitlines()
    assert lines[0] == 'scene_id,im_id,obj_id,score,R,t,time'
    first = float(lines[1].split(',')[5].split()[0])
    assert first == pytest.approx(1000 * results[0].pose.t_m2c[0])
    for read, written in zip(bop.read_results(tmp_path / 'out.csv'), results):
        assert (read.scene_id, read.image_id, read.object_id, read.score, read.time) == (
            written.scene_id, written.image_id, written.object_id, written.score,
            written.time)
        np.testing.assert_allclose(read.pose.matrix, written.pose.matrix, rtol=1e-12)


def test_result_without_finite_numbers_has_no_pose(tmp_path):
    (tmp_path / 'out.csv').write_text('scene_id,im_id,obj_id,score,R,t,time\n'
                                      '1,3,1,0.5,1 0 0 0 1 0 0 0 1,nan 0 0,-1\n')
    assert bop.read_results(tmp_path / 'out.csv')[0].pose is None


@pytest.mark.parametrize('content, words', [
    ('a,b\n1,2\n', 'line 2: expected scene_id,im_id'),
    ('scene_id,im_id,obj_id,score,R,t,time\n1,3,1,0.5,1 0 0,0 0 0,-1\n', 'line 2'),
    ('scene_id,im_id,obj_id,score,R,t,time\n1,3,1,nan,1 0 0 0 1 0 0 0 1,0 0 0,-1\n', 'score'),
    ('scene_id,im_id,obj_id,score,R,t,time\n1,3,1\n', 'line 2'),
])
def test_bad_result_file(tmp_path, content, words):
    (tmp_path / 'out.csv').write_text(content)
    with pytest.raises(InputError, match=words):
        bop.read_results(tmp_path / 'out.csv')


def test_missing_result_file(tmp_path):
    with pytest.raises(InputError, match='expected a result file'):
        bop.read_results(tmp_path / 'none.csv')
    with pytest.raises(InputError, match='cannot be written'):
        bop.write_results(tmp_path / 'no' / 'out.csv', [])


def test_bad_dataset(tmp_path):
    with pytest.raises(InputError, match='no such folder'):
        bop.BopDataset(tmp_path / 'none')
    with pytest.raises(InputError, match='expected a BOP data set with'):
        bop.BopDataset(tmp_path)


@pytest.mark.parametrize('name, content, words', [
    (bop.TARGETS, '{"a": 1}', 'expected a JSON list'),
    (bop.TARGETS, '[{"a": 1}]', 'expected a list of scene_id'),
    (bop.TARGETS, '[tru', 'expected JSON'),
    ('test/000001/scene_camera.json', '{"3": {}}', 'cam_K'),
    ('test/000001/scene_camera.json', '{"4": {}}', 'expected image 3'),
    ('test/000001/scene_gt.json', '{"3": [{"obj_id": 1}]}', 'cam_R_m2c'),
    ('test/000001/scene_gt.json', '{"3": [{"obj_id": 1, "cam_R_m2c": [1, 2],'
     ' "cam_t_m2c": [0, 0, 1]}]}', 'cam_R_m2c'),
    ('test/000001/rgb/000003.png', 'text', 'cannot be read'),
    ('models_eval/models_info.json', '{}', 'diameter of object 1'),
])
def test_bad_file(tmp_path, name, content, words):
    write_dataset(tmp_path)
    (tmp_path / name).write_text(content)
    dataset = bop.BopDataset(tmp_path)
    with pytest.raises(InputError, match=words):
        dataset.targets()
        dataset.camera(1, 3, WIDTH, HEIGHT)
        dataset.truths(1, 3)
        dataset.image(1, 3)
        dataset.diameter(1)


def test_missing_image_and_scene(dataset):
    with pytest.raises(InputError, match='expected rgb/000099.png'):
        dataset.image(1, 99)
    with pytest.raises(InputError, match='expected scene 9, got only 1, 2'):
        dataset.image(9, 3)
