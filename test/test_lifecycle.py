"""The life cycle of the nodes, over its services, in processes of their own."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fake_nodes import FakeSegmenter
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from pose_estimator.demo.processes import free_domain
from pose_estimator.nodes.conversions import instances_to_messages
from pose_estimator.object_model import object_from_mesh
import pytest
import robot as robots
from robot import by_stamp, camera_info, HEIGHT, HERE, picture, Robot, WIDTH
from sensor_msgs.msg import CameraInfo, Image
from test_pipeline import make_checkpoint
from vision_msgs.msg import Detection2DArray, Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

pytestmark = pytest.mark.slow


def change(robot, transition, node='pose_node'):
    """Ask a node for a transition; return whether it succeeded."""
    request = ChangeState.Request(transition=Transition(id=transition))
    return robot.call(ChangeState, f'{node}/change_state', request).success


def state_of(robot, node='pose_node'):
    """Return the number of a node's state."""
    return robot.call(GetState, f'{node}/get_state', GetState.Request()).current_state.id


def wait_for_status(robot, messages, words, level, node='pose_node'):
    """Wait until a node says something on /diagnostics."""
    robot.wait(lambda: any(
        words in status.message and status.level == level and status.name == f'{node}: images'
        for message in messages for status in message.status), f'diagnostics {words!r}')


def test_transitions_from_unconfigured_to_finalized(tmp_path):
    domain = free_domain()
    process = robots.Process(domain, tmp_path / 'log', HERE / 'fake_nodes.py', 'pose_mask',
                             '--ros-args', '-p', 'autostart:=false')
    robot = Robot(domain)
    messages = robot.collect(DiagnosticArray, '/diagnostics')
    results = robot.collect(Detection3DArray, 'object_detections')
    markers = robot.collect(MarkerArray, 'object_markers')
    for kind, topic in ((Image, 'instance_masks'), (Detection2DArray, 'detections'),
                        (CameraInfo, 'camera_info')):
        robot.publishers[topic] = robot.node.create_publisher(kind, topic, 10)

    def publish():
        header = robot.header()
        masks, detections = instances_to_messages(
            FakeSegmenter().segment(picture()), HEIGHT, WIDTH, header)
        robot.publish(camera_info=camera_info(header), instance_masks=masks,
                      detections=detections)
        return header

    def subscribed():
        return [robot.publishers[topic].get_subscription_count() for topic in robot.publishers]

    def works():
        robot.wait(lambda: subscribed() == [1, 1, 1], 'subscriptions')
        header = publish()
        robot.wait(lambda: by_stamp(results, header), 'results')

    try:
        wait_for_status(robot, messages, 'unconfigured', DiagnosticStatus.WARN)
        assert state_of(robot) == State.PRIMARY_STATE_UNCONFIGURED
        assert not robot.node.count_publishers('object_detections') and not any(subscribed())
        assert not change(robot, Transition.TRANSITION_ACTIVATE), 'not a transition of this state'

        assert change(robot, Transition.TRANSITION_CONFIGURE)
        assert state_of(robot) == State.PRIMARY_STATE_INACTIVE
        robot.wait(lambda: robot.node.count_publishers('object_detections'), 'publishers')
        assert not any(subscribed())
        wait_for_status(robot, messages, 'inactive', DiagnosticStatus.WARN)

        assert change(robot, Transition.TRANSITION_ACTIVATE)
        assert state_of(robot) == State.PRIMARY_STATE_ACTIVE
        works()

        assert change(robot, Transition.TRANSITION_DEACTIVATE)
        robot.wait(lambda: not any(subscribed()), 'end of the subscriptions')
        robot.wait(lambda: {(one.ns, one.action) for one in markers[-1].markers} ==
                   {('cup_1', Marker.DELETE), ('bottle_1', Marker.DELETE)}, 'end of the markers')
        silent = publish()
        assert change(robot, Transition.TRANSITION_ACTIVATE)
        works()
        assert not by_stamp(results, silent)

        assert change(robot, Transition.TRANSITION_DEACTIVATE)
        assert change(robot, Transition.TRANSITION_CLEANUP)
        robot.wait(lambda: not robot.node.count_publishers('object_detections'),
                   'end of the publishers')
        assert change(robot, Transition.TRANSITION_CONFIGURE)
        assert change(robot, Transition.TRANSITION_ACTIVATE)
        works()

        assert change(robot, Transition.TRANSITION_ACTIVE_SHUTDOWN)
        assert state_of(robot) == State.PRIMARY_STATE_FINALIZED
        wait_for_status(robot, messages, 'finalized', DiagnosticStatus.WARN)
        assert not any(subscribed())
        assert process.stop() == 0
        assert 'Traceback' not in process.output
    finally:
        robot.close()
        process.kill()


def test_failure_of_configure_is_told_and_can_be_mended(tmp_path):
    domain = free_domain()
    models = tmp_path / 'models'
    process = robots.Process(domain, tmp_path / 'log', '-m', 'pose_estimator.nodes.pose_node',
                             '--ros-args', '-p', f'models:={models}', '-p', 'input:=mask')
    robot = Robot(domain)
    messages = robot.collect(DiagnosticArray, '/diagnostics')
    try:
        process.wait_for(f'configuring failed: {models}: expected a directory of models')
        wait_for_status(robot, messages, f'configuring failed: {models}', DiagnosticStatus.ERROR)
        assert process.child.poll() is None
        assert state_of(robot) == State.PRIMARY_STATE_UNCONFIGURED
        assert not change(robot, Transition.TRANSITION_CONFIGURE)

        models.mkdir()
        broken = models / 'cup.mask.safetensors'
        broken.write_bytes(b'no weights')
        assert not change(robot, Transition.TRANSITION_CONFIGURE)
        process.wait_for(f'configuring failed: {broken}')

        make_checkpoint(object_from_mesh('builtin:cup', 'm', 'cup')[0], 'mask').save(broken)
        assert change(robot, Transition.TRANSITION_CONFIGURE)
        assert change(robot, Transition.TRANSITION_ACTIVATE)
        process.wait_for('ready: cup')
        del messages[:]
        wait_for_status(robot, messages, 'no masks so far', DiagnosticStatus.WARN)
        assert 'Traceback' not in process.output
    finally:
        robot.close()
        process.kill()


@pytest.mark.parametrize('arguments, words', [
    (['-p', 'weights:=/nowhere.safetensors'], '/nowhere.safetensors'),
    (['-p', 'segmenter:=recorded'], 'detections: expected a path'),
    (['-p', 'device:=cuda:77'], "device: expected cpu or a GPU that is there, got 'cuda:77'"),
])
def test_segmentation_node_lives_on_and_says_why(arguments, words, tmp_path):
    domain = free_domain()
    process = robots.Process(domain, tmp_path / 'log', '-m',
                             'pose_estimator.nodes.segmentation_node', '--ros-args', *arguments)
    robot = Robot(domain)
    messages = robot.collect(DiagnosticArray, '/diagnostics')
    try:
        process.wait_for('configuring failed')
        assert words in process.output and 'Traceback' not in process.output
        wait_for_status(robot, messages, words, DiagnosticStatus.ERROR, 'segmentation_node')
        assert process.stop() == 0
    finally:
        robot.close()
        process.kill()
