"""How good generated face crops are: error and sharpness of the picture, place of the lips, and sync with the sound.

Crops are (N, S, S, 3) uint8 BGR, landmarks (N, 68, 2) x and y in parts of the crop's side, in dlib's order.
"""

import itertools

import cv2
import numpy as np
from scipy.stats import bootstrap, mannwhitneyu

from lipgan.faces.landmarks import EYES, LIPS, MOUTH, opening
from lipgan.inference.blend import paste_back

MAX_LAG = 10  # frames to either side in which the best agreement is looked for
SSIM_SIGMA = 1.5  # pixels; with the two constants, those of Wang et al. 2004
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
SEAM_ABOVE, SEAM_INSIDE = (0.42, 0.50), (0.60, 0.68)  # rows on either side of the mask's upper border, in parts of S
SEAM_COLUMNS = np.linspace(0.2, 0.8, 7)  # edges of the blocks in which colours are compared


# The picture ----------------------------------------------------------------------------------------------------------


def mean_absolute_error(generated, truth):
    """Mean absolute difference of pictures, uint8 of any equal shape, in parts of the full range."""
    return float(np.abs(generated.astype("float64") - truth).mean() / 255)


def psnr(generated, truth):
    """Peak signal-to-noise ratio of uint8 pictures (N, S, S, 3) in dB, from the error of all; at most 100."""
    error = np.square(generated.astype("float64") - truth).mean() / 255**2
    return float(-10 * np.log10(max(error, 1e-10)))


def ssim(generated, truth):
    """Mean structural similarity of uint8 pictures (N, H, W, 3), in [-1, 1]: Wang et al. 2004, each colour by itself.

    Windows of 11 pixels (Gaussian, sigma 1.5); only those that lie wholly inside the picture count.
    """
    return float(
        np.mean([_ssim(a.astype("float64"), b.astype("float64")) for a, b in zip(generated, truth, strict=True)])
    )


def _ssim(a, b):
    def local(picture):
        return cv2.GaussianBlur(picture, (11, 11), SSIM_SIGMA)[5:-5, 5:-5]

    mean_a, mean_b = local(a), local(b)
    variances = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
    covariance = local(a * b) - mean_a * mean_b
    return np.mean(
        (2 * mean_a * mean_b + SSIM_C1)
        * (2 * covariance + SSIM_C2)
        / ((mean_a**2 + mean_b**2 + SSIM_C1) * (variances + SSIM_C2))
    )


def mouth_region(crops):
    """The part of face crops (N, S, S, 3) in which a mouth, open or shut, lies."""
    top, bottom, left, right = (round(edge * crops.shape[1]) for edge in MOUTH)
    return crops[:, top:bottom, left:right]


def sharpness(generated, truth):
    """Variance of the Laplacian (of grey pictures, mean over frames) in parts of the truth's: under 1 is softer."""
    ours, theirs = (
        np.mean([cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var() for crop in crops])
        for crops in (generated, truth)
    )
    return float(ours / max(theirs, 1e-9))


def spectrum_distance(generated, truth):
    """Mean distance in dB of the power spectra of grey pictures (N, H, W, 3), averaged over frames and directions.

    Over all radial frequencies but the constant, up to half a cycle a pixel.
    """
    ours, theirs = (_radial_spectrum(crops) for crops in (generated, truth))
    return float(np.abs(ours - theirs)[1:].mean())


def _radial_spectrum(crops):
    """Power in dB by whole radial frequency, in steps of the shorter side's lowest."""
    grey = np.stack([cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY) for crop in crops]).astype("float64")
    height, width = grey.shape[1:]
    window = np.hanning(height)[:, None] * np.hanning(width)  # without it the borders would look like edges
    power = np.square(np.abs(np.fft.fft2((grey - grey.mean((1, 2), keepdims=True)) * window))).mean(0)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) * min(height, width)
    rings, last = np.round(radius).astype(int).ravel(), min(height, width) // 2
    mean = np.bincount(rings, power.ravel())[: last + 1] / np.bincount(rings)[: last + 1]
    return 10 * np.log10(mean + 1.0)  # 1: far under the noise of 8 bits


def colour_step(generated, truth):
    """How much larger the step of colour across the pasted mouth's upper border is than the truth's, in grey levels.

    Each crop is pasted into the true one as inference does it. The step is the absolute difference of mean colour just
    above the border and just below its feather, a mean over blocks of columns, colours and frames.
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


# The lips -------------------------------------------------------------------------------------------------------------


def landmark_distance(generated, truth):
    """Mean distance of the lips' landmarks, both faces aligned on the eyes, in per cent of the distance of the eyes.

    generated, truth: (N, 68, 2). Aligned by the similarity that lays the centres of both eyes on the true ones.
    """
    ours, theirs = (np.asarray(points, "float64") @ (1, 1j) for points in (generated, truth))  # the plane as numbers
    (a, b), (c, d) = ([points[:, eye].mean(axis=1) for eye in EYES] for points in (ours, theirs))
    turn = (d - c) / (b - a)  # scale and rotation
    aligned = (ours - a[:, None]) * turn[:, None] + c[:, None]
    distance = np.abs(aligned - theirs)[:, LIPS].mean(axis=1)
    return float(100 * (distance / np.abs(d - c)).mean())


def opening_correlation(generated, truth, lag=0):
    """Pearson correlation over time of mouth opening, from lips (N, 20, 2); nan where one of them never moves.

    lag: frames by which the generated lips are taken later. A result whose lips are late by n frames agrees best at n.
    Frames in which either is nan are left out.
    """
    ours, theirs = opening(generated), opening(truth)
    ours, theirs = (ours[lag:], theirs[: len(theirs) - lag]) if lag >= 0 else (ours[:lag], theirs[-lag:])
    known = ~(np.isnan(ours) | np.isnan(theirs))
    ours, theirs = ours[known], theirs[known]
    if len(ours) < 3 or np.ptp(ours) < 1e-9 or np.ptp(theirs) < 1e-9:
        return float("nan")
    return float(np.corrcoef(ours, theirs)[0, 1])


def best_lag(generated, truth):
    """Frames by which the generated lips are late (negative: early), where the opening agrees best; nan if nowhere."""
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    agreement = np.array([opening_correlation(generated, truth, int(lag)) for lag in lags])
    return float("nan") if np.isnan(agreement).all() else float(lags[np.nanargmax(agreement)])


def opening_range(generated, truth):
    """How much the mouth opening varies over time, in parts of the truth's: the ratio of standard deviations."""
    return float(opening(generated).std() / max(opening(truth).std(), 1e-9))


# Over clips -----------------------------------------------------------------------------------------------------------


def area_under_curve(in_sync, out_of_sync):
    """Chance that a pair in sync has the smaller distance than one that is not: 0.5 is guessing, 1 is perfect."""
    return mannwhitneyu(out_of_sync, in_sync).statistic / (len(in_sync) * len(out_of_sync))


def interval(values, seed=0):
    """Mean of values, one a clip, and its 95 % interval by bootstrap over clips: (mean, low, high). nan is left out."""
    values = np.asarray(values, "float64")
    values = values[~np.isnan(values)]
    if len(values) < 2 or np.ptp(values) == 0:
        mean = float(values.mean()) if len(values) else float("nan")
        return mean, mean, mean
    found = bootstrap((values,), np.mean, n_resamples=2000, rng=np.random.default_rng(seed)).confidence_interval
    return float(values.mean()), float(found.low), float(found.high)
