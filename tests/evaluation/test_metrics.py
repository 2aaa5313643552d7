import cv2
import numpy as np
import pytest

from lipgan.evaluation import metrics


def faces_that_open(opening):
    """Landmarks (N, 68, 2) of faces with eyes 1 apart, whose inner lips are `opening` (N,) apart and 0.8 wide."""
    points = np.zeros((len(opening), 68, 2))
    points[:, 42:48, 0] = 1
    points[:, [67, 66, 65], 1] = np.asarray(opening)[:, None]
    points[:, 54, 0] = 0.8
    return points


def test_psnr_and_mean_absolute_error_of_a_known_difference():
    truth = np.full((2, 96, 96, 3), 100, np.uint8)
    assert metrics.psnr(truth + np.uint8(51), truth) == pytest.approx(20 * np.log10(5))
    assert metrics.mean_absolute_error(truth + np.uint8(51), truth) == pytest.approx(0.2)
    assert metrics.psnr(truth, truth) == 100


def test_opening_and_width_are_relative_to_the_distance_of_the_eyes():
    points = 50 * faces_that_open([0.1, 0.3])
    assert metrics.mouth_opening(points) == pytest.approx([0.1, 0.3])
    assert metrics.mouth_width(points) == pytest.approx([0.8, 0.8])


def test_result_with_late_lips_has_a_positive_lag():
    truth = np.random.default_rng(0).random(80)
    for late in (-3, 0, 2):
        assert metrics.best_lag(np.roll(truth, late), truth) == late
    assert metrics.correlation(truth, truth) == pytest.approx(1)


def test_lag_is_relative_to_the_clips_own_lag():
    truth = np.convolve(np.random.default_rng(0).random(90), np.full(5, 0.2), "valid")
    result = np.roll(truth, 3)  # as from audio that is 3 frames late
    assert metrics.best_lag(result, truth, lag=2) == 1
    assert metrics.correlation(result, truth, lag=3) == pytest.approx(1)
    halfway = (truth[1:] + truth[:-1]) / 2  # frame t shows moment t + 0.5: early by half a frame
    assert metrics.best_lag(halfway, truth) == -0.5


def test_still_mouth_has_no_correlation():
    truth = np.random.default_rng(0).random(40)
    still = np.full(40, 0.3)
    assert np.isnan(metrics.correlation(still, truth)) and np.isnan(metrics.best_lag(still, truth))


def test_closure_share_counts_moments_with_closed_lips():
    truth = np.full(60, 0.3)
    truth[[10, 30, 50]] = 0.01
    result = np.full(60, 0.2)
    result[[12, 52]] = 0.02  # 2 frames late still counts; the one at 30 is missed
    assert metrics.closure_share(result, truth, (10, 30.4, 50)) == pytest.approx(2 / 3)
    assert metrics.closure_share(result, truth, (10, 20, 50)) == 1  # at 20 the truth is open too
    assert metrics.closure_share(np.roll(truth, 5), truth, (15, 35), lag=5) == 1
    for without in ((), (20,), (1, 59)):  # none, none at which the truth closes, too near to the ends
        assert np.isnan(metrics.closure_share(result, truth, without))


def test_landmark_distance_is_that_of_the_lips_after_the_eyes_are_aligned():
    rng = np.random.default_rng(0)
    truth = rng.random((5, 68, 2))
    left, right = (truth[:, eye].mean(axis=1) for eye in metrics.EYES)
    turn = np.array([[0.8, -0.3], [0.3, 0.8]])  # a face that is turned, smaller and elsewhere
    assert metrics.landmark_distance(truth @ turn + (3, 4), truth) == pytest.approx(0, abs=1e-9)
    moved = truth.copy()
    moved[:, 48:68, 1] += 0.1 * np.linalg.norm(right - left, axis=-1)[:, None]
    assert metrics.landmark_distance(moved, truth) == pytest.approx(10)


def test_ssim_equals_scikit_image():
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(0)
    truth = cv2.GaussianBlur(rng.integers(0, 256, (40, 60, 3), dtype="uint8"), (0, 0), 2)
    noisy = np.clip(truth + rng.normal(0, 9, truth.shape), 0, 255).astype("uint8")
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = structural_similarity(truth, noisy, channel_axis=2, **settings)
    assert metrics.ssim(noisy[None], truth[None]) == pytest.approx(expected, abs=1e-6)


def test_blurred_image_is_less_sharp_and_lacks_high_frequencies():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (3, 48, 64, 3), dtype="uint8")
    soft = np.stack([cv2.GaussianBlur(picture, (0, 0), 1) for picture in truth])
    assert metrics.sharpness(truth, truth) == pytest.approx(1) and metrics.spectrum_distance(truth, truth) == 0
    assert metrics.sharpness(soft, truth) < 0.2 and metrics.spectrum_distance(soft, truth) > 5


def test_twice_the_contrast_is_6_dB_at_every_frequency():
    rng = np.random.default_rng(0)
    low = rng.integers(0, 128, (3, 48, 48, 3), dtype="uint8") // 2
    assert metrics.spectrum_distance(low * 2, low) == pytest.approx(20 * np.log10(2), abs=0.1)


def test_colour_step_measures_the_seam_of_a_colour_shift():
    rng = np.random.default_rng(0)
    truth = np.full((2, 96, 96, 3), 120, "uint8") + rng.integers(0, 5, (2, 96, 96, 3), dtype="uint8")
    assert metrics.colour_step(truth, truth) == pytest.approx(0, abs=0.2)
    darker = truth - np.uint8(60)  # more than pasting makes up for
    assert 15 < metrics.colour_step(darker, truth) < 60


def test_range_is_relative_to_the_truth():
    truth = np.random.default_rng(0).random(40)
    assert metrics.range_ratio(truth / 2 + 3, truth) == pytest.approx(0.5)


def test_frames_without_a_face_do_not_count():
    truth = np.random.default_rng(0).random(40)
    frames = [frame for frame in range(40) if frame != 3]
    curve = metrics.on_time_axis(truth[frames], frames)
    assert len(curve) == 40 and np.isnan(curve[3])
    assert metrics.correlation(curve, truth) == pytest.approx(1) and metrics.best_lag(curve, truth) == 0


def test_interval_contains_the_mean_and_narrows_with_more_clips():
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
