"""What comes after the pose: planners, grasps, docking; and two cameras on one robot."""

import signal
import time
import types

from fake_nodes import DISTANCE
from geometry_msgs.msg import PoseStamped
import numpy as np
from pose_estimator.demo.processes import free_domain
from pose_estimator.geometry import Pose
from pose_estimator.nodes import collision_objects
from pose_estimator.nodes.conversions import pose_message, stamp_ns
import pytest
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
import robot as robots
from robot import by_stamp, camera_info, HERE, picture_message, Robot
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import BoundingBox3D, Detection3D, Detection3DArray, ObjectHypothesisWithPose

pytestmark = pytest.mark.slow


def detections(header, **places):
    """Return detections of id=(score, x); their boxes have a known size."""
    message = Detection3DArray(header=header)
    for name, (score, x) in places.items():
        one = Detection3D(header=header, id=name)
        pose = Pose(np.eye(3), np.array([x, 0.1, 0.8]))
        one.bbox = BoundingBox3D(center=pose_message(pose))
        one.bbox.size.x, one.bbox.size.y, one.bbox.size.z = 0.08, 0.09, 0.1
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = name.rpartition('_')[0], score
        result.pose.pose = one.bbox.center
        one.results.append(result)
        message.detections.append(one)
    return message


@pytest.fixture
def example(tmp_path):
    """Give a function that starts an example and returns its process and what feeds it."""
    started = []

    def start(name, *arguments):
        domain = free_domain()
        process = robots.Process(domain, tmp_path / 'log', '-m', f'pose_estimator.nodes.{name}',
                                 '--ros-args', *arguments)
        robot = Robot(domain)
        started.append((process, robot))
        robot.advertise(Detection3DArray, 'object_detections')
        return process, robot

    yield start
    for process, robot in started:
        robot.close()
        process.kill()


def test_collision_objects_are_printed_without_moveit(example):
    if collision_objects.CollisionObject is not None:
        pytest.skip('moveit_msgs is installed')
    process, robot = example('collision_objects', '-p', 'timeout:=0.5')
    for x in (0.2, 0.201, 0.3):
        robot.publish(object_detections=detections(robot.header(), cup_1=(0.9, x),
                                                   cup_2=(0.9, -0.1), bottle_1=(0.3, 0.0)))
        robot.spin(0.1)
    process.wait_for('REMOVE cup_1')
    process.wait_for('REMOVE cup_2')
    told = [line for line in process.output.splitlines() if line.split()[0] in ('ADD', 'REMOVE')]
    assert told[:3] == [
        'ADD cup_1 box 0.080 x 0.090 x 0.100 m at 0.200 0.100 0.800 in camera',
        'ADD cup_2 box 0.080 x 0.090 x 0.100 m at -0.100 0.100 0.800 in camera',
        'ADD cup_1 box 0.080 x 0.090 x 0.100 m at 0.300 0.100 0.800 in camera']
    assert sorted(told[3:]) == ['REMOVE cup_1', 'REMOVE cup_2']
    assert process.stop() == 0


def test_collision_object_for_moveit(monkeypatch):
    """With stand-ins of MoveIt's messages: there are no wheels of it."""
    class CollisionObject(types.SimpleNamespace):
        ADD, REMOVE = b'\x00', b'\x01'

        def __init__(self):
            super().__init__(header=Header())

    class SolidPrimitive(types.SimpleNamespace):
        BOX = 1

    monkeypatch.setattr(collision_objects, 'CollisionObject', CollisionObject)
    monkeypatch.setattr(collision_objects, 'SolidPrimitive', SolidPrimitive)
    box = detections(Header(), cup_1=(0.9, 0.2)).detections[0].bbox
    made = collision_objects.collision_object('ADD', 'cup_1', 'camera', box)
    assert (made.id, made.header.frame_id, made.operation) == ('cup_1', 'camera', b'\x00')
    assert made.primitives[0].type == 1 and made.primitives[0].dimensions == [0.08, 0.09, 0.1]
    assert made.primitive_poses == [box.center]
    gone = collision_objects.collision_object('REMOVE', 'cup_1', 'camera')
    assert gone.operation == b'\x01' and not hasattr(gone, 'primitives')


def test_grasp_is_a_static_child_of_each_instance(example):
    _, robot = example('grasp_frame', '-p', 'xyz:=[0.0, 0.0, 0.12]', '-p', 'rpy:=[0.0, 0.0, 1.0]')
    header = robot.header()
    for places in ({'cup_1': (0.9, 0.2)},
                   {'cup_1': (0.9, 0.2), 'bottle_1': (0.9, 0.0), 'cup_2': (0.9, -0.2)}):
        robot.publish(object_detections=detections(header, **places))
    found = []
    robot.node.create_subscription(TFMessage, '/tf_static', found.append, QoSProfile(
        depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL))
    robot.wait(lambda: found and len(found[-1].transforms) == 2, 'static transforms')
    assert [(one.header.frame_id, one.child_frame_id) for one in found[-1].transforms] == \
        [('cup_1', 'cup_1/grasp'), ('cup_2', 'cup_2/grasp')]
    transform = found[-1].transforms[0].transform
    assert transform.translation.z == 0.12
    assert transform.rotation.z == pytest.approx(np.sin(0.5))
    assert transform.rotation.w == pytest.approx(np.cos(0.5))


