"""Data loading: samples per second of LipGAN's original code and of ours, time that fit() waits, memory of an index.

    python benchmarks/bench_dataset.py --data_root grid_preprocessed
    python benchmarks/bench_dataset.py --index_frames 10000000

The original code ("reference") lists the clip's folder and opens its mels.npz and two images with OpenCV for every
sample. It is measured on the same files, and with compressed mels, as the original preprocessing writes them. Ours runs
with `callbacks.keep_freed_memory`, as in training; so does one row of the reference. Rows run in turn, each in its own
process, with all files in the system's cache. The second command builds an index of that many frames (of clips without
images) and prints the memory of a process that trains from it.
"""

import argparse
import json
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from audio_hparams import hparams
from lipgan.data import (
    clip_folder,
    index,
    tar_shards,
)
from lipgan.data.clip_folder import write_clip
from lipgan.data.dataset import FaceDataset
from lipgan.data.filelists import find_clips

BATCH = 96
REFERENCE = ("reference", "reference, mels zipped", "reference, freed memory kept")
WAYS = (*REFERENCE, "ours", "ours, 2 threads", "ours, packed", "ours, packed, 2 threads")
CLIP_FRAMES = 75  # of each clip of the synthetic index


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_root", type=pathlib.Path, help="folder made by preprocess.py")
    add("--seconds", type=float, default=5, help="length of each measurement (default: %(default)s)")
    add(
        "--rounds",
        type=int,
        default=3,
        help="measurements of each row; prints the median (default: %(default)s)",
    )
    add(
        "--fit",
        action="store_true",
        help="time a step of fit() with batches from disk and with one repeated",
    )
    add("--width", type=float, default=0.25, help="width of the network of --fit (default: %(default)s)")
    add("--index_frames", type=int, help="measure the memory of an index of this many frames")
    add("--way", help="measure one row only and print it as JSON (for subprocesses)")
    return parser.parse_args(argv)


def reference_batches(folders, seed=0):
    """Yield float32 batches as the original code does: for each sample a folder listing, two images and an npz."""
    rng, images = random.Random(seed), [str(path) for folder in folders for path in folder.glob("*.jpg")]
    while True:
        rng.shuffle(images)
        for first in range(0, len(images) - BATCH, BATCH):
            targets, references, mels = [], [], []
            for path in images[first : first + BATCH]:
                folder, frame = pathlib.Path(path).parent, int(pathlib.Path(path).stem)
                mel = np.load(folder / "mels.npz")["spec"]
                start = hparams.mel_start(frame, hparams.fps)
                window = mel[:, max(start, 0) : start + hparams.mel_window]
                if window.shape[1] != hparams.mel_window:
                    continue
                others = [p for p in folder.glob("*.jpg") if abs(int(p.stem) - frame) >= hparams.min_reference_gap]
                images_read = [cv2.resize(cv2.imread(str(p)), (96, 96)) for p in (path, rng.choice(others))]
                targets.append(images_read[0])
                references.append(images_read[1])
                mels.append(window)
            targets, references = (np.asarray(p).astype("float32") / 255 for p in (targets, references))
            masked = targets.copy()
            masked[:, 48:] = 0
            yield np.concatenate([references, masked], axis=-1), np.asarray(mels)[..., None], targets


def measured(way, data_root, seconds):
    """Return one row's samples per second and per second of processor time."""
    from concurrent.futures import ThreadPoolExecutor

    from lipgan.training.callbacks import keep_freed_memory

    if way not in REFERENCE[:2]:
        keep_freed_memory()
    folders, _ = find_clips(data_root, "train", data_root)
    if "reference" in way:
        batches = reference_batches(folders)
        sizes = (len(batch[2]) for batch in batches)
    else:
        faces, threads = FaceDataset(folders, index=index.open_index(data_root)), 2 if "2 threads" in way else 1

        def read(number):
            return len(faces.batch((0, 0, number), BATCH)["target"])

        pool = ThreadPoolExecutor(threads)
        numbers = range(0, 10**9, 2 * threads)
        sizes = (sum(pool.map(read, range(number, number + 2 * threads))) for number in numbers)
    next(sizes)
    begun, used, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begun < seconds:
        count += next(sizes)
    return count / (time.perf_counter() - begun), count / (time.process_time() - used)


