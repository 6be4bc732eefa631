"""The command run: pictures and videos in, annotated ones and poses out, without ROS."""

import csv
import json

from bop_example import HEIGHT, IMAGES, intrinsics, true_pose, WIDTH, write_dataset
import cv2
import numpy as np
from pose_estimator import drawing, run_images
from pose_estimator.camera_file import load_camera
from pose_estimator.cli import main
from pose_estimator.confirmed import ConfirmedSegmenter
from pose_estimator.errors import InputError
from pose_estimator.instance import Instance
from pose_estimator.object_model import object_from_mesh
from pose_estimator.pipeline import ObjectPose, PoseEstimator
from pose_estimator.prints import PrintSegmenter
import pytest
import yaml

POSE = true_pose(1, 3, 1)


def calibration(**changes):
    """Return what camera_calibration writes, as plain values."""
    matrix = intrinsics(200.0)
    values = {
        'image_width': WIDTH, 'image_height': HEIGHT, 'camera_name': 'narrow',
        'camera_matrix': {'rows': 3, 'cols': 3, 'data': matrix.ravel().tolist()},
        'distortion_model': 'plumb_bob',
        'distortion_coefficients': {'rows': 1, 'cols': 5, 'data': [-0.1, 0.02, 0.0, 0.0, 0.0]},
        'rectification_matrix': {'rows': 3, 'cols': 3, 'data': np.eye(3).ravel().tolist()},
        'projection_matrix': {'rows': 3, 'cols': 4, 'data': [190.0, 0.0, 80.0, 0.0,
                                                             0.0, 195.0, 60.0, 0.0,
                                                             0.0, 0.0, 1.0, 0.0]}}
    values.update(changes)
    return {key: value for key, value in values.items() if value is not None}


@pytest.fixture
def camera_file(tmp_path):
    path = tmp_path / 'camera.yaml'
    path.write_text(yaml.safe_dump(calibration(
        distortion_coefficients={'rows': 1, 'cols': 5, 'data': [0.0] * 5})))
    return path


def picture(value=90):
    return np.full((HEIGHT, WIDTH, 3), value, np.uint8)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / 'photos'
    path.mkdir()
    for name in ('000003.png', '000010.jpg', '000004.png'):
        cv2.imwrite(str(path / name), picture())
    (path / 'notes.txt').write_text('not an image')
    return path


@pytest.fixture
def video(tmp_path):
    path = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 12, (WIDTH, HEIGHT))
    for index in range(6):
        writer.write(picture(40 * index))
    writer.release()
    return path


class Estimator:
    """One box with a pose and one without, in every image that has instances."""

    needs_image = True

    def __init__(self, model):
        self.models = {'box': model}
        self.cameras, self.options = [], None

    def estimate(self, image, instances, camera):
        """Return POSE for the first instance, none for the others."""
        assert image.shape == (HEIGHT, WIDTH, 3)
        self.cameras.append(camera)
        count = len(self.models['box'].keypoints)
        found = []
        for index, instance in enumerate(instances):
            pose = POSE if index == 0 else None
            found.append(ObjectPose(
                'box', instance, pose, 0.8 if pose else 0.0, np.eye(6) if pose else None,
                camera.project(POSE.transform(self.models['box'].keypoints)), np.ones(count),
                np.ones(count, bool), 0.5, '' if pose else 'too few keypoints agree'))
        return found


