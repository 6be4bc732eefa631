"""The nodes as a robot meets them: over DDS, in processes of their own."""

import array
from dataclasses import replace
import importlib.util
import re
import signal
import time

import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fake_nodes import DISTANCE, FakeSegmenter
from geometry_msgs.msg import PoseArray, PoseStamped
import numpy as np
from pose_estimator.demo.processes import free_domain
from pose_estimator.instance import Instance, mask_box
from pose_estimator.nodes.conversions import (
    ImageReader, instances_to_messages, pose_from_message)
from pose_estimator.object_model import object_from_mesh
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.qos import (
    qos_profile_sensor_data, QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy)
import robot as robots
from robot import by_stamp, camera_info, HERE, picture, picture_message, Robot
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import BoundingBox3D, Detection2DArray, Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

RELIABLE = [part for topic in ('image', 'camera_info') for part in
            ('-p', f'qos_overrides./{topic}.subscription.reliability:=reliable')]


class Results:
    """All that pose_node publishes."""

    def __init__(self, robot):
        self.poses = robot.collect(PoseStamped, 'object_poses')
        self.detections = robot.collect(Detection3DArray, 'object_detections')
        self.tf = robot.collect(TFMessage, '/tf')
        self.markers = robot.collect(MarkerArray, 'object_markers')


@pytest.fixture(scope='module')
def pipeline(tmp_path_factory):
    """Both nodes in one process, with networks that know the answer."""
    domain = free_domain()
    process = robots.Process(domain, tmp_path_factory.mktemp('pipeline') / 'log',
                             HERE / 'fake_nodes.py', 'segmentation,pose_rgb_mask',
                             '--ros-args', *RELIABLE)
    robot = Robot(domain)
    robot.results = Results(robot)
    robot.masks = robot.collect(Image, 'instance_masks')
    robot.boxes = robot.collect(Detection2DArray, 'detections')
    robot.process = process
    robot.advertise(Image, 'image')
    robot.advertise(CameraInfo, 'camera_info')
    robot.wait(lambda: robot.publishers['image'].get_subscription_count() == 2, 'both nodes')
    yield robot
    robot.close()
    process.kill()


@pytest.fixture(scope='module')
def pose_node(tmp_path_factory):
    """The pose node for input mask."""
    domain = free_domain()
    process = robots.Process(domain, tmp_path_factory.mktemp('pose') / 'log',
                             HERE / 'fake_nodes.py', 'pose_mask', '--ros-args', *RELIABLE)
    robot = Robot(domain)
    robot.results = Results(robot)
    robot.process = process
    robot.advertise(Image, 'instance_masks')
    robot.advertise(Detection2DArray, 'detections')
    robot.advertise(CameraInfo, 'camera_info')
    yield robot
    robot.close()
    process.kill()


def segment(**what):
    """Return the instances of a picture."""
    return FakeSegmenter().segment(picture(**what))


def publish_masks(robot, header, instances, info=True):
    """Publish what a segmentation node would."""
    masks, detections = instances_to_messages(instances, robots.HEIGHT, robots.WIDTH, header)
    if info:
        robot.publish(camera_info=camera_info(header))
    robot.publish(instance_masks=masks, detections=detections)


def test_image_gives_masks_and_detections_under_its_header(pipeline):
    header = pipeline.header()
    pipeline.publish(image=picture_message(header))
    pipeline.wait(lambda: by_stamp(pipeline.masks, header) and by_stamp(pipeline.boxes, header),
                  'masks and detections')
    masks, boxes = by_stamp(pipeline.masks, header)[0], by_stamp(pipeline.boxes, header)[0]
    assert masks.header == header and boxes.header == header
    assert masks.encoding == 'mono16'
    labels = ImageReader().labels(masks)
    assert set(np.unique(labels)) == {0, 1, 2}
    cup, bottle = boxes.detections
    assert (cup.id, cup.results[0].hypothesis.class_id) == ('1', 'cup')
    assert cup.results[0].hypothesis.score == pytest.approx(0.9)
    assert (labels == 1).sum() == 40 * 40
    assert (cup.bbox.center.position.x, cup.bbox.center.position.y) == (39.5, 59.5)
    assert (cup.bbox.size_x, cup.bbox.size_y) == (40, 40)
    assert bottle.results[0].hypothesis.class_id == 'bottle'


