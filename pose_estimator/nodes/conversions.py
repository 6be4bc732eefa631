"""
Messages to arrays and back: the one place that looks inside images and camera info.

cv_bridge reads the images where a working one is installed, and this module alone where
not, with equal results. A cv_bridge that was built for another NumPy can take the whole
process down, so it is tried once in a child process (`python -m
pose_estimator.nodes.conversions`), and only used if it reads all of what that child tries
as this module does.
"""

import array
import functools
import importlib.util
import io
import math
import os
import re
import subprocess
import sys

import cv2
from geometry_msgs.msg import Point, Pose as PoseMessage, Quaternion
import numpy as np
import PIL.Image
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from ..camera import PinholeCamera
from ..errors import InputError
from ..geometry import Pose
from ..instance import Instance, label_image, mask_box

# Encoding -> bytes per channel, channels, OpenCV's code to RGB.
COLOUR_ENCODINGS = {
    'rgb8': (1, 3, None),
    'bgr8': (1, 3, cv2.COLOR_BGR2RGB),
    'rgba8': (1, 4, cv2.COLOR_RGBA2RGB),
    'bgra8': (1, 4, cv2.COLOR_BGRA2RGB),
    'mono8': (1, 1, cv2.COLOR_GRAY2RGB),
    'mono16': (2, 1, cv2.COLOR_GRAY2RGB),
    # ROS names a Bayer pattern by its first row, OpenCV by its second.
    'bayer_rggb8': (1, 1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': (1, 1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': (1, 1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': (1, 1, cv2.COLOR_BayerGB2RGB),
}
LABEL_ENCODINGS = {'mono16': 2, '16UC1': 2, 'mono8': 1, '8UC1': 1}
PROBE_SECONDS = 30
MOST_PIXELS = 2 ** 26  # what claims to be larger is no picture of a camera


def stamp_ns(header):
    """Return a header's stamp in nanoseconds."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec


class ImageReader:
    """
    Reads images out of messages.

    Parameters
    ----------
    bridge : cv_bridge.CvBridge or None
        What reads the pixels once the message has been found sound; None: this module.

    """

    def __init__(self, bridge=None):
        self._bridge = bridge

    @classmethod
    def probed(cls, use='auto'):
        """
        Return a reader that uses cv_bridge if there is a working one, and why or why not.

        Parameters
        ----------
        use : str
            'auto', or 'never', with which not even a trial is made.

        """
        if use == 'never':
            fault = 'use_cv_bridge is never'
        else:
            found = importlib.util.find_spec('cv_bridge')
            fault = 'it is not installed' if found is None else _fault_of_cv_bridge(found.origin)
        if fault:
            return cls(), f'images are read without cv_bridge: {fault}'
        from cv_bridge import CvBridge
        return cls(CvBridge()), 'images are read by cv_bridge'

    def rgb(self, message):
        """
        Return the colours of an image message.

        Parameters
        ----------
        message : sensor_msgs.msg.Image or CompressedImage
            Image: of an encoding in COLOUR_ENCODINGS, or one that cv_bridge knows.
            CompressedImage: JPEG or PNG.

        Returns
        -------
        image : array of uint8, shape (height, width, 3)
            RGB.

        """
        if isinstance(message, CompressedImage):
            return _decompressed(message)
        encoding = message.encoding
        if encoding not in COLOUR_ENCODINGS and self._bridge is None:
            raise InputError(f'image encoding: expected one of {", ".join(COLOUR_ENCODINGS)}, '
                             f'got {encoding!r}')
        size, channels, code = COLOUR_ENCODINGS.get(encoding, (1, 1, None))
        pixels = _pixels(message, size, channels)
        if self._bridge is not None:
            return self._from_bridge(message, 'rgb8')
        if size == 2:
            pixels = np.rint(pixels / 257).astype(np.uint8)
        return np.ascontiguousarray(pixels) if code is None else cv2.cvtColor(pixels, code)

    def labels(self, message):
        """
        Return the labels of a label image.

        Parameters
        ----------
        message : sensor_msgs.msg.Image
            mono16; mono8, 8UC1 and 16UC1 do too.

        Returns
        -------
        labels : array of uint16, shape (height, width)
            0 is background.

        """
        if message.encoding not in LABEL_ENCODINGS:
            raise InputError(f'mask encoding: expected one of {", ".join(LABEL_ENCODINGS)}, '
                             f'got {message.encoding!r}')
        pixels = _pixels(message, LABEL_ENCODINGS[message.encoding], 1)
        if self._bridge is not None:
            pixels = self._from_bridge(message, 'passthrough')
        return pixels.astype(np.uint16)

    def _from_bridge(self, message, encoding):
        try:
            return np.ascontiguousarray(self._bridge.imgmsg_to_cv2(message, encoding))
        except Exception as error:  # cv_bridge raises whatever its layers raise
            raise InputError(f'image encoding: cv_bridge cannot read {message.encoding!r}: '
                             f'{error}') from error


@functools.lru_cache
def _fault_of_cv_bridge(origin):
    """Return why the cv_bridge at a place cannot be used, or ''; tried in a child process."""
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.run([sys.executable, '-m', __name__], env=environment,
                               capture_output=True, text=True, timeout=PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f'its trial failed: {error}'
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines() or [f'exit code {child.returncode}']
        return f'its trial failed: {lines[-1]}'
    return ''


def _decompressed(message):
    """Return the colours of a CompressedImage: array of uint8, shape (height, width, 3), RGB."""
    try:
        # Not OpenCV, which fills up a file that ends too early.
        with PIL.Image.open(io.BytesIO(bytes(message.data)), formats=('JPEG', 'PNG')) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise InputError(f'compressed image: expected at most {MOST_PIXELS} pixels, got '
                                 f'{picture.width} x {picture.height}')
            if picture.mode.startswith('I'):  # 16 bits
                grey = np.rint(np.asarray(picture) / 257).astype(np.uint8)
                return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
            return np.array(picture.convert('RGB'))
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise InputError(f'compressed image: expected JPEG or PNG, got {len(message.data)} bytes '
                         f'of format {message.format[:40]!r}: {error}') from error


def _pixels(message, size, channels):
    """Return a message's pixels as an array (height, width[, channels]) after checking it."""
    row = message.width * channels * size
    if message.width < 1 or message.height < 1:
        raise InputError(f'image: expected at least 1 x 1 pixels, got '
                         f'{message.width} x {message.height}')
    if message.step < row:
        raise InputError(f'image: expected a step of at least {row} bytes for {message.width} '
                         f'pixels of {message.encoding}, got {message.step}')
    if len(message.data) != message.step * message.height:
        raise InputError(f'image: expected step x height = {message.step * message.height} '
                         f'bytes of data, got {len(message.data)}')
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)[:, :row]
    if size == 2:
        rows = np.ascontiguousarray(rows).view('>u2' if message.is_bigendian else '<u2')
    if channels == 1:
        return rows.reshape(message.height, message.width)
    return rows.reshape(message.height, message.width, channels)


def image_message(pixels, encoding, header):
    """
    Return an image message.

    Parameters
    ----------
    pixels : array, shape (height, width[, channels])
        uint8 for rgb8, uint16 for mono16.
    encoding : str
        As ROS names it.
    header : std_msgs.msg.Header
        The message's.

    """
    pixels = np.ascontiguousarray(pixels)
    if sys.byteorder == 'big' and pixels.itemsize > 1:
        pixels = pixels.byteswap()
    message = Image(header=header, height=pixels.shape[0], width=pixels.shape[1],
                    encoding=encoding, is_bigendian=0)
    message.step = pixels.nbytes // pixels.shape[0]
    data = array.array('B')  # unlike bytes, it is not checked element by element
    data.frombytes(memoryview(pixels).cast('B'))
    message.data = data
    return message


def camera_from_info(info, width, height, rectified):
    """
    Return the camera that took an image.

    Parameters
    ----------
    info : sensor_msgs.msg.CameraInfo
        Its description.
    width, height : int
        Size of the image; where it differs from the info's, binning and ROI must explain it.
    rectified : bool
        Whether the image is rectified (matrix P) or raw (K and distortion).

    Returns
    -------
    camera : PinholeCamera

    """
    left, top, bin_x, bin_y = _window(info, width, height)
    raw = np.reshape(info.k, (3, 3))
    matrix, distortion, model = raw, np.array(info.d), info.distortion_model
    if rectified:
        # Simulators often leave P empty, which does no harm where nothing is to rectify.
        matrix = np.reshape(info.p, (3, 4))[:, :3]
        if matrix[0, 0] == 0 and not distortion.any():
            matrix = raw
        elif matrix[0, 0] == 0:
            raise InputError('P: expected a focal length above 0, got P[0] = 0 with distorted '
                             'K: set rectified to false if the image is raw, else calibrate')
        distortion, model = np.zeros(0), ''
    elif not model and not distortion.any():
        distortion = np.zeros(0)
    # As image_geometry scales them.
    matrix = matrix.copy()
    matrix[:2, 2] -= left, top
    matrix[0] /= bin_x
    matrix[1] /= bin_y
    return PinholeCamera(matrix, width, height, distortion, model)


def fits(info, width, height):
    """Return whether a camera info describes images of this size."""
    try:
        _window(info, width, height)
    except InputError:
        return False
    return True


def _window(info, width, height):
    """Return left, top and the binning of an image within what a camera info describes."""
    bin_x, bin_y = max(info.binning_x, 1), max(info.binning_y, 1)
    roi = info.roi
    whole = roi.width == 0 and roi.height == 0
    full = (info.width, info.height) if whole else (roi.width, roi.height)
    for size, got, step in ((full[0], width, bin_x), (full[1], height, bin_y)):
        if got not in (size // step, math.ceil(size / step)):
            raise InputError(
                f'camera info: expected an image of {full[0] // bin_x} x {full[1] // bin_y} '
                f'({info.width} x {info.height}, binning {bin_x} x {bin_y}, ROI '
                f'{roi.width} x {roi.height}), got {width} x {height}')
    return (0, 0, bin_x, bin_y) if whole else (roi.x_offset, roi.y_offset, bin_x, bin_y)


def camera_info_message(camera, header):
    """Return the CameraInfo of a PinholeCamera, whose P is its K."""
    info = CameraInfo(header=header, width=camera.width, height=camera.height)
    info.distortion_model = camera.distortion_model or 'plumb_bob'
    info.d = (camera.distortion if len(camera.distortion) else np.zeros(5)).tolist()
    info.k = camera.K.ravel()
    info.r = np.eye(3).ravel()
    info.p = np.column_stack([camera.K, np.zeros(3)]).ravel()
    return info


def instances_to_messages(instances, height, width, header):
    """
    Return a label image (mono16) and detections of the same header.

    Instances that others hide altogether are left out. Detection2D.id is the grey value in the
    label image; boxes are in pixels, where the centre of the top left pixel is (0, 0).
    """
    labels = label_image(instances, height, width)
    shown = set(np.unique(labels))
    detections = Detection2DArray(header=header)
    for instance in instances:
        if instance.id not in shown:
            continue
        detection = Detection2D(header=header, id=str(instance.id))
        x0, y0, x1, y1 = map(float, instance.box)
        detection.bbox.center.position.x = (x0 + x1) / 2
        detection.bbox.center.position.y = (y0 + y1) / 2
        detection.bbox.size_x, detection.bbox.size_y = x1 - x0, y1 - y0
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = instance.label
        result.hypothesis.score = float(instance.score)
        detection.results.append(result)
        detections.detections.append(detection)
    return image_message(labels, 'mono16', header), detections


def instances_from_messages(labels, detections):
    """
    Return the instances of a label image and its detections, and what was wrong with others.

    Parameters
    ----------
    labels : array of uint16, shape (height, width)
        0 is background.
    detections : vision_msgs.msg.Detection2DArray
        One for each label.

    Returns
    -------
    instances : list of Instance
    faults : list of str

    """
    height, width = labels.shape
    counts = np.bincount(labels.ravel())
    instances, faults, described = [], [], set()
    for detection in detections.detections:
        number = int(detection.id) if re.fullmatch('[0-9]{1,5}', detection.id) else 0
        if not 0 < number < 65536 or number in described:
            faults.append(f'detection id: expected a label of 1 to 65535, each once, '
                          f'got {detection.id[:20]!r}')
            continue
        described.add(number)
        if not detection.results:
            faults.append(f'detection {number}: expected a class, got no result')
            continue
        if number >= len(counts) or not counts[number]:
            faults.append(f'detection {number}: expected pixels of this label in the masks, '
                          f'got none')
            continue
        best = max((result.hypothesis for result in detection.results),
                   key=lambda hypothesis: hypothesis.score)
        if not 0 <= best.score <= 1:
            faults.append(f'detection {number}: expected a score of 0 to 1, got {best.score}')
            continue
        mask = labels == number
        box = _box(detection.bbox, width, height)
        instances.append(Instance(best.class_id, float(best.score),
                                  mask_box(mask) if box is None else box, mask, number))
    unknown = sorted(set(np.flatnonzero(counts)) - described - {0})
    if unknown:
        faults.append(f'masks: expected a detection for each label, got none for '
                      f'{", ".join(map(str, unknown[:5]))}{" ..." if len(unknown) > 5 else ""}')
    return instances, faults


def _box(bbox, width, height):
    """Return x0, y0, x1, y1 of a BoundingBox2D within the image, or None if none is left."""
    center = bbox.center.position
    box = np.array([center.x - bbox.size_x / 2, center.y - bbox.size_y / 2,
                    center.x + bbox.size_x / 2, center.y + bbox.size_y / 2])
    if not np.isfinite(box).all():
        return None
    box = np.clip(box, -0.5, np.array([width, height, width, height]) - 0.5)
    return box if box[2] > box[0] and box[3] > box[1] else None


def pose_message(pose):
    """Return a geometry_msgs Pose of a Pose."""
    x, y, z = map(float, pose.t_m2c)
    qx, qy, qz, qw = map(float, pose.quaternion)
    return PoseMessage(position=Point(x=x, y=y, z=z),
                       orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))


def pose_from_message(message):
    """Return the Pose of a geometry_msgs Pose."""
    return _pose(message.position, message.orientation)


def pose_from_transform(message):
    """Return the Pose of a geometry_msgs Transform."""
    return _pose(message.translation, message.rotation)


def _pose(place, turn):
    matrix = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
    return Pose(matrix, np.array([place.x, place.y, place.z]))


def _try_cv_bridge():
    """Exit with code 1 and a reason unless cv_bridge reads as this module does."""
    from cv_bridge import CvBridge
    bridged, own = ImageReader(CvBridge()), ImageReader()
    rng = np.random.default_rng(0)

    def message(encoding, width, size):
        pixels = rng.integers(0, 256, (6, width * size + 4), np.uint8)  # four bytes of padding
        made = image_message(pixels, encoding, Header())
        made.width = width
        return made

    for encoding, (size, channels, _) in COLOUR_ENCODINGS.items():
        trial = message(encoding, 8, size * channels)
        if not np.array_equal(bridged.rgb(trial), own.rgb(trial)):
            sys.exit(f'it reads {encoding} differently')
    for encoding, size in LABEL_ENCODINGS.items():
        trial = message(encoding, 8, size)
        if not np.array_equal(bridged.labels(trial), own.labels(trial)):
            sys.exit(f'it reads {encoding} differently')


if __name__ == '__main__':
    _try_cv_bridge()
