"""Poses that look alike are given one label, or a choice of labels."""

import numpy as np

from ..geometry import Pose


def canonical_pose(pose, symmetries):
    """
    Turn an object about its continuous axis so that the camera lies in a fixed half-plane.

    All poses that differ by a turn about the axis look alike and get the same pose here, so
    that a network has one right answer to learn.

    Parameters
    ----------
    pose : Pose
        Any of those that look alike.
    symmetries : Symmetries
        The object's.

    Returns
    -------
    Pose
        The same pose where there is no continuous symmetry.

    """
    for axis, offset in symmetries.continuous:
        axis, offset = np.array(axis), np.array(offset)
        start = np.eye(3)[np.argmin(np.abs(axis))]
        start = start - axis * (axis @ start)
        start /= np.linalg.norm(start)
        side = np.cross(axis, start)
        towards = -pose.R_m2c.T @ pose.t_m2c - offset  # camera in the model frame
        turn = Pose.from_rotvec(axis * np.arctan2(towards @ side, towards @ start), np.zeros(3))
        pose = pose.compose(Pose(turn.R_m2c, offset - turn.R_m2c @ offset))
    return pose


def labelings(pose, keypoints, symmetries):
    """
    Return where the keypoints may as well lie: under each discrete symmetry.

    Parameters
    ----------
    pose : Pose
        As canonical_pose gives it.
    keypoints : array, shape (K, 3)
        Model frame, metres.
    symmetries : Symmetries
        The object's.

    Returns
    -------
    keypoints : array, shape (L, K, 3)
        Model frame of the pose; the first are the keypoints themselves.

    """
    choices = [pose.inverse().compose(canonical_pose(pose.compose(one), symmetries))
               for one in symmetries.discrete]
    return np.stack([keypoints] + [choice.transform(keypoints) for choice in choices])