def compare(data_root, seconds, rounds):
    """Measure all rows in turn and print their medians and ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        packed = pathlib.Path(scratch) / "packed"
        clips, count = tar_shards.pack(data_root, packed, 10**9)
        begun = time.perf_counter()
        index.open_index(packed)
        print(f"{clips} clips in {count} shards indexed in {time.perf_counter() - begun:.2f} s", flush=True)
        zipped = pathlib.Path(scratch) / "zipped"
        for folder in data_root.glob("*/*/*/"):
            write_reference_clip(folder, zipped / folder.relative_to(data_root))
        roots = {way: packed if "packed" in way else zipped if "zipped" in way else data_root for way in WAYS}
        found = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way in WAYS:
                found[way].append(run_in_process(["--data_root", roots[way], "--way", way, "--seconds", seconds]))
    medians = {way: np.median(values, axis=0) for way, values in found.items()}
    print("| loader | samples per second | times the reference's | per core second | times the reference's |")
    print("|---|---|---|---|---|")
    for way, (wall, core) in medians.items():
        base_wall, base_core = medians["reference"]
        print(f"| {way} | {wall:.0f} | {wall / base_wall:.1f} | {core:.0f} | {core / base_core:.1f} |")


def write_reference_clip(folder, copy):
    """Write a clip as the original preprocessing does, with compressed mels; images are links."""
    copy.mkdir(parents=True)
    for path in folder.glob("*.jpg"):
        (copy / path.name).symlink_to(path.resolve())
    with np.load(folder / "mels.npz") as arrays:
        np.savez_compressed(copy / "mels.npz", spec=arrays["spec"])


def run_in_process(options):
    """Run this script in its own process. Returns the JSON that it prints."""
    command = [sys.executable, __file__, *map(str, options)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def time_fit(data_root, width, rounds, batch_size=16, steps=20):
    """Print the median step of fit() with batches read from disk, and with one batch repeated."""
    import keras

    from generator import build_generator
    from lipgan.models import backend
    from lipgan.training.callbacks import KeepFreedMemory
    from lipgan.training.loader import BatchLoader
    from lipgan.training.losses import TrainingStep

    class Repeated(keras.utils.PyDataset):
        """The first batch of a PyDataset, as many times as that has batches."""

        def __init__(self, batches):
            super().__init__(workers=1)
            self.batch, self.count = batches[0], len(batches)

        def __len__(self):
            return self.count

        def __getitem__(self, number):
            return self.batch

    class Clock(keras.callbacks.Callback):
        """Records when each step ended."""

        def __init__(self):
            super().__init__()
            self.ends = []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())

    folders, _ = find_clips(data_root, "train", data_root)
    faces, seconds = FaceDataset(folders, index=index.open_index(data_root)), {"read": [], "repeated": []}
    step = TrainingStep(build_generator(width=width))
    step.compile(optimizer=keras.optimizers.Adam(1e-4))
    feed = BatchLoader(faces, batch_size, 0, 2, steps)
    for number in range(rounds):
        read = feed.batches(number, 0, steps)
        for name, batches in (("read", read), ("repeated", Repeated(read))):
            clock = Clock()
            step.fit(batches, shuffle=False, verbose=0, callbacks=[KeepFreedMemory(), clock])
            seconds[name] += np.diff(clock.ends[3:]).tolist()
    begun = time.thread_time()
    for number in range(10):
        faces.batch((0, 0, number), batch_size)
    reading = (time.thread_time() - begun) / 10
    read, repeated = (statistics.median(seconds[name]) for name in ("read", "repeated"))
    device = "GPU" if backend.has_gpu() else "CPU"
    print(
        f"{keras.backend.backend()} on {device}, width {width}, batch {batch_size}: a step takes {read:.3f} s with "
        f"batches from disk, {repeated:.3f} s with one repeated: {100 * (read - repeated) / read:+.1f} % of a step; "
        f"reading a batch takes {reading:.4f} s of a core"
    )


def make_index(root, num_frames):
    """Build an index of `num_frames` in `root`: clips of 75 frames and silence; only the first has crops on disk."""
    count, num_mels = num_frames // CLIP_FRAMES, round(CLIP_FRAMES * hparams.mels_per_second / hparams.fps) + 1
    names = [f"main/speaker_{number // 100:05d}/{number % 100:05d}" for number in range(count)]
    crops, boxes = np.zeros((CLIP_FRAMES, 96, 96, 3), "uint8"), np.zeros((CLIP_FRAMES, 4))
    write_clip(root / names[0], crops, range(CLIP_FRAMES), boxes, np.zeros((hparams.num_mels, num_mels)), np.zeros(9))
    for name in names[1:]:
        (root / name).mkdir(parents=True)
        (root / name / clip_folder.MELS_NAME).touch()
    time.sleep(index.UNSURE_S + 0.5)
    first, stamps = next(index._tree_entries(root, {names[0]: index.UNKNOWN}, None)), index._tree_stamps(root)
    entries = (first._replace(name=name, stamp=stamp) for name, stamp in stamps.items())
    index._build(root, entries, count, keep=True)


def memory(root):
    """Return the peak MB of a process that trains from an index, its growth since the imports, and opening seconds."""
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, time.perf_counter()
    found = index.open_index(root)
    opened = time.perf_counter() - begun
    clips, _ = find_clips(root, "train", root, found)
    faces = FaceDataset(clips, index=found, balance=True)
    for number in range(100):
        faces.mel_batch((0, 0, number), BATCH)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"frames": len(found.frame_ids), "opened": opened, "peak": peak, "more": peak - before}


def main(argv=None):
    """Run the requested measurement."""
    args = parse_args(argv)
    if args.way == "memory":
        print(json.dumps(memory(args.data_root)))
    elif args.way:
        print(json.dumps(measured(args.way, args.data_root, args.seconds)))
    elif args.index_frames:
        with tempfile.TemporaryDirectory() as scratch:
            make_index(pathlib.Path(scratch), args.index_frames)
            sizes = {path.name.split("_")[0]: path.stat().st_size / 1e6 for path in pathlib.Path(scratch).glob("*.*")}
            found = run_in_process(["--data_root", scratch, "--way", "memory"])
        print(
            f"{found['frames']:,} frames: {' and '.join(f'{k} {v:.0f} MB' for k, v in sizes.items())} on disk; ", end=""
        )
        print(f"opened in {found['opened']:.1f} s; ", end="")
        print(f"peak {found['peak']:.0f} MB, {found['more']:.0f} MB of it since the imports")
    elif args.fit:
        time_fit(args.data_root, args.width, args.rounds)
    else:
        compare(args.data_root, args.seconds, args.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
