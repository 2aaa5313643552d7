"""What people look at: rows of truth, result and reference, and how far the mouth opens over time."""

import cv2
import numpy as np

from audio_hparams import hparams
from lipgan.data.lips import LipLandmarks, opening
from lipgan.faces.faces import LIPS
from lipgan.utils.errors import whole_file

MOMENTS = 10  # columns of a sheet


def write_sheet(path, rows):
    """Write a PNG of crops at equal moments, a row each. rows: [(N, S, S, 3) uint8 BGR, ...]."""
    picks = np.linspace(0, len(rows[0]) - 1, min(MOMENTS, len(rows[0]))).astype(int)
    picture = np.vstack([np.hstack(list(crops[picks])) for crops in rows])
    with whole_file(path) as temporary:
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
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