def test_image_gives_poses_that_agree_on_all_topics(pipeline):
    header, results = pipeline.header(), pipeline.results
    pipeline.publish(camera_info=camera_info(header), image=picture_message(header))
    pipeline.wait(lambda: len(by_stamp(results.poses, header)) == 2
                  and by_stamp(results.detections, header)
                  and any(by_stamp(one.transforms, header) for one in results.tf)
                  and any(by_stamp(one.markers, header) for one in results.markers), 'results')
    poses = by_stamp(results.poses, header)
    detections = by_stamp(results.detections, header)[0]
    transforms = [one.transforms for one in results.tf if by_stamp(one.transforms, header)]
    assert len(transforms) == 1, 'all transforms of an image in one message'
    assert all(pose.header == header for pose in poses) and detections.header == header
    assert [one.id for one in detections.detections] == ['cup_1', 'bottle_1']
    for pose, detection, transform in zip(poses, detections.detections, transforms[0]):
        assert transform.header == header
        assert transform.child_frame_id == detection.id
        result = detection.results[0]
        assert f'{result.hypothesis.class_id}_1' == detection.id
        assert result.hypothesis.score == pytest.approx(0.9)
        assert result.pose.pose == pose.pose
        covariance = np.reshape(result.pose.covariance, (6, 6))
        assert np.diag(covariance) == pytest.approx(np.arange(1, 7) * 1e-6)
        for axis in 'xyz':
            assert getattr(transform.transform.translation, axis) == \
                getattr(pose.pose.position, axis)
        assert transform.transform.rotation == pose.pose.orientation
    assert poses[0].pose.position.x == pytest.approx(DISTANCE * (39.5 - 79.5) / robots.FOCAL)
    assert poses[0].pose.position.z == pytest.approx(DISTANCE)
    markers = next(one.markers for one in results.markers if by_stamp(one.markers, header))
    assert {(one.ns, one.action) for one in markers} >= {('cup_1', Marker.ADD),
                                                         ('bottle_1', Marker.ADD)}
    assert {one.text.split()[0] for one in markers if one.type == Marker.TEXT_VIEW_FACING} == \
        {'cup_1', 'bottle_1'}


def test_marker_of_what_is_gone_is_deleted_and_nothing_else_published(pipeline):
    results = pipeline.results
    for what in ({}, {'bottle': False}):
        header = pipeline.header()
        pipeline.publish(camera_info=camera_info(header), image=picture_message(header, **what))
        pipeline.wait(lambda: any(by_stamp(one.markers, header) for one in results.markers),
                      'markers')
    markers = next(one.markers for one in results.markers if by_stamp(one.markers, header))
    assert {(one.ns, one.action) for one in markers} == {('cup_1', Marker.ADD),
                                                         ('bottle_1', Marker.DELETE)}
    header = pipeline.header()
    pipeline.publish(camera_info=camera_info(header),
                     image=picture_message(header, cup=False, bottle=False))
    pipeline.wait(lambda: by_stamp(results.detections, header), 'empty detections')
    assert by_stamp(results.detections, header)[0].detections == []
    assert not by_stamp(results.poses, header)


def test_overlay_is_published_while_somebody_listens(pipeline):
    overlays = []
    subscription = pipeline.node.create_subscription(Image, 'pose_overlay', overlays.append, 10)
    pipeline.wait(lambda: pipeline.node.count_publishers('pose_overlay'), 'overlay')
    pipeline.spin(0.5)
    header = pipeline.header()
    pipeline.publish(camera_info=camera_info(header), image=picture_message(header))
    pipeline.wait(lambda: by_stamp(overlays, header), 'overlay')
    overlay = by_stamp(overlays, header)[0]
    assert overlay.header == header and overlay.encoding == 'rgb8'
    pixels = ImageReader().rgb(overlay)
    assert pixels.shape == picture().shape
    assert (pixels != picture()).any()
    pipeline.node.destroy_subscription(subscription)


def test_input_mask_needs_no_image_topic(pose_node):
    assert pose_node.node.count_subscribers('image') == 0
    assert pose_node.node.count_publishers('image') == 0
    header = pose_node.header()
    publish_masks(pose_node, header, segment())
    pose_node.wait(lambda: len(by_stamp(pose_node.results.poses, header)) == 2, 'poses')


