"""The most memory that whole commands need, for videos of several lengths; beside them, all frames kept in memory.

    python benchmarks/bench_memory.py --seconds 60 600 --out results.md
    python benchmarks/bench_memory.py --seconds 60 600 --face a_real_clip.mp4

Every command is a process of its own, whose peak the system tells at its end (ru_maxrss). The aim: 10 minutes of
1280x720 under 1.5 GB, and at most 0.1 MB more for each second of sound than 1 minute has. "All frames in memory" (the
reference's way) is measured on 100 and on 200 frames, without any network, and extrapolated.
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
FEW = 100, 200  # frames that are kept in memory: the video of 10 s has at least 240
KEEP_ALL = """
import itertools, sys; sys.path.insert(0, {root!r})
import video
frames = list(itertools.islice(video.read_frames({path!r}), {count}))
"""


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint_path", default=ROOT / "weights" / "warp.weights.h5", help="default: the shipped warp")
    add("--face", type=pathlib.Path, help="a real clip, of which the videos are made (default: the photo in motion)")
    add("--seconds", type=int, nargs="*", default=[60, 600], help="lengths of videos and sounds (default: 60 600)")
    add("--to_and_fro", type=int, default=0, help="also a video of 10 s for so many seconds of sound (default: none)")
    add("--still", type=int, default=0, help="also a still picture and so many seconds of sound (default: none)")
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
    """Print a line of the table for each command as soon as it is done."""
    args = parse_args(argv)
    from material import PHOTO, looped, moving, speech, table

    with tempfile.TemporaryDirectory() as folder, table(args.out) as tell:
        folder = pathlib.Path(folder)
        ten = moving(folder / "ten.mp4", args.face, 10, WIDTH, HEIGHT)

        def ours(face, seconds):
            sound = speech(folder / "sound.wav", seconds)
            command = [sys.executable, "batch_inference.py", "--checkpoint_path", str(args.checkpoint_path)]
            command += ["--face", str(face), "--audio", str(sound), "--outfile", str(folder / "out.mp4")]
            return peak([*command, "--overwrite", "--no-box_cache", "--detector", args.detector])

        tell(f"| {WIDTH}x{HEIGHT} | peak, MB | took, s | all frames in memory (extrapolated), MB |\n|---|---|---|---|")
        few = [peak([sys.executable, "-c", KEEP_ALL.format(root=str(ROOT), path=str(ten), count=n)])[0] for n in FEW]
        each = (few[1] - few[0]) / (FEW[1] - FEW[0])
        peaks = {}
        for seconds in args.seconds:
            long = looped(folder / "long.mp4", ten, seconds)
            peaks[seconds], took = ours(long, seconds)
            kept = few[0] + each * (25 * seconds - FEW[0])
            tell(f"| video and sound of {seconds} s | {peaks[seconds]:.0f} | {took:.0f} | {kept:.0f} |")
        if args.to_and_fro:
            most, took = ours(ten, args.to_and_fro)
            tell(f"| video of 10 s, sound of {args.to_and_fro} s | {most:.0f} | {took:.0f} | - |")
        if args.still:
            most, took = ours(PHOTO, args.still)
            tell(f"| still picture (512 px), sound of {args.still} s | {most:.0f} | {took:.0f} | - |")
        if len(peaks) > 1:
            short, long = min(peaks), max(peaks)
            growth = (peaks[long] - peaks[short]) / (long - short)
            tell(f"\n{growth:.3f} MB more for each second of sound between {short} and {long} s (aim: at most 0.1)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
