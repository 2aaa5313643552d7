"""Preprocessing speed of LipGAN's original method and of ours on real clips, and an estimate for LRS2.

    python benchmarks/bench_preprocess.py --data clips --sets grid lrw_ar --num_clips 6

The original method ("reference"): dlib's HOG detector at double size on every frame, the largest face cropped, in
threads. Ours: worker processes with HOG or the CNN in keyframes, between which landmarks are followed. Starting
processes and loading detectors is not counted: over 140,000 clips it does not matter.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import cv2
import dlib
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lipgan.media import audio, video
from lipgan.preprocessing.clip import ClipSettings, run_job
from lipgan.utils import parallel

LRS2_CLIPS, LRS2_HOURS = 140_000, 225
CORES = (2, 64, 1024)


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--data",
        type=pathlib.Path,
        default=os.environ.get("LIPGAN_DATA"),
        help="folder of the sets (default: $LIPGAN_DATA)",
    )
    add("--sets", nargs="+", default=["grid", "lrw_ar"], help="folders in it that hold main/ (default: %(default)s)")
    add(
        "--num_clips",
        type=int,
        default=6,
        help="clips of each set, an even number (default: %(default)s)",
    )
    add(
        "--way",
        nargs=2,
        metavar=("WAY", "WORKERS"),
        help="measure one method, print it as JSON (for subprocesses)",
    )
    return parser.parse_args(argv)


def reference_clip(source, folder):
    """Preprocess a clip as the original code does: all frames in memory, HOG at double size on each, crops, mels."""
    detector, stream, frames = dlib.get_frontal_face_detector(), cv2.VideoCapture(str(source)), []
    while (read := stream.read())[0]:
        frames.append(read[1])
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        faces = detector(frame, 1)
        if len(faces):
            box = max(faces, key=lambda face: face.area())
            crop = frame[max(box.top(), 0) : box.bottom(), max(box.left(), 0) : box.right()]
            cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(crop, (96, 96)))
    np.savez_compressed(folder / "mels.npz", spec=audio.melspectrogram(audio.load_wav(source)))


def our_clip(source, folder, detector):
    """Preprocess a clip in a worker. Returns its ClipResult, processor time (s) and the worker's peak memory (MB)."""
    used = time.process_time()
    result = run_job(source, folder, ClipSettings(96, detector))
    return result, time.process_time() - used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measured(way, num_workers, sources):
    """Return wall and processor seconds per clip, peak MB per worker, and the share of frames with a crop."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [pathlib.Path(scratch) / str(n) for n in range(len(sources))]
        if way == "reference":
            begun, used = time.perf_counter(), time.process_time()
            with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
                list(pool.map(reference_clip, sources, folders))
            seconds, used = time.perf_counter() - begun, time.process_time() - used
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            frames = [round(video.probe(source).duration_s * 25) for source in sources]
            crops = len(list(pathlib.Path(scratch).glob("*/*.jpg")))
            whole = {"seconds": seconds / len(sources), "cpu": used / len(sources)}
            return whole | {"memory": memory, "crops": crops / sum(frames)}
        # One clip first for each worker, which loads its detector there.
        first = [(str(s), str(f) + "_first", way) for s, f in zip(sources, folders, strict=True)][:num_workers]
        rest = [(str(s), str(f), way) for s, f in zip(sources, folders, strict=True)]
        results = dict(parallel.in_workers(our_clip, [*first, *rest], num_workers, pathlib.Path(scratch)))
        outcomes = [results[number + len(first)] for number in range(len(rest))]
        num_frames = sum(outcome.num_frames for outcome, _, _ in outcomes)
        return {
            "seconds": float(np.mean([outcome.seconds for outcome, _, _ in outcomes])) / num_workers,
            "cpu": float(np.mean([used for _, used, _ in outcomes])),
            "memory": max(memory for _, _, memory in outcomes),
            "crops": sum(outcome.num_crops for outcome, _, _ in outcomes) / num_frames,
        }


def main(argv=None):
    """Measure all methods on all sets and print tables."""
    args = parse_args(argv)
    rates = {}
    for name in args.sets:
        sources = sorted((args.data / name / "main").glob("*/*.mp4"))
        sources = [sources[number] for number in np.linspace(0, len(sources) - 1, args.num_clips).astype(int)]
        if args.way:
            print(json.dumps(measured(args.way[0], int(args.way[1]), sources)))
            return 0
        seconds = [video.probe(source).duration_s for source in sources]
        print(f"\n{name}: {len(sources)} clips of {np.mean(seconds):.1f} s\n", flush=True)
        print("| method | workers | s per clip | speed-up | processor s per clip | speed-up | MB per worker | crops |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        base = None
        for way, num_workers in (("reference", 2), ("hog", 1), ("hog", 2), ("cnn", 1), ("cnn", 2)):
            options = ["--data", args.data, "--sets", name, "--num_clips", args.num_clips, "--way", way, num_workers]
            command = [sys.executable, __file__, *map(str, options)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            base = base or row
            rates[name, way, num_workers] = row["cpu"] / np.mean(seconds)
            times = [f"{row[key]:.2f} | {base[key] / row[key]:.1f}" for key in ("seconds", "cpu")]
            numbers = f"{' | '.join(times)} | {row['memory']:.0f}"
            threads = " (threads)" if way == "reference" else ""
            print(f"| {way}{threads} | {num_workers} | {numbers} | {100 * row['crops']:.1f} % |", flush=True)
    print(
        f"\nestimate for LRS2 ({LRS2_CLIPS:,} clips, {LRS2_HOURS} hours), by the slower set's processor time, hours:\n"
    )
    print(f"| method | {' | '.join(f'{cores:,} cores' for cores in CORES)} |\n|---|{'---|' * len(CORES)}")
    for way in ("reference", "hog", "cnn"):
        rate = max(core for (_, w, n), core in rates.items() if (w, n) == (way, 2))
        print(f"| {way} | {' | '.join(f'{LRS2_HOURS * rate / cores:.2f}' for cores in CORES)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
