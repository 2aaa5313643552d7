"""preprocess.json: what a preprocessed folder was made with, and what became of every clip; and who may write there.

Several shards of one list (preprocess.py --shard) may be at work in a folder at once. Each keeps its own counts in
.shards/, and preprocess.json holds their sums.
"""

import collections
import contextlib
import errno
import json
import shutil
import time
import typing

import numpy as np

from audio_hparams import hparams
from lipgan.data.clip_folder import read_settings, setting_differences, write_settings
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write, versions

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


PACKAGES = ("numpy", "opencv-python-headless", "dlib-bin", "av", "librosa")  # that decide what crops and mels are
SHARDS = ".shards"  # folder of each shard's own counts and lock
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}  # what network file systems without them say


class Outcome(typing.NamedTuple):
    """What became of a clip: an empty `reason` is a clip that was written."""

    reason: str
    num_frames: int = 0
    num_crops: int = 0
    num_damaged: int = 0  # frames that could not be decoded right
    seconds: float = 0.0


@contextlib.contextmanager
def sole_owner(root, part=None, own=None):
    """Hold `root` for this run alone, or a part of it, and remove what killed runs left half-written of its clips.

    part: name of one of several parts that may be at work at once. own: the names of its clips (default: all).
    Raises UserError when another run holds it.
    """
    (root / SHARDS).mkdir(parents=True, exist_ok=True)
    refusal = f"another preprocess.py is at work in {root}"
    with contextlib.ExitStack() as stack:
        wait = "wait for it, or use another --final_data_root"
        if not part:
            stack.enter_context(_lock(root / ".preprocess.lock", alone=True, refusal=f"{refusal}; {wait}"))
        else:
            whole = f"{refusal}, without --shard; {wait}"
            stack.enter_context(_lock(root / ".preprocess.lock", alone=False, refusal=whole))
            same = f"{refusal}, on the same --shard; {wait}"
            stack.enter_context(_lock(root / SHARDS / f"{part}.lock", alone=True, refusal=same))
        _remove_leftovers(root, own)
        yield


@contextlib.contextmanager
def _lock(path, alone, refusal=None):
    """Hold a lock on `path`. Raises UserError with `refusal` when another process does; waits where that is None."""
    with path.open("w") as file:
        if fcntl:
            kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
            try:
                fcntl.flock(file, kind | (fcntl.LOCK_NB if refusal else 0))
            except BlockingIOError:
                raise UserError(refusal) from None
            except OSError as e:
                if e.errno not in NO_LOCKS:
                    raise
        yield


def _remove_leftovers(root, own):
    """Remove half-written clips. own: names of clips, or None for all."""
    speakers = root.glob("*/*/") if own is None else {(root / name).parent for name in own}
    leftovers = [path for folder in speakers for path in folder.glob(".tmp_*")]
    if own is None:
        leftovers += root.glob(".tmp_*")
    else:
        own = set(own)
        leftovers = [path for path in leftovers if _clip_of(path, root) in own]
    for path in leftovers:
        if path.is_dir():
            # A worker that outlived its run may still write there. Under another name it cannot finish a folder of
            # which half is gone already.
            trash = path.with_name(f".tmp_{time.time_ns():x}_trash")
            with contextlib.suppress(FileNotFoundError):
                path.rename(trash)
                shutil.rmtree(trash, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _clip_of(leftover, root):
    """The name of the clip whose temporary folder (errors.atomic_dir) this is."""
    clip = leftover.name.removeprefix(".tmp_").rpartition(".")[0]
    return f"{leftover.parent.relative_to(root).as_posix()}/{clip}"


def begin(root, ours, run_name, shard):
    """Refuse to mix data made with different options, and say in preprocess.json what these are made with.

    Before the first clip: a run that is killed must not leave clips unexplained. Returns the summary of the run of the
    same name and shard before, or {}.
    """
    with _lock(root / SHARDS / "merge.lock", alone=True):
        settings = read_settings(root)
        differences = setting_differences(settings, **ours)
        if differences:
            raise UserError(
                f"{root} was made with other options ({'; '.join(differences)}); "
                "use the same, or another --final_data_root"
            )
        runs = settings.get("runs", {})
        write_settings(root, {**ours, "hparams": hparams.as_dict(), "versions": versions(PACKAGES), "runs": runs})
    if not shard:
        return runs.get(run_name, {})
    kept = root / SHARDS / f"{part_name(run_name, shard)}.json"
    return json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}


