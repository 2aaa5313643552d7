"""Inspect a preprocessed folder before training: a table of all clips, figures, and a list of clips to leave out.

    python -m tools.dataset_report --data_root lrs2_preprocessed
    python train.py --data_root lrs2_preprocessed --leave_out report/leave_out.txt

report/ gets clips.csv, summary.json, report.png and leave_out.txt. The lag between a clip's audio and lips is estimated
from the lip motion that its speech asks for, or, with --disc_checkpoint_path, by a trained discriminator.
"""

import argparse
import collections
import csv
import dataclasses
import json
import math
import pathlib
import wave

import numpy as np

from lipgan.data.clip_folder import MELS_NAME
from lipgan.inference.options import SHIPPED_CHECKPOINT
from lipgan.models.backend import BACKENDS, set_backend
from lipgan.utils import cli
from lipgan.utils.cli import UserError, script
from lipgan.utils.files import atomic_write
from lipgan.utils.progress import tracked

QUANTILES = {"least": 0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1}
EPILOG = """
columns: crops; frames from the first crop to the last; seconds of audio; face_px: median side of the face box in the
video; loudness_db: root mean square of the audio, dB of full scale; lag: frames by which the audio is late (negative:
early), where lips and audio agree best; agreement: there, the correlation of mouth opening with what the speech asks
for (or minus the discriminator's distance); confidence: how far that stands out from the median over all lags.

Clips with |lag| over --max_offset and at least --min_confidence are left out. Confidences depend on what estimates the
lag: look at report.png first. Training itself leaves out clips that it cannot use; they are counted here by reason."""


@dataclasses.dataclass(frozen=True)
class ClipReport:
    """What is reported of one clip: the columns of clips.csv. nan: not known."""

    clip: str
    crops: int
    frames: int
    seconds: float
    face_px: float
    loudness_db: float
    lag: float = math.nan
    confidence: float = math.nan
    agreement: float = math.nan


@dataclasses.dataclass(frozen=True)
class LagLimits:
    """Which clips are left out for the lag between their audio and lips."""

    max_offset: float  # frames
    min_confidence: float

    def exceeded(self, row):
        """Return whether the lag of a ClipReport is certainly too large."""
        return abs(row.lag) > self.max_offset and row.confidence >= self.min_confidence  # False for nan


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_root", type=pathlib.Path, required=True, help="folder made by preprocess.py (not a packed one)")
    add("--out", type=pathlib.Path, default="report/", help="folder of the results (default: %(default)s)")
    add("--filelists", type=pathlib.Path, default="filelists/", help="folder of the lists (default: %(default)s)")
    add("--split", choices=("train", "pretrain", "val", "test"), help="only this list's clips (default: all clips)")
    add("--max_clips", type=cli.positive_int, help="number of clips, evenly spaced (default: all)")
    add("--listener", type=pathlib.Path, help="generator of --model warp; its prediction of lips from speech estimates "
        "lags (default: the shipped weights)")  # fmt: skip
    add("--disc_checkpoint_path", help="a trained discriminator that estimates lags instead")
    add("--no_lags", action="store_true", help="estimate no lags, which takes most of the time")
    add("--max_offset", type=int, default=3, help="frames; clips with a larger lag are left out (default: %(default)s)")
    add("--min_confidence", type=float, help="confidence from which they are (default: 0.3; with a discriminator 0.05)")
    add("--img_size", type=int, default=96, help="side of the face crops in pixels (default: %(default)s)")
    add("--backend", choices=BACKENDS, help="default: KERAS_BACKEND, or openvino")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Write the report. Returns an exit status."""
    args = parse_args(argv)
    dataset = read_clips(args.data_root, args.split, args.filelists, args.max_clips, args.img_size)
    offset_of = lag_estimator(args)
    rows = []
    for number in tracked(range(len(dataset.clips)), "clips"):
        row = report_clip(dataset.clips[number], args.data_root)
        offset = offset_of(dataset, number) if offset_of else None
        rows.append(dataclasses.replace(row, **offset._asdict()) if offset else row)
    confidence = args.min_confidence
    if confidence is None:
        confidence = 0.05 if args.disc_checkpoint_path else 0.3
    limits = LagLimits(args.max_offset, confidence)
    summary = summarise(rows, dataset.skipped, limits)
    args.out.mkdir(parents=True, exist_ok=True)
    write_table(args.out / "clips.csv", rows)
    write_figure(args.out / "report.png", rows, limits)
    with atomic_write(args.out / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if offset_of:
        lines = (
            f"{row.clip} {row.lag:+.1f} frames, confidence {row.confidence:.2f}\n"
            for row in rows
            if limits.exceeded(row)
        )
        with atomic_write(args.out / "leave_out.txt") as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
    print_summary(summary, args.out)
    return 0


def read_clips(data_root, split, filelists, max_clips, img_size):
    """Read a list's clips, or all, as a FaceDataset."""
    from lipgan.data.dataset import FaceDataset
    from lipgan.data.filelists import evenly_spaced, find_clips
    from lipgan.data.index import open_index
    from lipgan.data.tar_shards import shard_files

    if shard_files(data_root):
        raise UserError(f"{data_root} is packed; give --data_root the folder that it was packed from")
    index = open_index(data_root)
    if split:
        clips, notes = find_clips(data_root, split, filelists, index)
        print("\n".join(notes), end="\n" if notes else "")
    else:
        clips = [data_root / name for name in index.names]
    return FaceDataset(evenly_spaced(clips, max_clips), img_size, index=index)


