"""The index of a preprocessed folder: its clips, its crops, and all mel spectrograms in one file beside the data.

    data_root/
      index.npz             names, reasons and frames of all clips, and the times and sizes of their files
      mels_<digits>.f16     every clip's mel, (T, num_mels) float16, one after another

It is built once, checked whenever it is opened, and clips that changed are read again. A window is read with one
`pread`: mels take no memory of the process, and any number of processes share the system's cache of them. `data_root`
may also be a packed folder (tar_shards.py).
"""

import bisect
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import tempfile
import time
import typing
import zipfile
import zlib

import numpy as np

from audio_hparams import hparams
from lipgan.data import tar_shards
from lipgan.data.clip_folder import MELS_NAME, SUBSETS
from lipgan.utils.files import atomic_write
from lipgan.utils.progress import tracked

INDEX_NAME = "index.npz"
VERSION = 1  # of the index's format
UNSURE_S = 2.0  # a file as young as that may change again without a change of its time
BROKEN = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)
ROWS = ("reasons", "num_mels", "num_crops", "shard")  # one number a clip
UNKNOWN = (0, 0, 0, 0)  # the stamp of a clip that is read again the next time


class SkippedClip(Exception):
    """A clip that cannot be trained on; the message is the reason by which it is counted."""


class Entry(typing.NamedTuple):
    """What the index stores of one clip."""

    name: str
    reason: str = ""  # why it cannot be trained on; empty where it can
    mel: np.ndarray = np.zeros((0, hparams.num_mels), "float16")  # (T, num_mels)
    frame_ids: np.ndarray = np.zeros(0, "int32")  # (N,) ascending: the frames that have a crop
    is_target: np.ndarray = np.zeros(0, "bool")  # (N,): those with their whole audio and a reference far enough away
    inside: tuple = (0, 0)  # start and stop of the frames whose whole mel window lies inside the audio
    places: np.ndarray = np.zeros((0, 2), "int64")  # (N, 2): offset of each jpg in its shard, and its size
    shard: int = 0
    stamp: tuple = UNKNOWN  # times and sizes of the files, from before they were read


@dataclasses.dataclass(frozen=True)
class ClipIndex:
    """Clips by row (0 to C - 1); their crops and mel frames by position in flat arrays."""

    root: pathlib.Path
    names: list  # (C,) main/<speaker>/<clip>, or an absolute path
    reasons: list  # (C,) as in Entry
    first_crop: np.ndarray  # (C + 1,) int64: clip c has the crops first_crop[c] to first_crop[c + 1]
    first_mel: np.ndarray  # (C + 1,) int64, and so of mel frames
    inside: np.ndarray  # (C, 2) int32
    frame_ids: np.ndarray  # (N,) int32
    is_target: np.ndarray  # (N,) bool
    stamps: np.ndarray  # (C, 4) int64
    mels: typing.Any  # the open file of mels
    dtype: str  # of the mels
    places: tar_shards.Places | None = None  # of the crops in a packed folder

    def mel(self, row, start, stop):
        """Read mel frames start to stop of a clip, (num_mels, stop - start), with silence past the audio's ends."""
        total = int(self.first_mel[row + 1] - self.first_mel[row])
        first, last = min(max(start, 0), total), min(max(stop, 0), total)
        size = np.dtype(self.dtype).itemsize * hparams.num_mels
        data = tar_shards.read_at(self.mels, (last - first) * size, (int(self.first_mel[row]) + first) * size)
        mel = np.frombuffer(data, self.dtype).reshape(-1, hparams.num_mels).T
        if last - first == stop - start:
            return mel
        whole = np.full((hparams.num_mels, stop - start), -hparams.max_abs_value, self.dtype)
        whole[:, first - start : last - start] = mel
        return whole

    def frames(self, row):
        """List the frames of a clip that have a crop, (N,) int32, ascending."""
        return self.frame_ids[self.first_crop[row] : self.first_crop[row + 1]]

    def jpeg(self, row, frame):
        """Read the bytes of one crop's file. Raises FileNotFoundError."""
        if self.places is None:
            with open(f"{self.root}/{self.names[row]}/{frame}.jpg", "rb", buffering=0) as file:  # noqa: PTH123 (speed)
                return file.read()
        frames = self.frames(row)
        number = int(np.searchsorted(frames, frame))
        if number == len(frames) or frames[number] != frame:
            raise FileNotFoundError
        return self.places.read(row, int(self.first_crop[row]) + number)


def open_index(data_root) -> ClipIndex:
    """Open the index of all clips below a preprocessed or a packed folder, and bring it up to date.

    Where the folder cannot be written, the index is built for this process alone, and a line says so.
    """
    root = pathlib.Path(data_root)
    files = tar_shards.shard_files(root)
    old, old_shards = _load(root, files)
    if files:
        now = tar_shards.stamps(files)
        if old and old_shards == now:
            return old
        entries = (
            _entry(name, npz, members, shard=shard) for name, shard, npz, members in tar_shards.read_member(files)
        )
        return _build(root, entries, None, keep=True, files=files, shard_stamps=now)
    stamps = _tree_stamps(root)
    same = old and old.names == list(stamps) and [*map(tuple, old.stamps.tolist())] == [*stamps.values()]
    if same and UNKNOWN not in stamps.values():
        return old
    return _build(root, _tree_entries(root, stamps, old), len(stamps), keep=bool(stamps))


