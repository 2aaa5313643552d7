"""Measure how good a generator's mouths are, and whether they go with the sound.

    python evaluate.py --checkpoint_path weights/lipgan.weights.h5 --data_root grid_preprocessed --filelists grid_lists
    python evaluate.py --videos results/ --originals originals/
    python evaluate.py --pairs pairs.csv
    python evaluate.py --scored group_a.json group_b.json

Every number stands beside those that a model must beat: one far frame of the clip copied, the clip's mean face, and the
same network fed with another clip's sound. The other forms score finished videos, of any program, against originals:
those of the same names in two folders, or those that a CSV file names in its columns video and original. The last
form puts together what was scored before, such as the groups of a rotation.
"""

import argparse
import collections
import csv
import json
import pathlib

import numpy as np
from tqdm import tqdm

from audio_hparams import hparams
from lipgan.models import backend
from lipgan.models.metadata import KINDS
from lipgan.utils import cli
from lipgan.utils.cli import UserError, script
from lipgan.utils.files import atomic_write

MAX_OFFSET_MS = 400  # as far as a lag is looked for
EXPLAINED = """
L1, PSNR (dB), SSIM: of the crop, and of the mouth's part of it. sharpness: variance of the mouth's Laplacian,
in parts of the truth's. spectrum: distance of the mouth's power spectrum, dB. colour step: across the pasted
mouth's border, above the truth's own, grey levels. LMD: distance of the lips' landmarks, % of the eyes'
distance. correlation: of mouth opening with the true one, at lag 0. lag: frames by which the lips are late,
where that is highest. in time: share of clips with a lag within one frame. opening: its standard deviation in
parts of the truth's. disc distance: of the crops and the clip's sound; the truth's is the yardstick."""


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXPLAINED, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint_path", help="the generator: X.weights.h5, or a legacy .h5")
    add("--disc_checkpoint_path", help="a discriminator: also tell how well it knows a clip's sound from another's")
    add(
        "--sync_offset_ms", type=offset_ms,
        help="how many ms after a frame's middle lies the sound that the generator hears (default: the checkpoint's)",
    )  # fmt: skip
    add("--model", choices=KINDS, help="which generator it is (default: as the checkpoint says)")
    add("--data_root", help="folder made by preprocess.py")
    add("--filelists", default="filelists/", help="folder of the lists (default: %(default)s)")
    add("--split", choices=("train", "val", "test"), default="test", help="which list (default: %(default)s)")
    add("--leave_out", help="file of clips that are not used, such as dataset_report.py's leave_out.txt")
    add("--max_clips", type=cli.positive_int, help="score so many clips, evenly spaced (default: all)")
    add("--videos", type=pathlib.Path, help="score the finished videos of this folder instead of a generator")
    add("--originals", type=pathlib.Path, help="folder of their originals, which have the same names before the ending")
    add(
        "--pairs",
        type=pathlib.Path,
        help="CSV file of finished videos: columns video and original, a path in each cell",
    )
    add("--detector", choices=("cnn", "hog"), default="cnn", help="finds the originals' faces (default: %(default)s)")
    add("--batch_size", type=cli.positive_int, default=16, help="faces at a time (default: %(default)s)")
    add(
        "--scored", type=pathlib.Path, nargs="+", help="in place of all that: files of --json, their clips in one table"
    )
    add("--json", type=pathlib.Path, help="write all numbers, clip by clip, to this file")
    add("--csv", type=pathlib.Path, help="write all numbers, a line for each clip and row, to this file")
    add("--picture_dir", type=pathlib.Path, help="write truth | result | reference and mouth opening of clips here")
    add("--max_pictures", type=cli.positive_int, default=8, help="clips that are pictured (default: %(default)s)")
    add("--backend", choices=backend.BACKENDS, help="default: KERAS_BACKEND, or openvino")
    args = parser.parse_args(argv)
    finished = args.videos or args.originals
    if args.pairs and finished:
        parser.error("--pairs stands in place of --videos and --originals")
    wanted = ("videos", "originals") if finished else () if args.pairs else ("checkpoint_path", "data_root")
    wanted = () if args.scored else wanted
    if missing := [f"--{name}" for name in wanted if getattr(args, name) is None]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return args