def now_header(robot, age=0.0, frame_id='camera'):
    """Return a header stamped some seconds ago, later than all before."""
    stamp = time.time_ns() - round(1e9 * age)
    header = Header(frame_id=frame_id)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
    return header


def test_docking_gets_reliable_poses_that_are_fresh(tmp_path):
    """As Nav2's docking does: a reliable subscription, and nothing older than 1.0 s."""
    domain = free_domain()
    process = robots.Process(domain, tmp_path / 'log', HERE / 'fake_nodes.py',
                             'segmentation,pose_rgb_mask')
    robot = Robot(domain)
    docked, stale = [], []

    def on_pose(pose):
        age = time.time() - stamp_ns(pose.header) / 1e9
        (docked if age <= 1.0 else stale).append(pose)

    robot.node.create_subscription(PoseStamped, 'object_poses/cup', on_pose, QoSProfile(
        depth=1, reliability=QoSReliabilityPolicy.RELIABLE))
    try:
        robot.advertise(Image, 'image')
        robot.advertise(CameraInfo, 'camera_info')
        robot.wait(lambda: robot.publishers['image'].get_subscription_count() == 2, 'both nodes')
        headers = []
        while len(docked) < 10:
            headers.append(now_header(robot))
            robot.publish(camera_info=camera_info(headers[-1]), image=picture_message(headers[-1]))
            robot.spin(0.1)
            assert len(headers) < 100, (len(docked), len(stale), process.output)
        assert all(pose.header in headers for pose in docked), "the images' stamps"
        assert all(pose.pose.position.z == pytest.approx(DISTANCE) for pose in docked)
        # An old image, as from a bag, gives a pose that says how old it is.
        old = now_header(robot, age=30.0)
        robot.publish(camera_info=camera_info(old), image=picture_message(old))
        robot.wait(lambda: any(pose.header == old for pose in stale), 'the old pose')
        assert not by_stamp(docked, old)
    finally:
        robot.close()
        process.kill()


class TwoCameras:
    """
    Two cameras, triggered at once, and what the pipelines of namespaces left and right find.

    Parameters
    ----------
    domain : int

    """

    SHOWS = {'left': {'bottle': False}, 'right': {'cup': False}}

    def __init__(self, domain):
        self.robot = Robot(domain)
        self.found = {side: self.robot.collect(Detection3DArray, f'{side}/object_detections')
                      for side in self.SHOWS}
        self.frames = self.robot.collect(TFMessage, '/tf')
        for side in self.SHOWS:
            self.robot.advertise(Image, f'{side}/image')
            self.robot.advertise(CameraInfo, f'{side}/camera_info')
        self.robot.wait(lambda: all(
            self.robot.publishers[f'{side}/image'].get_subscription_count() == 2
            for side in self.SHOWS), 'all nodes')

    def shoot(self, sides):
        """Take an image on some sides and wait for their results."""
        header = self.robot.header(later=0.1)
        for side in sides:
            own = Header(stamp=header.stamp, frame_id=f'{side}_camera')
            self.robot.publish(**{f'{side}/camera_info': camera_info(own),
                                  f'{side}/image': picture_message(own, **self.SHOWS[side])})
        self.robot.wait(lambda: all(by_stamp(self.found[side], header) for side in sides),
                        'results')

    def check(self):
        """Check that each side finds what its camera shows, and that no frame has two parents."""
        for _ in range(5):
            self.shoot(self.SHOWS)
        for side, name in (('left', 'left/cup_1'), ('right', 'right/bottle_1')):
            assert {one.header.frame_id for one in self.found[side]} == {f'{side}_camera'}
            assert {one.id for result in self.found[side] for one in result.detections} == {name}
            assert len(self.found[side]) == 5
        self.robot.wait(lambda: len(self.frames) == 10, 'TF')
        parents = {(one.child_frame_id, one.header.frame_id)
                   for message in self.frames for one in message.transforms}
        assert parents == {('left/cup_1', 'left_camera'), ('right/bottle_1', 'right_camera')}


def pipeline_arguments(side):
    """Return the arguments to Python that start both nodes in a namespace."""
    return [HERE / 'fake_nodes.py', 'segmentation,pose_rgb_mask', '--ros-args',
            '-r', f'__ns:=/{side}', *(part for topic in ('image', 'camera_info') for part in (
                '-p', f'qos_overrides./{side}/{topic}.subscription.reliability:=reliable'))]


def test_two_pipelines_in_namespaces_do_not_disturb_each_other(tmp_path):
    domain = free_domain()
    processes = {side: robots.Process(domain, tmp_path / side, *pipeline_arguments(side))
                 for side in TwoCameras.SHOWS}
    cameras = TwoCameras(domain)
    try:
        cameras.check()
        # One of them dies.
        assert processes['right'].stop(signal.SIGKILL) == -signal.SIGKILL
        cameras.shoot(['left'])
        assert all('Traceback' not in process.output for process in processes.values())
    finally:
        cameras.robot.close()
        for process in processes.values():
            process.kill()