def test_input_mask_subscribes_to_the_image_for_the_overlay_alone(pose_node):
    node, overlays = pose_node.node, []
    subscription = node.create_subscription(Image, 'pose_overlay', overlays.append, 10)
    pose_node.wait(lambda: node.count_subscribers('image') == 1, 'subscription to the image')
    header = pose_node.header()
    publish_masks(pose_node, header, segment())
    pose_node.wait(lambda: by_stamp(pose_node.results.poses, header), 'poses without an image')
    pose_node.advertise(Image, 'image')
    header = pose_node.header()
    pose_node.publish(image=picture_message(header))
    pose_node.spin(0.5)  # the image first, as from a camera
    publish_masks(pose_node, header, segment())
    pose_node.wait(lambda: by_stamp(overlays, header), 'overlay')
    node.destroy_subscription(subscription)
    pose_node.wait(lambda: node.count_subscribers('image') == 0, 'end of the subscription')


def test_masks_without_their_detections_wait_and_others_go_on(pose_node):
    late, header = pose_node.header(), pose_node.header()
    masks, detections = instances_to_messages(segment(), robots.HEIGHT, robots.WIDTH, late)
    pose_node.publish(camera_info=camera_info(late), instance_masks=masks)
    pose_node.spin(0.3)
    assert not by_stamp(pose_node.results.detections, late)
    pose_node.publish(detections=detections)
    pose_node.wait(lambda: by_stamp(pose_node.results.detections, late), 'late result')
    publish_masks(pose_node, header, segment())
    pose_node.wait(lambda: by_stamp(pose_node.results.detections, header), 'result')


def test_camera_info_of_other_stamps_serves_with_one_warning(pose_node):
    pose_node.publish(camera_info=camera_info(pose_node.header('other')))
    for _ in range(2):
        pose_node.publish(camera_info=camera_info(pose_node.header('other')))
        header = pose_node.header('other')
        publish_masks(pose_node, header, segment(), info=False)
        pose_node.wait(lambda: by_stamp(pose_node.results.detections, header), 'result')
    pose_node.process.wait_for('no camera_info has the stamp of its image')
    assert pose_node.process.output.count('no camera_info has the stamp of its image') == 1


def test_instances_of_a_class_are_numbered_from_left_to_right(pose_node):
    masks = np.zeros((3, robots.HEIGHT, robots.WIDTH), bool)
    for mask, left in zip(masks, (100, 10, 60)):
        mask[20:50, left:left + 20] = True
    instances = [Instance('cup', score, mask_box(mask), mask, number)
                 for number, (mask, score) in enumerate(zip(masks, (0.9, 0.8, 0.7)), 1)]
    header = pose_node.header()
    publish_masks(pose_node, header, instances)
    pose_node.wait(lambda: by_stamp(pose_node.results.detections, header), 'result')
    found = by_stamp(pose_node.results.detections, header)[0].detections
    assert [one.id for one in found] == ['cup_1', 'cup_2', 'cup_3']
    x = [one.results[0].pose.pose.position.x for one in found]
    assert x == sorted(x)


def cups_at(*lefts):
    """Return instances of cups, given by their left edges, in this order."""
    masks = np.zeros((len(lefts), robots.HEIGHT, robots.WIDTH), bool)
    for mask, left in zip(masks, lefts):
        mask[20:50, left:left + 20] = True
    return [Instance('cup', 0.9, mask_box(mask), mask, number)
            for number, mask in enumerate(masks, 1)]


def test_two_cups_keep_their_names_and_one_is_held(pose_node):
    held = pose_node.collect(PoseStamped, 'object_poses/cup')
    pose_node.wait(lambda: pose_node.node.count_publishers('object_poses/cup'), 'topic')
    headers = []
    # The segmenter gives them in any order; then the first is hidden for a moment.
    for later, lefts in ((2.0, (10, 100)), (0.2, (98, 12)), (0.2, (96,)), (0.2, (94, 16))):
        headers.append(pose_node.header(later=later))
        publish_masks(pose_node, headers[-1], cups_at(*lefts))
        pose_node.wait(lambda: by_stamp(pose_node.results.detections, headers[-1]), 'result')
    found = [{one.id: one.results[0].pose.pose.position.x for one in
              by_stamp(pose_node.results.detections, header)[0].detections}
             for header in headers]
    assert [sorted(one) for one in found] == [['cup_1', 'cup_2'], ['cup_1', 'cup_2'], ['cup_2'],
                                              ['cup_1', 'cup_2']]
    assert all(one['cup_2'] > 0 for one in found)
    assert all(one['cup_1'] < 0 for one in found if 'cup_1' in one)
    pose_node.wait(lambda: by_stamp(held, headers[-1]), 'held pose')
    x = [one.pose.position.x for one in held]
    assert [one.header for one in held] == [headers[0], headers[1], headers[3]]
    assert x == [found[step]['cup_1'] for step in (0, 1, 3)]


