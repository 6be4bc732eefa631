"""Malformed and hostile messages from a seeded generator, for every topic that a node hears."""

import array

import numpy as np
from pose_estimator.nodes.conversions import instances_to_messages
from rclpy.serialization import serialize_message
from robot import camera_info, HEIGHT, picture_message, WIDTH
from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose

TOPICS = ('image', 'camera_info', 'instance_masks', 'detections')
NUMBERS = (0.0, -1.0, 1e-300, 1e300, float('nan'), float('inf'), -float('inf'))
SIZES = (0, 1, 2, 7, WIDTH, WIDTH + 1, 2**16, 2**31, 2**32 - 1)
TEXTS = ('', '0', '1', '-1', 'cup', 'x' * 10000, '1' * 400, '\x01\x7f', 'ü' * 50, '{}', '%s%n',
         '../../etc', 'mono16', 'rgb8', '16UC1', 'bayer_rggb8', '32FC1')


class Hostile:
    """
    Endless messages, each wrong in one way or several.

    Parameters
    ----------
    robot : Robot
        Whose headers they have, mostly.
    instances : list of Instance
        What a sound label image of them shows.
    seed : int

    """

    def __init__(self, robot, instances, seed):
        self.robot, self.instances = robot, instances
        self.rng = np.random.default_rng(seed)

    def messages(self, count):
        """Yield count times a topic and a message, some as raw bytes."""
        for _ in range(count):
            topic = TOPICS[self.rng.integers(len(TOPICS))]
            message = self._sound(topic)
            for _ in range(self.rng.integers(1, 4)):
                self._spoil(topic, message)
            if self.rng.random() < 0.1:
                yield topic, self._cut(serialize_message(message))
            else:
                yield topic, message

    def _sound(self, topic):
        header = self.robot.header(later=0.01)
        if topic == 'image':
            return picture_message(header)
        if topic == 'camera_info':
            return camera_info(header)
        masks, detections = instances_to_messages(self.instances, HEIGHT, WIDTH, header)
        return masks if topic == 'instance_masks' else detections

    def _spoil(self, topic, message):
        if self.rng.random() < 0.2:
            self._spoil_header(message.header)
        elif topic in ('image', 'instance_masks'):
            self._spoil_image(message)
        elif topic == 'camera_info':
            self._spoil_info(message)
        else:
            self._spoil_detections(message)

    def _spoil_header(self, header):
        which = self.rng.integers(3)
        if which == 0:
            header.frame_id = self._choice(TEXTS)
        elif which == 1:
            header.stamp.sec = int(self._choice((0, -1, 1, -2**31, 2**31 - 1)))
        else:
            header.stamp.nanosec = int(self._choice((0, 10**9, 2**32 - 1)))

    def _spoil_image(self, message):
        which = self.rng.integers(5)
        if which == 0:
            message.encoding = self._choice(TEXTS)
        elif which == 1:
            size = self.rng.integers(0, 2 * len(message.data))
            message.data = array.array('B', self.rng.bytes(size))
        elif which == 2:
            message.is_bigendian = int(self.rng.integers(256))
        else:
            setattr(message, self._choice(('width', 'height', 'step')),
                    int(self._choice(SIZES)))

    def _spoil_info(self, message):
        which = self.rng.integers(6)
        if which == 0:
            message.distortion_model = self._choice(TEXTS)
        elif which == 1:
            message.d = [self._number() for _ in range(self.rng.integers(20))]
        elif which == 2:
            matrix = list(message.k)
            matrix[self.rng.integers(9)] = self._number()
            message.k = matrix
        elif which == 3:
            setattr(message, self._choice(('width', 'height', 'binning_x', 'binning_y')),
                    int(self._choice(SIZES)))
        else:
            setattr(message.roi, self._choice(('width', 'height', 'x_offset', 'y_offset')),
                    int(self._choice(SIZES)))

    def _spoil_detections(self, message):
        which = self.rng.integers(5)
        if which == 0 or not message.detections:
            message.detections = [Detection2D(id=self._choice(TEXTS))
                                  for _ in range(self.rng.integers(50))]
            return
        one = message.detections[self.rng.integers(len(message.detections))]
        if which == 1:
            one.id = self._choice(TEXTS)
        elif which == 2:
            one.results = [ObjectHypothesisWithPose()
                           for _ in range(self.rng.integers(5))]
        elif which == 3 and one.results:
            one.results[0].hypothesis.score = self._number()
            one.results[0].hypothesis.class_id = self._choice(TEXTS)
        else:
            one.bbox.size_x, one.bbox.center.position.y = self._number(), self._number()

    def _cut(self, raw):
        """Return serialised bytes that are cut off, or in which some are others."""
        if self.rng.random() < 0.5:
            return raw[:self.rng.integers(4, len(raw))]
        spoilt = bytearray(raw)
        # Behind the encapsulation, and where lengths are: near the beginning.
        for _ in range(self.rng.integers(1, 5)):
            spoilt[self.rng.integers(4, min(len(raw), 200))] = self.rng.integers(256)
        return bytes(spoilt)

    def _choice(self, values):
        return values[self.rng.integers(len(values))]

    def _number(self):
        return float(self._choice(NUMBERS))
