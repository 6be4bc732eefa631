"""Object poses as messages: PoseStamped, Detection3DArray, TF."""

from geometry_msgs.msg import PoseArray, PoseStamped, TransformStamped, Vector3
import numpy as np
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import BoundingBox3D, Detection3D, Detection3DArray, ObjectHypothesisWithPose

from .conversions import pose_message
from ..geometry import Pose
from ..tracking import SYMMETRY_STEPS


def box_pose(model, pose):
    """Return the pose of an object's bounding box: at its centre, along the object's axes."""
    return pose.compose(Pose(np.eye(3), model.center))


def box_size(model):
    """Return the lengths of an object's bounding box along its axes, as a message."""
    x, y, z = map(float, model.bounds[1] - model.bounds[0])
    return Vector3(x=x, y=y, z=z)


def dimensions(model):
    """Return an object's bounding box in its own frame, as a BoundingBox3D."""
    return BoundingBox3D(center=pose_message(box_pose(model, Pose.identity())),
                         size=box_size(model))


def symmetries(found, name):
    """
    Return the transforms of an object's frame that change nothing that can be seen.

    Parameters
    ----------
    found : Symmetries
        The object's, for the network's input.
    name : str
        The object's, which becomes the frame_id.

    Returns
    -------
    geometry_msgs.msg.PoseArray
        The identity first; of a continuous symmetry SYMMETRY_STEPS steps of a full turn.

    """
    return PoseArray(header=Header(frame_id=name),
                     poses=[pose_message(one) for one in found.transforms(SYMMETRY_STEPS)])


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
