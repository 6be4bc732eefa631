"""Messages that no node can use: it says what is wrong and goes on."""

import array

from fake_nodes import FakeSegmenter
from geometry_msgs.msg import PoseStamped
import numpy as np
from pose_estimator.demo.processes import free_domain
from pose_estimator.instance import Instance, mask_box
from pose_estimator.nodes.conversions import image_message, instances_to_messages
import pytest
import robot as robots
from robot import by_stamp, camera_info, HEIGHT, HERE, picture, picture_message, Robot, WIDTH
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3DArray


@pytest.fixture(scope='module')
def robot(tmp_path_factory):
    """Both nodes, the pose node with input mask, and what talks to them."""
    domain = free_domain()
    overrides = [part for topic in ('image', 'camera_info') for part in
                 ('-p', f'qos_overrides./{topic}.subscription.reliability:=reliable')]
    process = robots.Process(domain, tmp_path_factory.mktemp('bad') / 'log',
                             HERE / 'fake_nodes.py', 'segmentation,pose_mask', '--ros-args',
                             *overrides)
    made = Robot(domain)
    made.process = process
    made.boxes = made.collect(Detection2DArray, 'detections')
    made.results = made.collect(Detection3DArray, 'object_detections')
    made.poses = made.collect(PoseStamped, 'object_poses')
    made.advertise(Image, 'image', 'instance_masks')
    made.advertise(Detection2DArray, 'detections')
    made.advertise(CameraInfo, 'camera_info')
    yield made
    made.close()
    process.kill()
    assert 'Traceback' not in process.output


def messages(robot):
    """Return a sound label image, its detections and its camera info."""
    header = robot.header()
    masks, detections = instances_to_messages(FakeSegmenter().segment(picture()), HEIGHT, WIDTH,
                                              header)
    return masks, detections, camera_info(header)


def goes_on(robot):
    """Check that both nodes work on sound messages."""
    header = robot.header()
    robot.publish(camera_info=camera_info(header), image=picture_message(header))
    robot.wait(lambda: len(by_stamp(robot.poses, header)) == 2, 'poses after a bad message')


def refused(robot, words, result=False, **bad):
    """Publish messages, wait until the node warns in these words, and check that it goes on."""
    robot.publish(**bad)
    robot.process.wait_for(words)
    goes_on(robot)
    if not result:
        header = next(iter(bad.values())).header
        assert not by_stamp(robot.poses, header)


def change(message, **values):
    """Return the message with other values."""
    for name, value in values.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize('words, values', [
    ('encoding: expected one of rgb8, bgr8, rgba8, bgra8, mono8, mono16, bayer_rggb8, '
     "bayer_bggr8, bayer_gbrg8, bayer_grbg8, got 'yuv422'", {'encoding': 'yuv422'}),
    ("got ''", {'encoding': ''}),
    ('expected at least 1 x 1 pixels, got 0 x 120', {'width': 0}),
    ('expected at least 1 x 1 pixels, got 160 x 0', {'height': 0}),
    ('expected a step of at least 480 bytes for 160 pixels of rgb8, got 100', {'step': 100}),
    ('expected a step of at least 483 bytes', {'width': WIDTH + 1}),
    ('expected step x height = 58080 bytes of data, got 57600', {'height': HEIGHT + 1}),
    ('bytes of data, got 0', {'data': array.array('B')}),
    ('expected a step of at least 640 bytes for 160 pixels of rgba8', {'encoding': 'rgba8'}),
])
def test_image(robot, words, values):
    bad = change(picture_message(robot.header()), **values)
    refused(robot, words, image=bad)


