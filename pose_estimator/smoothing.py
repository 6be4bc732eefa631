"""Poses of one object smoothed over time, as its covariances allow."""

import numpy as np
from scipy.spatial.transform import Rotation

from .geometry import Pose

# How far an object may wander by itself, per square root of a second: metres, radians.
DRIFT = (0.005, 0.02)
# Beyond this Mahalanobis distance squared (99.9 % of chi-square with 6 degrees of freedom) or
# this turn, the object has moved or the pose has flipped: what was before does not hold.
GATE = 22.46
FLIP = np.radians(30.0)


class Smoother:
    """
    Kalman filter on SE(3) for an object that mostly stands still in the camera's frame.

    The state is a pose and the covariance of its error, (t, w): the true pose is (t + dt,
    exp(w) R), as the covariances of PnP are. Prediction adds DRIFT; no velocity is estimated.
    A pose that contradicts the state begins it anew, so flips are neither made nor bridged.

    Use one for each object, and a new one when its identity changes.
    """

    def __init__(self):
        self._pose, self._covariance, self._stamp = None, None, -np.inf

    def update(self, pose, covariance, stamp):
        """
        Take a measured pose in; return the smoothed one.

        Parameters
        ----------
        pose : Pose
            Model to camera.
        covariance : array, shape (6, 6), or None
            Of x, y, z and rotations about the camera's axes; m^2, rad^2. None: not smoothed.
        stamp : float
            Seconds. A pose older than the last is given back as it is.

        Returns
        -------
        Pose

        """
        if stamp < self._stamp or covariance is None or not np.isfinite(covariance).all():
            return pose
        if self._pose is not None:
            drift = np.repeat(np.square(DRIFT), 3) * (stamp - self._stamp)
            predicted = self._covariance + np.diag(drift)
            turn = Rotation.from_matrix(pose.R_m2c @ self._pose.R_m2c.T).as_rotvec()
            innovation = np.concatenate([pose.t_m2c - self._pose.t_m2c, turn])
            total = predicted + covariance
            if (np.linalg.norm(turn) < FLIP
                    and innovation @ np.linalg.solve(total, innovation) < GATE):
                gain = predicted @ np.linalg.inv(total)
                step = gain @ innovation
                pose = Pose(Rotation.from_rotvec(step[3:]).as_matrix() @ self._pose.R_m2c,
                            self._pose.t_m2c + step[:3])
                left = np.eye(6) - gain  # Joseph's form stays symmetric and positive
                covariance = left @ predicted @ left.T + gain @ covariance @ gain.T
        self._pose, self._covariance, self._stamp = pose, covariance, stamp
        return pose
