"""Measures of generated face crops: image error and sharpness, lip landmarks, and sync with the audio.

Crops are (N, S, S, 3) uint8 BGR, landmarks (N, 68, 2) x and y in dlib's order, in any unit. A curve is (T,) float: one
value for each frame at hparams.fps, nan where a frame has no face. The lag of a clip is how many frames its own audio
is late against its own lips, so a perfect result shows at frame t + lag what the true lips show at t.
"""

import itertools

import cv2
import numpy as np
from scipy.stats import bootstrap, mannwhitneyu

from lipgan.faces.landmarks import EYES, LIPS, MOUTH
from lipgan.inference.blend import paste_back

MAX_LAG = 10  # frames to either side of a clip's own lag that `best_lag` tries
LAG_STEP = 0.5  # frames
MIN_FRAMES = 12  # that both curves need for a correlation
CLOSURE_FRAMES = 2  # to either side of a closure's moment within which the lips may meet: phoneme times are rough
TYPICAL_RANGE = (0.03, 0.97)  # quantiles of mouth opening between which its range is taken
CLOSED = 0.15  # share of that range, from its lower end, in which lips count as closed
SSIM_SIGMA = 1.5  # pixels; with the two constants, those of Wang et al. 2004
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
SEAM_ABOVE, SEAM_INSIDE = (0.42, 0.50), (0.60, 0.68)  # rows on either side of the mask's upper border, in parts of S
SEAM_COLUMNS = np.linspace(0.2, 0.8, 7)  # edges of the blocks in which colours are compared


# Images ---------------------------------------------------------------------------------------------------------------


def mean_absolute_error(generated, truth):
    """Return the mean absolute difference of uint8 images of one shape, as a share of the full range."""
    return float(np.abs(generated.astype("float64") - truth).mean() / 255)


def psnr(generated, truth):
    """Return the peak signal-to-noise ratio in dB of uint8 images (N, S, S, 3), from their joint error; at most 100."""
    error = np.square(generated.astype("float64") - truth).mean() / 255**2
    return float(-10 * np.log10(max(error, 1e-10)))


def ssim(generated, truth):
    """Return the mean structural similarity (Wang et al. 2004) of uint8 images (N, H, W, 3), in [-1, 1].

    Each colour channel by itself, in Gaussian windows of 11 pixels (sigma 1.5) that lie inside the image.
    """
    return float(
        np.mean([_ssim(a.astype("float64"), b.astype("float64")) for a, b in zip(generated, truth, strict=True)])
    )


def _ssim(a, b):
    def local(image):
        return cv2.GaussianBlur(image, (11, 11), SSIM_SIGMA)[5:-5, 5:-5]

    mean_a, mean_b = local(a), local(b)
    variances = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    return np.mean(
        (2 * mean_a * mean_b + SSIM_C1)
        * (2 * covariance + SSIM_C2)
        / ((mean_a**2 + mean_b**2 + SSIM_C1) * (variances + SSIM_C2))
    )


def mouth_region(crops):
    """Cut the mouth region, open or shut, from face crops (N, S, S, 3)."""
    top, bottom, left, right = (round(edge * crops.shape[1]) for edge in MOUTH)
    return crops[:, top:bottom, left:right]


def sharpness(generated, truth):
    """Return the variance of the Laplacian, mean over grey images, relative to the truth's: under 1 is softer.

    generated, truth: sequences of (H, W, 3) uint8; each sequence may have images of different sizes.
    """
    ours, theirs = (
        np.mean([cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var() for crop in crops])
        for crops in (generated, truth)
    )
    return float(ours / max(theirs, 1e-9))


def spectrum_distance(generated, truth):
    """Return the mean distance in dB of radial power spectra of grey images (N, H, W, 3), averaged over frames.

    Over all radial frequencies but the constant, up to half a cycle per pixel.
    """
    ours, theirs = (_radial_spectrum(crops) for crops in (generated, truth))
    return float(np.abs(ours - theirs)[1:].mean())


def _radial_spectrum(crops):
    """Return the power in dB by integer radial frequency, in cycles per shorter side."""
    grey = np.stack([cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY) for crop in crops]).astype("float64")
    height, width = grey.shape[1:]
    window = np.hanning(height)[:, None] * np.hanning(width)  # without it the borders would look like edges
    power = np.square(np.abs(np.fft.fft2((grey - grey.mean((1, 2), keepdims=True)) * window))).mean(0)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) * min(height, width)
    rings, last = np.round(radius).astype(int).ravel(), min(height, width) // 2
    mean = np.bincount(rings, power.ravel())[: last + 1] / np.bincount(rings)[: last + 1]
    return 10 * np.log10(mean + 1.0)  # 1: far under the noise of 8 bits


def colour_step(generated, truth):
    """Return the excess colour step across the pasted mouth's upper border over the truth's, in grey levels.

    Each crop is pasted into the true one as inference does it. The step is the absolute difference of mean colour just
    above the border and just below its feather, averaged over blocks of columns, colour channels and frames.
    """
    size = truth.shape[1]
    pasted = np.stack([paste_back(t, g, (0, size, 0, size)) for t, g in zip(truth, generated, strict=True)])
    return float(_step(pasted) - _step(truth))


def _step(crops):
    size = crops.shape[1]
    above, inside = (
        crops[:, round(top * size) : round(bottom * size)].mean(axis=1) for top, bottom in (SEAM_ABOVE, SEAM_INSIDE)
    )  # (N, S, 3)
    edges = np.round(SEAM_COLUMNS * size).astype(int)
    step = np.stack([(above - inside)[:, a:b].mean(axis=1) for a, b in itertools.pairwise(edges)])
    return np.abs(step).mean()