def lag_estimator(args):
    """Make a function (dataset, number of a clip) -> Offset or None, as the options say; None without lags."""
    if args.no_lags:
        return None
    set_backend(args.backend, default="openvino")
    from lipgan.evaluation import sync_offset

    if not args.disc_checkpoint_path:
        try:
            return sync_offset.ListenerEstimator(sync_offset.load_listener(args.listener or SHIPPED_CHECKPOINT))
        except UserError as e:
            if args.listener:
                raise
            print(f"no lags are estimated: {e}")
            return None
    from lipgan.models.checkpoint import load_discriminator

    discriminator, info = load_discriminator(args.disc_checkpoint_path)
    if info.get("img_size", args.img_size) != args.img_size:
        size = info["img_size"]
        raise UserError(f"{args.disc_checkpoint_path} sees faces of {size} pixels, the data have {args.img_size}")
    joint = sync_offset.joint_embedding(discriminator)
    return lambda dataset, number: sync_offset.clip_offset(dataset, number, joint)


def report_clip(clip, data_root):
    """Report what a clip's own files hold."""
    with np.load(clip.folder / MELS_NAME, allow_pickle=False) as arrays:
        boxes = arrays["boxes"]
    try:
        with wave.open(str(clip.folder / "audio.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype("float64") / 32768
            seconds = len(samples) / file.getframerate()
    except (OSError, EOFError, wave.Error):
        samples, seconds = np.zeros(1), math.nan
    return ClipReport(
        clip=clip.folder.relative_to(data_root).as_posix(),
        crops=len(clip.frame_ids),
        frames=int(clip.frame_ids[-1] - clip.frame_ids[0]) + 1,
        seconds=round(seconds, 3),
        face_px=float(np.median(boxes[:, 3] - boxes[:, 2])),
        loudness_db=round(float(10 * np.log10(max(np.square(samples).mean(), 1e-10))), 1),
    )


def summarise(rows, skipped, limits):
    """Sum up all clips: quantiles by column, counts by speaker, clips left out and why."""
    quantiles = {}
    for name in ("crops", "seconds", "face_px", "loudness_db", "lag", "confidence"):
        values = known(rows, name)
        if len(values):
            found = np.quantile(values, list(QUANTILES.values())).round(3).tolist()
            quantiles[name] = dict(zip(QUANTILES, found, strict=True))
    crops = crops_by_speaker(rows)
    return {
        "clips": len(rows),
        "crops": sum(row.crops for row in rows),
        "hours": round(float(known(rows, "seconds").sum()) / 3600, 3),
        "speakers": len(crops),
        "crops of the largest speaker": max(crops.values()),
        "quantiles": quantiles,
        "cannot be trained on": dict(skipped),
        "audio and lips disagree": [row.clip for row in rows if limits.exceeded(row)],
    }


def known(rows, name):
    """Return the values of one column that are not nan, (N,) float64."""
    values = np.array([getattr(row, name) for row in rows], "float64")
    return values[~np.isnan(values)]


def crops_by_speaker(rows):
    """Count the crops of each speaker's folder."""
    crops = collections.Counter()
    for row in rows:
        crops[row.clip.split("/")[1]] += row.crops
    return crops


def print_summary(summary, out):
    """Print the summary in a few lines."""
    whole = f"{summary['clips']} clips, {summary['crops']} crops, {summary['hours']} h"
    print(f"{whole}, {summary['speakers']} speakers (folders)")
    for name, values in summary["quantiles"].items():
        print(f"  {name}: {', '.join(f'{key} {value:g}' for key, value in values.items())}")
    for reason, count in summary["cannot be trained on"].items():
        print(f"{count} clips cannot be trained on: {reason}")
    names = summary["audio and lips disagree"]
    if names:
        print(f"{len(names)} clips to leave out: {' '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
    print(out)


def write_table(path, rows):
    """Write all rows as CSV, without the columns that nothing is known of."""
    columns = [field.name for field in dataclasses.fields(ClipReport)]
    columns = [name for name in columns if name == "clip" or len(known(rows, name))]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for row in rows:
            values = dataclasses.asdict(row)
            writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()})


def write_figure(path, rows, limits):
    """Plot histograms of the columns, and every clip's lag beside its confidence, to a PNG."""
    from matplotlib.figure import Figure

    shown = {"crops": "crops of a clip", "seconds": "length, s", "face_px": "width of the face in the video, pixels"}
    shown |= {"loudness_db": "loudness, dB of full scale"}
    figure = Figure(figsize=(12, 6), layout="constrained")
    for place, (name, label) in enumerate(shown.items()):
        axes = figure.add_subplot(2, 3, place + 1, xlabel=label, ylabel="clips")
        axes.hist(known(rows, name), bins=40)
    axes = figure.add_subplot(2, 3, 5, xlabel="speakers, the largest first", ylabel="crops")
    axes.plot(sorted(crops_by_speaker(rows).values(), reverse=True), ".-")
    axes = figure.add_subplot(2, 3, 6, xlabel="frames by which the audio is late", ylabel="confidence")
    timed = [row for row in rows if not math.isnan(row.lag)]
    if timed:
        colours = ["tab:red" if limits.exceeded(row) else "tab:blue" for row in timed]
        axes.scatter([row.lag for row in timed], [row.confidence for row in timed], 12, colours)
        axes.set_title(f"{colours.count('tab:red')} to leave out (red)")
    else:
        axes.set_title("no lags were estimated")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


if __name__ == "__main__":
    raise SystemExit(main())
