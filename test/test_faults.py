"""
Faults injected into running nodes: nothing crashes, hangs, leaks or publishes a wrong pose.

`make test` runs them in short; with POSE_ESTIMATOR_FAULTS=long, as `make faults` has it, they are
long and their deadlines are those that the documents promise, rather than ten times as much.
"""

from collections import Counter
import os
from pathlib import Path
import signal
import time

from diagnostic_msgs.msg import DiagnosticArray
from fake_nodes import DISTANCE, FakeSegmenter, SLOW_SECONDS
from hostile import Hostile
from lifecycle_msgs.msg import Transition
import numpy as np
from pose_estimator.demo.processes import free_domain
from pose_estimator.instance import Instance, mask_box
from pose_estimator.nodes import pose_node as pose_module
from pose_estimator.nodes import segmentation_node as segmentation_module
from pose_estimator.nodes.conversions import instances_to_messages, stamp_ns
from pose_estimator.object_model import object_from_mesh
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
import robot as robots
from robot import by_stamp, camera_info, FOCAL, HEIGHT, HERE, picture_message, Robot, WIDTH
from sensor_msgs.msg import CameraInfo, Image
from test_lifecycle import change
from test_pipeline import make_checkpoint
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray, Detection3DArray

pytestmark = pytest.mark.slow
LONG = os.environ.get('POSE_ESTIMATOR_FAULTS') == 'long'
# Deadlines are those of the documents where the machine is measured, ten times as long elsewhere.
SLACK = 1 if LONG else 10
RELIABLE = [part for topic in ('image', 'camera_info') for part in
            ('-p', f'qos_overrides./{topic}.subscription.reliability:=reliable')]
NODES = {'segmentation_node': 'segmentation', 'pose_node': 'pose_rgb_mask'}


class Rig:
    """
    Nodes in processes of their own, a camera, and a listener.

    Parameters
    ----------
    folder : path
        Where the logs go.
    nodes : dict
        Name -> what fake_nodes.py calls it.

    """

    def __init__(self, folder, nodes):
        self.domain, self.folder, self.nodes = free_domain(), folder, nodes
        self.processes, self.shots = {}, 0
        for name in nodes:
            self.start(name)
        self.robot = Robot(self.domain)
        self.results = self.robot.collect(Detection3DArray, 'object_detections')
        self.states = {}
        self.robot.node.create_subscription(DiagnosticArray, '/diagnostics', self.on_state, 10)
        self.robot.advertise(Image, 'image')
        self.robot.advertise(CameraInfo, 'camera_info')
        self.robot.wait(
            lambda: self.robot.publishers['image'].get_subscription_count() == len(nodes)
            and len(self.states) == len(nodes), 'nodes')
        if 'segmentation_node' in nodes:  # which may not have found the other yet
            self.robot.wait(self.answers, 'first result')

    def answers(self):
        """Return whether an image has a result half a second later."""
        self.shoot()
        self.robot.spin(0.5)
        return bool(self.results)

    def start(self, name):
        """Start a node's process."""
        self.processes[name] = robots.Process(
            self.domain, self.folder / f'{name}{len(list(self.folder.iterdir()))}.log',
            HERE / 'fake_nodes.py', self.nodes[name], '--ros-args', *RELIABLE)

    def on_state(self, message):
        """Note what a node says of itself."""
        for status in message.status:
            self.states[status.name.partition(':')[0]] = status

    def value(self, node, key):
        """Return one of the last diagnostic values of a node."""
        return {one.key: one.value for one in self.states[node].values}.get(key)

    def shoot(self, later=2.0, **what):
        """Publish an image with its camera info; return the header."""
        header = self.robot.header(later=later)
        self.shots += 1
        self.robot.publish(camera_info=camera_info(header), image=picture_message(header, **what))
        return header

    def told(self, node, words, seconds=2.0):
        """Wait until a node's diagnostics say something; return after how many seconds."""
        began = time.monotonic()
        self.robot.wait(lambda: words in self.states[node].message, f'{node}: {words}',
                        SLACK * seconds + robots.DEADLINE * (not LONG))
        return time.monotonic() - began

    def works(self):
        """Check that an image gives the two poses that it should, and return its result."""
        header = self.shoot()
        self.robot.wait(lambda: by_stamp(self.results, header), 'result')
        result, = by_stamp(self.results, header)
        check_poses(result)
        assert [one.id for one in result.detections] == ['cup_1', 'bottle_1']
        for process in self.processes.values():
            assert process.child.poll() is None and 'Traceback' not in process.output
        return result

    def figures(self):
        """Return memory (MB), threads and open files of all processes together."""
        totals = Counter()
        for process in self.processes.values():
            proc = Path('/proc') / str(process.child.pid)
            pages = int((proc / 'statm').read_text().split()[1])
            totals['memory'] += pages * os.sysconf('SC_PAGE_SIZE') / 2**20
            totals['threads'] += len(list((proc / 'task').iterdir()))
            totals['files'] += len(list((proc / 'fd').iterdir()))
        return totals

    def close(self):
        """End everything."""
        self.robot.close()
        for process in self.processes.values():
            process.kill()


