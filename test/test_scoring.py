"""Score and distance: what is fitted is found again."""

import numpy as np
from pose_estimator.scoring import (
    distance_factor, FEATURES, fit_distance, MOST_SHIFT, scaling, SLACK)


def test_the_bias_of_distances_is_learned_from_the_features_and_outliers_do_not_matter():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, len(FEATURES))) * 3 + 1
    too_far = 0.05 + 0.02 * features[:, 4] + rng.normal(0, 0.01, 400)
    too_far[::10] += 5
    calibration = scaling(features)
    calibration.update(fit_distance(features, too_far, calibration))
    sample = np.ones(len(FEATURES))
    assert abs(np.log(distance_factor(sample, calibration)) + 0.07 - SLACK) < 0.01
    sample[4] = -2
    assert distance_factor(sample, calibration) == 1, 'too little to be changed'
    sample[4] = 1e6
    assert np.isclose(np.log(distance_factor(sample, calibration)), -MOST_SHIFT)