def end(root, run_name, shard, run):
    """Put a run's summary into preprocess.json; of a shard, the sum over all shards that have ended so far."""
    with _lock(root / SHARDS / "merge.lock", alone=True):
        if shard:
            with atomic_write(root / SHARDS / f"{part_name(run_name, shard)}.json") as temporary:
                temporary.write_text(json.dumps(run, indent=1), encoding="utf-8")
        parts = {}
        for path in sorted((root / SHARDS).glob(f"{run_name}_*_of_*.json")):
            if shard and path.stem.endswith(f"_of_{shard[1]}"):
                parts[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            else:  # of another division of the list
                path.unlink()
        settings = read_settings(root)
        settings.setdefault("runs", {})[run_name] = merged(list(parts.values()), shard[1]) if shard else run
        write_settings(root, settings)


def part_name(run_name, shard):
    """The name of one shard's files: train_3_of_64."""
    return f"{run_name}_{shard[0]}_of_{shard[1]}"


def merged(runs, num_shards):
    """The sum of several shards' summaries."""
    failed = {name: reason for run in runs for name, reason in run["failed_clips"].items()}
    weights = [run["done"] + run["done_before"] for run in runs]
    seconds = [run["seconds_a_clip"] for run in runs]
    return {
        **{name: sum(run[name] for run in runs) for name in ("done", "done_before")},
        "skipped": dict(collections.Counter(failed.values()).most_common()),
        **{name: sum(run[name] for run in runs) for name in ("frames", "crops")},
        "seconds_a_clip": round(float(np.average(seconds, weights=weights if any(weights) else None)), 3),
        "damaged_clips": dict(sorted(pair for run in runs for pair in run["damaged_clips"].items())),
        "failed_clips": dict(sorted(failed.items())),
        "shards": f"{len(runs)} of {num_shards}",
    }


def summary(outcomes, missing, num_before, earlier):
    """What became of all clips of a list, for preprocess.json. outcomes: {name: Outcome} of this run.

    earlier: the summary of the run before, or {}; what it says of the clips that were there before is taken over.
    """
    failed = {name: outcome.reason for name, outcome in outcomes.items() if outcome.reason}
    failed |= dict.fromkeys(missing, "no video file")
    done = {name: outcome for name, outcome in outcomes.items() if not outcome.reason}
    earlier = earlier if num_before else {}
    seconds = [outcome.seconds for outcome in outcomes.values()] or [earlier.get("seconds_a_clip", 0)]
    damaged = {name: count for name, count in earlier.get("damaged_clips", {}).items() if name not in outcomes}
    damaged |= {name: outcome.num_damaged for name, outcome in done.items() if outcome.num_damaged}
    return {
        "done": len(done),
        "done_before": num_before,
        "skipped": dict(collections.Counter(failed.values()).most_common()),
        "frames": earlier.get("frames", 0) + sum(outcome.num_frames for outcome in done.values()),
        "crops": earlier.get("crops", 0) + sum(outcome.num_crops for outcome in done.values()),
        "seconds_a_clip": round(float(np.mean(seconds)), 3),
        "damaged_clips": dict(sorted(damaged.items())),
        "failed_clips": dict(sorted(failed.items())),
    }


def print_summary(run, root):
    """Tell the counts, and the names behind each reason (all of them are in preprocess.json)."""
    failed = run["failed_clips"]
    print(f"{run['done']} clips done, {run['done_before']} were there before, {len(failed)} skipped, in {root}")
    for reason, count in run["skipped"].items():
        names = [name for name, why in failed.items() if why == reason]
        print(f"  {count} skipped, {reason}: {' '.join(names[:5])}{' ...' if count > 5 else ''}")
    if run["damaged_clips"]:
        names = [f"{name} ({count})" for name, count in run["damaged_clips"].items()]
        print(
            f"  {len(names)} done, with a few damaged frames: {' '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
        )
    if run["frames"]:
        share = 100 * run["crops"] / run["frames"]
        print(f"{run['crops']} of {run['frames']} frames have a crop ({share:.2f} %); {run['seconds_a_clip']} s a clip")
