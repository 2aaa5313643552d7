"""The run log of preprocessing: settings and results of every clip in preprocess.json, and locks on the folder.

Several shards of one list (preprocess.py --shard) may write to a folder at the same time. Each keeps its own results in
.shards/, and preprocess.json holds their sums.
"""

import collections
import contextlib
import errno
import json
import pathlib
import shutil
import time

import filelock
import numpy as np

from audio_hparams import hparams
from lipgan.data.clip_folder import read_settings, setting_differences, write_settings
from lipgan.preprocessing.clip import ClipResult, Status
from lipgan.preprocessing.video_list import Shard
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write, versions

PACKAGES = ("numpy", "opencv-python-headless", "dlib-bin", "av", "librosa")  # those that decide on crops and mels
SHARDS_DIR, LOCK_NAME = ".shards", ".preprocess.lock"
GATE_S = 10  # seconds that another shard may take to start
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP}  # errors of network file systems without locks


class RunLog:
    """The log of one run, or of one shard of a run, in a preprocessed folder.

        log = RunLog(root, "train")
        with log.lock(clip_names):
            log.start({"img_size": 96})
            ...
            summary = log.finish(results, missing, num_existing)

    root: the preprocessed folder, an absolute path. run_name: the file list's name, or "all".
    """

    def __init__(self, root: pathlib.Path, run_name: str, shard: Shard | None = None):
        self.root, self.run_name, self.shard = root, run_name, shard
        self._shards = root / SHARDS_DIR
        self._part = f"{run_name}_{shard.number}_of_{shard.count}" if shard else None  # such as train_3_of_64
        self._previous = {}

    @contextlib.contextmanager
    def lock(self, clip_names=()):
        """Hold the folder, or this shard's part of it, and remove what killed runs left half-written.

        clip_names: the clips of this shard; without a shard all leftovers are removed. Raises UserError when another
        run holds the folder or the same shard.
        """
        self._shards.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if self.shard is None:
                self._lock_whole(stack)
            else:
                self._lock_shard(stack)
            _remove_leftovers(self.root, None if self.shard is None else set(clip_names))
            yield

    def _lock_whole(self, stack):
        """Take the folder's lock and check that no shard is running; none can start while the folder is locked."""
        refusal = f"another preprocess.py is running in {self.root}; wait for it, or use another --final_data_root"
        stack.enter_context(_lock(self.root / LOCK_NAME, refusal))
        for path in sorted(self._shards.glob("*_of_*.lock")):
            with _lock(path, refusal):
                pass

    def _lock_shard(self, stack):
        """Take this shard's lock, with the folder's lock held only meanwhile: shards run beside each other."""
        wait = "wait for it, or use another --final_data_root"
        whole = f"another preprocess.py is running in {self.root}, without --shard; {wait}"
        same = f"another preprocess.py is running in {self.root}, on the same --shard; {wait}"
        with _lock(self.root / LOCK_NAME, whole, GATE_S):
            stack.enter_context(_lock(self._shards / f"{self._part}.lock", same))

    def start(self, options: dict) -> None:
        """Write the settings to preprocess.json, and read the summary of the previous run of this name and shard.

        It is done before the first clip: a killed run must not leave clips of unknown settings. options: by name, such
        as img_size. Raises UserError where the folder was made with other options.
        """
        with self._merge_lock():
            settings = read_settings(self.root)
            if differences := setting_differences(settings, **options):
                raise UserError(
                    f"{self.root} was made with other options ({'; '.join(differences)}); "
                    "use the same, or another --final_data_root"
                )
            runs = settings.get("runs", {})
            made_with = {**options, "hparams": hparams.as_dict(), "versions": versions(PACKAGES)}
            write_settings(self.root, {**made_with, "runs": runs})
        if self.shard is None:
            self._previous = runs.get(self.run_name, {})
        elif (path := self._shards / f"{self._part}.json").exists():
            self._previous = json.loads(path.read_text(encoding="utf-8"))

    def finish(self, results: dict[str, ClipResult], missing: list[str], num_existing: int) -> dict:
        """Write this run's summary to preprocess.json and return it.

        results: by clip name, of this run. missing: listed clips without a video. num_existing: clips that were
        preprocessed before. Of a shard, preprocess.json gets the sum over all shards that have finished so far.
        """
        summary = summarize(results, missing, num_existing, self._previous)
        with self._merge_lock():
            if self.shard:
                with atomic_write(self._shards / f"{self._part}.json") as temporary:
                    temporary.write_text(json.dumps(summary, indent=1), encoding="utf-8")
            settings = read_settings(self.root)
            parts = self._parts()
            settings.setdefault("runs", {})[self.run_name] = merge(parts, self.shard.count) if self.shard else summary
            write_settings(self.root, settings)
        return summary

    def _merge_lock(self):
        return _lock(self._shards / "merge.lock")

    def _parts(self):
        """Read the summaries of all shards of this division of the list, and delete those of other divisions."""
        parts = []
        for path in sorted(self._shards.glob(f"{self.run_name}_*_of_*.json")):
            if self.shard and path.stem.endswith(f"_of_{self.shard.count}"):
                parts.append(json.loads(path.read_text(encoding="utf-8")))
            else:
                path.unlink()
        return parts