def index_of(folders, dtype="float16") -> ClipIndex:
    """Index these clips' folders, for this process alone."""
    stamps, root = (
        dict.fromkeys((str(pathlib.Path(folder).absolute()) for folder in folders), UNKNOWN),
        pathlib.Path("/"),
    )
    return _build(root, _tree_entries(root, stamps, None, dtype), len(stamps), False, dtype)


def inside_frames(num_mels: int, fps=hparams.fps) -> range:
    """Return the frames whose whole mel window lies inside audio of `num_mels` mel frames."""
    start = functools.partial(hparams.mel_start, fps=fps)  # grows with the frame
    frames = range(num_mels)
    first = bisect.bisect_left(frames, 0, key=start)
    return range(first, max(first, bisect.bisect_right(frames, num_mels - hparams.mel_window, key=start)))


# Read -----------------------------------------------------------------------------------------------------------------


def _tree_stamps(root):
    """Return {name: stamp} of all clips below a tree, in order: times of folder and mels.npz, and the latter's size."""
    stamps, young = {}, time.time_ns() - int(UNSURE_S * 1e9)
    for subset in SUBSETS:
        for speaker in _folders(root / subset):
            for clip in _folders(speaker.path):
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    mels = os.stat(f"{clip.path}/{MELS_NAME}")  # noqa: PTH116 (speed)
                    folder = clip.stat()
                    settled = max(folder.st_ctime_ns, mels.st_ctime_ns) < young
                    stamp = (folder.st_mtime_ns, mels.st_mtime_ns, mels.st_ctime_ns, mels.st_size)
                    stamps[f"{subset}/{speaker.name}/{clip.name}"] = stamp if settled else UNKNOWN
    return stamps


