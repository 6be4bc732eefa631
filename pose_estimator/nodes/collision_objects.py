"""Example: detections to MoveIt's collision objects, or to lines of text without MoveIt."""

import time

import numpy as np
from rclpy.node import Node
from vision_msgs.msg import Detection3DArray

from .conversions import pose_from_message
from .parameters import Parameter, Parameters
from .process import advertise, reliable_qos, run, subscribe

try:
    from moveit_msgs.msg import CollisionObject
    from shape_msgs.msg import SolidPrimitive
except ImportError:
    CollisionObject = SolidPrimitive = None

PARAMETERS = (
    Parameter('min_score', 0.5, 'Least score of an object that becomes an obstacle.',
              range=(0.0, 1.0), live=True),
    Parameter('timeout', 2.0, 'Seconds after which an object that is not seen is removed.',
              range=(0.1, 3600.0), live=True),
    Parameter('tolerance', 0.005, 'Metres by which an object must move until it is told anew.',
              range=(0.0, 1.0), live=True),
)
CHECK_SECONDS = 0.2


class CollisionObjects(Node):
    """Adds, moves and removes a box for each object of `object_detections`, by its id."""

    def __init__(self):
        super().__init__('collision_objects')
        self.parameters = Parameters(self, PARAMETERS)
        self.known = {}  # id -> (frame, corners, when it was seen last)
        self.scene = None
        if CollisionObject is None:
            self.get_logger().info('moveit_msgs is not installed: collision objects are printed')
        else:
            self.scene = advertise(self, CollisionObject, 'collision_object', reliable_qos(100))
        subscribe(self, Detection3DArray, 'object_detections', self.on_detections,
                  reliable_qos())
        self.create_timer(CHECK_SECONDS, self.forget)

    def on_detections(self, detections):
        """Tell what is new or has moved."""
        for detection in detections.detections:
            if not detection.results or \
                    detection.results[0].hypothesis.score < self.parameters.min_score:
                continue
            frame, corners = detection.header.frame_id, box_corners(detection.bbox)
            before = self.known.get(detection.id)
            self.known[detection.id] = frame, corners, time.monotonic()
            if before is not None and before[0] == frame and \
                    np.abs(corners - before[1]).max() <= self.parameters.tolerance:
                self.known[detection.id] = frame, before[1], time.monotonic()
                continue
            self.tell('ADD', detection.id, frame, detection.bbox)  # of a known id: replaces it

    def forget(self):
        """Remove what has not been seen for long."""
        now = time.monotonic()
        for name, (frame, _, seen) in list(self.known.items()):
            if now - seen > self.parameters.timeout:
                del self.known[name]
                self.tell('REMOVE', name, frame)

    def tell(self, operation, name, frame, box=None):
        """Publish or print one change."""
        if self.scene is not None:
            self.scene.publish(collision_object(operation, name, frame, box))
            return
        text = f'{operation} {name}'
        if box is not None:
            place, size = box.center.position, box.size
            text += (f' box {size.x:.3f} x {size.y:.3f} x {size.z:.3f} m at {place.x:.3f} '
                     f'{place.y:.3f} {place.z:.3f} in {frame}')
        print(text, flush=True)


def box_corners(box):
    """Return where the middle and three corners of a BoundingBox3D are, shape (4, 3)."""
    size = np.diag([box.size.x, box.size.y, box.size.z]) / 2
    return pose_from_message(box.center).transform(np.vstack([np.zeros(3), size]))


def collision_object(operation, name, frame, box=None):
    """Return the moveit_msgs/CollisionObject of a change."""
    made = CollisionObject()
    made.id, made.header.frame_id = name, frame
    made.operation = getattr(CollisionObject, operation)
    if box is not None:
        shape = SolidPrimitive()
        shape.type = SolidPrimitive.BOX
        shape.dimensions = [box.size.x, box.size.y, box.size.z]
        made.primitives, made.primitive_poses = [shape], [box.center]
    return made


def main():
    """Run the node."""
    run(CollisionObjects)


if __name__ == '__main__':
    main()
