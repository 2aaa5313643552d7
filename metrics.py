"""How good generated face crops are: error of the picture, place of the lips, and whether they go with the sound."""

import numpy as np
from scipy.stats import bootstrap, mannwhitneyu

from mouth import MOUTH, opening

MAX_LAG = 10  # frames to either side in which the best agreement is looked for


def mean_absolute_error(generated, truth):
    """Mean absolute difference of pictures, uint8 of any equal shape, in parts of the full range."""
    return float(np.abs(generated.astype("float64") - truth).mean() / 255)


def psnr(generated, truth):
    """Peak signal-to-noise ratio of uint8 pictures (N, S, S, 3) in dB, from the error of all; at most 100."""
    error = np.square(generated.astype("float64") - truth).mean() / 255**2
    return float(-10 * np.log10(max(error, 1e-10)))


def mouth_region(crops):
    """The part of face crops (N, S, S, 3) in which a mouth, open or shut, lies."""
    top, bottom, left, right = (round(edge * crops.shape[1]) for edge in MOUTH)
    return crops[:, top:bottom, left:right]


def landmark_distance(generated, truth):
    """Mean distance of the lips' landmarks (N, 20, 2), in per cent of the crop's side."""
    return float(100 * np.linalg.norm(generated - truth, axis=-1).mean())


def opening_correlation(generated, truth, lag=0):
    """Pearson correlation over time of mouth opening, from lips (N, 20, 2) each; nan where one of them never moves.

    lag: frames by which the generated lips are taken later. A result whose lips are late by n frames agrees best at n.
    """
    ours, theirs = opening(generated), opening(truth)
    ours, theirs = (ours[lag:], theirs[: len(theirs) - lag]) if lag >= 0 else (ours[:lag], theirs[-lag:])
    if len(ours) < 3 or np.ptp(ours) < 1e-9 or np.ptp(theirs) < 1e-9:
        return float("nan")
    return float(np.corrcoef(ours, theirs)[0, 1])


def best_lag(generated, truth):
    """Frames by which the generated lips are late (negative: early), where the opening agrees best; nan if nowhere."""
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    agreement = np.array([opening_correlation(generated, truth, int(lag)) for lag in lags])
    return float("nan") if np.isnan(agreement).all() else float(lags[np.nanargmax(agreement)])


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
