"""Messages to arrays and back."""

import array
import importlib.util
import io
from pathlib import Path
import sys

import cv2
import numpy as np
import PIL.Image
from pose_estimator.camera import PinholeCamera
from pose_estimator.errors import InputError
from pose_estimator.geometry import Pose
from pose_estimator.instance import Instance, mask_box
from pose_estimator.nodes import conversions
from pose_estimator.nodes.conversions import (
    camera_from_info, camera_info_message, COLOUR_ENCODINGS, image_message, ImageReader,
    instances_from_messages, instances_to_messages, LABEL_ENCODINGS, pose_message)
import pytest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def padded(pixels, encoding, padding=5, big_endian=False):
    """Return an image message whose rows end in bytes that mean nothing."""
    message = image_message(pixels, encoding, Header())
    dtype = pixels.dtype.newbyteorder('>' if big_endian else '<')
    rows = pixels.astype(dtype).view(np.uint8).reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    message.step, message.is_bigendian = rows.shape[1], int(big_endian)
    message.data = array.array('B', rows.tobytes())
    return message


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding, pixels', [
    ('rgb8', RGB), ('bgr8', RGB[..., ::-1]),
    ('rgba8', np.dstack([RGB, RGB[..., 0]])), ('bgra8', np.dstack([RGB[..., ::-1], RGB[..., 0]])),
])
def test_colours(encoding, pixels, padding):
    message = padded(np.ascontiguousarray(pixels), encoding, padding)
    assert np.array_equal(ImageReader().rgb(message), RGB)


@pytest.mark.parametrize('big_endian', [False, True])
def test_grey(big_endian):
    grey = RGB[..., 0]
    expected = np.dstack([grey] * 3)
    assert np.array_equal(ImageReader().rgb(padded(grey, 'mono8')), expected)
    wide = padded(grey.astype(np.uint16) * 257, 'mono16', 6, big_endian)
    assert np.array_equal(ImageReader().rgb(wide), expected)