# Lip landmarks --------------------------------------------------------------------------------------------------------


def landmark_distance(generated, truth):
    """Return the mean distance of lip landmarks, faces aligned on the eyes, in % of the distance of the eyes (LMD).

    generated, truth: (N, 68, 2). Aligned by the similarity that maps both eye centres onto the true ones.
    """
    ours, theirs = (np.asarray(points, "float64") @ (1, 1j) for points in (generated, truth))  # the plane as numbers
    (a, b), (c, d) = ([points[:, eye].mean(axis=1) for eye in EYES] for points in (ours, theirs))
    turn = (d - c) / (b - a)  # scale and rotation
    aligned = (ours - a[:, None]) * turn[:, None] + c[:, None]
    distance = np.abs(aligned - theirs)[:, LIPS].mean(axis=1)
    return float(100 * np.nanmean(distance / np.abs(d - c)))


def mouth_opening(points):
    """Return the gap between the inner lips, mean over its three inner points, relative to the distance of the eyes.

    points: (..., 68, 2). Returns (...) float64.
    """
    gap = np.linalg.norm(points[..., [61, 62, 63], :] - points[..., [67, 66, 65], :], axis=-1)
    return gap.mean(-1) / _eye_distance(points)


def mouth_width(points):
    """Return the distance of the mouth corners relative to that of the eyes: (..., 68, 2) -> (...) float64."""
    return np.linalg.norm(points[..., 48, :] - points[..., 54, :], axis=-1) / _eye_distance(points)


def _eye_distance(points):
    left, right = (points[..., eye, :].mean(axis=-2) for eye in EYES)
    return np.linalg.norm(right - left, axis=-1)


# Curves over time -----------------------------------------------------------------------------------------------------


def on_time_axis(values, frames):
    """Lay the values (N,) of these frame numbers out as a curve from frame 0 to the last one, nan in between."""
    curve = np.full(int(frames[-1]) + 1, np.nan)
    curve[np.asarray(frames, int)] = values
    return curve


def correlation(generated, truth, lag=0.0):
    """Return the Pearson correlation of generated(t + lag) with truth(t); nan with few common frames or a constant.

    generated, truth: curves of any lengths. lag: frames, fractions by linear interpolation.
    """
    shifted = np.interp(np.arange(len(truth)) + lag, np.arange(len(generated)), generated, left=np.nan, right=np.nan)
    common = ~(np.isnan(shifted) | np.isnan(truth))
    ours, theirs = shifted[common], truth[common]
    if len(ours) < MIN_FRAMES or np.ptp(ours) < 1e-9 or np.ptp(theirs) < 1e-9:
        return float("nan")
    return float(np.corrcoef(ours, theirs)[0, 1])


def best_lag(generated, truth, lag=0.0):
    """Return by how many frames the generated lips are late beyond `lag`, the clip's own, where the curves agree best.

    Negative: early. nan where one of the curves is constant. To half a frame, within MAX_LAG frames.
    """
    beyond = np.arange(-MAX_LAG, MAX_LAG + LAG_STEP / 2, LAG_STEP)
    agreement = np.array([correlation(generated, truth, lag + extra) for extra in beyond])
    return float("nan") if np.isnan(agreement).all() else float(beyond[np.nanargmax(agreement)])


def range_ratio(generated, truth):
    """Return the standard deviation of a curve relative to the truth's."""
    return float(np.nanstd(generated) / max(np.nanstd(truth), 1e-9))


def closure_share(generated, truth, closures, lag=0.0):
    """Return the share of /p b m/ at which the generated lips close, of those at which the true ones do; nan if none.

    generated, truth: curves of mouth opening. closures: (K,) moments in the clip's audio, in frames. Lips count as
    closed at a moment if their opening, within CLOSURE_FRAMES, falls to the lowest CLOSED of the truth's own range.
    """
    if np.isnan(truth).all():
        return float("nan")
    low, high = np.nanquantile(truth, TYPICAL_RANGE)
    closed = low + CLOSED * (high - low)
    gaps = [(_smallest(generated, moment), _smallest(truth, moment - lag)) for moment in closures]
    results = [ours <= closed for ours, theirs in gaps if theirs <= closed and not np.isnan(ours)]
    return float(np.mean(results)) if results else float("nan")


def _smallest(curve, moment):
    """Return the minimum near a moment; nan past the curve's ends and where a frame has no face."""
    first, last = round(moment - CLOSURE_FRAMES), round(moment + CLOSURE_FRAMES)
    return float(curve[first : last + 1].min()) if first >= 0 and last < len(curve) else float("nan")


# Over clips and people ------------------------------------------------------------------------------------------------


def area_under_curve(in_sync, out_of_sync):
    """Return the chance that a pair in sync has the smaller distance than one out of sync: 0.5 is guessing."""
    return mannwhitneyu(out_of_sync, in_sync).statistic / (len(in_sync) * len(out_of_sync))


def interval(values, seed=0):
    """Return the mean of values, one per clip or person, and its 95 % bootstrap interval: (mean, low, high), no nan."""
    values = np.asarray(values, "float64")
    values = values[~np.isnan(values)]
    if len(values) < 2 or np.ptp(values) == 0:
        mean = float(values.mean()) if len(values) else float("nan")
        return mean, mean, mean
    found = bootstrap((values,), np.mean, n_resamples=2000, rng=np.random.default_rng(seed)).confidence_interval
    return float(values.mean()), float(found.low), float(found.high)
