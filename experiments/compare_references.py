"""Compare the modes of --reference: videos are lip-synced to the audio of the next one, in each mode.

    python -m experiments.compare_references --checkpoint_path weights/warp.weights.h5 a.mp4 b.mp4 c.mp4

sync: correlation of the result's mouth opening with the true mouth of that audio. leak: with the mouth that the video
had itself; what the two true mouths have in common is in the last line. opening: its standard deviation relative to the
true mouth's of that audio. own_psnr: of the mouth region, dB, with the video's own audio. motion: correlation of how
much cheeks and chin change between frames with the source's, with that audio. Each with a 95 % interval by bootstrap
over videos. Measured before encoding, in the crops of the source's face.
"""

import argparse
import dataclasses
import pathlib
import tempfile

import cv2
import numpy as np

from experiments.measured import lipsynced, measure, motion, mouth_psnr, open_clip, opening_at
from lipgan.evaluation import metrics
from lipgan.inference.options import LipsyncOptions
from lipgan.inference.reference import REFERENCE_MODES
from lipgan.inference.runner import load_runner
from lipgan.utils.cli import script

COLUMNS = ("sync", "leak", "opening", "own_psnr", "motion")
SHEET_COLUMNS = 12


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("videos", nargs="+", type=pathlib.Path, help="two or more videos of people who speak")
    add("--checkpoint_path", required=True, type=pathlib.Path, help="the generator: X.weights.h5, or a legacy .h5")
    add("--detector", choices=("cnn", "hog"), default="hog", help="default: %(default)s")
    add("--max_s", type=float, default=5.0, help="seconds of each video (default: %(default)s)")
    add("--modes", nargs="+", choices=REFERENCE_MODES, default=REFERENCE_MODES, help="default: all")
    add("--sheets", type=pathlib.Path, help="folder for a PNG of each video: the source, then the result of each mode")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Print the table."""
    args = parse_args(argv)
    runner = load_runner(args.checkpoint_path, backend="openvino")
    options, rows = LipsyncOptions(detector=args.detector, max_sec=args.max_s), {}
    with tempfile.TemporaryDirectory() as cache:
        truths = [measure(open_clip(path, path, options, cache)) for path in args.videos]
        for number, path in enumerate(args.videos):
            own, other = truths[number], (number + 1) % len(truths)
            sheet = [own.crops]
            for mode in args.modes:
                settings = dataclasses.replace(options, reference=mode)
                clips = [open_clip(path, args.videos[n], settings, cache) for n in (other, number)]
                result, with_own = (measure(clip, lipsynced(clip, runner, settings)) for clip in clips)
                rows.setdefault(mode, []).append(compare(result, with_own, own, truths[other]))
                sheet.append(result.crops)
            common = metrics.correlation(opening_at(truths[other], own.times_s), opening_at(own, own.times_s))
            rows.setdefault("true mouths", []).append([1.0, common, 1.0, np.nan, 1.0])
            if args.sheets:
                write_sheet(args.sheets / f"{path.parent.name}_{path.stem}.png", sheet)
            print(f"{path} is done", flush=True)
    print(f"\n| reference, {len(truths)} videos | {' | '.join(COLUMNS)} |\n|---" + "|---" * len(COLUMNS) + "|")
    for name, clips in rows.items():
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(*metrics.interval(values)) for values in zip(*clips, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


def compare(result, with_own, own, other):
    """Compare a result with the true mouth of its audio and with the video's own: the values of COLUMNS.

    result, with_own: Measured, from another video's audio and from the video's own. own, other: of both sources.
    """
    opening = opening_at(result, own.times_s)
    frames = len(result.crops)
    return [
        metrics.correlation(opening, opening_at(other, own.times_s)),
        metrics.correlation(opening, opening_at(own, own.times_s)),
        metrics.range_ratio(metrics.mouth_opening(result.points), metrics.mouth_opening(other.points)),
        mouth_psnr(with_own.crops, own.crops),
        np.corrcoef(motion(result.crops), motion(own.crops[:frames]))[0, 1],
    ]


def write_sheet(path, rows):
    """Write a PNG with a row of crops at equal distances in time for each of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picks = np.linspace(0, min(map(len, rows)) - 1, SHEET_COLUMNS).astype(int)
    cv2.imwrite(str(path), np.vstack([np.hstack(crops[picks]) for crops in rows]))


if __name__ == "__main__":
    raise SystemExit(main())