def _folders(path):
    try:
        return sorted((e for e in os.scandir(path) if not e.name.startswith(".")), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _tree_entries(root, stamps, old, dtype="float16"):
    """Yield an Entry for each clip of {name: stamp}, from the old index where its stamp is the same."""
    rows = {name: row for row, name in enumerate(old.names)} if old else {}
    for name, stamp in stamps.items():
        row = rows.get(name)
        if row is not None and stamp != UNKNOWN and tuple(old.stamps[row].tolist()) == stamp:
            crops, total = slice(*old.first_crop[row : row + 2]), int(old.first_mel[row + 1] - old.first_mel[row])
            inside, mel = tuple(old.inside[row].tolist()), old.mel(row, 0, total).T
            known = (old.reasons[row], mel, old.frame_ids[crops], old.is_target[crops], inside)
            yield Entry(name, *known, stamp=stamp)
            continue
        folder = root / name
        try:
            members = dict.fromkeys(os.listdir(folder))  # noqa: PTH208 (speed)
        except (FileNotFoundError, NotADirectoryError):
            members = {}
        yield _entry(name, folder / MELS_NAME, members, dtype, stamp)


def _entry(name, npz, members, dtype="float16", stamp=UNKNOWN, shard=None):
    """Read the Entry of one clip. npz: its mels.npz, path or file. members: its files by name (in shards: places)."""
    try:
        mel, frame_ids, is_target, inside = _read_clip(npz, members, dtype)
    except SkippedClip as e:
        return Entry(name, str(e), stamp=stamp, shard=shard or 0)
    if shard is None:
        return Entry(name, "", mel, frame_ids, is_target, inside, stamp=stamp)
    places = np.array([members[f"{frame}.jpg"] for frame in frame_ids])
    return Entry(name, "", mel, frame_ids, is_target, inside, places, shard)


def _read_clip(npz, members, dtype):
    """Read one clip's (mel, frame_ids, is_target, inside). Raises SkippedClip where it cannot be trained on."""
    try:
        with np.load(npz, allow_pickle=False) as arrays:
            mel, frame_ids, fps = arrays["spec"], arrays["frame_ids"], float(arrays["fps"])
    except FileNotFoundError:
        raise SkippedClip(f"no {MELS_NAME}") from None
    except BROKEN:
        raise SkippedClip(f"unreadable {MELS_NAME}") from None
    if mel.ndim != 2 or mel.shape[0] != hparams.num_mels or frame_ids.ndim != 1:
        raise SkippedClip(f"unreadable {MELS_NAME}")
    if fps != hparams.fps:
        raise SkippedClip(f"not at {hparams.fps} frames a second")
    if len(frame_ids) < hparams.min_crops:
        raise SkippedClip(f"fewer than {hparams.min_crops} crops")
    if not {f"{frame}.jpg" for frame in frame_ids.tolist()} <= members.keys():
        raise SkippedClip("missing crops")
    frame_ids = np.sort(frame_ids.astype("int32"))
    inside = inside_frames(mel.shape[1])
    if len(inside) < 2 * hparams.min_wrong_gap:  # with so many, every frame has a wrong window in its own clip
        raise SkippedClip("audio too short")
    far = np.maximum(frame_ids - frame_ids[0], frame_ids[-1] - frame_ids) >= hparams.min_reference_gap
    is_target = far & (frame_ids >= inside.start) & (frame_ids < inside.stop)
    if not is_target.any():
        raise SkippedClip("no target with a reference and its whole audio")
    return mel.T.astype(dtype), frame_ids, is_target, (inside.start, inside.stop)


# Stored on disk -------------------------------------------------------------------------------------------------------


def _load(root, files):
    """Load the index stored in `root` and the stamps of its shards; (None, None) where none is usable."""
    try:
        with np.load(root / INDEX_NAME, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            if (header["version"], header["hparams"]) != (VERSION, hparams.as_dict()):
                return None, None
            arrays = {name: arrays[name] for name in arrays.files if name != "header"}
        return _from_arrays(root, (root / header["mels"]).open("rb", buffering=0), header, arrays, files), header[
            "shards"
        ]
    except BROKEN:
        return None, None


def _from_arrays(root, mels, header, arrays, files):
    """Make the ClipIndex of a header, its arrays and its open files."""
    names = arrays["names"].tobytes().decode().split("\n") if arrays["names"].size else []
    reasons = [header["reasons"][number] for number in arrays["reasons"].tolist()]
    first_mel = np.concatenate([[0], np.cumsum(arrays["num_mels"], dtype="int64")])
    first_crop = np.concatenate([[0], np.cumsum(arrays["num_crops"], dtype="int64")])
    if os.fstat(mels.fileno()).st_size != first_mel[-1] * hparams.num_mels * np.dtype(header["dtype"]).itemsize:
        raise ValueError("another file of mels")
    places = None
    if files:
        opened = [file.open("rb", buffering=0) for file in files]
        places = tar_shards.Places(opened, arrays["shard"], arrays["offsets"], arrays["sizes"])
    flat = (arrays[name] for name in ("inside", "frame_ids", "is_target", "stamps"))
    return ClipIndex(root, names, reasons, first_crop, first_mel, *flat, mels, header["dtype"], places)


def _build(root, entries, total, keep, dtype="float16", files=(), shard_stamps=()):
    """Build the ClipIndex of the entries, stored in `root` or (not `keep`) in an unnamed file."""
    if keep and not is_writable(root):
        print(f"{root} cannot be written: its clips are indexed for this run alone", flush=True)
        keep = False
    elif keep:
        print(f"indexing the clips of {root}, once", flush=True)
    entries = tracked(entries, "indexing", total)
    name = f"mels_{time.time_ns():x}.f16"
    with contextlib.ExitStack() as stack:
        # It stays open: a process that builds a newer one may remove it.
        mels = stack.enter_context(atomic_write(root / name)).open("w+b") if keep else tempfile.TemporaryFile()  # noqa: SIM115
        reasons, arrays = _write_entries(mels, entries, dtype)
    header = {"version": VERSION, "hparams": hparams.as_dict(), "mels": name, "dtype": dtype, "reasons": reasons}
    header["shards"] = list(shard_stamps)
    index = _from_arrays(root, mels, header, arrays, files)
    if keep:
        with atomic_write(root / INDEX_NAME) as temporary, temporary.open("wb") as file:
            np.savez(file, header=np.frombuffer(json.dumps(header).encode(), "uint8"), **arrays)
        for other in root.glob("mels_*.f16"):  # processes that have one open go on reading it
            if other.name != name:
                other.unlink(missing_ok=True)
    return index


def _write_entries(mels, entries, dtype):
    """Write the mels of all entries to a file. Returns the list of distinct reasons, and all else as arrays."""
    reasons, rows, names, frame_ids, is_target, places = [""], [], [], [], [], []
    for entry in entries:
        if entry.reason not in reasons:
            reasons.append(entry.reason)
        names.append(entry.name)
        sizes = (reasons.index(entry.reason), len(entry.mel), len(entry.frame_ids), entry.shard)
        rows.append((*sizes, *entry.inside, *entry.stamp))
        mels.write(entry.mel.astype(dtype).tobytes())
        frame_ids.append(entry.frame_ids)
        is_target.append(entry.is_target)
        places.append(entry.places)
    mels.flush()
    rows = np.array(rows, "int64").reshape(-1, 10)
    offsets, sizes = np.concatenate([np.zeros((0, 2), "int64"), *places]).T
    columns = {name: rows[:, number].astype("int32") for number, name in enumerate(ROWS)}
    return reasons, columns | {
        "names": np.frombuffer("\n".join(names).encode(), "uint8"),
        "inside": rows[:, 4:6].astype("int32"),
        "stamps": rows[:, 6:],
        "frame_ids": np.concatenate([np.zeros(0, "int32"), *frame_ids]),
        "is_target": np.concatenate([np.zeros(0, "bool"), *is_target]),
        "offsets": offsets.copy(),
        "sizes": sizes.astype("int32"),
    }


def is_writable(root) -> bool:
    """Return whether files can be created in this folder."""
    try:
        with tempfile.TemporaryFile(dir=root):
            return True
    except OSError:
        return False
