"""The lips in all crops of a preprocessed folder, found once and kept beside them.

data_root/
  lips_<digits>.npy     (crops, 40) float16: x and y of 20 points in parts of the crop's side, in the index's order
"""

import zlib

import dask
import numpy as np
import tqdm

from errors import whole_file
from index import ClipIndex
from lips import NUM_LIPS, lips_of_files
from workers import in_workers

FEW = 2_000  # crops that are read sooner than more processes have started


def read_lips(index: ClipIndex) -> np.ndarray:
    """The lips in all crops of an index, (N, 40) float16 in the order of its frame_ids, some 3 ms of a core each.

    They are kept beside the data and mapped into memory; where the data change, they are read again, all of them.
    A crop that is no picture has NaN.
    """
    path = index.root / f"lips_{_digits(index):08x}.npy"
    if path.exists():
        return np.load(path, mmap_mode="r")
    total = len(index.frame_ids)
    lips = np.full((total, 2 * NUM_LIPS), np.nan, "float16")
    rows = [row for row in range(len(index.names)) if index.first_crop[row] < index.first_crop[row + 1]]
    jobs = (([_file(index, row, int(frame)) for frame in index.frames(row)],) for row in rows)
    if total > FEW and dask.system.CPU_COUNT > 1:
        made = in_workers(lips_of_files, jobs, dask.system.CPU_COUNT, None)
    else:
        made = ((number, lips_of_files(*job)) for number, job in enumerate(jobs))
    for number, found in tqdm.tqdm(made, "lips of all crops, once", len(rows), unit="clip", delay=3):
        if found is not None:
            first = index.first_crop[rows[number]]
            lips[first : first + len(found)] = found
    try:
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, lips)
    except PermissionError:
        return lips
    for other in index.root.glob("lips_????????.npy"):  # whoever reads one goes on reading it
        if other != path:
            other.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def _file(index, row, frame):
    """The bytes of a crop's file; none where it is missing, of which the training tells when it wants it."""
    try:
        return index.jpeg(row, frame)
    except FileNotFoundError:
        return b""


def _digits(index):
    """What tells one state of the data from another."""
    told = ["\n".join(index.names).encode(), index.frame_ids.tobytes(), index.stamps.tobytes()]
    told += [index.places.sizes.tobytes()] if index.places else []
    return zlib.crc32(b"\n".join(told))