def offset_ms(text):
    """An argparse type: a number of ms, so small that a lag that is left can be measured."""
    value = float(text)
    if not abs(value) <= MAX_OFFSET_MS:
        raise argparse.ArgumentTypeError(f"{text} is not from {-MAX_OFFSET_MS} to {MAX_OFFSET_MS}")
    return value


@script
def main(argv=None):
    """Print the tables. Returns an exit status."""
    args = parse_args(argv)
    backend.set_backend(args.backend, default="openvino")
    scores, skipped, offset = (*read_scored(args.scored), None) if args.scored else scored(args)
    if not scores:
        raise UserError(f"no clip could be scored ({'; '.join(f'{n}: {why}' for why, n in skipped.items())})")
    report(scores, skipped, offset)
    if args.json:
        write_json(args.json, scores, skipped)
    if args.csv:
        write_csv(args.csv, scores)
    return 0


def scored(args):
    """Score what the options say: scores by clip, counts of those left out by reason, the offset (None: of videos)."""
    if args.videos or args.pairs:
        from lipgan.evaluation.finished_videos import listed_pairs, pairs_of_folders, score_videos

        pairs = listed_pairs(args.pairs) if args.pairs else pairs_of_folders(args.videos, args.originals)
        (clips, skipped), total, offset = score_videos(pairs, args.detector), len(pairs), None
    else:
        clips, total, skipped, offset = scored_clips(
            args.checkpoint_path, args.model, args.disc_checkpoint_path, args.data_root, args.filelists, args.split,
            args.max_clips, args.batch_size, args.leave_out, args.sync_offset_ms,
        )  # fmt: skip
    scores = {}
    for clip in tqdm(clips, "clips", total, dynamic_ncols=True):
        scores[clip.name] = clip.scores
        if args.picture_dir and len(scores) <= args.max_pictures:
            write_pictures(args.picture_dir, clip)
    return scores, skipped, offset


def scored_clips(checkpoint_path, model, disc_checkpoint_path, data_root, filelists, split, max_clips, batch_size,
                 leave_out=None, sync_offset_ms=None):  # fmt: skip
    """The ScoredClips of a list, one after another; how many there are; clips left out, by reason; and the offset.

    sync_offset_ms: None takes the checkpoint's.
    """
    from lipgan.data.dataset import FaceDataset
    from lipgan.data.filelists import evenly_spaced, find_clips
    from lipgan.data.index import open_index
    from lipgan.evaluation.scoring import score_clips
    from lipgan.models.checkpoint import load_discriminator, load_generator
    from lipgan.models.warp import has_lips, informed

    generator, info = load_generator(checkpoint_path, model)
    generator = informed(generator) if has_lips(generator) else generator
    index = open_index(data_root)
    clips, notes = find_clips(data_root, split, filelists, index, leave_out)
    print("\n".join(notes), end="\n" if notes else "")
    dataset = FaceDataset(evenly_spaced(clips, max_clips), info["img_size"], index=index)
    if len(dataset.clips) < 2:
        raise UserError(f"{split}.txt has {len(dataset.clips)} clip to score: another clip's sound needs two")
    discriminator = load_discriminator(disc_checkpoint_path)[0] if disc_checkpoint_path else None
    if discriminator:
        print(sync_line(dataset, discriminator, batch_size), flush=True)
    offset = info["sync_offset_ms"] if sync_offset_ms is None else sync_offset_ms
    clips = score_clips(dataset, generator, batch_size, discriminator, offset)
    return clips, len(dataset.clips), dataset.skipped, offset


def sync_line(dataset, discriminator, batch_size):
    """How often real faces with their own sound are nearer than with another clip's, at the same frames, as a line."""
    from lipgan.evaluation.metrics import area_under_curve, interval
    from lipgan.evaluation.scoring import other_clip, predicted, windows

    areas = []
    for number, clip in enumerate(dataset.clips):
        frames = [int(frame) for frame in clip.targets]
        crops = np.stack([dataset.read_crop(number, frame) for frame in frames]).astype("float32") / 255
        other, other_frames = other_clip(dataset, number, frames)
        mels = windows(dataset, number, frames), windows(dataset, other, other_frames)
        areas.append(area_under_curve(*(predicted(discriminator, batch_size, crops, m)[:, 0] for m in mels)))
    mean, low, high = interval(areas)
    what = f"area under the curve, own against another clip's sound, {len(areas)} clips"
    return f"{what}: {mean:.3f} ({low:.3f} to {high:.3f})"