@pytest.mark.parametrize('encoding, rows', [
    ('bayer_rggb8', 'RGGB'), ('bayer_bggr8', 'BGGR'), ('bayer_gbrg8', 'GBRG'),
    ('bayer_grbg8', 'GRBG'),
])
def test_bayer_pattern_is_named_by_its_first_row(encoding, rows):
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[:] = 200, 100, 50
    mosaic = np.zeros((8, 8), np.uint8)
    for place, letter in enumerate(rows):
        mosaic[place // 2::2, place % 2::2] = colours[0, 0, 'RGB'.index(letter)]
    assert np.array_equal(ImageReader().rgb(padded(mosaic, encoding)), colours)


@pytest.mark.parametrize('encoding', LABEL_ENCODINGS)
@pytest.mark.parametrize('big_endian', [False, True])
def test_labels(encoding, big_endian):
    labels = RGB[..., 0].astype(np.uint8 if LABEL_ENCODINGS[encoding] == 1 else np.uint16)
    labels *= 255 // LABEL_ENCODINGS[encoding] if LABEL_ENCODINGS[encoding] == 2 else 1
    read = ImageReader().labels(padded(labels, encoding, 4, big_endian))
    assert read.dtype == np.uint16 and np.array_equal(read, labels)


def test_image_message_has_no_padding_and_reads_back():
    message = image_message(RGB[:, ::2], 'rgb8', Header(frame_id='camera'))
    assert (message.height, message.width, message.step) == (6, 4, 12)
    assert message.header.frame_id == 'camera'
    assert np.array_equal(ImageReader().rgb(message), RGB[:, ::2])
    labels = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    assert np.array_equal(ImageReader().labels(image_message(labels, 'mono16', Header())), labels)


@pytest.mark.parametrize('words, values', [
    ("got '8UC3'", {'encoding': '8UC3'}), ('got 0 x 6', {'width': 0}),
    ('at least 24 bytes for 8 pixels of rgb8, got 23', {'step': 23}),
    ('144 bytes of data, got 3', {'data': array.array('B', [1, 2, 3])}),
])
def test_image_that_contradicts_itself_is_refused(words, values):
    message = image_message(RGB, 'rgb8', Header())
    for name, value in values.items():
        setattr(message, name, value)
    with pytest.raises(InputError, match=words):
        ImageReader().rgb(message)


GOOD_BRIDGE = """
import cv2
import numpy as np

CHANNELS = {'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, 'mono16': 1, '16UC1': 1}
CODES = {'bgr8': cv2.COLOR_BGR2RGB, 'rgba8': cv2.COLOR_RGBA2RGB, 'bgra8': cv2.COLOR_BGRA2RGB,
         'mono8': cv2.COLOR_GRAY2RGB, 'mono16': cv2.COLOR_GRAY2RGB,
         'bayer_rggb8': cv2.COLOR_BayerBG2RGB, 'bayer_bggr8': cv2.COLOR_BayerRG2RGB,
         'bayer_gbrg8': cv2.COLOR_BayerGR2RGB, 'bayer_grbg8': cv2.COLOR_BayerGB2RGB}


class CvBridge:
    def imgmsg_to_cv2(self, message, encoding):
        if message.encoding == 'odd':
            return np.full((message.height, message.width, 3), 9, np.uint8)
        channels = CHANNELS.get(message.encoding, 1)
        dtype = np.dtype('u2' if '16' in message.encoding else 'u1')
        if message.is_bigendian:
            dtype = dtype.newbyteorder('>')
        shape = (message.height, message.width) + ((channels,) if channels > 1 else ())
        strides = (message.step, dtype.itemsize * channels, dtype.itemsize)[:len(shape)]
        pixels = np.ndarray(shape, dtype, bytes(message.data), strides=strides)
        pixels = np.array(pixels, dtype.newbyteorder('='))
        if encoding == 'passthrough':
            return as_stored(pixels)
        if pixels.dtype == np.uint16:
            pixels = np.rint(pixels * (255 / 65535)).astype(np.uint8)
        code = CODES.get(message.encoding)
        return pixels if code is None else cv2.cvtColor(pixels, code)


def as_stored(pixels):
    return pixels
"""


@pytest.fixture
def bridge(tmp_path, monkeypatch):
    """Give a function that installs a cv_bridge of the given source."""
    def install(source):
        (tmp_path / 'cv_bridge.py').write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop('cv_bridge', None)
        return ImageReader.probed()

    yield install
    sys.modules.pop('cv_bridge', None)


def test_without_cv_bridge():
    reader, how = ImageReader.probed()
    if 'not installed' in how:
        assert np.array_equal(reader.rgb(image_message(RGB, 'rgb8', Header())), RGB)


def test_working_cv_bridge_is_used_and_reads_the_same(bridge):
    reader, how = bridge(GOOD_BRIDGE)
    assert how == 'images are read by cv_bridge'
    for encoding, (size, channels, _) in COLOUR_ENCODINGS.items():
        pixels = np.random.default_rng(1).integers(0, 256, (6, 8, size * channels), np.uint8)
        message = padded(pixels, encoding)
        message.width = 8
        assert np.array_equal(reader.rgb(message), ImageReader().rgb(message)), encoding
    labels = padded(np.arange(48, dtype=np.uint16).reshape(6, 8) * 999, 'mono16', 2)
    assert np.array_equal(reader.labels(labels), ImageReader().labels(labels))


def test_cv_bridge_reads_encodings_that_only_it_knows(bridge):
    reader, _ = bridge(GOOD_BRIDGE)
    message = image_message(RGB, 'odd', Header())
    assert (reader.rgb(message) == 9).all()


def test_cv_bridge_does_not_see_images_that_contradict_themselves(bridge):
    reader, _ = bridge(GOOD_BRIDGE)
    message = image_message(RGB, 'rgb8', Header())
    message.height += 1
    with pytest.raises(InputError, match='bytes of data'):
        reader.rgb(message)


@pytest.mark.parametrize('source, words', [
    ('import os\nos.abort()\n', 'trial failed: exit code -6'),
    ('raise ImportError("numpy.core.multiarray failed to import")\n', 'failed to import'),
    (GOOD_BRIDGE.replace('    return pixels\n', '    return pixels.astype(np.uint8)\n'),
     'it reads mono16 differently'),
    (GOOD_BRIDGE.replace('cv2.COLOR_BGR2RGB', 'None'), 'it reads bgr8 differently'),
])
def test_broken_cv_bridge_is_not_used(bridge, source, words):
    reader, how = bridge(source)
    assert words in how
    assert np.array_equal(reader.rgb(image_message(RGB, 'rgb8', Header())), RGB)


def test_cv_bridge_is_not_even_tried_with_never(bridge):
    bridge('import os\nos.abort()\n')
    reader, how = ImageReader.probed('never')
    assert how == 'images are read without cv_bridge: use_cv_bridge is never'
    assert np.array_equal(reader.rgb(image_message(RGB, 'rgb8', Header())), RGB)


def test_cv_bridge_is_tried_once(bridge):
    source = ("with open(__file__ + '.trials', 'a') as file:\n    file.write('x')\n"
              "raise ImportError('broken')\n")
    bridge(source)
    bridge(source)
    trials = importlib.util.find_spec('cv_bridge').origin + '.trials'
    assert Path(trials).read_text() == 'x'


def test_cv_bridge_that_hangs_is_not_used(bridge, monkeypatch):
    monkeypatch.setattr(conversions, 'PROBE_SECONDS', 1)
    _, how = bridge('import time\ntime.sleep(60)\n')
    assert 'trial failed' in how


def info(**values):
    """Return a camera info of 640 x 480 pixels."""
    made = CameraInfo(width=640, height=480, distortion_model='plumb_bob')
    made.k = [500., 0, 320, 0, 510, 240, 0, 0, 1]
    made.d = [0.1, -0.05, 0.001, 0.002, 0.]
    made.p = [450., 0, 310, -45, 0, 460, 230, 0, 0, 0, 1, 0]
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_raw_camera_is_k_and_distortion():
    camera = camera_from_info(info(), 640, 480, rectified=False)
    assert camera.K.tolist() == [[500, 0, 320], [0, 510, 240], [0, 0, 1]]
    assert camera.distortion.tolist() == [0.1, -0.05, 0.001, 0.002, 0]
    points = np.array([[0.1, -0.05, 1], [0.2, 0.1, 0.8]])
    expected, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.K,
                                    camera.distortion)
    assert camera.project(points) == pytest.approx(expected.reshape(-1, 2))


