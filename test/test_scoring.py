"""Score and distance: what is fitted is found again."""

import numpy as np
from pose_estimator.scoring import (
    distance_factor, FEATURES, fit_calibration, fit_distance, MOST_SHIFT, score)


def test_the_bias_of_distances_is_learned_from_the_features_and_outliers_do_not_matter():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, len(FEATURES))) * 3 + 1
    too_far = 0.05 + 0.02 * features[:, 4] + rng.normal(0, 0.01, 400)
    too_far[::10] += 5
    calibration = fit_distance(features, too_far)
    sample = np.ones(len(FEATURES))
    assert abs(np.log(distance_factor(sample, calibration)) + 0.07) < 0.01
    sample[4] = -2
    assert abs(np.log(distance_factor(sample, calibration)) + 0.01) < 0.01
    sample[4] = 1e6
    assert np.isclose(np.log(distance_factor(sample, calibration)), -MOST_SHIFT)


def test_scores_are_the_chances_that_they_were_fitted_to():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, len(FEATURES))) * 2 + 3
    chance = 1 / (1 + np.exp(-(features[:, 2] - 3)))
    for right in (rng.uniform(size=4000) < chance, chance):
        calibration = fit_calibration(features, right, [12.0] * 9)
        found = np.array([score(one, calibration) for one in features])
        assert np.abs(found - chance).mean() < 0.05
        assert calibration['covariance_scale'] == 2