class Segmenter:
    """Two boxes in every image."""

    labels = ('box',)

    def segment(self, image):
        """Return two instances."""
        mask = np.zeros(image.shape[:2], bool)
        return [Instance('box', 0.9, [20, 20, 60, 60], mask, 1),
                Instance('box', 0.5, [90, 20, 120, 50], mask, 2)]


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Put an estimator and a segmenter into the command that need no weights."""
    write_dataset(tmp_path / 'bop')
    model, _ = object_from_mesh(tmp_path / 'bop/models/obj_000001.ply', 'mm', 'box')
    estimator = Estimator(model)

    def from_directory(cls, directory, **options):
        estimator.options = options
        return estimator

    monkeypatch.setattr(PoseEstimator, 'from_directory', classmethod(from_directory))
    monkeypatch.setattr(ConfirmedSegmenter, 'from_checkpoint',
                        classmethod(lambda cls, path, models, **options: Segmenter()))
    return estimator


def command(camera_file, output, *sources):
    return main(['run', *map(str, sources), '--camera', str(camera_file), '--models', 'models',
                 '--output', str(output)])


def has_blue_box(image_rgb):
    return (np.abs(image_rgb.astype(int) - drawing.BLUE) < 60).all(-1).sum() > 50


def test_folder_of_pictures(folder, camera_file, fakes, tmp_path, capsys):
    out = tmp_path / 'out'
    assert command(camera_file, out, folder) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        '000003.png', '000004.png', '000010.png', 'poses.csv', 'poses.json']
    drawn = cv2.imread(str(out / '000003.png'))[..., ::-1]
    assert drawn.shape == (HEIGHT, WIDTH, 3) and has_blue_box(drawn)
    records = json.loads((out / 'poses.json').read_text())
    assert [one['image'] for one in records] == ['000003', '000004', '000010']
    first, second = records[0]['objects']
    np.testing.assert_allclose(first['position'], POSE.t_m2c, atol=1e-6)
    np.testing.assert_allclose(first['quaternion'], POSE.quaternion, atol=1e-6)
    assert first['object'] == 'box' and first['score'] == 0.8 and first['instance'] == 1
    assert len(first['covariance']) == 36
    assert second['reason'] == 'too few keypoints agree' and 'position' not in second
    with open(out / 'poses.csv', newline='') as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6 and float(rows[0]['z']) == pytest.approx(POSE.t_m2c[2], abs=1e-6)
    assert rows[1]['x'] == '' and rows[1]['reason'] == 'too few keypoints agree'
    printed = capsys.readouterr().out
    assert printed.count('score 0.80') == 3
    assert printed.count('no pose: too few keypoints agree') == 3
    assert '3 poses in 3 images' in printed


def test_files_and_patterns(folder, camera_file, fakes, tmp_path):
    out = tmp_path / 'out'
    assert command(camera_file, out, folder / '*.png', folder / '000010.jpg') == 0
    assert len(json.loads((out / 'poses.json').read_text())) == 3


def test_pictures_of_one_name_do_not_overwrite_each_other(folder, camera_file, fakes, tmp_path):
    cv2.imwrite(str(folder / '000003.jpg'), picture())
    out = tmp_path / 'out'
    assert command(camera_file, out, folder) == 0
    assert len(list(out.glob('*.png'))) == 4


def test_video_to_video(video, camera_file, fakes, tmp_path):
    out = tmp_path / 'out.avi'
    assert command(camera_file, out, video) == 0
    frames = run_images.open_input([str(out)])
    assert frames.rate == 12
    images = [frame.image for frame in frames]
    assert len(images) == 6 and images[0].shape == (HEIGHT, WIDTH, 3)
    # In order, each with its drawing.
    assert images[1][-5:, -5:].mean() < images[5][-5:, -5:].mean()
    assert has_blue_box(images[2])
    assert len(json.loads((tmp_path / 'out.poses.json').read_text())) == 6
    assert (tmp_path / 'out.poses.csv').exists()


def test_video_to_pictures_and_pictures_to_video(video, folder, camera_file, fakes, tmp_path):
    assert command(camera_file, tmp_path / 'frames', video) == 0
    assert (tmp_path / 'frames/000005.png').exists()
    assert command(camera_file, tmp_path / 'film.mp4', folder) == 0
    assert len(list(run_images.open_input([str(tmp_path / 'film.mp4')]))) == 3


def test_prints_may_be_all_that_is_known(folder, camera_file, fakes, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(PrintSegmenter, 'from_directory',
                        lambda models: asked.append(str(models)) or Segmenter())
    assert command(camera_file, tmp_path / 'out', folder, '--segmenter', 'prints') == 0
    assert asked == ['models']


def test_recorded_detections_are_found_by_file_and_folder_name(camera_file, fakes, tmp_path):
    root = tmp_path / 'bop'
    assert main(['run', str(root / 'test/000001/rgb'), '--camera', str(camera_file),
                 '--detections', str(root / 'detections.json'), '--models', 'models',
                 '--output', str(tmp_path / 'out')]) == 0
    records = json.loads((tmp_path / 'out/poses.json').read_text())
    expected = [key[1] for key in sorted(IMAGES) if key[0] == 1]
    assert [int(one['image']) for one in records] == expected
    assert [len(one['objects']) for one in records] == [1, 1]


def test_options_reach_the_estimator(folder, camera_file, fakes, tmp_path):
    assert main(['run', str(folder), '--camera', str(camera_file), '--output',
                 str(tmp_path / 'out'), '--models', 'models', '--input', 'mask',
                 '--min-score', '0.7', '--class-map', 'thing=box']) == 0
    assert fakes.options == {'network_input': 'mask', 'device': 'cpu', 'min_score': 0.7}


def test_rectified_uses_the_projection_matrix(folder, fakes, tmp_path):
    path = tmp_path / 'camera.yaml'
    path.write_text(yaml.safe_dump(calibration()))
    for options in ([], ['--rectified']):
        assert main(['run', str(folder), '--camera', str(path), '--models', 'models', '--output',
                     str(tmp_path / 'out'), *options]) == 0
    raw, rectified = fakes.cameras[0], fakes.cameras[-1]
    assert raw.is_distorted and raw.K[0, 0] == 200 and raw.distortion_model == 'plumb_bob'
    assert not rectified.is_distorted and rectified.K[0, 0] == 190 and rectified.K[1, 2] == 60


@pytest.mark.parametrize('model, count', [('plumb_bob', 4), ('rational_polynomial', 8),
                                          ('equidistant', 4)])
def test_calibrations(tmp_path, model, count):
    path = tmp_path / 'camera.yaml'
    path.write_text(yaml.safe_dump(calibration(
        distortion_model=model,
        distortion_coefficients={'rows': 1, 'cols': count, 'data': [0.01] * count})))
    camera = load_camera(path)
    assert (camera.width, camera.height) == (WIDTH, HEIGHT)
    assert camera.distortion_model == model
    np.testing.assert_allclose(camera.distortion, 0.01)
    np.testing.assert_allclose(camera.K, intrinsics(200.0))


def test_calibration_without_distortion(tmp_path):
    path = tmp_path / 'camera.yaml'
    path.write_text(yaml.safe_dump(calibration(distortion_model=None,
                                               distortion_coefficients=None)))
    assert not load_camera(path).is_distorted


@pytest.mark.parametrize('changes, words', [
    ({'image_width': None}, 'expected image_width in pixels, got None'),
    ({'image_height': 'tall'}, 'expected image_height in pixels'),
    ({'camera_matrix': None}, 'camera_matrix: expected rows, cols and data of a 3 x 3 matrix'),
    ({'camera_matrix': {'data': [1, 2]}}, 'camera_matrix: expected'),
    ({'camera_matrix': {'data': ['a'] * 9}}, 'camera_matrix: expected'),
    ({'camera_matrix': {'data': [0.0] * 9}}, 'uncalibrated'),
    ({'camera_matrix': {'data': [float('nan')] * 9}}, 'finite'),
    ({'distortion_model': 'scheimpflug'}, "got 'scheimpflug'"),
    ({'distortion_coefficients': {'data': [0.1, 0.2]}}, 'expects 0 or 4 or 5 coefficients'),
])
def test_bad_calibration(tmp_path, changes, words):
    path = tmp_path / 'camera.yaml'
    path.write_text(yaml.safe_dump(calibration(**changes)))
    with pytest.raises(InputError, match=words) as caught:
        load_camera(path)
    assert str(path) in str(caught.value)


def test_rectified_without_projection_matrix(tmp_path):
    path = tmp_path / 'camera.yaml'
    path.write_text(yaml.safe_dump(calibration(projection_matrix=None)))
    with pytest.raises(InputError, match='projection_matrix: expected'):
        load_camera(path, rectified=True)


def refused(capsys, code, words):
    assert code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith('error: ') and '\n' not in error and 'Traceback' not in error
    assert words in error, error


@pytest.mark.parametrize('content', [None, b'', b'[1, 2', b'\xff\xfe\x00', b'just words'])
def test_bad_camera_file(folder, tmp_path, capsys, content):
    path = tmp_path / 'broken.yaml'
    if content is not None:
        path.write_bytes(content)
    refused(capsys, command(path, tmp_path / 'out', folder), 'broken.yaml: expected a camera')


def test_missing_images(camera_file, tmp_path, capsys):
    refused(capsys, command(camera_file, tmp_path / 'out', tmp_path / 'none'), 'no such file')
    refused(capsys, command(camera_file, tmp_path / 'out', tmp_path / '*.png'), 'no such file')


def test_folder_without_images(camera_file, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    refused(capsys, command(camera_file, tmp_path / 'out', tmp_path / 'empty'), 'got none in it')


@pytest.mark.parametrize('content', [b'', b'no image', b'\x89PNG\r\n\x1a\n'])
def test_unreadable_image(folder, camera_file, fakes, tmp_path, capsys, content):
    (folder / '000005.png').write_bytes(content)
    refused(capsys, command(camera_file, tmp_path / 'out', folder), '000005.png: expected an')


def test_image_of_another_size(folder, camera_file, fakes, tmp_path, capsys):
    cv2.imwrite(str(folder / '000005.png'), picture()[:60])
    refused(capsys, command(camera_file, tmp_path / 'out', folder),
            'expected 160 x 120 pixels, as the calibration says, got 160 x 60')


def test_unreadable_video(camera_file, fakes, tmp_path, capsys):
    (tmp_path / 'film.mp4').write_bytes(b'no video')
    refused(capsys, command(camera_file, tmp_path / 'out', tmp_path / 'film.mp4'),
            'film.mp4: expected a video')


def test_video_without_frames(video, camera_file, fakes, tmp_path, capsys):
    content = video.read_bytes()
    # The header alone: OpenCV opens it and finds nothing.
    (tmp_path / 'short.avi').write_bytes(content[:content.index(b'movi') + 4])
    refused(capsys, command(camera_file, tmp_path / 'out', tmp_path / 'short.avi'),
            'short.avi: expected a video')


def test_video_among_images(video, folder, camera_file, tmp_path, capsys):
    refused(capsys, command(camera_file, tmp_path / 'out', video, folder), 'one video')


def test_output_would_overwrite_the_input(folder, video, camera_file, fakes, capsys):
    refused(capsys, command(camera_file, folder, folder), 'expected another folder')
    refused(capsys, command(camera_file, video, video), 'expected another file')


def test_output_that_cannot_be(folder, camera_file, fakes, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    refused(capsys, command(camera_file, tmp_path / 'file' / 'out', folder), 'folder to write')
    refused(capsys, command(camera_file, tmp_path / 'none' / 'out.mp4', folder),
            'existing folder')


def test_missing_models(folder, camera_file, tmp_path, capsys):
    code = main(['run', str(folder), '--camera', str(camera_file), '--models',
                 str(tmp_path / 'no_models'), '--output', str(tmp_path / 'out')])
    refused(capsys, code, 'no_models')


@pytest.mark.parametrize('content', [None, b'', b'not weights'])
def test_bad_segmenter(folder, camera_file, fakes, tmp_path, monkeypatch, capsys, content):
    monkeypatch.undo()
    monkeypatch.setattr(PoseEstimator, 'from_directory',
                        classmethod(lambda cls, *args, **options: fakes))
    path = tmp_path / 'segmenter.safetensors'
    if content is not None:
        path.write_bytes(content)
    code = main(['run', str(folder), '--camera', str(camera_file), '--models', str(tmp_path),
                 '--output', str(tmp_path / 'out')])
    refused(capsys, code, 'segmenter.safetensors')


def test_bad_class_map(folder, camera_file, fakes, tmp_path, capsys):
    code = main(['run', str(folder), '--camera', str(camera_file), '--models', 'models',
                 '--output', str(tmp_path / 'out'), '--class-map', 'cup'])
    refused(capsys, code, 'CLASS=OBJECT')
