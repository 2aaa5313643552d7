"""Peak memory of whole commands by video length, beside a program that holds all frames in memory.

    python benchmarks/bench_memory.py --seconds 60 600 --out results.md
    python benchmarks/bench_memory.py --seconds 60 600 --face a_real_clip.mp4

Each command runs in its own process, whose peak resident memory (ru_maxrss) is reported. Goal: 10 minutes of 1280x720
under 1.5 GB, and at most 0.1 MB more per second of audio beyond a minute. "All frames in memory", as in LipGAN's
original code, is measured on 100 and on 200 frames, without any network, and extrapolated.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

WIDTH, HEIGHT = 1280, 720
FEW = 100, 200  # frames held in memory: the video of 10 s has at least 240
KEEP_ALL = """
import itertools, sys; sys.path.insert(0, {root!r})
from lipgan.media import video
frames = list(itertools.islice(video.read_frames({path!r}), {count}))
"""


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint_path", default=ROOT / "weights" / "warp.weights.h5", help="default: the shipped warp")
    add("--face", type=pathlib.Path, help="a real clip to make the videos from (default: the photo in motion)")
    add("--seconds", type=int, nargs="*", default=[60, 600], help="lengths of video and audio (default: 60 600)")
    add("--to_and_fro", type=int, default=0, help="also a 10 s video with this many seconds of audio (default: none)")
    add("--still", type=int, default=0, help="also a still image with this many seconds of audio (default: none)")
    add("--detector", choices=("hog", "cnn"), default="hog", help="default: %(default)s, which is quick")
    add("--out", type=pathlib.Path, help="append the table to this file")
    return parser.parse_args(argv)


def peak(command):
    """Run a command. Returns (peak memory in MB, seconds)."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            log.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{log.read()[-2000:]}")
    return usage.ru_maxrss / 1024, time.perf_counter() - start


def main(argv=None):
    """Run the commands and print a table row for each."""
    args = parse_args(argv)
    from material import PHOTO, looped, moving, speech, table

    with tempfile.TemporaryDirectory() as folder, table(args.out) as write_line:
        folder = pathlib.Path(folder)
        ten = moving(folder / "ten.mp4", args.face, 10, WIDTH, HEIGHT)

        def ours(face, seconds):
            audio = speech(folder / "audio.wav", seconds)
            command = [sys.executable, "batch_inference.py", "--checkpoint_path", str(args.checkpoint_path)]
            command += ["--face", str(face), "--audio", str(audio), "--outfile", str(folder / "out.mp4")]
            return peak([*command, "--overwrite", "--no-box_cache", "--detector", args.detector])

        write_line(f"| {WIDTH}x{HEIGHT} | peak, MB | wall, s | all frames (extrapolated), MB |\n|---|---|---|---|")
        few = [peak([sys.executable, "-c", KEEP_ALL.format(root=str(ROOT), path=str(ten), count=n)])[0] for n in FEW]
        each = (few[1] - few[0]) / (FEW[1] - FEW[0])
        peaks = {}
        for seconds in args.seconds:
            long = looped(folder / "long.mp4", ten, seconds)
            peaks[seconds], took = ours(long, seconds)
            kept = few[0] + each * (25 * seconds - FEW[0])
            write_line(f"| video and audio of {seconds} s | {peaks[seconds]:.0f} | {took:.0f} | {kept:.0f} |")
        if args.to_and_fro:
            most, took = ours(ten, args.to_and_fro)
            write_line(f"| video of 10 s, audio of {args.to_and_fro} s | {most:.0f} | {took:.0f} | - |")
        if args.still:
            most, took = ours(PHOTO, args.still)
            write_line(f"| still image (512 px), audio of {args.still} s | {most:.0f} | {took:.0f} | - |")
        if len(peaks) > 1:
            short, long = min(peaks), max(peaks)
            growth = (peaks[long] - peaks[short]) / (long - short)
            write_line(f"\n{growth:.3f} MB more per second of audio between {short} and {long} s (goal: at most 0.1)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
