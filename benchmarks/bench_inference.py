"""Wall and CPU time of whole commands, start-up included, beside FFmpeg's own time for a transcode of the same frames.

    python benchmarks/bench_inference.py --only "1280x720" --runs 5 --out benchmarks/table.md
    python benchmarks/bench_inference.py --only "1280x720" --seconds 10    # a first look: a sixth of the time
    python benchmarks/bench_inference.py --reference         # also compare with LipGAN's original inference

The floor: the file's frames decoded, played to and fro, and encoded with the settings of our results. Each case runs
its floor in turn with the command, so that the ratios hold on a busy machine; CPU time is that of all threads. The
tracks of videos are cached first (a short run that is not counted), as for the second audio of a video; --search counts
the search too. Medians of --runs runs.

LipGAN's original inference: reference_way.py, whose detector time is extrapolated from a few frames; the full-size
weights are random. Needs requirements-dev.txt (tf_keras).
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PHASE = re.compile(r"(\w+) (\d+\.\d) s")
# In a process of its own: decode forwards, keep the frames that come again, encode.
TRANSCODE = """
import sys; sys.path.insert(0, {root!r})
from lipgan.media import video
info = video.probe({face!r})
count, frames = round({seconds} * info.fps), []
encoding = video.Encoding(colour=info.colour)
with video.VideoWriter({out!r}, info.width, info.height, info.fps, {audio!r}, encoding) as writer:
    for frame in video.read_frames(info, planes=True):
        writer.write(frame)
        if info.num_frames < count:
            frames.append(frame)
        if writer.num_frames == count:
            break
    last = len(frames) - 1
    for k in range(last + 1, count if frames else 0):
        step = k % (2 * last)
        writer.write(frames[min(step, 2 * last - step)])
"""
MAKE_WEIGHTS = """
import sys; sys.path.insert(0, {root!r})
import keras
from generator import build_generator
from lipgan.models.checkpoint import save_generator
keras.utils.set_random_seed(0)
save_generator({path!r}, build_generator("residual"), {{"width": 1.0}})
"""
# name, size (None: the photo as a still image), seconds of the source video, seconds of audio
CASES = (
    ("still 512 px, 1 s", None, 0, 1),
    ("still 512 px, 10 s", None, 0, 10),
    ("video 640x480, 60 s", (640, 480), 4, 60),
    ("video 1280x720, 60 s", (1280, 720), 4, 60),
    ("video 1920x1080, 60 s", (1920, 1080), 4, 60),
)


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--face", type=pathlib.Path, help="a real clip for the videos (default: the photo in motion)")
    add("--checkpoint_path", type=pathlib.Path, default=ROOT / "weights" / "warp.weights.h5", help="the generator")
    add("--only", default="", help="only cases with this in their name, such as still or 720")
    add("--runs", type=int, default=1, help="default: %(default)s")
    add("--seconds", type=float, help="seconds of audio, instead of the cases' own")
    add("--search", action="store_true", help="count the search for the face too")
    add("--reference", action="store_true", help="also time the paper's way, on a still image and a video of 10 s")
    add("--few", type=int, default=2, help="frames on which the paper's detector is timed (default: %(default)s)")
    add("--out", type=pathlib.Path, help="append the table to this file")
    return parser.parse_args(argv)


def run(command, **environment):
    """Run a command. Returns (wall seconds, CPU seconds of all its threads, what it printed)."""
    start, before = time.perf_counter(), os.times()
    process = subprocess.run(
        [*map(str, command)], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    after = os.times()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{process.stderr[-2000:]}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, cpu_s, process.stdout + process.stderr


def run_python(code, **environment):
    """Run a piece of Python in a process of its own. Returns what `run` does."""
    return run([sys.executable, "-c", code], **environment)


def time_case(args, face, audio, seconds, folder, source_s):
    """Return (runs of the command, runs of the floor, or none for a still image), each as `run` returns it.

    source_s: how long the video is; the track is cached by a run with so much of the audio.
    """
    command = [sys.executable, "batch_inference.py", "--checkpoint_path", args.checkpoint_path, "--overwrite"]
    command += ["--face", face, "--audio", audio, "--outfile", folder / "out.mp4", "--verbose"]
    is_video = face.suffix == ".mp4"
    code = TRANSCODE.format(
        root=str(ROOT), face=str(face), audio=str(audio), seconds=seconds, out=str(folder / "floor.mp4")
    )
    ours, floor = [], []
    if is_video and not args.search:
        run([*command, "--max_sec", min(seconds, source_s)])
    for _ in range(args.runs):
        ours.append(run([*command, "--no-box_cache"] if args.search else command))
        floor += [run_python(code)] if is_video else []
    return ours, floor


def print_case(name, ours, floor, num_frames, write_line):
    """Print the row of a case."""
    wall_s, cpu_s = (statistics.median(values) for values in list(zip(*ours, strict=True))[:2])
    cells = [f"{wall_s:.1f}", f"{cpu_s:.1f}", f"{1000 * cpu_s / num_frames:.1f}"]
    if floor:
        floor_s, floor_cpu_s = (statistics.median(values) for values in list(zip(*floor, strict=True))[:2])
        cells += [f"{floor_s:.1f}", f"{floor_cpu_s:.1f}", f"{wall_s / floor_s:.2f}", f"{cpu_s / floor_cpu_s:.2f}"]
    else:
        cells += ["-"] * 4
    line = next(line for line in ours[-1][2].splitlines() if "time by phase" in line)
    cells.append(", ".join(f"{phase} {seconds}" for phase, seconds in PHASE.findall(line)))
    write_line(f"| {name} | {' | '.join(cells)} |")


def time_reference(face, audio, folder, few):
    """Return the seconds of the paper's way by phase."""
    script = ROOT / "benchmarks" / "reference_way.py"
    printed = run([sys.executable, script, face, audio, folder, "--few", few])[2]
    return json.loads(next(line for line in printed.splitlines() if line.startswith("{")))