def states(robot, messages):
    """Return what pose_node last said of itself: (level, message, values)."""
    del messages[:]
    robot.wait(lambda: any(one.status[0].name == 'pose_node: images' for one in messages),
               'diagnostics')
    status = next(one for one in messages if one.status[0].name == 'pose_node: images').status[0]
    return status.level, status.message, {one.key: one.value for one in status.values}


def test_diagnostics_say_whether_it_works_and_why_not(pose_node):
    messages = pose_node.collect(DiagnosticArray, '/diagnostics')
    header = pose_node.header()
    dot = np.zeros((robots.HEIGHT, robots.WIDTH), bool)
    dot[5, 5] = True
    publish_masks(pose_node, header,
                  [*cups_at(30), Instance('cup', 0.5, mask_box(dot), dot, 2)])
    pose_node.wait(lambda: by_stamp(pose_node.results.detections, header), 'result')
    level, text, values = states(pose_node, messages)
    assert level == DiagnosticStatus.OK and text.endswith('images a second')
    assert int(values['rejected: cup: mask of one pixel']) >= 1
    assert float(values['work, 95 % (ms)']) >= float(values['work, median (ms)']) > 0
    assert values['in view'].startswith('cup_') and int(values['memory, peak (MB)']) > 10

    # A fault is read within two seconds.
    header = pose_node.header()
    info = camera_info(header)
    info.k[0] = 0.0
    pose_node.publish(camera_info=info)
    publish_masks(pose_node, header, cups_at(30), info=False)
    end = time.monotonic() + robots.DEADLINE
    while 'uncalibrated' not in text:
        assert time.monotonic() < end
        level, text, _ = states(pose_node, messages)
    assert level == DiagnosticStatus.WARN
    while not text.startswith('no masks for'):
        assert time.monotonic() < end
        level, text, _ = states(pose_node, messages)
    assert level == DiagnosticStatus.WARN


def test_poses_below_min_score_are_told_of_but_not_published(pose_node):
    messages, results = pose_node.collect(DiagnosticArray, '/diagnostics'), pose_node.results
    header = pose_node.header()
    good, poor = cups_at(10, 100)
    publish_masks(pose_node, header, [good, replace(poor, score=0.25)])
    pose_node.wait(lambda: by_stamp(results.detections, header)
                   and any(by_stamp(one.transforms, header) for one in results.tf), 'results')
    pose_node.spin(0.2)
    found, = by_stamp(results.detections, header)[0].detections
    pose, = by_stamp(results.poses, header)
    frames, = [one.transforms for one in results.tf if by_stamp(one.transforms, header)]
    assert pose.pose == found.results[0].pose.pose and pose.pose.position.x < 0
    assert [one.child_frame_id for one in frames] == ['cup_1']
    assert int(states(pose_node, messages)[2]['rejected: cup: score N is below N']) >= 1


def test_diagnostics_hold_what_an_operator_asks_for(pose_node):
    messages = pose_node.collect(DiagnosticArray, '/diagnostics')
    header = pose_node.header()
    teapot = replace(cups_at(60)[0], label='teapot', id=2)
    publish_masks(pose_node, header, [*cups_at(10), teapot])
    pose_node.wait(lambda: by_stamp(pose_node.results.detections, header), 'result')
    values = states(pose_node, messages)[2]
    expected = {'state', 'images', 'images a second', 'age of the last result (s)', 'objects',
                'device', 'in view', 'memory (MB)', 'memory, peak (MB)', 'threads', 'open files',
                "rejected: no model for 'teapot'", 'camera_info: stamp behind the image (s)'}
    expected |= {f'{name}, {what} (ms)' for what in ('median', '95 %') for name in (
        'latency', 'work', 'reading', 'waiting for camera_info', 'finding poses', 'publishing')}
    expected |= {f'{kind}: {what}' for kind in ('masks', 'detections', 'camera_info') for what in (
        'messages', 'messages a second', 'age of the last (s)', 'stamp behind the clock (s)')}
    assert expected <= set(values), expected - set(values)
    assert values['device'] == 'cpu' and values['state'] == 'active'


def test_stamps_that_differ_are_told_with_the_difference(pose_node):
    messages = pose_node.collect(DiagnosticArray, '/diagnostics')
    told = ('masks, detections: all come, none with the stamp of another; the nearest of '
            'detections differs by 0.003000 s')
    end = time.monotonic() + robots.DEADLINE
    while not any(one.status[0].message == told for one in messages):
        assert time.monotonic() < end
        masks, detections = instances_to_messages(segment(), robots.HEIGHT, robots.WIDTH,
                                                  pose_node.header(later=0.1))
        detections.header = pose_node.header(later=0.003)
        pose_node.publish(instance_masks=masks, detections=detections)
        pose_node.spin(0.1)
    header = pose_node.header()
    publish_masks(pose_node, header, segment())
    pose_node.wait(lambda: by_stamp(pose_node.results.detections, header), 'result')


