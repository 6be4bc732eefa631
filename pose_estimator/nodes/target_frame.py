"""Poses in another frame than the camera's, through TF; needs tf2_ros of a distribution."""

from dataclasses import replace

import numpy as np
from rclpy.duration import Duration
from rclpy.time import Time
from std_msgs.msg import Header

from .conversions import pose_from_transform
from ..errors import InputError

WAIT_SECONDS = 0.2


class TargetFrame:
    """
    Re-expresses poses in a frame, at the image's stamp.

    Parameters
    ----------
    node : rclpy.node.Node
        Hears TF.
    frame : str

    Raises
    ------
    InputError
        Without tf2_ros.

    """

    def __init__(self, node, frame):
        try:
            import tf2_ros
        except ImportError as error:
            raise InputError('target_frame: expected none, as tf2_ros cannot be imported, got '
                             f'{frame!r}: {error}; leave it empty for poses in the frame of the '
                             'camera') from error
        self.frame = frame
        self._errors = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def moved(self, found, header):
        """
        Return poses of the camera's frame in the target frame.

        Parameters
        ----------
        found : list of ObjectPose
            Of one image, each with a pose.
        header : std_msgs.msg.Header
            The image's.

        Returns
        -------
        moved : list of ObjectPose
        header : std_msgs.msg.Header
            Of the same stamp, in the target frame.

        """
        try:
            transform = self._buffer.lookup_transform(
                self.frame, header.frame_id, Time.from_msg(header.stamp),
                timeout=Duration(seconds=WAIT_SECONDS)).transform
        except self._errors as error:
            raise InputError(f'target_frame: expected a transform from {header.frame_id!r} to '
                             f'{self.frame!r} at the stamp of the image, got {error}') from error
        cam2target = pose_from_transform(transform)
        turn = np.kron(np.eye(2), cam2target.R_m2c)
        moved = [replace(one, pose=cam2target.compose(one.pose),
                         covariance=None if one.covariance is None
                         else turn @ one.covariance @ turn.T) for one in found]
        return moved, Header(stamp=header.stamp, frame_id=self.frame)
