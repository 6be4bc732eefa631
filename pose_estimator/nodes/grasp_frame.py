"""Example: a grasp as a static child of the TF frame of each instance of an object."""

from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from rclpy.node import Node
from scipy.spatial.transform import Rotation
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray

from .parameters import Parameter, Parameters
from .process import advertise, latched_qos, reliable_qos, run, subscribe
from ..errors import InputError

PARAMETERS = (
    Parameter('object', 'cup', 'Name of the object that is grasped.'),
    Parameter('name', 'grasp', 'Name of the grasp: cup_1 gets the child cup_1/grasp.'),
    Parameter('xyz', [0.0, 0.0, 0.1], "Place of the grasp in the object's frame, metres."),
    Parameter('rpy', [3.141592653589793, 0.0, 0.0], 'Roll, pitch and yaw of the grasp, about the '
              "object's fixed x, y and z axes, rad."),
)


class GraspFrame(Node):
    """Publishes on /tf_static a child for each instance that `object_detections` names."""

    def __init__(self):
        super().__init__('grasp_frame')
        self.parameters = Parameters(self, PARAMETERS)
        for name in ('xyz', 'rpy'):
            if len(getattr(self.parameters, name)) != 3:
                raise InputError(f'parameter {name}: expected three numbers, got '
                                 f'{len(getattr(self.parameters, name))}')
        self.static = TFMessage()
        self.tf = advertise(self, TFMessage, '/tf_static', latched_qos())
        subscribe(self, Detection3DArray, 'object_detections', self.on_detections,
                  reliable_qos())

    def on_detections(self, detections):
        """Add what is new; a static transform is sent with all those before it."""
        known = {one.header.frame_id for one in self.static.transforms}
        for detection in detections.detections:
            names = {result.hypothesis.class_id for result in detection.results}
            if self.parameters.object in names and detection.id not in known:
                self.static.transforms.append(self.transform(detection.id, detections.header))
                self.tf.publish(self.static)
                self.get_logger().info(f'grasp: {detection.id}/{self.parameters.name}')

    def transform(self, parent, header):
        """Return the transform from an instance's frame to its grasp."""
        made = TransformStamped(child_frame_id=f'{parent}/{self.parameters.name}')
        made.header.stamp, made.header.frame_id = header.stamp, parent
        x, y, z = self.parameters.xyz
        made.transform.translation = Vector3(x=x, y=y, z=z)
        turn = Rotation.from_euler('xyz', self.parameters.rpy).as_quat()
        made.transform.rotation = Quaternion(x=turn[0], y=turn[1], z=turn[2], w=turn[3])
        return made


def main():
    """Run the node."""
    run(GraspFrame)


if __name__ == '__main__':
    main()