@pytest.mark.parametrize('words, values', [
    ('K[0] = 0: the camera is uncalibrated', {'k': np.zeros(9)}),
    ('expected a finite matrix', {'k': np.full(9, np.nan)}),
    ('expected focal lengths above 0', {'k': np.diag([100., -100, 1]).ravel()}),
    ("got 'double_sphere'", {'distortion_model': 'double_sphere'}),
    ('expects 0 or 4 or 5 coefficients, got 3', {'d': [0.1, 0.1, 0.1]}),
    ('expected finite coefficients', {'d': [0.1, np.inf, 0.1, 0, 0]}),
    ('expected an image of 320 x 240 (320 x 240, binning 1 x 1, ROI 0 x 0), got 160 x 120',
     {'width': 2 * WIDTH, 'height': 2 * HEIGHT}),
    ('expected an image of 80 x 60 (160 x 120, binning 2 x 2', {'binning_x': 2, 'binning_y': 2}),
])
def test_camera_info(robot, words, values):
    masks, detections, info = messages(robot)
    refused(robot, words, instance_masks=masks, detections=detections,
            camera_info=change(info, **values))


def test_no_camera_info_of_the_frame(robot):
    masks, detections, _ = messages(robot)
    for message in (masks, detections):
        message.header.frame_id = 'elsewhere'
    refused(robot, "expected one of frame 'elsewhere'", instance_masks=masks,
            detections=detections)


def test_masks_of_another_size(robot):
    header = robot.header()
    masks, detections = instances_to_messages(
        FakeSegmenter().segment(picture(width=2 * WIDTH, height=2 * HEIGHT)), 2 * HEIGHT,
        2 * WIDTH, header)
    refused(robot, 'got 320 x 240', instance_masks=masks, detections=detections,
            camera_info=camera_info(header))


@pytest.mark.parametrize('words, values', [
    ("mask encoding: expected one of mono16, 16UC1, mono8, 8UC1, got '32SC1'",
     {'encoding': '32SC1'}),
    ('expected a step of at least 320 bytes for 160 pixels of mono16, got 10', {'step': 10}),
])
def test_masks_that_are_no_image(robot, words, values):
    masks, detections, info = messages(robot)
    refused(robot, words, instance_masks=change(masks, **values), detections=detections,
            camera_info=info)


def publish_mask(robot, mask, label='cup', empty=False):
    """Publish one mask as a detection; return the header."""
    header = robot.header()
    instance = Instance(label, 0.9, mask_box(mask), mask, 1)
    masks, detections = instances_to_messages([instance], HEIGHT, WIDTH, header)
    if empty:
        masks.data = array.array('B', bytes(len(masks.data)))
    robot.publish(camera_info=camera_info(header), instance_masks=masks, detections=detections)
    return header


def test_empty_mask(robot):
    header = publish_mask(robot, np.ones((HEIGHT, WIDTH), bool), empty=True)
    robot.process.wait_for('detection 1: expected pixels of this label in the masks, got none')
    robot.wait(lambda: by_stamp(robot.results, header), 'empty result')
    assert by_stamp(robot.results, header)[0].detections == []
    goes_on(robot)


def test_mask_of_one_pixel(robot):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[50, 60] = True
    header = publish_mask(robot, mask)
    robot.wait(lambda: by_stamp(robot.results, header), 'empty result')
    assert by_stamp(robot.results, header)[0].detections == []
    goes_on(robot)


@pytest.mark.parametrize('rows, columns', [
    (slice(0, 30), slice(0, 30)), (slice(HEIGHT - 30, None), slice(WIDTH - 30, None)),
    (slice(None), slice(None)),
])
def test_mask_on_the_border(robot, rows, columns):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[rows, columns] = True
    header = publish_mask(robot, mask)
    robot.wait(lambda: by_stamp(robot.poses, header), 'pose')
    goes_on(robot)


def test_object_without_a_model(robot):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:60, 20:60] = True
    header = publish_mask(robot, mask, 'teapot')
    robot.process.wait_for("no model for 'teapot': there are cup, bottle")
    robot.wait(lambda: by_stamp(robot.results, header), 'empty result')
    assert by_stamp(robot.results, header)[0].detections == []
    goes_on(robot)


def test_labels_outside_the_class_map_are_counted(robot):
    for times in (1, 2):
        header = robot.header()
        image = picture()
        image[:10, :10] = 0, 0, 255
        robot.publish(camera_info=camera_info(header), image=image_message(image, 'rgb8', header))
        robot.process.wait_for('labels that are not in class_map are ignored: '
                               f"'vase' {times} times so far")
    goes_on(robot)