def test_rectified_camera_is_p():
    camera = camera_from_info(info(), 640, 480, rectified=True)
    assert camera.K.tolist() == [[450, 0, 310], [0, 460, 230], [0, 0, 1]]
    assert not camera.is_distorted


def test_rectified_camera_without_p():
    with pytest.raises(InputError, match=r'P\[0\] = 0'):
        camera_from_info(info(p=np.zeros(12)), 640, 480, rectified=True)
    camera = camera_from_info(info(p=np.zeros(12), d=[0.0] * 5), 640, 480, rectified=True)
    assert camera.K[0, 0] == 500


@pytest.mark.parametrize('rectified', [False, True])
def test_uncalibrated_camera_is_refused(rectified):
    with pytest.raises(InputError, match=r'K\[0\] = 0: the camera is uncalibrated'):
        camera_from_info(CameraInfo(width=640, height=480), 640, 480, rectified)


@pytest.mark.parametrize('model, coefficients', [
    ('', []), ('', [0.0] * 5), ('plumb_bob', []), ('plumb_bob', [0.0] * 5),
    ('rational_polynomial', [0.1] * 8), ('equidistant', [0.1] * 4),
])
def test_known_distortion_models(model, coefficients):
    made = info(distortion_model=model, d=coefficients)
    assert camera_from_info(made, 640, 480, False).is_distorted == any(coefficients)


@pytest.mark.parametrize('model', ['fisheye', 'double_sphere', 'none'])
def test_unknown_distortion_models_are_refused_by_name_for_raw_images(model):
    made = info(distortion_model=model)
    with pytest.raises(InputError, match=repr(model)):
        camera_from_info(made, 640, 480, rectified=False)
    assert camera_from_info(made, 640, 480, rectified=True).K[0, 0] == 450


@pytest.mark.parametrize('values, size, expected', [
    ({}, (640, 480), (500, 510, 320, 240)),
    ({'binning_x': 1, 'binning_y': 1}, (640, 480), (500, 510, 320, 240)),
    ({'binning_x': 2, 'binning_y': 4}, (320, 120), (250, 127.5, 160, 60)),
    ({'roi': RegionOfInterest(x_offset=100, y_offset=50, width=200, height=100)}, (200, 100),
     (500, 510, 220, 190)),
    ({'roi': RegionOfInterest(x_offset=100, y_offset=50, width=200, height=100),
      'binning_x': 2, 'binning_y': 2}, (100, 50), (250, 255, 110, 95)),
    ({'roi': RegionOfInterest(width=201, height=101), 'binning_x': 2, 'binning_y': 2}, (100, 51),
     (250, 255, 160, 120)),
    ({'roi': RegionOfInterest(width=640, height=480)}, (640, 480), (500, 510, 320, 240)),
])
def test_binning_and_roi(values, size, expected):
    camera = camera_from_info(info(**values), *size, rectified=False)
    assert (camera.width, camera.height) == size
    assert (camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2]) == expected


@pytest.mark.parametrize('values, size', [
    ({}, (320, 240)), ({}, (480, 640)), ({'binning_x': 2, 'binning_y': 2}, (640, 480)),
    ({'roi': RegionOfInterest(width=200, height=100)}, (640, 480)),
    ({'width': 0, 'height': 0}, (640, 480)),
])
def test_another_size_than_the_image_is_refused(values, size):
    with pytest.raises(InputError, match='camera info: expected an image of'):
        camera_from_info(info(**values), *size, rectified=False)


@pytest.mark.parametrize('rectified', [False, True])
def test_camera_info_message_reads_back(rectified):
    camera = PinholeCamera(np.array([[500., 0, 320], [0, 510, 240], [0, 0, 1]]), 640, 480)
    message = camera_info_message(camera, Header(frame_id='camera'))
    back = camera_from_info(message, 640, 480, rectified)
    assert np.array_equal(back.K, camera.K) and not back.is_distorted


