"""
A segmenter outside this package is two topics: the same red things, from a node of its own.

    python docs/examples/masks_node.py --ros-args -r image:=/camera/image_raw

Nothing of pose_estimator is imported. What counts: both messages carry the header of the image,
and a detection's id is its grey value in the label image.
"""

import array

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose


class MasksNode(Node):
    """Publishes instance_masks and detections of every rgb8 image."""

    def __init__(self):
        super().__init__('masks_node')
        self.masks = self.create_publisher(Image, 'instance_masks', 5)
        self.detections = self.create_publisher(Detection2DArray, 'detections', 5)
        self.create_subscription(Image, 'image', self.on_image, qos_profile_sensor_data)

    def on_image(self, message):
        """Find red areas and publish them."""
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        image = rows[:, :3 * message.width].reshape(message.height, message.width, 3)
        red = image[..., 0].astype(int) - image[..., 1:].max(-1) > 60
        count, labels, areas, _ = cv2.connectedComponentsWithStats(red.astype(np.uint8))
        found = Detection2DArray(header=message.header)
        for index in range(1, count):
            x, y, width, height, pixels = map(int, areas[index])
            if pixels <= 100:
                labels[labels == index] = 0
                continue
            one = Detection2D(header=message.header, id=str(index))
            # Pixel centres are whole numbers: a box of one pixel is centred on it.
            one.bbox.center.position.x = x + (width - 1) / 2
            one.bbox.center.position.y = y + (height - 1) / 2
            one.bbox.size_x, one.bbox.size_y = float(width), float(height)
            result = ObjectHypothesisWithPose()
            result.hypothesis.class_id, result.hypothesis.score = 'cup', 0.9
            one.results.append(result)
            found.detections.append(one)
        self.masks.publish(Image(
            header=message.header, height=message.height, width=message.width,
            encoding='mono16', step=2 * message.width,
            data=array.array('B', labels.astype('<u2').tobytes())))
        self.detections.publish(found)


def main():
    """Run the node."""
    rclpy.init()
    try:
        rclpy.spin(MasksNode())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


if __name__ == '__main__':
    main()
