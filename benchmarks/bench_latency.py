"""Latency of `generate_frames` on a still image and on a video: preparation, first frame, time between frames.

    python benchmarks/bench_latency.py --out benchmarks/table.md

prepare: audio is read and the face tracked (in all frames of a video). first frame: from the call of `generate_frames`
to its first frame. Medians of several runs after a warm-up run.
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


def run(face, audio, runner):
    """Return [prepare, first frame, mean and longest time between frames, all in ms] of one run."""
    from lipgan.inference.options import LipsyncOptions
    from lipgan.inference.pipeline import generate_frames
    from lipgan.inference.preparation import load_audio, prepare
    from lipgan.inference.source import open_source

    times, options = [time.perf_counter()], LipsyncOptions()
    source = open_source(face, options)
    clip = prepare(source, load_audio(audio, options, face), options)
    times.append(time.perf_counter())
    for _ in generate_frames(clip, runner.reset(source.is_still), options):
        times.append(time.perf_counter())
    steps = [1000 * (after - before) for before, after in itertools.pairwise(times)]
    return [*steps[:2], statistics.mean(steps[2:]), max(steps[2:])]


def main(argv=None):
    """Time each case and print a table row for it."""
    args = parse_args(argv)
    sys.path.insert(0, str(ROOT))
    from material import PHOTO, moving, speech, table

    from lipgan.inference.runner import load_runner

    with tempfile.TemporaryDirectory() as folder, table(args.out) as write_line:
        folder = pathlib.Path(folder)
        audio, clip = speech(folder / "audio.wav", SECONDS), moving(folder / "clip.mp4", args.face, SECONDS, 640, 480)
        write_line("| | prepare, ms | first frame, ms | between frames, mean, ms | longest, ms |")
        write_line("|---|---|---|---|---|")
        for name, face in (("still 512 px", PHOTO), ("video 640x480", clip)):
            for batch_size in (1, 8):
                runner = load_runner(args.checkpoint_path, batch_size=batch_size, backend="openvino")
                runs = [run(face, audio, runner) for _ in range(args.runs + 1)]
                cells = [f"{statistics.median(values):.0f}" for values in zip(*runs[1:], strict=True)]
                write_line(f"| {name}, batch_size {batch_size} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