def check_poses(result, width=WIDTH, height=HEIGHT):
    """Check that poses are where the cup and the bottle of a picture are."""
    for one in result.detections:
        x = {'cup': 39.5, 'bottle': 119.5}[one.results[0].hypothesis.class_id]
        position = one.results[0].pose.pose.position
        assert position.x == pytest.approx(DISTANCE * (x - (width - 1) / 2) / FOCAL), one.id
        assert position.z == pytest.approx(DISTANCE)


@pytest.fixture(scope='module')
def rig(tmp_path_factory):
    """Both nodes."""
    made = Rig(tmp_path_factory.mktemp('rig'), NODES)
    yield made
    made.close()


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """The pose node alone; the masks are the test's."""
    made = Rig(tmp_path_factory.mktemp('alone'), {'pose_node': 'pose_rgb_mask'})
    made.robot.advertise(Image, 'instance_masks')
    made.robot.advertise(Detection2DArray, 'detections')
    yield made
    made.close()


@pytest.mark.parametrize('node', NODES)
def test_kill_and_restart(rig, node, record_property):
    rig.works()
    process = rig.processes[node]
    assert process.stop(signal.SIGKILL) == -signal.SIGKILL
    rig.start(node)
    headers = []

    def answered():
        headers.append(rig.shoot(later=0.1))
        rig.robot.spin(0.1)
        return 'ready: ' in rig.processes[node].output

    # The camera goes on all the while.
    rig.robot.wait(answered, f'start of {node}')
    began = time.monotonic()
    before = len(rig.results)

    def is_back():
        headers.append(rig.shoot(later=0.1))
        rig.robot.spin(0.05)
        return any(len(one.detections) == 2 for one in rig.results[before:])

    rig.robot.wait(is_back, 'poses', 3.0 * SLACK)
    took = time.monotonic() - began
    record_property('poses back (s after ready)', f'{took:.1f}')
    assert took <= 3.0 * SLACK
    assert all(result.header in headers for result in rig.results[before:])
    for result in rig.results[before:]:
        check_poses(result)
    rig.works()


def test_camera_stops_and_comes_back(rig, record_property):
    for _ in range(12):
        rig.works()
        rig.robot.spin(0.1)
    took = [rig.told(node, words) for node, words in
            (('segmentation_node', 'no image for'), ('pose_node', 'no masks for'))]
    rig.robot.node.destroy_publisher(rig.robot.publishers.pop('image'))
    took.append(rig.told('segmentation_node', 'nobody publishes /image'))
    record_property('diagnosed (s)', f'{max(took):.1f}')
    rig.robot.advertise(Image, 'image')
    rig.robot.wait(lambda: rig.robot.publishers['image'].get_subscription_count() == 2,
                   'subscriptions')
    rig.works()
    rig.told('segmentation_node', 'images a second')


def test_stamps_jump_back(rig, record_property):
    rounds = 20 if LONG else 2
    first = rig.robot.stamp
    for _ in range(rounds):
        rig.robot.stamp = first  # as a bag that starts again
        del rig.results[:]
        for _ in range(5):
            rig.works()
    record_property('loops of five images', rounds)


def test_stamps_at_zero(rig, record_property):
    del rig.results[:]
    for _ in range(5):
        header = rig.robot.header()
        header.stamp.sec = header.stamp.nanosec = 0
        rig.robot.publish(camera_info=camera_info(header), image=picture_message(header))
    took = [rig.told(node, 'image: stamp: expected one above 0, got 0') for node in NODES]
    record_property('diagnosed (s)', f'{max(took):.1f}')
    assert not rig.results
    rig.works()


