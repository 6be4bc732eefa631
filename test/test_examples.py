"""The examples of docs/ run, as processes, and pose_node could use what they publish."""

from pathlib import Path

import numpy as np
from pose_estimator.demo.processes import free_domain
from pose_estimator.nodes.conversions import ImageReader, instances_from_messages
import pytest
from robot import by_stamp, picture_message, Process, Robot
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[1] / 'docs' / 'examples'


@pytest.mark.parametrize('example', sorted(path.name for path in EXAMPLES.glob('*.py')))
def test_example_publishes_masks_and_detections(example, tmp_path):
    domain = free_domain()
    process = Process(domain, tmp_path / 'log', EXAMPLES / example)
    robot = Robot(domain)
    try:
        masks = robot.collect(Image, 'instance_masks')
        detections = robot.collect(Detection2DArray, 'detections')
        robot.advertise(Image, 'image')
        header = robot.header()
        message = picture_message(header)
        seen = []

        def arrived():
            robot.publish(image=message)  # a camera's images are best effort
            seen[:] = by_stamp(masks, header), by_stamp(detections, header)
            return all(seen)
        robot.wait(arrived, 'masks and detections')
        found, faults = instances_from_messages(ImageReader().labels(seen[0][0]), seen[1][0])
        assert not faults
        assert [one.label for one in found] == ['cup']
        expected = np.zeros((120, 160), bool)
        expected[40:80, 20:60] = True  # where robot.picture has its red square
        assert np.array_equal(found[0].mask, expected)
        assert np.allclose(found[0].box, (19.5, 39.5, 59.5, 79.5))
    finally:
        robot.close()
        process.kill()
        print(process.output)  # pytest shows it where the test fails
    assert 'Traceback' not in process.output
