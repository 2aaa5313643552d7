"""How long whole commands take, start-up included, beside the reference's way; by phase, with the ratios.

    python benchmarks/bench_inference.py --out benchmarks/table.md
    python benchmarks/bench_inference.py --face a_real_clip.mp4 --quick

The reference's way: reference_way.py, whose detector is run on few frames and extrapolated. Ours: batch_inference.py as
a user runs it. The full-size weights are random, made in a temporary folder. Needs requirements-dev.txt (tf_keras).
The generator alone is measured in batches of 8, by as many threads as inference has.
"""

import argparse
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
TIME = re.compile(r"(\w+) (\d+\.\d) s")
OURS = """
import concurrent.futures, json, sys, time; sys.path.insert(0, {root!r})
import pathlib, numpy as np
from inference import load_speaker
speaker, info, told = load_speaker(pathlib.Path({path!r}), None, {still}, 8, {precision!r})
if told:  # no such arithmetic here
    sys.exit()
inputs = np.zeros((8, 96, 96, 6), "float32"), np.zeros((8, 80, 27, 1), "float32")
times = []
with concurrent.futures.ThreadPoolExecutor(speaker.at_once) as pool:
    for _ in range(4):
        made = time.perf_counter()
        list(pool.map(lambda _: speaker(*inputs), range(8)))
        times.append((time.perf_counter() - made) / 64)
print(json.dumps([min(times[1:])]))
"""
MAKE_WEIGHTS = """
import sys; sys.path.insert(0, {root!r})
import keras
from checkpoint import save_generator
from generator import build_generator
keras.utils.set_random_seed(0)
save_generator({path!r}, build_generator("residual"), {{"width": 1.0}})
"""


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--face", type=pathlib.Path, help="a real clip for the videos (default: the photo in motion)")
    add("--few", type=int, default=2, help="frames on which the reference's detector is timed (default: %(default)s)")
    add("--quick", action="store_true", help="leave out the minute of sound")
    add("--only", default="", help="only cases with this in their name, such as still or video")
    add("--out", type=pathlib.Path, help="append the table to this file")
    return parser.parse_args(argv)


def run(command, **environment):
    """Run a command. Returns (seconds, what it printed)."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start, done.stdout + done.stderr


def python(code, **environment):
    """Run a piece of Python in a process of its own. Returns the numbers that it prints."""
    told = run([sys.executable, "-c", code], **environment)[1]
    return json.loads(next((line for line in told.splitlines() if line.startswith("[")), "[]"))


def reference(face, sound, folder, few):
    """Seconds of the reference's way by phase, and of its generator once more."""
    script = ROOT / "benchmarks" / "reference_way.py"
    told = run([sys.executable, script, face, sound, folder, "--few", str(few)])[1]
    return json.loads(next(line for line in told.splitlines() if line.startswith("{")))


def generator_alone(weights, theirs, tell):
    """Print how many frames a second the full-size generator makes, beside the reference's `theirs` seconds a frame."""
    tell("| generator alone, full size | frames a second | times the reference's |")
    tell("|---|---|---|")
    tell(f"| the reference's `predict` | {1 / theirs:.1f} | 1.0 |")
    for precision, still in itertools.product(("float32", "bfloat16"), (False, True)):
        name = f"{precision}, {'a still picture (looked at once)' if still else 'a video'}"
        code = OURS.format(root=str(ROOT), path=str(weights), precision=precision, still=still)
        numbers = python(code, KERAS_BACKEND="openvino")
        tell(
            f"| {name} | {1 / numbers[0]:.1f} | {theirs / numbers[0]:.2f} |"
            if numbers
            else f"| {name} | not here | - |"
        )


def main(argv=None):
    """Print a line of the table for each case as soon as it is done."""
    args = parse_args(argv)
    from material import PHOTO, moving, speech, table

    with tempfile.TemporaryDirectory() as folder, table(args.out) as tell:
        folder = pathlib.Path(folder)
        full, shipped = folder / "full.weights.h5", ROOT / "weights" / "warp.weights.h5"
        python(MAKE_WEIGHTS.format(root=str(ROOT), path=str(full)), KERAS_BACKEND="tensorflow")
        ten = moving(folder / "video.mp4", args.face, 10, 640, 480)
        cases = [
            ("full size, still 512 px, 10 s", full, PHOTO, 10, 12),
            ("full size, video 640x480, 10 s", full, ten, 10, 20),
            ("full size, the same with its boxes kept", full, ten, 10, 14),
            ("shipped warp, still 512 px, 10 s", shipped, PHOTO, 10, 8),
        ]
        cases += [] if args.quick else [("shipped warp, still 512 px, 60 s", shipped, PHOTO, 60, 60)]
        cases += [] if args.quick else [("shipped warp, video 640x480, 60 s", shipped, ten, 60, 60)]
        theirs = {}
        tell("| case | ours, s | aim, s | the reference's way, s | ratio | phases at work (they overlap) |")
        tell("|---|---|---|---|---|---|")
        for name, weights, face, seconds, asked in (case for case in cases if args.only in case[0]):
            sound = speech(folder / "sound.wav", seconds)
            command = [sys.executable, "batch_inference.py", "--checkpoint_path", str(weights), "--overwrite"]
            took, printed = run([*command, "--face", face, "--audio", sound, "--outfile", folder / "out.mp4"])
            phases = ", ".join(f"{phase} {s}" for phase, s in TIME.findall(printed.splitlines()[-1]))
            if weights == full and face not in theirs:
                theirs[face] = reference(face, sound, folder, args.few)
            whole = sum(s for phase, s in theirs[face].items() if phase != "again") if face in theirs else 0
            beside = f"{whole:.0f} | {whole / took:.1f}" if weights == full else "- | -"
            tell(f"| {name} | {took:.1f} | {asked} | {beside} | {phases} |")
        for face, phases in theirs.items():
            tell(f"\nThe reference's way, {face.name}: {', '.join(f'{name} {s:.1f} s' for name, s in phases.items())}.")
        if theirs:
            tell("")
            generator_alone(full, min(phases["again"] for phases in theirs.values()) / 250, tell)
    return 0


if __name__ == "__main__":
    sys.exit(main())
