"""What people look at: rows of truth, result and reference, and how far the mouth opens over time."""

import cv2
import numpy as np

from audio_hparams import hparams
from lipgan.data.lip_landmarks import LipLandmarks
from lipgan.evaluation import metrics
from lipgan.faces.landmarks import LIPS, opening
from lipgan.utils.files import atomic_write

MOMENTS = 10  # columns of a sheet


def write_sheet(path, rows):
    """Write a PNG of crops at equal moments, a row each. rows: [(N, S, S, 3) uint8 BGR, ...]."""
    picks = np.linspace(0, len(rows[0]) - 1, min(MOMENTS, len(rows[0]))).astype(int)
    picture = np.vstack([np.hstack(list(crops[picks])) for crops in rows])
    with atomic_write(path) as temporary:
        cv2.imwrite(str(temporary), picture)


def write_opening(path, name, frames, landmarks, results):
    """Plot the true mouth opening of a clip over time, and that of each result, to a PNG.

    frames: (N,) frame numbers. landmarks: the truth's (N, 68, 2). results: {label: (N, S, S, 3) uint8}.
    """
    from matplotlib.figure import Figure

    find, seconds = LipLandmarks(), np.asarray(frames) / hparams.fps
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="s", ylabel="mouth opening, % of the crop", title=name)
    axes.plot(seconds, 100 * opening(landmarks[:, LIPS]), "k", label="truth")
    for label, crops in results.items():
        axes.plot(seconds, [100 * opening(find(crop)) for crop in crops], label=label)
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def table(scores, names=None):
    """Means and intervals over clips: {row: {number: (mean, low, high)}}. scores: {clip: {row: {number: value}}}.

    names: the clips that count (default: all). A number that a row lacks is nan.
    """
    clips = [scores[name] for name in (scores if names is None else names)]
    rows = list(dict.fromkeys(row for clip in clips for row in clip))
    numbers = list(dict.fromkeys(number for clip in clips for row in clip.values() for number in row))
    nothing = float("nan")
    return {
        row: {n: metrics.interval([clip.get(row, {}).get(n, nothing) for clip in clips]) for n in numbers}
        for row in rows
    }
