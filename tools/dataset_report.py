"""Look at a preprocessed folder before training on it: a table of every clip, a picture, and what to leave out.

    python -m tools.dataset_report --data_root lrs2_preprocessed --disc_checkpoint_path logs/gan/lipgan_disc.weights.h5
    python train.py --data_root lrs2_preprocessed --leave_out report/leave_out.txt

report/ gets clips.csv, summary.json, report.png and leave_out.txt. Without a discriminator nothing is said of sync.
"""

import argparse
import csv
import json
import pathlib
import wave

import numpy as np
import tqdm

from lipgan.data.clip_folder import MELS_NAME
from lipgan.models.backend import BACKENDS, set_backend
from lipgan.utils import cli
from lipgan.utils.cli import UserError, script
from lipgan.utils.files import atomic_write

COLUMNS = ("clip", "crops", "frames", "seconds", "face_px", "loudness_db", "offset", "confidence", "distance")
EXPLAINED = """
columns: crops; frames from the first crop to the last; seconds of sound; face_px: median side of the face's box in the
video; loudness_db: of the sound, root mean square, dB under full scale; offset: frames by which the sound is late
(negative: early), where the discriminator's distance of lips and sound is least; confidence: how far it lies there
under the median over all lags; distance: there.

A clip is left out whose |offset| is over --max_offset where the confidence is at least --min_confidence: the
discriminator is sure, and sees it elsewhere. Confidences depend on the discriminator: look at report.png first.
Clips that cannot be trained on are left out by training itself, and counted here by reason."""


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXPLAINED, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_root", type=pathlib.Path, required=True, help="folder made by preprocess.py (not a packed one)")
    add("--out", type=pathlib.Path, default="report/", help="folder of the results (default: %(default)s)")
    add("--filelists", type=pathlib.Path, default="filelists/", help="folder of the lists (default: %(default)s)")
    add("--split", choices=("train", "pretrain", "val", "test"), help="only this list's clips (default: all clips)")
    add("--max_clips", type=cli.positive_int, help="look at so many clips, evenly spaced (default: all)")
    add("--disc_checkpoint_path", help="a trained discriminator, which tells the offset between sound and lips")
    add("--max_offset", type=int, default=3, help="frames, beyond which a clip is left out (default: %(default)s)")
    add("--min_confidence", type=float, default=0.05, help="under which it is not (default: %(default)s)")
    add("--img_size", type=int, default=96, help="side of the face crops in pixels (default: %(default)s)")
    add("--backend", choices=BACKENDS, help="default: KERAS_BACKEND, or openvino")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Write the report. Returns an exit status."""
    args = parse_args(argv)
    dataset = read_clips(args.data_root, args.split, args.filelists, args.max_clips, args.img_size)
    offset_of = (
        offsets_by(args.disc_checkpoint_path, args.backend, args.img_size) if args.disc_checkpoint_path else None
    )
    rows = []
    for number in tqdm.trange(len(dataset.clips), desc="clips", dynamic_ncols=True):
        offset = offset_of(dataset, number) if offset_of else None
        rows.append(measured(dataset.clips[number], args.data_root) | (offset._asdict() if offset else {}))
    for row in rows:
        row["offset"] = row.pop("lag", None)
    left_out = [row for row in rows if disagrees(row, args.max_offset, args.min_confidence)]
    summary = summarised(rows, dataset.skipped, left_out)
    args.out.mkdir(parents=True, exist_ok=True)
    write_table(args.out / "clips.csv", rows)
    write_picture(args.out / "report.png", rows, args.max_offset, args.min_confidence)
    with atomic_write(args.out / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if offset_of:
        lines = (f"{row['clip']} {row['offset']:+d} frames, confidence {row['confidence']:.2f}\n" for row in left_out)
        with atomic_write(args.out / "leave_out.txt") as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
    print_summary(summary, args.out)
    return 0


def read_clips(data_root, split, filelists, max_clips, img_size):
    """The `dataset.FaceDataset` of a list's clips, or of all."""
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


def offsets_by(checkpoint_path, backend, img_size):
    """A function of (dataset, number of a clip) that tells its Offset, as this discriminator sees it."""
    set_backend(backend, default="openvino")
    from lipgan.evaluation.sync_offset import clip_offset, joint_embedding
    from lipgan.models.checkpoint import load_discriminator

    discriminator, info = load_discriminator(checkpoint_path)
    if info.get("img_size", img_size) != img_size:
        raise UserError(f"{checkpoint_path} sees faces of {info['img_size']} pixels, the data have {img_size}")
    joint = joint_embedding(discriminator)
    return lambda dataset, number: clip_offset(dataset, number, joint)


