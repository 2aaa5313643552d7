import numpy as np
import pytest

import metrics


def lips_that_open(opening):
    """Lips (N, 20, 2) whose inner middles are `opening` (N,) apart."""
    lips = np.zeros((len(opening), 20, 2))
    lips[:, 18, 1] = opening
    return lips


def test_psnr_and_mean_absolute_error_of_a_known_difference():
    truth = np.full((2, 96, 96, 3), 100, np.uint8)
    assert metrics.psnr(truth + np.uint8(51), truth) == pytest.approx(20 * np.log10(5))
    assert metrics.mean_absolute_error(truth + np.uint8(51), truth) == pytest.approx(0.2)
    assert metrics.psnr(truth, truth) == 100


def test_a_result_whose_lips_are_late_has_a_positive_lag():
    true_opening = np.random.default_rng(0).random(80)
    truth = lips_that_open(true_opening)
    for late in (-3, 0, 2):
        assert metrics.best_lag(lips_that_open(np.roll(true_opening, late)), truth) == late
    assert metrics.opening_correlation(truth, truth) == pytest.approx(1)


def test_a_mouth_that_never_moves_has_no_correlation():
    truth = lips_that_open(np.random.default_rng(0).random(40))
    still = lips_that_open(np.full(40, 0.3))
    assert np.isnan(metrics.opening_correlation(still, truth)) and np.isnan(metrics.best_lag(still, truth))


def test_landmark_distance_is_in_per_cent_of_the_crop():
    lips = np.zeros((5, 20, 2))
    assert metrics.landmark_distance(lips + np.array([0.03, 0.04]), lips) == pytest.approx(5)


def test_the_interval_holds_the_mean_and_narrows_with_more_clips():
    rng = np.random.default_rng(0)
    few, many = (metrics.interval(rng.normal(1, 1, n)) for n in (10, 400))
    for mean, low, high in (few, many):
        assert low < mean < high
    assert many[2] - many[1] < few[2] - few[1]
    assert metrics.interval([1.0, float("nan"), 3.0])[0] == 2


def test_area_under_curve_is_the_chance_of_a_smaller_distance_in_sync():
    rng = np.random.default_rng(0)
    assert metrics.area_under_curve(np.array([0.1, 0.2]), np.array([0.3, 0.9])) == 1
    assert metrics.area_under_curve(np.array([0.3, 0.9]), np.array([0.1, 0.2])) == 0
    assert metrics.area_under_curve(rng.random(4000), rng.random(4000)) == pytest.approx(0.5, abs=0.03)
