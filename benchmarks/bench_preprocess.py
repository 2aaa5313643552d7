"""Seconds a clip of preprocessing, the reference's way and ours, on real clips; and what LRS2 would take by that.

    python benchmarks/bench_preprocess.py --data clips --sets grid lrw_ar --num_clips 6

The reference's way: dlib's HOG detector at double size on every frame, the largest face cropped, in threads. Ours:
worker processes, with HOG and with the CNN, where landmarks are followed between keyframes. Processes and detectors
have begun before the clock does: over 140,000 clips that is nothing.
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

import preprocess
from lipgan.media import (
    audio,
    video,
)
from lipgan.utils import parallel

LRS2_CLIPS, LRS2_HOURS = 140_000, 225
CORES = (2, 64, 1024)


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=pathlib.Path, default=os.environ.get("LIPGAN_DATA"), help="folder of the sets (LIPGAN_DATA)")
    add("--sets", nargs="+", default=["grid", "lrw_ar"], help="folders in it that hold main/ (default: %(default)s)")
    add("--num_clips", type=int, default=6, help="clips of each, spread over it, an even number (default: %(default)s)")
    add("--way", nargs=2, metavar=("WAY", "WORKERS"), help="measure one way only, and print it as JSON")
    return parser.parse_args(argv)


def reference_clip(source, folder):
    """One clip the reference's way: all frames in memory, HOG at double size on each, crops, mels and sound."""
    detector, stream, frames = dlib.get_frontal_face_detector(), cv2.VideoCapture(str(source)), []
    while (read := stream.read())[0]:
        frames.append(read[1])
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        found = detector(frame, 1)
        if len(found):
            box = max(found, key=lambda face: face.area())
            crop = frame[max(box.top(), 0) : box.bottom(), max(box.left(), 0) : box.right()]
            cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(crop, (96, 96)))
    np.savez_compressed(folder / "mels.npz", spec=audio.melspectrogram(audio.load_wav(source)))


def our_clip(source, folder, detector):
    """One clip in a worker. Returns its Outcome, the worker's processor time, and the most memory it has taken, MB."""
    used = time.process_time()
    outcome = preprocess.do_job(source, folder, detector, None, 96, (0, 0, 0, 0))
    return outcome, time.process_time() - used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measured(way, num_workers, sources):
    """{"seconds": of a clip when `num_workers` work, "cpu": seconds of it, "memory": MB a worker, "crops": share}."""
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
        found = dict(parallel.in_workers(our_clip, [*first, *rest], num_workers, pathlib.Path(scratch)))
        outcomes = [found[number + len(first)] for number in range(len(rest))]
        num_frames = sum(outcome.num_frames for outcome, _, _ in outcomes)
        return {
            "seconds": float(np.mean([outcome.seconds for outcome, _, _ in outcomes])) / num_workers,
            "cpu": float(np.mean([used for _, used, _ in outcomes])),
            "memory": max(memory for _, _, memory in outcomes),
            "crops": sum(outcome.num_crops for outcome, _, _ in outcomes) / num_frames,
        }


def main(argv=None):
    """Measure all ways on all sets, and print tables."""
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
        print("| way | workers | s a clip | times the reference's | processor s a clip | times | MB a worker | crops |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        base = None
        for way, num_workers in (("reference", 2), ("hog", 1), ("hog", 2), ("cnn", 1), ("cnn", 2)):
            options = ["--data", args.data, "--sets", name, "--num_clips", args.num_clips, "--way", way, num_workers]
            command = [sys.executable, __file__, *map(str, options)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            base = base or found
            rates[name, way, num_workers] = found["cpu"] / np.mean(seconds)
            times = [f"{found[key]:.2f} | {base[key] / found[key]:.1f}" for key in ("seconds", "cpu")]
            numbers = f"{' | '.join(times)} | {found['memory']:.0f}"
            threads = " (threads)" if way == "reference" else ""
            print(f"| {way}{threads} | {num_workers} | {numbers} | {100 * found['crops']:.1f} % |", flush=True)
    print(
        f"\nLRS2 on paper, {LRS2_CLIPS:,} clips and {LRS2_HOURS} hours, by processor time, the slower set's, hours:\n"
    )
    print(f"| way | {' | '.join(f'{cores:,} cores' for cores in CORES)} |\n|---|{'---|' * len(CORES)}")
    for way in ("reference", "hog", "cnn"):
        rate = max(core for (_, w, n), core in rates.items() if (w, n) == (way, 2))
        print(f"| {way} | {' | '.join(f'{LRS2_HOURS * rate / cores:.2f}' for cores in CORES)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
