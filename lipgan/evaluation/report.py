"""What people look at: Markdown tables, sheets of truth, result and reference, and mouth opening over time."""

import math

import cv2
import numpy as np

from audio_hparams import hparams
from lipgan.evaluation import metrics
from lipgan.evaluation.results import (
    COPIED_REFERENCE,
    LIP_MEASURES,
    MEASURES,
    OTHER_AUDIO,
    by_person,
    by_row,
    means,
    means_over_people,
)
from lipgan.faces.detector import LipLandmarks
from lipgan.utils.files import atomic_write

COLUMNS = 10  # of a sheet


def print_report(evaluation):
    """Print the tables over clips and over people, the lag, and the clips that could not be scored, by reason."""
    for note in evaluation.notes:
        print(note)
    title = f"{len(evaluation.clips)} clips"
    groups = by_row(evaluation.rows)
    images = [name for name in MEASURES if name not in LIP_MEASURES and name != "own_lag"]
    for names in (images, LIP_MEASURES):
        print_table(title, {row: means(rows) for row, rows in groups.items()}, names)
    main = groups[evaluation.main_row]
    people = by_person(main)
    if len(people) > 1:
        table = {f"{person}, {len(rows)} clips": means(rows) for person, rows in people.items()}
        table[f"mean of {len(people)} people"] = means_over_people(main)
        print_table(f"{evaluation.main_row}, by person", table, LIP_MEASURES)
    print(f"\n{evaluation.main_row}: {lag_summary([row.lag for row in main], evaluation.sync_offset_ms)}")
    for reason, count in evaluation.skipped.items():
        print(f"{count} clips could not be scored: {reason}")


def print_table(title, table, names):
    """Print {row: {measure: (mean, low, high)}} as Markdown; measures that apply to no row are left out."""
    names = [name for name in names if any(not math.isnan(values[name][0]) for values in table.values())]
    if not names:
        return
    print(f"\n| {title} | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for row, values in table.items():
        print(f"| {row} | {' | '.join(_cell(*values[name]) for name in names)} |")


def _cell(mean, low, high):
    if math.isnan(mean):
        return "-"
    return f"{mean:.3f}" if low == high else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def lag_summary(lags, sync_offset_ms=None):
    """Describe how late the lips of the clips are, by the median of their lags in frames (nan: unknown).

    sync_offset_ms: at which a generator made them; then the offset that corrects the lag is named too.
    """
    lags = np.asarray(lags, "float64")
    lags = lags[~np.isnan(lags)]
    if not len(lags):
        return "no lag: no mouth moves"
    median = float(np.median(lags))
    near, ms = int((np.abs(lags - median) <= 1).sum()), median / hparams.fps * 1000
    sense = "late" if median > 0 else "early" if median < 0 else "in time"
    text = (
        f"lag {median:+g} frames ({ms:+g} ms, lips {sense}), median; {near} of {len(lags)} clips within a frame of it"
    )
    if sync_offset_ms is None:
        return text
    if 2 * near <= len(lags):
        return f"{text}: too few to name an offset"
    return f"{text}; use batch_inference.py --sync_offset_ms {sync_offset_ms + ms:g}"


# Figures --------------------------------------------------------------------------------------------------------------


def write_figures(folder, clip):
    """Write two PNGs of a ScoredClip: a sheet of truth, result and reference, and mouth opening over time."""
    folder.mkdir(parents=True, exist_ok=True)
    main = next(iter(clip.results))
    stem = clip.name.replace("/", "_")
    write_sheet(folder / f"{stem}.png", [clip.truth, clip.results[main], clip.results[COPIED_REFERENCE]])
    shown = {row: clip.results[row] for row in (main, OTHER_AUDIO) if row in clip.results}
    write_opening(folder / f"{stem}_opening.png", clip, shown)


def write_sheet(path, rows):
    """Write a PNG with a row of crops at equal distances in time for each of rows: [(N, S, S, 3) uint8 BGR, ...]."""
    picks = np.linspace(0, len(rows[0]) - 1, min(COLUMNS, len(rows[0]))).astype(int)
    sheet = np.vstack([np.hstack(list(crops[picks])) for crops in rows])
    with atomic_write(path) as temporary:
        cv2.imwrite(str(temporary), sheet)


def write_opening(path, clip, results):
    """Plot mouth opening over time, the truth's and that of each result, to a PNG.

    clip: a ScoredClip. results: {label: (N, S, S, 3) uint8}.
    """
    from matplotlib.figure import Figure

    find, seconds = LipLandmarks(), np.asarray(clip.frames) / hparams.fps
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="s", ylabel="mouth opening, % of eye distance", title=clip.name)
    axes.plot(seconds, 100 * metrics.mouth_opening(clip.landmarks), "k", label="truth")
    for label, crops in results.items():
        points = np.stack([find.face(crop) for crop in crops])
        axes.plot(seconds, 100 * metrics.mouth_opening(points), label=label)
    axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
