"""How long from sound in to frame out: `generate_frames` on a still image and on a video, for live use.

    python benchmarks/bench_latency.py --out benchmarks/table.md

prepare: the sound read, the face found (for a video in all of its frames). first frame: from the call of
`generate_frames` to its first frame. Then the time between frames; the median of some runs, after one that is left out.
"""

import argparse
import itertools
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 2


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint_path", type=pathlib.Path, default=ROOT / "weights" / "warp.weights.h5",
        help="the generator (default: %(default)s)")  # fmt: skip
    add("--face", type=pathlib.Path, help="a real clip for the video (default: the photo in motion)")
    add("--runs", type=int, default=5, help="default: %(default)s")
    add("--out", type=pathlib.Path, help="append the table to this file")
    return parser.parse_args(argv)


def run(face, sound, runner):
    """Return [prepare, first frame, mean and longest time between frames, all in ms] of one run."""
    from lipgan.inference.options import LipsyncOptions
    from lipgan.inference.pipeline import generate_frames
    from lipgan.inference.preparation import load_audio, prepare
    from lipgan.inference.source import open_source

    times, options = [time.perf_counter()], LipsyncOptions()
    source = open_source(face, options)
    clip = prepare(source, load_audio(sound, options, face), options)
    times.append(time.perf_counter())
    for _ in generate_frames(clip, runner.reset(source.is_still), options):
        times.append(time.perf_counter())
    steps = [1000 * (after - before) for before, after in itertools.pairwise(times)]
    return [*steps[:2], statistics.mean(steps[2:]), max(steps[2:])]


def main(argv=None):
    """Print a line of the table for each case."""
    args = parse_args(argv)
    sys.path.insert(0, str(ROOT))
    from material import PHOTO, moving, speech, table

    from lipgan.inference.runner import load_runner

    with tempfile.TemporaryDirectory() as folder, table(args.out) as tell:
        folder = pathlib.Path(folder)
        sound, clip = speech(folder / "sound.wav", SECONDS), moving(folder / "clip.mp4", args.face, SECONDS, 640, 480)
        tell("| | prepare, ms | first frame, ms | between frames, mean, ms | longest, ms |")
        tell("|---|---|---|---|---|")
        for name, face in (("still 512 px", PHOTO), ("video 640x480", clip)):
            for batch_size in (1, 8):
                runner = load_runner(args.checkpoint_path, batch_size=batch_size, backend="openvino")
                runs = [run(face, sound, runner) for _ in range(args.runs + 1)]
                cells = [f"{statistics.median(values):.0f}" for values in zip(*runs[1:], strict=True)]
                tell(f"| {name}, batch_size {batch_size} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