def test_stamps_that_stand_still(rig, record_property):
    header, what = rig.robot.header(), ({'cup': False}, {'bottle': False})
    count = 200 if LONG else 20
    for index in range(count):
        rig.robot.publish(camera_info=camera_info(header),
                          image=picture_message(header, **what[index % 2]))
        rig.robot.executor.spin_once(0.01)
    took = [rig.told(node, 'came before: images of the same stamp cannot be told apart')
            for node in NODES]
    record_property('images of one stamp', count)
    record_property('diagnosed (s)', f'{max(took):.1f}')
    rig.works()
    still = by_stamp(rig.results, header)
    # The first image may have been done before the second came.
    assert len(still) <= 1
    for result in still:
        assert [one.id[:6] for one in result.detections] == ['bottle']
        check_poses(result)
    assert int(rig.value('pose_node', 'image: refused, stamp came before')) > 1


def test_two_publishers_of_one_image(rig, record_property):
    second = rig.robot.node.create_publisher(Image, 'image', 10)
    rig.robot.wait(lambda: second.get_subscription_count() == 2, 'subscriptions')
    before, seen, index = len(rig.results), set(), 0
    began = time.monotonic()
    while time.monotonic() < began + (20 if LONG else 2) or seen != set(NODES):
        assert time.monotonic() < began + robots.DEADLINE
        index += 1
        header = rig.robot.header(later=0.05)
        size = (WIDTH, HEIGHT) if index % 2 else (2 * WIDTH, 2 * HEIGHT)
        # Another camera that has the same clock, and one that has its own.
        rig.robot.publish(camera_info=camera_info(header), image=picture_message(header))
        if index % 3 == 0:
            header = rig.robot.header(later=0.01)
        second.publish(picture_message(header, width=size[0], height=size[1]))
        rig.robot.spin(0.05)
        seen |= {node for node in NODES if rig.states[node].message ==
                 '2 publishers of /image: their messages may be mixed up'}
    for result in rig.results[before:]:
        check_poses(result)
    rig.robot.node.destroy_publisher(second)
    rig.works()


def test_camera_info_changes_its_size(rig):
    rig.works()
    header = rig.robot.header()
    rig.robot.publish(camera_info=camera_info(header, 2 * WIDTH, 2 * HEIGHT),
                      image=picture_message(header, width=2 * WIDTH, height=2 * HEIGHT))
    rig.robot.wait(lambda: by_stamp(rig.results, header), 'result of the other size')
    result, = by_stamp(rig.results, header)
    assert len(result.detections) == 2
    check_poses(result, 2 * WIDTH, 2 * HEIGHT)
    # The image has not changed with it.
    wrong = rig.robot.header()
    rig.robot.publish(camera_info=camera_info(wrong, 2 * WIDTH, 2 * HEIGHT),
                      image=picture_message(wrong))
    rig.told('pose_node', 'camera info: expected an image of 320 x 240')
    rig.works()
    assert not by_stamp(rig.results, wrong)


def masks_of(header, **what):
    """Return what a segmentation node would publish for a picture."""
    image = picture_message(header, **what)
    pixels = np.reshape(image.data, (image.height, image.width, 3))
    return instances_to_messages(FakeSegmenter().segment(pixels), image.height, image.width,
                                 header)


def send(rig, header, **what):
    """Publish the masks of an image."""
    masks, detections = masks_of(header, **what)
    rig.robot.publish(instance_masks=masks, detections=detections)


def test_masks_late(alone):
    late = alone.shoot(bottle=False, later=0.1)
    others = [alone.shoot(later=0.1)]
    for _ in range(10):
        alone.robot.spin(0.1)
        others.append(alone.shoot(later=0.1))
    send(alone, late, bottle=False)
    alone.robot.wait(lambda: by_stamp(alone.results, late), 'result of masks late by 1 s')
    result, = by_stamp(alone.results, late)
    assert [one.id for one in result.detections] == ['cup_1']
    check_poses(result)
    send(alone, others[-1])
    alone.robot.wait(lambda: by_stamp(alone.results, others[-1]), 'result')


def test_masks_out_of_order(alone):
    what = ({}, {'cup': False}, {'bottle': False}, {})
    headers = [alone.shoot(later=0.1, **one) for one in what]
    alone.robot.spin(0.3)
    for index in (2, 0, 3, 1):
        send(alone, headers[index], **what[index])
        alone.robot.spin(0.2)
    alone.robot.wait(lambda: by_stamp(alone.results, headers[3]), 'result of the newest')
    for header, one in zip(headers, what):
        for result in by_stamp(alone.results, header):
            names = {found.results[0].hypothesis.class_id for found in result.detections}
            assert names <= {name for name in ('cup', 'bottle') if one.get(name, True)}
            check_poses(result)