def measured(clip, data_root):
    """What a clip's own files say, by column."""
    with np.load(clip.folder / MELS_NAME, allow_pickle=False) as arrays:
        boxes = arrays["boxes"]
    try:
        with wave.open(str(clip.folder / "audio.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype("float64") / 32768
            seconds = len(samples) / file.getframerate()
    except (OSError, EOFError, wave.Error):
        samples, seconds = np.zeros(1), float("nan")
    return {
        "clip": clip.folder.relative_to(data_root).as_posix(),
        "crops": len(clip.frame_ids),
        "frames": int(clip.frame_ids[-1] - clip.frame_ids[0]) + 1,
        "seconds": round(seconds, 3),
        "face_px": float(np.median(boxes[:, 3] - boxes[:, 2])),
        "loudness_db": round(float(10 * np.log10(max(np.square(samples).mean(), 1e-10))), 1),
    }


def disagrees(row, max_offset, min_confidence):
    """Whether a clip's sound and lips surely disagree."""
    return row["offset"] is not None and abs(row["offset"]) > max_offset and row["confidence"] >= min_confidence


def summarised(rows, skipped, left_out):
    """The numbers of all clips: quantiles by column, counts by speaker, what is left out and why."""
    quantiles, marks = {}, {"least": 0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1}
    for name in ("crops", "seconds", "face_px", "loudness_db", "offset", "confidence"):
        values = np.array([row[name] for row in rows if row.get(name) is not None], "float64")
        if len(values):
            found = np.nanquantile(values, list(marks.values())).round(3).tolist()
            quantiles[name] = dict(zip(marks, found, strict=True))
    speakers = {}
    for row in rows:
        speaker = row["clip"].split("/")[1]
        speakers[speaker] = speakers.get(speaker, 0) + row["crops"]
    return {
        "clips": len(rows),
        "crops": sum(row["crops"] for row in rows),
        "hours": round(float(np.nansum([row["seconds"] for row in rows])) / 3600, 3),
        "speakers": len(speakers),
        "crops of the largest speaker": max(speakers.values()),
        "quantiles": quantiles,
        "cannot be trained on": dict(skipped),
        "sound and lips disagree": [row["clip"] for row in left_out],
    }


def print_summary(summary, out):
    """Tell the summary in a few lines."""
    whole = f"{summary['clips']} clips, {summary['crops']} crops, {summary['hours']} h"
    print(f"{whole}, {summary['speakers']} speakers (folders)")
    for name, values in summary["quantiles"].items():
        print(f"  {name}: {', '.join(f'{key} {value:g}' for key, value in values.items())}")
    for reason, count in summary["cannot be trained on"].items():
        print(f"{count} clips cannot be trained on: {reason}")
    names = summary["sound and lips disagree"]
    if names:
        print(f"{len(names)} clips to leave out: {' '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
    print(out)


def write_table(path, rows):
    """All rows as a CSV."""
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_picture(path, rows, max_offset, min_confidence):
    """Histograms of the columns, and every clip's offset beside its confidence, as a PNG."""
    from matplotlib.figure import Figure

    shown = {"crops": "crops of a clip", "seconds": "length, s", "face_px": "face's width in the video, pixels"}
    shown |= {"loudness_db": "loudness, dB under full scale"}
    figure = Figure(figsize=(12, 6), layout="constrained")
    for place, (name, label) in enumerate(shown.items()):
        axes = figure.add_subplot(2, 3, place + 1, xlabel=label, ylabel="clips")
        axes.hist([row[name] for row in rows if np.isfinite(row[name])], bins=40)
    speakers = {}
    for row in rows:
        speaker = row["clip"].rpartition("/")[0]
        speakers[speaker] = speakers.get(speaker, 0) + row["crops"]
    axes = figure.add_subplot(2, 3, 5, xlabel="speakers, the largest first", ylabel="crops")
    axes.plot(sorted(speakers.values(), reverse=True), ".-")
    axes = figure.add_subplot(2, 3, 6, xlabel="frames by which the sound is late", ylabel="confidence")
    told = [row for row in rows if row["offset"] is not None]
    if told:
        out = [disagrees(row, max_offset, min_confidence) for row in told]
        colours = ["tab:red" if left_out else "tab:blue" for left_out in out]
        axes.scatter([row["offset"] for row in told], [row["confidence"] for row in told], 12, colours)
        axes.set_title(f"{sum(out)} to leave out (red)")
    else:
        axes.set_title("needs --disc_checkpoint_path")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


if __name__ == "__main__":
    raise SystemExit(main())