def test_incompatible_qos_is_told_with_the_name_of_the_topic(tmp_path):
    domain = free_domain()
    process = robots.Process(domain, tmp_path / 'log', HERE / 'fake_nodes.py', 'segmentation',
                             '--ros-args', *RELIABLE)
    robot = Robot(domain)
    messages = robot.collect(DiagnosticArray, '/diagnostics')
    try:
        wrong = robot.node.create_publisher(Image, 'image', qos_profile_sensor_data)
        told = 'a publisher of /image has incompatible QoS: RELIABILITY'
        process.wait_for(told)
        robot.wait(lambda: any(one.status[0].message == f'no image so far: {told}'
                               for one in messages), 'diagnostics')
        assert messages[-1].status[0].level == DiagnosticStatus.WARN
        latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        robot.node.create_subscription(Detection2DArray, 'detections', print, latched)
        told = 'a subscription of /detections has incompatible QoS: DURABILITY'
        process.wait_for(told)
        robot.wait(lambda: any(value.key == 'incompatible QoS on /detections'
                               and value.value == told
                               for one in messages for value in one.status[0].values), 'values')
        # What fits takes its place.
        robot.node.destroy_publisher(wrong)
        robot.advertise(Image, 'image')
        robot.publish(image=picture_message(robot.header()))
        del messages[:]
        robot.wait(lambda: any(one.status[0].level == DiagnosticStatus.OK for one in messages),
                   'diagnostics')
    finally:
        robot.close()
        process.kill()


def set_parameter(robot, name, **value):
    """Set a parameter of pose_node; return the answer."""
    request = SetParameters.Request(parameters=[Parameter(name=name,
                                                          value=ParameterValue(**value))])
    return robot.call(SetParameters, 'pose_node/set_parameters', request).results[0]


def test_max_rate_leaves_images_out(pose_node):
    def set_rate(rate):
        assert set_parameter(pose_node, 'max_rate', type=ParameterType.PARAMETER_DOUBLE,
                             double_value=rate).successful

    set_rate(5.0)
    headers, began = [], time.monotonic()
    while time.monotonic() < began + 2:
        headers.append(pose_node.header(later=0.02))
        publish_masks(pose_node, headers[-1], cups_at(30))
        pose_node.spin(0.02)
    set_rate(0.0)
    pose_node.wait(lambda: by_stamp(pose_node.results.detections, headers[-1]), 'the newest')
    count = sum(len(by_stamp(pose_node.results.detections, header)) for header in headers)
    assert 2 <= count <= 5 * (time.monotonic() - began) + 2 and count < len(headers)


def test_service_enable(pose_node):
    messages = pose_node.collect(DiagnosticArray, '/diagnostics')
    name = 'pose_node/enable'
    assert pose_node.call(SetBool, name, SetBool.Request(data=False)).success
    silent = pose_node.header()
    publish_masks(pose_node, silent, cups_at(30))
    assert states(pose_node, messages)[1] == 'disabled by the service enable'
    assert pose_node.call(SetBool, name, SetBool.Request(data=True)).message == 'enabled'
    header = pose_node.header()
    publish_masks(pose_node, header, cups_at(30))
    pose_node.wait(lambda: by_stamp(pose_node.results.detections, header), 'result')
    assert not by_stamp(pose_node.results.detections, silent)


def documented(node):
    """Return the topics of a node in docs/topics.md: (direction, topic) -> (type, QoS)."""
    text = (HERE.parent / 'docs' / 'topics.md').read_text().partition(f'\n## {node}\n')[2]
    rows = {}
    for line in text.partition('\n## ')[0].splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        way = re.match('(in|out), (sensor data|reliable|latched)', cells[2]) \
            if len(cells) > 2 else None
        for topic in re.findall('`(.*?)`', cells[0]) if way else ():
            for name in ('cup', 'bottle') if '<object>' in topic else ('',):
                rows[way[1], '/' + topic.replace('<object>', name).lstrip('/')] = cells[1], way[2]
    return rows