@contextlib.contextmanager
def _lock(path, refusal=None, timeout_s=0.0):
    """Hold a file lock. Raises UserError with `refusal` where another process holds it; waits where that is None."""
    lock = filelock.FileLock(path)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.acquire(timeout=timeout_s if refusal else -1))
        except filelock.Timeout:
            raise UserError(refusal) from None
        except OSError as e:
            if e.errno not in NO_LOCKS:
                raise
        yield


def _remove_leftovers(root, clip_names):
    """Remove half-written clips. clip_names: a set, or None for all."""
    speakers = root.glob("*/*/") if clip_names is None else {(root / name).parent for name in clip_names}
    leftovers = [path for folder in speakers for path in folder.glob(".tmp_*")]
    if clip_names is None:
        leftovers += root.glob(".tmp_*")
    else:
        leftovers = [path for path in leftovers if _clip_of(path, root) in clip_names]
    for path in leftovers:
        if path.is_dir():
            # A worker that outlived its run may still write there. Under another name it cannot finish a folder of
            # which half is already removed.
            trash = path.with_name(f".tmp_{time.time_ns():x}_trash")
            with contextlib.suppress(FileNotFoundError):
                path.rename(trash)
                shutil.rmtree(trash, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _clip_of(leftover, root):
    """Return the name of the clip that a temporary folder (see `files.atomic_dir`) belongs to."""
    clip = leftover.name.removeprefix(".tmp_").rpartition(".")[0]
    return f"{leftover.parent.relative_to(root).as_posix()}/{clip}"


def summarize(results: dict[str, ClipResult], missing: list[str], num_existing: int, previous: dict) -> dict:
    """Summarise the results of all clips of a list for preprocess.json.

    previous: the summary of the previous run, or {}; its entries on existing clips are kept.
    """
    failed = {name: result.reason for name, result in results.items() if result.status != Status.DONE}
    failed |= dict.fromkeys(missing, "no video file")
    done = {name: result for name, result in results.items() if result.status == Status.DONE}
    previous = previous if num_existing else {}
    seconds = [result.seconds for result in results.values()] or [previous.get("seconds_a_clip", 0)]
    damaged = {name: count for name, count in previous.get("damaged_clips", {}).items() if name not in results}
    damaged |= {name: result.num_damaged for name, result in done.items() if result.num_damaged}
    return {
        "done": len(done),
        "done_before": num_existing,
        "skipped": dict(collections.Counter(failed.values()).most_common()),
        "frames": previous.get("frames", 0) + sum(result.num_frames for result in done.values()),
        "crops": previous.get("crops", 0) + sum(result.num_crops for result in done.values()),
        "seconds_a_clip": round(float(np.mean(seconds)), 3),
        "damaged_clips": dict(sorted(damaged.items())),
        "failed_clips": dict(sorted(failed.items())),
    }


def merge(summaries: list[dict], num_shards: int) -> dict:
    """Add up the summaries of several shards."""
    failed = {name: reason for run in summaries for name, reason in run["failed_clips"].items()}
    weights = [run["done"] + run["done_before"] for run in summaries]
    seconds = [run["seconds_a_clip"] for run in summaries]
    return {
        **{name: sum(run[name] for run in summaries) for name in ("done", "done_before")},
        "skipped": dict(collections.Counter(failed.values()).most_common()),
        **{name: sum(run[name] for run in summaries) for name in ("frames", "crops")},
        "seconds_a_clip": round(float(np.average(seconds, weights=weights if any(weights) else None)), 3),
        "damaged_clips": dict(sorted(pair for run in summaries for pair in run["damaged_clips"].items())),
        "failed_clips": dict(sorted(failed.items())),
        "shards": f"{len(summaries)} of {num_shards}",
    }


def print_summary(summary: dict, root) -> None:
    """Print the counts, and the first few clips behind each reason (preprocess.json lists all of them)."""
    failed = summary["failed_clips"]
    print(f"{summary['done']} clips done, {summary['done_before']} existed, {len(failed)} skipped, in {root}")
    for reason, count in summary["skipped"].items():
        print(f"  {count} skipped, {reason}: {_first_names([name for name in failed if failed[name] == reason])}")
    if damaged := summary["damaged_clips"]:
        names = [f"{name} ({count})" for name, count in damaged.items()]
        print(f"  {len(names)} done, with a few damaged frames: {_first_names(names)}")
    if summary["frames"]:
        share = 100 * summary["crops"] / summary["frames"]
        print(
            f"{summary['crops']} of {summary['frames']} frames have a crop ({share:.2f} %); "
            f"{summary['seconds_a_clip']} s a clip"
        )


def _first_names(names):
    return f"{' '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
