"""The chance that a pose is right, from what is seen of it; fitted on virtual data."""

import cv2
import numpy as np

# What is seen, in this order; all without unit.
FEATURES = ('inlier share', 'confidence', 'worst confidence', 'reprojection error', 'spread',
            'disagreement', 'likelihood', 'mask explained', 'silhouette filled',
            'error of the shifts', 'shift left', 'moved by refinement', 'shifts unexplained',
            'landmarks', 'nearness')
# A pose counts as right when its ADD (ADD-S, if the object has symmetries) is below this share of
# the diameter (Hinterstoisser 2012).
RIGHT = 0.1
# Of poses that a robot may act on, so large a share must be right.
PRECISION = 0.95
# Distances are known no better than this, however exact the pose: meshes are not of quite the size
# of the thing, focal lengths not quite those of the camera (one sigma; docs/experiments.md).
DISTANCE_UNSURE = 0.01
# Of the logarithm of a distance, none of which is changed by more.
MOST_SHIFT = 0.3
# Distances need not be fitted better than this.
CLOSE = 0.01
# Of the score's weights: few wrong poses must not make it a step, and virtual crops are more like
# one another than like photographs.
DECAY = 1e-2
# Silhouettes are compared on a grid of so many cells a side.
GRID = 32


def pose_features(result, confidence, disagreement, likelihood, agreement, refinement, landmarks,
                  size, diameter):
    """
    Return the features (F,) of a PnPResult with a pose.

    Parameters
    ----------
    result : PnPResult
        From settle.
    confidence : array, shape (K,)
        Of all keypoints.
    disagreement : array, shape (K,)
        Of the looks at a crop about each keypoint, pixels.
    likelihood : float
        Mean log of the belief at the pose's keypoints; see belief.py.
    agreement : array, shape (2,)
        See silhouette_agreement.
    refinement : array, shape (4,)
        See Refined.features.
    landmarks : int
        That agree on the pose; 0 where it is of the keypoints.
    size : float
        Side of the crop in pixels.
    diameter : float
        Of the object, metres.

    """
    # How far the position may be off, by the covariance: far objects are placed worse.
    spread = np.sqrt(np.trace(result.covariance[:3, :3])) / diameter
    # The farther away, the more a small error of the distance, in percent, is in diameters.
    nearness = diameter / max(np.linalg.norm(result.pose.t_m2c), 1e-9)
    return np.array([result.inliers.mean(), confidence.mean(),
                     np.quantile(confidence, 0.2),
                     np.log(max(result.reprojection_error / size, 1e-3)),
                     np.log(np.clip(spread, 1e-4, 1e2)),
                     np.log(max(np.median(disagreement) / size, 1e-4)), likelihood, *agreement,
                     *refinement, np.log1p(landmarks), np.log(np.clip(nearness, 1e-3, 1e2))])