def found_in_graph(node, name):
    """Return the same of a running node."""
    rows = {}
    for way, list_topics, list_ends in (
            ('in', node.get_subscriber_names_and_types_by_node,
             node.get_subscriptions_info_by_topic),
            ('out', node.get_publisher_names_and_types_by_node,
             node.get_publishers_info_by_topic)):
        for topic, (kind, *_) in list_topics(name, '/'):
            end = next(one for one in list_ends(topic) if one.node_name == name)
            qos = 'latched' if end.qos_profile.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL \
                else 'reliable' if end.qos_profile.reliability == QoSReliabilityPolicy.RELIABLE \
                else 'sensor data'
            rows[way, topic] = kind.replace('/msg/', '/'), qos
    return rows


def test_topics_are_those_in_the_documents(tmp_path):
    domain = free_domain()
    process = robots.Process(domain, tmp_path / 'log', HERE / 'fake_nodes.py',
                             'segmentation,pose_rgb_mask')
    robot = Robot(domain)
    own = {'/rosout', '/parameter_events', '/diagnostics'}
    try:
        process.wait_for('[pose_node]: ready')
        for name in ('segmentation_node', 'pose_node'):
            robot.wait(lambda: name in robot.node.get_node_names(), name)
            expected = documented(name)
            assert len(expected) >= 3
            expected.pop(('in', '/image/compressed'), None)  # instead of image
            robot.wait(lambda: ('in', '/image') in found_in_graph(robot.node, name), 'graph')
            robot.spin(0.5)
            found = {key: value for key, value in found_in_graph(robot.node, name).items()
                     if key[1] not in own and not key[1].endswith('transition_event')}
            assert set(found) == set(expected)
            for key, (kind, qos) in expected.items():
                assert found[key][1] == qos, key
                assert kind in ('as above', found[key][0]), key
    finally:
        robot.close()
        process.kill()


def test_names_begin_with_the_namespace(tmp_path):
    domain = free_domain()
    process = robots.Process(domain, tmp_path / 'log', HERE / 'fake_nodes.py', 'pose_mask',
                             '--ros-args', *RELIABLE, '-r', '__ns:=/left_arm')
    robot = Robot(domain)
    try:
        detections = robot.collect(Detection3DArray, 'left_arm/object_detections')
        frames = robot.collect(TFMessage, '/tf')
        for message, topic in ((Image, 'instance_masks'), (Detection2DArray, 'detections'),
                               (CameraInfo, 'camera_info')):
            robot.advertise(message, f'left_arm/{topic}')
        # The first messages may be sent before the nodes know of this one.
        while not (detections and frames):
            header = robot.header()
            masks, boxes = instances_to_messages(cups_at(30), robots.HEIGHT, robots.WIDTH, header)
            robot.publish(**{'left_arm/camera_info': camera_info(header),
                             'left_arm/instance_masks': masks, 'left_arm/detections': boxes})
            robot.spin(0.5)
            assert process.child.poll() is None, process.output
        assert detections[0].detections[0].id == 'left_arm/cup_1'
        assert frames[0].transforms[0].child_frame_id == 'left_arm/cup_1'
    finally:
        robot.close()
        process.kill()


def test_size_and_symmetries_are_there_for_who_comes_later(pose_node):
    latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    boxes, turns = [], []
    subscriptions = [
        pose_node.node.create_subscription(BoundingBox3D, 'object_dimensions/cup', boxes.append,
                                           latched),
        pose_node.node.create_subscription(PoseArray, 'object_symmetries/bottle', turns.append,
                                           latched)]
    pose_node.wait(lambda: boxes and turns, 'size and symmetries')
    cup, bottle = (object_from_mesh(f'builtin:{name}', 'm', name)[0] for name in
                   ('cup', 'bottle'))
    size, center = boxes[0].size, boxes[0].center.position
    assert [size.x, size.y, size.z] == pytest.approx(cup.bounds[1] - cup.bounds[0])
    assert [center.x, center.y, center.z] == pytest.approx(cup.center)
    assert turns[0].header.frame_id == 'bottle'
    expected = bottle.symmetries_for('mask').transforms(72)
    assert len(turns[0].poses) == len(expected)
    for message, turn in zip(turns[0].poses, expected):
        found = pose_from_message(message)
        np.testing.assert_allclose(found.matrix, turn.matrix, atol=1e-9)
    for subscription in subscriptions:
        pose_node.node.destroy_subscription(subscription)


