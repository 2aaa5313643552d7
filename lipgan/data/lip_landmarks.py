"""The lips in all crops of a preprocessed folder, found once and kept beside them.

data_root/
  lips_<digits>.npy     (crops, 40) float16: x and y of 20 points in parts of the crop's side, in the index's order
"""

import contextlib
import functools
import time
import zlib

import cv2
import dask
import numpy as np
import tqdm

from audio_hparams import hparams
from lipgan.data.index import UNKNOWN, UNSURE_S, ClipIndex, is_writable, open_index
from lipgan.faces import detector
from lipgan.faces.landmarks import LIPS, NUM_LIPS
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write
from lipgan.utils.parallel import in_workers

FEW = 2_000  # crops that are read sooner than more processes have started


def read_lips(index: ClipIndex) -> np.ndarray:
    """The lips in all crops of an index, (N, 40) float16 in the order of its frame_ids, some 3 ms of a core each.

    They are kept beside the data and mapped into memory; where the data change, they are read again, all of them.
    A crop that is no picture has NaN. Raises UserError where a clip kills who reads it.
    """
    if index.places is None and (index.stamps == UNKNOWN).all(axis=1).any():  # younger than their files' times can tell
        time.sleep(UNSURE_S)
        index = open_index(index.root)
    path = index.root / f"lips_{_digits(index):08x}.npy"
    if path.exists():
        return np.load(path, mmap_mode="r")
    keep = is_writable(index.root)
    if not keep:
        print(f"{index.root} cannot be written: the lips in its crops are looked for in this run alone", flush=True)
    lips = _looked_for(index)
    if not keep:
        return lips
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.save(file, lips)
    for other in index.root.glob("lips_????????.npy"):  # whoever reads one goes on reading it
        if other != path:
            with contextlib.suppress(OSError):
                other.unlink()
    return lips


def _looked_for(index):
    """The lips in all crops, by all cores where there are many."""
    rows = [row for row in range(len(index.names)) if index.first_crop[row] < index.first_crop[row + 1]]
    jobs = (([_file(index, row, int(frame)) for frame in index.frames(row)],) for row in rows)
    lips = np.full((len(index.frame_ids), 2 * NUM_LIPS), np.nan, "float16")
    if len(lips) > FEW and dask.system.CPU_COUNT > 1:
        made = in_workers(lips_of_files, jobs, dask.system.CPU_COUNT, None)
    else:
        made = ((number, lips_of_files(*job)) for number, job in enumerate(jobs))
    for number, found in tqdm.tqdm(made, "lips of all crops, once", len(rows), unit="clip", delay=3):
        if found is None:
            raise UserError(f"{index.root / index.names[rows[number]]} kills whoever looks for lips in it; remove it")
        first = index.first_crop[rows[number]]
        lips[first : first + len(found)] = found
    return lips


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


class LipLandmarks:
    """dlib's landmarks of the lips in face crops, whose place in the crop is known."""

    def __init__(self):
        self._detector = detector.FaceDetector("hog")

    def __call__(self, crop):
        """(S, S, 3) uint8 -> (20, 2) float64, x and y in parts of the crop's side."""
        return self.face(crop)[LIPS]

    def face(self, crop):
        """All 68 landmarks: (S, S, 3) uint8 -> (68, 2) float64."""
        side = 2 * crop.shape[0]  # the predictor rounds to pixels
        large = cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC)
        square = (0, side / (1 + hparams.crop_lengthen), 0, side)
        return self._detector.landmarks(large, square) / side


_landmarks = functools.cache(LipLandmarks)  # it is large


def lips_of_files(jpegs):
    """The lips in crops, given as the bytes of their files: (N, 40) float16; NaN where one is no picture."""
    find, lips = _landmarks(), np.full((len(jpegs), 2 * NUM_LIPS), np.nan, "float16")
    for row, data in enumerate(jpegs):
        crop = cv2.imdecode(np.frombuffer(data, "uint8"), cv2.IMREAD_COLOR) if data else None
        if crop is not None:
            lips[row] = find(crop).ravel()
    return lips