def report(scores, skipped, offset):
    """Print the table of all clips, that of each speaker's own sound, the lag, and what was left out, by reason."""
    from lipgan.evaluation.report import table

    print_table(f"{len(scores)} clips", table(scores))
    speakers = {}
    for name in scores:
        speakers.setdefault(name.split("/")[0], []).append(name)
    first = next(iter(next(iter(scores.values()))))
    if len(speakers) > 1:
        rows = {f"{s}, {len(names)}": table(scores, names)[first] for s, names in speakers.items()}
        print_table(f"{first}, by speaker", rows)
    print(f"\n{first}: {lag_told([rows[first]['lag'] for rows in scores.values()], offset)}")
    for reason, count in skipped.items():
        print(f"{count} clips could not be scored: {reason}")


def lag_told(lags, offset=None):
    """How late the lips of the clips are, by the median of their lags in frames, in words.

    offset: the sync_offset_ms at which a generator made them; then also the one that brings them in time.
    """
    lags = np.asarray(lags, "float64")
    lags = lags[~np.isnan(lags)]
    if not len(lags):
        return "no lag can be told, no mouth moves"
    median = float(np.median(lags))
    near, ms = int((np.abs(lags - median) <= 1).sum()), median / hparams.fps * 1000
    how = "late" if median > 0 else "early" if median < 0 else "in time"
    told = f"lag {median:+g} frames ({ms:+g} ms, lips {how}), median; {near} of {len(lags)} clips within a frame of it"
    if offset is None:
        return told
    if 2 * near <= len(lags):
        return f"{told}: too few to tell an offset by"
    return f"{told}; batch_inference.py wants --sync_offset_ms {offset + ms:g}"


def print_table(title, rows):
    """Print {row: {number: (mean, low, high)}} as Markdown, with what does not vary or is not there left out."""
    names = list(next(iter(rows.values())))
    print(f"\n| {title} | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for row, values in rows.items():
        cells = [
            "-" if np.isnan(m) else f"{m:.3f}" if low == high else f"{m:.3f} ({low:.3f} to {high:.3f})"
            for m, low, high in values.values()
        ]
        print(f"| {row} | {' | '.join(cells)} |")


def read_scored(paths):
    """The scores by clip in files that `write_json` wrote, and the counts of those left out by reason. UserError."""
    clips, skipped = {}, collections.Counter()
    for path in paths:
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            found, left_out = dict(read["clips"]), dict(read["skipped"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise UserError(
                f"--scored {path} is no file of --json ({e!r}); give those that evaluate.py wrote"
            ) from None
        if twice := clips.keys() & found.keys():
            raise UserError(f"--scored {path}: {min(twice)} is in another of these files too; give each clip once")
        clips |= found
        skipped.update(left_out)
    return clips, skipped


def write_json(path, scores, skipped):
    """All numbers: {"mean_low_high": {row: {number: ...}}, "clips": {clip: {row: {number: ...}}}, "skipped": ...}."""
    from lipgan.evaluation.report import table

    with atomic_write(path) as temporary:
        whole = {"mean_low_high": table(scores), "clips": scores, "skipped": dict(skipped)}
        temporary.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def write_csv(path, scores):
    """All numbers, a line for each clip and row of the table."""
    numbers = list(dict.fromkeys(number for rows in scores.values() for values in rows.values() for number in values))
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["clip", "row", *numbers])
        writer.writeheader()
        for name, rows in scores.items():
            writer.writerows({"clip": name, "row": row, **values} for row, values in rows.items())


def write_pictures(folder, clip):
    """The clip's sheet, truth | result | reference, and its mouth opening over time, as PNGs named after it."""
    from lipgan.evaluation.report import write_opening, write_sheet

    folder.mkdir(parents=True, exist_ok=True)
    result, reference = next(iter(clip.results)), "copied reference"
    stem = clip.name.replace("/", "_")
    write_sheet(folder / f"{stem}.png", [clip.truth, clip.results[result], clip.results[reference]])
    shown = {row: clip.results[row] for row in (result, "another clip's sound") if row in clip.results}
    write_opening(folder / f"{stem}_opening.png", clip.name, clip.frames, clip.landmarks, shown)


if __name__ == "__main__":
    raise SystemExit(main())