def test_smoothing_moves_poses_less_than_they_were_measured(pose_node):
    def moved(is_smoothed):
        assert set_parameter(pose_node, 'smoothing', type=ParameterType.PARAMETER_BOOL,
                             bool_value=is_smoothed).successful
        x = []
        for later, left in ((2.0, 30), (0.01, 30), (0.01, 30), (0.01, 31)):
            header = pose_node.header(later=later)
            publish_masks(pose_node, header, cups_at(left))
            pose_node.wait(lambda: by_stamp(pose_node.results.poses, header), 'pose')
            x.append(by_stamp(pose_node.results.poses, header)[0].pose.position.x)
        return x[3] - x[2]

    pixel = DISTANCE / robots.FOCAL
    assert moved(False) == pytest.approx(pixel)
    assert 0.1 * pixel < moved(True) < 0.9 * pixel
    assert moved(False) == pytest.approx(pixel)


TF2_ROS = """
from geometry_msgs.msg import TransformStamped


class TransformException(Exception):
    pass


class Buffer:
    def lookup_transform(self, target, source, time, timeout):
        if (target, source) != ('map', 'camera') or time.nanoseconds < 10**9:
            raise TransformException(f'no transform from {source} to {target}')
        found = TransformStamped()
        found.transform.translation.x = 10.0
        found.transform.rotation.z = found.transform.rotation.w = 0.5 ** 0.5
        return found


class TransformListener:
    def __init__(self, buffer, node):
        pass
"""


def test_target_frame_through_a_tf2_ros(tmp_path, monkeypatch):
    (tmp_path / 'tf2_ros.py').write_text(TF2_ROS)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    domain = free_domain()
    process = robots.Process(domain, tmp_path / 'log', HERE / 'fake_nodes.py', 'pose_mask',
                             '--ros-args', *RELIABLE, '-p', 'target_frame:=map')
    robot = Robot(domain)
    try:
        results = Results(robot)
        robot.advertise(Image, 'instance_masks')
        robot.advertise(Detection2DArray, 'detections')
        robot.advertise(CameraInfo, 'camera_info')
        lost, header = robot.header('elsewhere'), robot.header()
        publish_masks(robot, lost, cups_at(30))
        process.wait_for("target_frame: expected a transform from 'elsewhere' to 'map' at the "
                         'stamp of the image, got no transform')
        publish_masks(robot, header, cups_at(30))
        robot.wait(lambda: by_stamp(results.poses, header)
                   and by_stamp(results.detections, header), 'poses')
        pose, detections = by_stamp(results.poses, header)[0], by_stamp(results.detections, header)
        assert not by_stamp(results.poses, lost)
        assert pose.header.frame_id == detections[0].header.frame_id == 'map'
        assert pose.header.stamp == header.stamp
        # A quarter turn about z: the camera's x is y of the map.
        assert pose.pose.position.x == pytest.approx(10 - DISTANCE * (34.5 - 59.5) / robots.FOCAL)
        assert pose.pose.position.y == pytest.approx(DISTANCE * (39.5 - 79.5) / robots.FOCAL)
        covariance = np.reshape(detections[0].detections[0].results[0].pose.covariance, (6, 6))
        assert np.diag(covariance) == pytest.approx(np.array([2, 1, 3, 5, 4, 6]) * 1e-6)
    finally:
        robot.close()
        process.kill()


def test_target_frame_without_tf2_ros_is_refused_in_words(tmp_path):
    if importlib.util.find_spec('tf2_ros') is not None:
        pytest.skip('tf2_ros is installed')
    process = robots.Process(free_domain(), tmp_path / 'log', HERE / 'fake_nodes.py',
                             'pose_mask', '--ros-args', '-p', 'target_frame:=map')
    try:
        process.wait_for('configuring failed: target_frame: expected none, as tf2_ros cannot be '
                         "imported, got 'map'")
        assert process.stop() == 0
    finally:
        process.kill()


def test_compressed_images(tmp_path):
    domain = free_domain()
    process = robots.Process(domain, tmp_path / 'log', HERE / 'fake_nodes.py',
                             'segmentation,pose_rgb_mask', '--ros-args', '-r', 'image:=/cam/image',
                             '-p', 'image_transport:=compressed', '-p', 'qos_overrides.'
                             '/cam/image/compressed.subscription.reliability:=reliable',
                             '-p', RELIABLE[3])
    robot = Robot(domain)
    try:
        results = Results(robot)
        robot.advertise(CompressedImage, 'cam/image/compressed')
        robot.advertise(CameraInfo, 'camera_info')
        robot.wait(lambda: robot.publishers['cam/image/compressed'].get_subscription_count() == 2,
                   'both nodes')
        assert not robot.node.count_subscribers('cam/image')
        broken, header = robot.header(), robot.header()
        message = CompressedImage(header=header, format='rgb8; png compressed bgr8')
        message.data = array.array('B', cv2.imencode('.png', picture()[..., ::-1])[1].tobytes())
        robot.publish(**{'cam/image/compressed': CompressedImage(header=broken, data=b'jpeg')})
        process.wait_for('compressed image: expected JPEG or PNG, got 4 bytes')
        robot.publish(**{'camera_info': camera_info(header), 'cam/image/compressed': message})
        robot.wait(lambda: len(by_stamp(results.poses, header)) == 2, 'poses')
        assert by_stamp(results.poses, header)[0].pose.position.z == pytest.approx(DISTANCE)
    finally:
        robot.close()
        process.kill()


