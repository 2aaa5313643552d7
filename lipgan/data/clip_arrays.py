"""Arrays that are computed once for every clip of a preprocessed folder and kept beside the data.

    data_root/
      <name>.npz              which clips there are, and where their rows lie
      <name>_<digits>.f16     float16 rows of all clips, one after another

Only missing clips are computed, when the folder grew or a run was interrupted. A row is read with one `pread`, so the
arrays take no memory of the process, and any number of processes share the system's cache of them.
"""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import time
import typing

import numpy as np

from lipgan.data.index import BROKEN, UNKNOWN, UNSURE_S, ClipIndex, is_writable, open_index
from lipgan.data.tar_shards import read_at
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write

VERSION = 1  # of the files' form
ENTRY = np.dtype([("key", "u8"), ("version", "i4"), ("count", "i4"), ("start", "i8"), ("speed", "f4")])
ITEM_BYTES = 2


@dataclasses.dataclass(frozen=True)
class ArrayKind:
    """A kind of array: one (n, width) array per clip, or several versions of it."""

    name: str  # of the files
    width: int  # numbers in a row
    recipe: str  # how the arrays are made; those of another recipe are computed again
    versions: int = 1


class ClipArray(typing.NamedTuple):
    """The array of one version of one clip."""

    row: int  # of the index
    version: int
    values: np.ndarray  # (n, width)
    speed: float = 1.0  # by which its time runs faster than the clip's


@dataclasses.dataclass(frozen=True)
class ClipArrays:
    """The arrays of all clips of an index, (n, width) float16 each, read on demand."""

    file: typing.Any  # open for reading, unbuffered
    width: int
    start: np.ndarray  # (C, V) int64: first row of each version of each clip
    count: np.ndarray  # (C, V) int32: its rows
    speed: np.ndarray  # (C, V) float32

    def read(self, row: int, first: int = 0, last: int | None = None, version: int = 0) -> np.ndarray:
        """Read rows first to last (None: the end) of a clip's array, which must lie inside: (last - first, width)."""
        last = int(self.count[row, version]) if last is None else last
        size = ITEM_BYTES * self.width
        data = read_at(self.file, (last - first) * size, (int(self.start[row, version]) + first) * size)
        return np.frombuffer(data, "float16").reshape(-1, self.width)


def open_arrays(index: ClipIndex, kind: ArrayKind, compute) -> ClipArrays:
    """Open the arrays of all usable clips of an index; compute those that are missing.

    compute: called with the missing ones as [(row, version), ...]; yields a ClipArray for each, in any order. What it
    yields before an error or an interruption is kept. Where the folder cannot be written, the arrays are computed for
    this process alone, and a line says so.
    """
    if index.places is None and (index.stamps == UNKNOWN).all(axis=1).any():  # too young for their times to be reliable
        time.sleep(UNSURE_S)
        index = open_index(index.root)
    keys = _clip_keys(index)
    file, entries = _existing(index.root, kind)
    table = _table(index, kind, keys, entries)
    missing = [tuple(pair) for pair in np.argwhere(table["count"] < 0).tolist()]
    if missing:
        file, entries = _completed(index.root, kind, keys, (file, entries), compute(missing))
        table = _table(index, kind, keys, entries)
        if (incomplete := np.flatnonzero((table["count"] < 0).any(axis=1))).size:
            name = index.root / index.names[incomplete[0]]
            raise UserError(f"{name} has no {kind.name}: its files are incomplete; remove it and preprocess again")
    return ClipArrays(file, kind.width, *(table[name].copy() for name in ("start", "count", "speed")))


def _clip_keys(index):
    """Return a key for each clip, (C,) uint64, that changes when its files change."""
    keys = np.zeros(len(index.names), "uint64")
    for row, name in enumerate(index.names):
        crops = slice(*index.first_crop[row : row + 2])
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8)
        digest.update(index.frame_ids[crops].tobytes())
        digest.update(index.places.sizes[crops].tobytes() if index.places else index.stamps[row].tobytes())
        keys[row] = int.from_bytes(digest.digest(), "little")
    return keys


def _existing(root, kind):
    """Open the file of rows stored in `root`: (file, entries (E,) ENTRY), or (None, no entries) if unusable."""
    try:
        with np.load(root / f"{kind.name}.npz", allow_pickle=False) as arrays:
            header, entries = json.loads(arrays["header"].tobytes()), arrays["entries"]
        path = root / header["file"]
        num_rows = path.stat().st_size // (ITEM_BYTES * kind.width)
        if (header["version"], header["recipe"], header["width"]) == (VERSION, kind.recipe, kind.width):
            return path.open("rb", buffering=0), entries[entries["start"] + entries["count"] <= num_rows]
    except BROKEN:
        pass
    return None, np.zeros(0, ENTRY)


def _table(index, kind, keys, entries):
    """Arrange entries by clip and version: (C, V) ENTRY. count is -1 for missing ones and 0 for unusable clips."""
    table = np.zeros((len(keys), kind.versions), ENTRY)
    table["count"] = np.where(np.diff(index.first_crop) > 0, -1, 0)[:, None]
    rows, known = _rows_of(keys, entries)
    known &= entries["version"] < kind.versions
    table[rows[known], entries["version"][known]] = entries[known]
    return table


def _rows_of(keys, entries):
    """Find the index rows of entries, (E,), and which entries have one, (E,) bool."""
    if not len(keys):
        return np.zeros(len(entries), int), np.zeros(len(entries), bool)
    order = np.argsort(keys)
    places = np.minimum(np.searchsorted(keys, entries["key"], sorter=order), len(keys) - 1)
    rows = order[places]
    return rows, keys[rows] == entries["key"]


def _completed(root, kind, keys, existing, arrays):
    """Write a new file with the existing rows that are still of use, and `arrays`. Returns it and its entries."""
    if not is_writable(root):
        print(f"{root} cannot be written: its {kind.name} are computed for this run alone", flush=True)
        file = tempfile.TemporaryFile()  # noqa: SIM115 (it stays open)
        entries, error = _written(file, kind, keys, existing, arrays)
        if error:
            raise error
        return file, entries
    path = root / f"{kind.name}_{time.time_ns():x}.f16"
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        entries, error = _written(file, kind, keys, existing, arrays)
    header = {"version": VERSION, "recipe": kind.recipe, "width": kind.width, "file": path.name}
    with atomic_write(root / f"{kind.name}.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), "uint8"), entries=entries)
    for other in root.glob(f"{kind.name}_*.f16"):  # processes that have one open go on reading it
        if other != path:
            with contextlib.suppress(OSError):
                other.unlink()
    if error:
        raise error
    return path.open("rb", buffering=0), entries


def _written(file, kind, keys, existing, arrays):
    """Copy existing rows to a file and append `arrays`. Returns the entries, and an error that ended `arrays` early."""
    old, entries, num_rows = existing[0], [], 0
    for entry in existing[1][_rows_of(keys, existing[1])[1]]:
        size = ITEM_BYTES * kind.width
        file.write(read_at(old, int(entry["count"]) * size, int(entry["start"]) * size))
        entries.append((*entry.tolist()[:3], num_rows, entry["speed"]))
        num_rows += int(entry["count"])
    error = None
    try:
        for array in arrays:
            file.write(np.ascontiguousarray(array.values, "float16").tobytes())
            entries.append((keys[array.row], array.version, len(array.values), num_rows, array.speed))
            num_rows += len(array.values)
    except BaseException as e:  # also an interruption: it is raised again when the file is complete
        error = e
    file.flush()
    return np.array(entries, ENTRY), error