def test_instances_read_back():
    masks = np.zeros((2, 60, 80), bool)
    masks[0, 10:30, 5:25] = True
    masks[1, 20:50, 40:80] = True
    instances = [Instance('cup', 0.75, np.array([3.5, 9.5, 24.5, 31.5]), masks[0], 1),
                 Instance('book', 0.5, np.array([39.5, 19.5, 79.5, 49.5]), masks[1], 7)]
    image, detections = instances_to_messages(instances, 60, 80, Header(frame_id='camera'))
    back, faults = instances_from_messages(ImageReader().labels(image), detections)
    assert not faults
    for one, other in zip(back, instances):
        assert (one.label, one.score, one.id) == (other.label, other.score, other.id)
        assert np.array_equal(one.box, other.box) and np.array_equal(one.mask, other.mask)


def test_instance_that_others_hide_is_left_out():
    mask = np.zeros((60, 80), bool)
    mask[10:30, 5:25] = True
    instances = [Instance('cup', score, mask_box(mask), mask, number)
                 for number, score in ((1, 0.6), (2, 0.8))]
    image, detections = instances_to_messages(instances, 60, 80, Header())
    back, faults = instances_from_messages(ImageReader().labels(image), detections)
    assert [one.id for one in back] == [2] and not faults


def test_no_instances():
    image, detections = instances_to_messages([], 60, 80, Header())
    assert isinstance(image, Image) and detections.detections == []
    assert instances_from_messages(ImageReader().labels(image), detections) == ([], [])


def test_pose_message():
    message = pose_message(Pose.from_rotvec([0, 0, np.pi / 2], [1, 2, 3]))
    assert (message.position.x, message.position.y, message.position.z) == (1, 2, 3)
    turn = message.orientation
    assert (turn.x, turn.y, turn.z, turn.w) == pytest.approx((0, 0, 0.5**0.5, 0.5**0.5))


def compressed(picture, form, **options):
    """Return a CompressedImage of an array."""
    stream = io.BytesIO()
    PIL.Image.fromarray(picture).save(stream, form, **options)
    return CompressedImage(format=f'rgb8; {form.lower()} compressed bgr8',
                           data=array.array('B', stream.getvalue()))


def test_compressed_image_is_read_like_the_raw_one():
    assert np.array_equal(ImageReader().rgb(compressed(RGB, 'PNG')), RGB)
    smooth = np.zeros((64, 80, 3), np.uint8)
    smooth[...] = np.array([200, 100, 30]) + np.arange(40)[:, None].repeat(2, 0)
    read = ImageReader().rgb(compressed(smooth, 'JPEG', quality=95))
    assert read.dtype == np.uint8 and np.abs(read.astype(int) - smooth).mean() < 2
    grey = np.ascontiguousarray(RGB[..., 0])
    assert np.array_equal(ImageReader().rgb(compressed(grey, 'PNG')), grey[..., None].repeat(3, 2))
    deep = grey.astype(np.uint16) * 257
    assert np.array_equal(ImageReader().rgb(compressed(deep, 'PNG')), grey[..., None].repeat(3, 2))


def test_compressed_image_that_is_none_is_refused(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    for form in ('JPEG', 'PNG'):
        message = compressed(noise, form)
        message.data = message.data[:len(message.data) // 2]
        with pytest.raises(InputError, match='compressed image: expected JPEG or PNG'):
            ImageReader().rgb(message)
    for data in (b'', b'GIF89a' + bytes(100), bytes(12) + b'\x89PNG'):
        message = CompressedImage(format='x' * 1000, data=array.array('B', data))
        with pytest.raises(InputError, match=f'got {len(data)} bytes of format .x'):
            ImageReader().rgb(message)
    monkeypatch.setattr(conversions, 'MOST_PIXELS', 1000)
    with pytest.raises(InputError, match='at most 1000 pixels, got 80 x 60'):
        ImageReader().rgb(compressed(noise, 'PNG'))


def test_spoilt_compressed_images_are_read_or_refused():
    rng = np.random.default_rng(5)
    noise = rng.integers(0, 256, (30, 40, 3), np.uint8)
    whole = [bytes(compressed(noise, form).data) for form in ('JPEG', 'PNG')]
    refused = 0
    for index in range(1000):
        data = bytearray(whole[index % 2])
        for place in rng.integers(0, min(len(data), 700), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        message = CompressedImage(format='jpeg', data=array.array('B', bytes(data)))
        try:
            assert ImageReader().rgb(message).shape[2] == 3
        except InputError:
            refused += 1
    assert 100 < refused < 1000
