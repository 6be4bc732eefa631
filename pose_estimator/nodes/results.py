"""Object poses as messages: PoseStamped, Detection3DArray, TF."""

from geometry_msgs.msg import PoseStamped, TransformStamped, Vector3
import numpy as np
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3D, Detection3DArray, ObjectHypothesisWithPose

from .conversions import pose_message
from ..geometry import Pose


def box_pose(model, pose):
    """Return the pose of an object's bounding box: at its centre, along the object's axes."""
    return pose.compose(Pose(np.eye(3), model.center))


def box_size(model):
    """Return the lengths of an object's bounding box along its axes, as a message."""
    x, y, z = map(float, model.bounds[1] - model.bounds[0])
    return Vector3(x=x, y=y, z=z)


def pose_stamped(pose, header):
    """Return a PoseStamped of a Pose."""
    return PoseStamped(header=header, pose=pose_message(pose))


def detections(named, models, header):
    """Return a Detection3DArray of named instances; id is the TF frame's name."""
    message = Detection3DArray(header=header)
    for name, found in named:
        detection = Detection3D(header=header, id=name)
        model = models[found.name]
        detection.bbox.center = pose_message(box_pose(model, found.pose))
        detection.bbox.size = box_size(model)
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = found.name
        result.hypothesis.score = float(found.score)
        result.pose.pose = pose_message(found.pose)
        if found.covariance is not None:
            result.pose.covariance = np.asarray(found.covariance, np.float64).ravel()
        detection.results.append(result)
        message.detections.append(detection)
    return message


def transforms(named, header):
    """Return the TF message of named instances."""
    message = TFMessage()
    for name, found in named:
        pose = pose_message(found.pose)
        transform = TransformStamped(header=header, child_frame_id=name)
        transform.transform.translation = Vector3(
            x=pose.position.x, y=pose.position.y, z=pose.position.z)
        transform.transform.rotation = pose.orientation
        message.transforms.append(transform)
    return message