def test_masks_of_images_never_seen(alone, record_property):
    before = len(alone.results)
    dropped = int(alone.value('pose_node', 'dropped without image') or 0)
    count = 1000 if LONG else 100
    for _ in range(count):
        send(alone, alone.robot.header(later=0.01))
        alone.robot.executor.spin_once(0.02)
    alone.robot.wait(lambda: int(alone.value('pose_node', 'dropped without image') or 0)
                     > dropped, 'drops')
    took = alone.told('pose_node', 'image')
    record_property('masks without an image', count)
    record_property('diagnosed (s)', f'{took:.1f}')
    assert len(alone.results) == before
    header = alone.shoot()
    alone.robot.spin(0.2)
    send(alone, header)
    alone.robot.wait(lambda: by_stamp(alone.results, header), 'result')


def test_hundred_instances(alone, record_property):
    frames = alone.robot.collect(TFMessage, '/tf')
    masks = np.zeros((100, HEIGHT, WIDTH), bool)
    for index, mask in enumerate(masks):
        row, column = divmod(index, 10)
        mask[row * 12:row * 12 + 8, column * 16:column * 16 + 10] = True
    rng, places, took = np.random.default_rng(0), [], []
    for later in (2.0, *[0.1] * (50 if LONG else 2)):
        order = rng.permutation(100)
        instances = [Instance('cup', 0.9, mask_box(masks[index]), masks[index], number)
                     for number, index in enumerate(order, 1)]
        header = alone.shoot(later=later)
        labels, detections = instances_to_messages(instances, HEIGHT, WIDTH, header)
        alone.robot.spin(0.1)
        began = time.monotonic()
        alone.robot.publish(instance_masks=labels, detections=detections)
        alone.robot.wait(lambda: by_stamp(alone.results, header), 'result')
        took.append(time.monotonic() - began)
        result, = by_stamp(alone.results, header)
        places.append({one.id: (one.results[0].pose.pose.position.x,
                                one.results[0].pose.pose.position.y)
                       for one in result.detections})
    assert len(places[0]) == 100
    assert all(one == places[0] for one in places), 'each keeps its name'
    alone.robot.wait(lambda: len(frames) == len(places), 'TF')
    assert all(len(one.transforms) == 100 for one in frames)
    record_property('latency, fake networks, median (ms)', f'{1e3 * np.median(took):.0f}')


def test_overload(tmp_path, record_property):
    """30 images a second into a segmenter that can do ten at most: the newest first."""
    rig = Rig(tmp_path, {'segmentation_node': 'slow_segmentation', 'pose_node': 'pose_rgb_mask'})
    try:
        rig.works()
        sent, latencies, seconds = {}, [], 60 if LONG else 4
        del rig.results[:]
        end, due = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < end:
            if time.monotonic() >= due:
                due += 1 / 30
                header = rig.shoot(later=1 / 30)
                sent[stamp_ns(header)] = time.monotonic()
            rig.robot.executor.spin_once(0.002)
            for result in rig.results:
                latencies.append(time.monotonic() - sent[stamp_ns(result.header)])
                check_poses(result)
            del rig.results[:]
        record_property('images sent', len(sent))
        record_property('results', len(latencies))
        record_property('latency, 95 % (ms)', f'{1e3 * np.quantile(latencies, 0.95):.0f}')
        # One image may be at work when it comes, and it itself takes as long.
        assert np.quantile(latencies, 0.95) < (2 * SLOW_SECONDS + 0.5) * SLACK
        assert len(latencies) > seconds / SLOW_SECONDS / 2 / SLACK
        dropped = int(rig.value('segmentation_node', 'dropped for newer ones'))
        record_property('drops counted', dropped)
        assert dropped > 0
        rig.robot.wait(lambda: int(rig.value('segmentation_node', 'dropped for newer ones'))
                       + int(rig.value('segmentation_node', 'images')) == rig.shots,
                       'account of all images')
    finally:
        rig.close()