def silhouette_agreement(mask, pixels):
    """
    Compare a pose's silhouette with the segmenter's mask.

    Parameters
    ----------
    mask : array of uint8, shape (size, size)
        Crop of the mask, 255 where the object is.
    pixels : array, shape (P, 2)
        Points spread over the object's surface, x, y in the crop.

    Returns
    -------
    agreement : array, shape (2,)
        The share of the mask inside the silhouette, which a right pose has near 1, and of the
        silhouette inside the mask, which occlusion lowers.

    """
    seen = cv2.resize(mask, (GRID, GRID), interpolation=cv2.INTER_AREA) > 127
    cells = np.round((pixels + 0.5) * GRID / len(mask) - 0.5).astype(int)
    cells = cells[((cells >= 0) & (cells < GRID)).all(1)]
    drawn = np.zeros((GRID, GRID), np.uint8)
    drawn[cells[:, 1], cells[:, 0]] = 1
    drawn = cv2.morphologyEx(drawn, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
    both = (seen & drawn).sum()
    return np.array([both / max(seen.sum(), 1), both / max(drawn.sum(), 1)])


def calibration_of(calibration, use_masks):
    """
    Return the part of a model's calibration for networks that are shown the mask, or are not.

    Returns
    -------
    calibration : dict
        For score and distance_factor; empty where there is none.

    """
    return calibration if use_masks else calibration.get('without_mask', {})


def score(features, calibration):
    """Return the chance 0..1 that a pose with these features is right."""
    return float(1 / (1 + np.exp(-(_scaled(features, calibration)
                                   @ np.array(calibration['weights']) + calibration['bias']))))


def distance_factor(features, calibration):
    """
    Return by what to multiply the distance of a pose with these features.

    Where a network is in doubt between several poses, the mean of its keypoints lies nearer
    together than any pose has them, so that the object seems too far; and what a mask hides makes
    it look small. How much so is learned on virtual data, like the score.

    """
    shift = (_scaled(features, calibration) @ np.array(calibration['weights'])
             + calibration['bias'])
    return float(np.exp(np.clip(shift, -MOST_SHIFT, MOST_SHIFT)))


def sure_score(scores, is_right, precision=PRECISION):
    """
    Return the least score above which so large a share of poses is right.

    Parameters
    ----------
    scores : array, shape (N,)
        Of poses, in any order.
    is_right : array of bool, shape (N,)
        Whether each was right.
    precision : float
        The share that is wanted.

    Returns
    -------
    score : float
        1.0 where there is none.

    """
    count = sure_count(scores, is_right, precision)
    return float(np.sort(scores)[-count]) if count else 1.0


def sure_count(scores, is_right, precision=PRECISION):
    """Return how many poses, from the highest score down, can be given out; see sure_score."""
    order = np.argsort(-scores, kind='stable')
    share = np.cumsum(is_right[order]) / np.arange(1, len(order) + 1)
    sure = np.flatnonzero(share >= precision)
    return int(sure[-1]) + 1 if len(sure) else 0


def calibration_error(scores, is_right, bins=10):
    """Return the expected calibration error: mean gap of score and success over bins."""
    place = np.minimum((scores * bins).astype(int), bins - 1)
    return sum(abs(scores[place == index].mean() - is_right[place == index].mean())
               * (place == index).mean() for index in range(bins) if (place == index).any())


def _scaling(features):
    """Return 'mean' and 'scale' of features (N, F), by which they become about standard."""
    features = np.asarray(features, float)
    return {'mean': features.mean(0).tolist(), 'scale': (features.std(0) + 1e-6).tolist()}


def _scaled(features, calibration):
    """Return features, shape (..., F), shifted and scaled."""
    return (np.asarray(features, float) - calibration['mean']) / np.array(calibration['scale'])


def fit_distance(features, too_far):
    """
    Fit what distance_factor takes, by least absolute deviations.

    Parameters
    ----------
    features : array, shape (N, F)
        From pose_features.
    too_far : array, shape (N,)
        Logarithm of the estimated distance over the true one.

    Returns
    -------
    calibration : dict
        Plain numbers: 'mean', 'scale', 'weights', 'bias'.

    """
    too_far = np.asarray(too_far, float)
    scale = _scaling(features)
    scaled = np.column_stack([_scaled(features, scale), np.ones(len(features))])
    weight = np.ones(len(features))
    for _ in range(30):  # iteratively reweighted least squares
        weighted = scaled * weight[:, None]
        ridge = 1e-3 * weight.sum() * np.eye(scaled.shape[1])
        best = np.linalg.solve(weighted.T @ scaled + ridge, weighted.T @ -too_far)
        weight = 1 / np.maximum(np.abs(too_far + scaled @ best), CLOSE)
    return {**scale, 'weights': best[:-1].tolist(), 'bias': float(best[-1])}


def fit_calibration(features, is_right, nees):
    """
    Fit the score and the scale of the covariance.

    Parameters
    ----------
    features : array, shape (N, F)
        From pose_features.
    is_right : array, shape (N,)
        Whether the pose was, or how probably, 0..1.
    nees : array, shape (M,)
        Normalised squared errors of the right poses, e^T C^-1 e; 6 on average when the
        covariances are true.

    Returns
    -------
    calibration : dict
        Plain numbers: 'mean', 'scale', 'weights', 'bias' and 'covariance_scale'.

    """
    from scipy.optimize import minimize
    is_right = np.asarray(is_right, float)
    scale = _scaling(features)
    scaled = _scaled(features, scale)

    def loss(parameters):
        logit = scaled @ parameters[:-1] + parameters[-1]
        return (np.logaddexp(0, logit) - is_right * logit).mean() + DECAY * (
            parameters[:-1] ** 2).sum()

    best = minimize(loss, np.zeros(scaled.shape[1] + 1)).x
    # The mean of chi-squared with 6 degrees of freedom is 6. Errors have heavier tails than a
    # gaussian: fitted to the median, ellipsoids of 95 % held 83 %.
    spread = float(np.mean(nees) / 6) if len(nees) else 1.0
    return {**scale, 'weights': best[:-1].tolist(), 'bias': float(best[-1]),
            'covariance_scale': max(spread, 1e-3)}
