"""What the demo hears of the nodes: a robot's ears."""

import time

from geometry_msgs.msg import PoseStamped
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection3DArray

from .conversions import ImageReader, pose_from_message, stamp_ns
from .dataset_camera import parse_truth_id
from .demo_camera import CUP_HANDLE
from .process import reliable_qos
from ..demo.verdict import Finding, Truth

DEPTH = 100


class DemoListener:
    """
    Collects the truth, the poses and the annotated pictures of the demo, by stamp.

    Parameters
    ----------
    domain : int
        ROS domain of the demo's nodes.

    Attributes
    ----------
    truths : dict of stamp -> Truth
    detections : dict of stamp -> list of vision_msgs.msg.Detection3D
    pictures : dict of stamp -> message
        The annotated pictures, for whoever takes them out.

    """

    def __init__(self, domain):
        self.truths = {}
        self.detections = {}
        self.pictures = {}
        self._arrivals = {}  # stamp -> {position: seconds after the stamp} of object_poses
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node('demo', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        for message_type, topic, heard in (
                (Detection3DArray, 'truth', self._hear_truth),
                (PoseStamped, 'object_poses', self._hear_pose),
                (Detection3DArray, 'object_detections', self._hear_detections)):
            self._node.create_subscription(message_type, topic, heard, reliable_qos(DEPTH))
        self._overlay = None

    def listen(self, seconds):
        """Take in what comes for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(max(0.0, end - time.monotonic()))

    def watch(self, wanted):
        """Start or stop to listen to the annotated pictures, which costs the nodes time."""
        if wanted and self._overlay is None:
            self._overlay = self._node.create_subscription(
                Image, 'pose_overlay', self._hear_picture, reliable_qos(2))
        elif not wanted and self._overlay is not None:
            self._node.destroy_subscription(self._overlay)
            self._overlay = None

    @property
    def findings(self):
        """Poses heard on object_poses, named by object_detections: stamp -> list of Finding."""
        return {stamp: self.findings_at(stamp) for stamp in self.detections}

    def findings_at(self, stamp):
        """Return the poses heard for one image."""
        arrivals = self._arrivals.get(stamp, {})
        found = []
        for detection in self.detections.get(stamp, ()):
            result = detection.results[0]
            latency = arrivals.get(_position(result.pose.pose))
            if latency is not None:
                found.append(Finding(result.hypothesis.class_id, detection.id,
                                     pose_from_message(result.pose.pose),
                                     result.hypothesis.score, latency))
        return found

    @staticmethod
    def read_picture(message):
        """Return an annotated picture, shape (height, width, 3), RGB."""
        return ImageReader().rgb(message)

    def close(self):
        """Leave."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _hear_truth(self, message):
        entries = {one.id: one.results[0] for one in message.detections}
        handle = entries.pop(CUP_HANDLE)
        self.truths[stamp_ns(message.header)] = Truth(
            {name: pose_from_message(one.pose.pose) for name, one in entries.items()},
            {name: one.hypothesis.score for name, one in entries.items()},
            handle.hypothesis.score > 0)

    def _hear_pose(self, message):
        stamp = stamp_ns(message.header)
        now = self._node.get_clock().now().nanoseconds
        self._arrivals.setdefault(stamp, {})[_position(message.pose)] = (now - stamp) / 1e9

    def _hear_detections(self, message):
        self.detections[stamp_ns(message.header)] = message.detections

    def _hear_picture(self, message):
        self.pictures[stamp_ns(message.header)] = message


class DatasetListener(DemoListener):
    """The same for dataset_camera; truths : dict of stamp -> (scene_id, image_id)."""

    def _hear_truth(self, message):
        if message.detections:
            self.truths[stamp_ns(message.header)] = parse_truth_id(message.detections[0].id)[:2]


def _position(pose):
    return pose.position.x, pose.position.y, pose.position.z