def test_model_file_replaced_while_running(tmp_path):
    domain, models = free_domain(), tmp_path / 'models'
    path = models / 'cup.mask.safetensors'
    make_checkpoint(object_from_mesh('builtin:cup', 'm', 'cup')[0], 'mask').save(path)
    process = robots.Process(domain, tmp_path / 'log', '-m', 'pose_estimator.nodes.pose_node',
                             '--ros-args', '-p', f'models:={models}', '-p', 'input:=mask',
                             *RELIABLE)
    robot = Robot(domain)
    results = robot.collect(Detection3DArray, 'object_detections')
    try:
        robot.advertise(Image, 'instance_masks')
        robot.advertise(Detection2DArray, 'detections')
        robot.advertise(CameraInfo, 'camera_info')

        def works():
            header = robot.header()
            masks, detections = masks_of(header)
            robot.publish(camera_info=camera_info(header), instance_masks=masks,
                          detections=detections)
            robot.wait(lambda: by_stamp(results, header), 'result')

        works()
        sound = path.read_bytes()
        with path.open('r+b') as stream:  # in place, as cp does it
            stream.truncate(100)
            works()
            stream.write(b'x' * 100)
        works()
        path.unlink()
        works()
        path.write_bytes(sound[:len(sound) // 2])
        works()
        assert change(robot, Transition.TRANSITION_DEACTIVATE)
        assert change(robot, Transition.TRANSITION_CLEANUP)
        assert not change(robot, Transition.TRANSITION_CONFIGURE)
        process.wait_for(f'configuring failed: {path}')
        path.write_bytes(sound)
        assert change(robot, Transition.TRANSITION_CONFIGURE)
        assert change(robot, Transition.TRANSITION_ACTIVATE)
        robot.wait(lambda: robot.publishers['detections'].get_subscription_count(), 'node')
        robot.spin(0.5)
        works()
        assert 'Traceback' not in process.output
    finally:
        robot.close()
        process.kill()


def test_hostile_messages(rig, record_property):
    count, seed = (10000 if LONG else 500), 20
    for topic, kind in (('instance_masks', Image), ('detections', Detection2DArray)):
        rig.robot.publishers[topic] = rig.robot.node.create_publisher(kind, topic, 10)
    rig.works()
    instances = FakeSegmenter().segment(
        np.reshape(picture_message(rig.robot.header()).data, (HEIGHT, WIDTH, 3)))
    hostile = Hostile(rig.robot, instances, seed)
    before, warm = len(rig.results), None
    for index, (topic, message) in enumerate(hostile.messages(count)):
        rig.robot.publishers[topic].publish(message)
        rig.robot.executor.spin_once(0.01)
        if index == count // 10:
            warm = rig.figures()
    for result in rig.results[before:]:
        for one in result.detections:
            position = one.results[0].pose.pose.position
            assert np.isfinite([position.x, position.y, position.z]).all()
    for topic in ('instance_masks', 'detections'):
        rig.robot.node.destroy_publisher(rig.robot.publishers.pop(topic))
    rig.robot.header(later=100.0)
    rig.robot.stamp = max(rig.robot.stamp, time.time_ns())
    rig.works()
    after = rig.figures()
    record_property('messages', f'{count} (seed {seed})')
    record_property('memory (MB), both nodes', f'{warm["memory"]:.0f} -> {after["memory"]:.0f}')
    assert after['threads'] <= warm['threads'] and after['files'] <= warm['files'] + 2
    assert after['memory'] < 1.05 * warm['memory'] + 20


def wrong_values(one):
    """Return values that a parameter must refuse."""
    kinds = {bool: ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=True),
             int: ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=7),
             float: ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.5),
             str: ParameterValue(type=ParameterType.PARAMETER_STRING, string_value='x'),
             list: ParameterValue(type=ParameterType.PARAMETER_BYTE_ARRAY,
                                  byte_array_value=[b'x'])}
    values = [value for kind, value in kinds.items() if kind is not type(one.default)]
    values.append(ParameterValue(type=ParameterType.PARAMETER_NOT_SET))
    if isinstance(one.default, float):
        values += [ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
                   for value in (float('nan'), float('inf'), -1.0, 1e9)]
    if isinstance(one.default, int) and not isinstance(one.default, bool):
        values += [ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
                   for value in (-1, 2**62)]
    return values


@pytest.mark.parametrize('node, table', [('pose_node', pose_module.PARAMETERS),
                                         ('segmentation_node', segmentation_module.PARAMETERS)])
def test_wrong_parameters_are_refused(rig, node, table, record_property):
    wrong = [Parameter(name=one.name, value=value) for one in table
             for value in wrong_values(one)]
    answers = rig.robot.call(SetParameters, f'{node}/set_parameters',
                             SetParameters.Request(parameters=wrong)).results
    assert len(answers) == len(wrong)
    taken = [one.name for one, answer in zip(wrong, answers) if answer.successful]
    assert not taken
    assert all(answer.reason for answer in answers)
    record_property('values refused', len(wrong))
    rig.works()