def test_masks_of_another_size_than_the_image(tmp_path):
    domain = free_domain()
    process = robots.Process(domain, tmp_path / 'log', HERE / 'fake_nodes.py', 'pose_rgb_mask',
                             '--ros-args', '-p',
                             'qos_overrides./image.subscription.reliability:=reliable')
    made = Robot(domain)
    try:
        poses = made.collect(PoseStamped, 'object_poses')
        made.advertise(Image, 'image', 'instance_masks')
        made.advertise(Detection2DArray, 'detections')
        made.advertise(CameraInfo, 'camera_info')
        for size in ((WIDTH // 2, HEIGHT // 2), (WIDTH, HEIGHT)):
            masks, detections, info = messages(made)
            image = picture_message(masks.header, width=size[0], height=size[1])
            made.publish(camera_info=info, image=image, instance_masks=masks,
                         detections=detections)
            if size[0] < WIDTH:
                process.wait_for(f'masks: expected the size of the image, {size[0]} x '
                                 f'{size[1]}, got {WIDTH} x {HEIGHT}')
                assert not poses
        made.wait(lambda: len(by_stamp(poses, masks.header)) == 2, 'poses')
        assert 'Traceback' not in process.output
    finally:
        made.close()
        process.kill()


def test_label_without_a_detection(robot):
    masks, detections, info = messages(robot)
    del detections.detections[0]
    robot.publish(camera_info=info, instance_masks=masks, detections=detections)
    robot.process.wait_for('expected a detection for each label, got none for 1')
    robot.wait(lambda: by_stamp(robot.results, masks.header), 'result')
    assert [one.id for one in by_stamp(robot.results, masks.header)[0].detections] == ['bottle_1']
    goes_on(robot)


@pytest.mark.parametrize('words, faulty', [
    ("got '0'", '0'), ("got ''", ''), ("got '-1'", '-1'), ("got 'cup'", 'cup'),
    ("got '70000'", '70000'), (f"got '{'9' * 20}'", '9' * 5000), ("got '٣'", '٣'),
])
def test_detection_with_a_number_that_is_no_label(robot, words, faulty):
    masks, detections, info = messages(robot)
    detections.detections[0].id = faulty
    robot.publish(camera_info=info, instance_masks=masks, detections=detections)
    robot.wait(lambda: by_stamp(robot.results, masks.header), 'result')
    assert [one.id for one in by_stamp(robot.results, masks.header)[0].detections] == ['bottle_1']
    if faulty == '0':
        robot.process.wait_for(words)
    goes_on(robot)


def test_detection_without_class_or_box(robot):
    masks, detections, info = messages(robot)
    detections.detections[0].results = []
    box = detections.detections[1].bbox
    box.center.position.x, box.size_x = float('nan'), -1.0
    robot.publish(camera_info=info, instance_masks=masks, detections=detections)
    robot.process.wait_for('detection 1: expected a class, got no result')
    robot.wait(lambda: by_stamp(robot.results, masks.header), 'result')
    found = by_stamp(robot.results, masks.header)[0].detections
    assert [one.id for one in found] == ['bottle_1']
    assert found[0].results[0].pose.pose.position.x > 0, 'the box of the mask serves'
    goes_on(robot)


def test_detection_with_an_impossible_score(robot):
    masks, detections, info = messages(robot)
    detections.detections[0].results[0].hypothesis.score = float('nan')
    robot.publish(camera_info=info, instance_masks=masks, detections=detections)
    robot.process.wait_for('detection 1: expected a score of 0 to 1, got nan')
    goes_on(robot)


def test_thousand_detections(robot):
    masks, detections, info = messages(robot)
    detections.detections += [Detection2D(id=str(number)) for number in range(3, 1000)]
    robot.publish(camera_info=info, instance_masks=masks, detections=detections)
    robot.wait(lambda: by_stamp(robot.results, masks.header), 'result')
    assert len(by_stamp(robot.results, masks.header)[0].detections) == 2
    goes_on(robot)