def compare_with_reference(args, folder, photo, write_line):
    """Print the paper's way beside ours, with full-size weights."""
    from material import moving, speech

    weights = folder / "full.weights.h5"
    run_python(MAKE_WEIGHTS.format(root=str(ROOT), path=str(weights)), KERAS_BACKEND="tensorflow")
    audio = speech(folder / "ten.wav", 10)
    write_line("\n| full size, 10 s | ours, s | the paper's way, s | ratio | its phases |\n|---|---|---|---|---|")
    for face in (photo, moving(folder / "ten.mp4", args.face, 10, 640, 480)):
        command = [sys.executable, "batch_inference.py", "--checkpoint_path", weights, "--overwrite"]
        wall_s = run([*command, "--face", face, "--audio", audio, "--outfile", folder / "out.mp4"])[0]
        phases = time_reference(face, audio, folder, args.few)
        whole_s = sum(seconds for phase, seconds in phases.items() if phase != "again")
        listed = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in phases.items())
        write_line(f"| {face.name} | {wall_s:.1f} | {whole_s:.0f} | {whole_s / wall_s:.1f} | {listed} |")


def main(argv=None):
    """Print a row of the table for each case as soon as it is timed."""
    args = parse_args(argv)
    from material import PHOTO, moving, speech, table

    from lipgan.media import video

    with tempfile.TemporaryDirectory() as folder, table(args.out) as write_line:
        folder = pathlib.Path(folder)
        write_line(
            "| case | wall, s | CPU, s | CPU, ms a frame | floor: wall, s | CPU, s | wall / floor | CPU / floor "
            "| phases at work (they overlap) |"
        )
        write_line("|---|---|---|---|---|---|---|---|---|")
        for name, size, source_s, seconds in (case for case in CASES if args.only in case[0]):
            seconds = args.seconds or seconds
            audio = speech(folder / "audio.wav", seconds)
            face = moving(folder / f"{size[0]}.mp4", args.face, source_s, *size) if size else PHOTO
            ours, floor = time_case(args, face, audio, seconds, folder, source_s)
            print_case(name, ours, floor, video.probe(folder / "out.mp4").num_frames, write_line)
        if args.reference:
            compare_with_reference(args, folder, PHOTO, write_line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
