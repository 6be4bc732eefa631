"""
How far an estimated pose is from the true one.

Sources: Hinterstoisser et al., "Model Based Training, Detection and Pose Estimation of
Texture-Less 3D Objects in Heavily Cluttered Scenes", ACCV 2012 (add, adi); Brachmann et al.,
"Uncertainty-Driven 6D Pose Estimation of Objects and Scenes from a Single RGB Image", CVPR 2016
(proj); Hodan et al., "BOP Challenge 2020 on 6D Object Localization", ECCV Workshops 2020 (mssd,
mspd).

In all of them `estimate` and `truth` are Pose (model to camera), `points` are surface points of
the object, shape (N, 3), model frame, metres; `symmetries` is a sequence of Pose, transforms of
the model frame that change nothing visible, the identity among them.
"""

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation


def add(estimate, truth, points):
    """
    Return the average distance in metres between each point at the two poses.

    m = avg_x ||(R x + t) - (R' x + t')||, Hinterstoisser et al., eq. 6.

    """
    return _distances(estimate.transform(points), truth.transform(points)).mean()


def adi(estimate, truth, points):
    """
    Return the average distance in metres from each true point to the nearest estimated one.

    m = avg_x1 min_x2 ||(R x1 + t) - (R' x2 + t')||, Hinterstoisser et al., eq. 7: ADD-S, for
    objects whose views are ambiguous.

    """
    tree = cKDTree(estimate.transform(points))
    return tree.query(truth.transform(points))[0].mean()


def mssd(estimate, truth, points, symmetries):
    """
    Return the maximum symmetry-aware surface distance in metres.

    min_S max_x ||P x - P' S x||, Hodan et al., section 2.2.

    """
    return _distances(estimate.transform(points),
                      _symmetric(truth, points, symmetries)).max(-1).min()


def mspd(estimate, truth, points, symmetries, camera):
    """
    Return the maximum symmetry-aware projection distance in pixels.

    min_S max_x ||proj(P x) - proj(P' S x)||, Hodan et al., section 2.2; `camera` is the
    PinholeCamera that took the image.

    """
    with np.errstate(all='ignore'):  # a point in the camera's own plane is infinitely far off
        found = camera.project(estimate.transform(points))
        true = _symmetric(truth, points, symmetries)
        pixels = camera.project(true.reshape(-1, 3)).reshape(*true.shape[:2], 2)
        return _distances(found, pixels).max(-1).min()


def proj(estimate, truth, points, camera):
    """
    Return the average distance in pixels between the projections of each point.

    avg_x ||proj(P x) - proj(P' x)||, Brachmann et al., section 5; without regard to symmetries.

    """
    with np.errstate(all='ignore'):
        return _distances(camera.project(estimate.transform(points)),
                          camera.project(truth.transform(points))).mean()


def re(estimate, truth, symmetries=None):
    """Return the angle in degrees between two rotations, the smallest over the symmetries."""
    found = Rotation.from_matrix(estimate.R_m2c)
    true = Rotation.from_matrix(truth.R_m2c)  # the nearest rotation to a rounded matrix
    if symmetries is not None:
        true = true * Rotation.from_matrix([one.R_m2c for one in symmetries])
    return float(np.degrees(np.min((found.inv() * true).magnitude())))


def te(estimate, truth):
    """Return the distance in metres between two translations."""
    return float(np.linalg.norm(estimate.t_m2c - truth.t_m2c))


def _distances(points, others):
    return np.linalg.norm(points - others, axis=-1)


def _symmetric(truth, points, symmetries):
    """Return the points under each symmetry at the true pose, shape (S, N, 3)."""
    return np.stack([truth.transform(one.transform(points)) for one in symmetries])