def test_parameters_are_described_and_checked_when_set(pose_node):
    names = ['min_score', 'rectified', 'publish_tf', 'input', 'queue_size']
    described = pose_node.call(DescribeParameters, 'pose_node/describe_parameters',
                               DescribeParameters.Request(names=names)).descriptors
    assert all(one.description for one in described)
    assert described[0].floating_point_range[0].to_value == 1.0
    assert described[3].read_only and 'mask' in described[3].additional_constraints

    refused = set_parameter(pose_node, 'min_score', type=ParameterType.PARAMETER_DOUBLE,
                            double_value=1.5)
    assert not refused.successful and 'min_score' in refused.reason
    refused = set_parameter(pose_node, 'min_score', type=ParameterType.PARAMETER_DOUBLE,
                            double_value=float('nan'))
    assert not refused.successful and 'min_score' in refused.reason
    refused = set_parameter(pose_node, 'input', type=ParameterType.PARAMETER_STRING,
                            string_value='mask')
    assert not refused.successful and 'read-only' in refused.reason

    for publish_tf in (False, True):
        assert set_parameter(pose_node, 'publish_tf', type=ParameterType.PARAMETER_BOOL,
                             bool_value=publish_tf).successful
        header = pose_node.header()
        publish_masks(pose_node, header, segment())
        pose_node.wait(lambda: len(by_stamp(pose_node.results.poses, header)) == 2, 'poses')
        pose_node.wait(lambda: any(by_stamp(one.markers, header)
                                   for one in pose_node.results.markers), 'markers')
        pose_node.spin(0.3)
        assert any(by_stamp(one.transforms, header)
                   for one in pose_node.results.tf) == publish_tf


@pytest.mark.parametrize('before, how', [
    ([], signal.SIGINT), ([], signal.SIGTERM),
    # From a terminal and from launch: at once, and while the nodes are being ended.
    ([0.0], signal.SIGINT), ([0.02], signal.SIGINT), ([0.05, 0.05], signal.SIGINT)])
def test_signal_ends_the_nodes_quietly(before, how, tmp_path):
    process = robots.Process(free_domain(), tmp_path / 'log', HERE / 'fake_nodes.py',
                             'segmentation,pose_mask')
    process.wait_for('[pose_node]: ready')
    for pause in before:
        process.child.send_signal(signal.SIGINT)
        time.sleep(pause)
    assert process.stop(how) == 0
    assert 'Traceback' not in process.output and 'rror' not in process.output


@pytest.mark.parametrize('node, arguments, words', [
    ('segmentation_node', ['-p', 'segmenter:=yolo'], 'segmenter: expected one of mask_rcnn'),
    ('segmentation_node', ['-p', 'min_score:=2.0'], 'min_score'),
    ('segmentation_node', ['-p', 'class_map:=[cup]'], 'class_map: expected key=value'),
    ('pose_node', ['-p', 'min_score:=high'], 'min_score'),
    ('pose_node', ['-p', 'input:=depth'], 'input: expected one of rgb_mask, mask'),
    ('pose_node', ['-p', 'mesh_resources:=[cup]'], 'mesh_resources: expected key=value'),
    ('pose_node', ['--params-file', '/nowhere.yaml'], '/nowhere.yaml'),
    ('dataset_camera', [], 'dataset: expected'),
    ('dataset_camera', ['-p', 'dataset:=/nowhere'], '/nowhere'),
])
def test_bad_start_ends_with_one_line_and_code_2(node, arguments, words, tmp_path):
    process = robots.Process(free_domain(), tmp_path / 'log', '-m',
                             f'pose_estimator.nodes.{node}', '--ros-args', *arguments)
    assert process.finish() == 2
    lines = process.output.strip().splitlines()
    assert len(lines) == 1, process.output
    assert lines[0].startswith('error: ') and words in lines[0]
