"""What should a video's generator look at? Videos are given the sound of the next one, in each way of `--reference`.

    python experiments/compare_references.py --checkpoint_path weights/warp.weights.h5 a.mp4 b.mp4 c.mp4

sync: correlation of the result's mouth opening with the true mouth of that sound. leak: with the mouth that the video
had itself; what the two true mouths have in common is in the last line. opening: its standard deviation, in parts of
the true mouth's of that sound. own PSNR: of the mouth, dB, with the video's own sound. motion: correlation of how much
the cheeks and the chin change from frame to frame with the source's, with that sound. Each beside a 95 % interval by
bootstrap over videos. Measured before encoding, in the crops of the source's face.
"""

import argparse
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
COLUMNS = ("sync", "leak", "opening", "own PSNR", "motion")


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("videos", nargs="+", type=pathlib.Path, help="two or more videos of people who speak")
    add("--checkpoint_path", required=True, type=pathlib.Path, help="the generator: X.weights.h5, or a legacy .h5")
    add("--detector", choices=("cnn", "hog"), default="hog", help="default: %(default)s")
    add("--max_s", type=float, default=5.0, help="seconds of each video (default: %(default)s)")
    add("--ways", nargs="+", help="only these (default: all)")
    add("--sheets", type=pathlib.Path, help="folder for a PNG of each video: the source, then the result of each way")
    return parser.parse_args(argv)


def main(argv=None):
    """Print the table."""
    args = parse_args(argv)
    sys.path.insert(0, str(ROOT))
    import cv2
    import numpy as np

    from lipgan.faces.detector import FaceDetector
    from lipgan.inference.pipeline import lipsync_frames, prepare
    from lipgan.inference.reference import WAYS
    from lipgan.models import backend
    from lipgan.utils.cli import UserError

    if unknown := set(args.ways or ()) - set(WAYS):
        raise SystemExit(f"compare_references.py: --ways {unknown.pop()} is none of {', '.join(WAYS)}")
    if args.sheets:
        args.sheets.mkdir(parents=True, exist_ok=True)
    backend.set_backend("openvino", "openvino")
    try:
        from measured import change, measure, mouth_psnr, opening_at

        from lipgan.evaluation import metrics
        from lipgan.inference.runner import load_speaker

        speaker, _, _ = load_speaker(args.checkpoint_path)
        rows = {}
        with tempfile.TemporaryDirectory() as folder:
            settings = {"detector": FaceDetector(args.detector), "max_s": args.max_s, "box_cache": folder}
            truths = [measure(prepare(path, path, **settings)) for path in args.videos]
            for number, path in enumerate(args.videos):
                own, other = truths[number], (number + 1) % len(truths)
                wanted, sheet = opening_at(truths[other], own.times_s), [own.crops]
                for way in args.ways or WAYS:
                    clips = [prepare(path, args.videos[n], reference=way, **settings) for n in (other, number)]
                    made, with_own = (
                        measure(clip, (frame for frame, _ in lipsync_frames(clip, speaker))) for clip in clips
                    )
                    count = len(made.crops)
                    opening = opening_at(made, own.times_s)
                    rows.setdefault(way, []).append(
                        [
                            metrics.correlation(opening, wanted),
                            metrics.correlation(opening, opening_at(own, own.times_s)),
                            metrics.range_ratio(
                                opening_at(made, made.times_s), metrics.mouth_opening(truths[other].points)
                            ),
                            mouth_psnr(with_own.crops, own.crops),
                            np.corrcoef(change(made.crops), change(own.crops[:count]))[0, 1],
                        ]
                    )
                    sheet.append(made.crops)
                common = metrics.correlation(wanted, opening_at(own, own.times_s))
                rows.setdefault("true mouths", []).append([1.0, common, 1.0, np.nan, 1.0])
                if args.sheets:
                    picks = np.linspace(0, min(map(len, sheet)) - 1, 12).astype(int)
                    picture = np.vstack([np.hstack(crops[picks]) for crops in sheet])
                    cv2.imwrite(str(args.sheets / f"{path.parent.name}_{path.stem}.png"), picture)
                print(f"{path} is done", flush=True)
    except UserError as e:
        print(f"compare_references.py: {e}", file=sys.stderr)
        return 1
    print(f"\n| reference, {len(truths)} videos | {' | '.join(COLUMNS)} |\n|---" + "|---" * len(COLUMNS) + "|")
    for name, clips in rows.items():
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(*metrics.interval(values)) for values in zip(*clips, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
