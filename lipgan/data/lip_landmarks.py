"""dlib's 68 landmarks in all crops of a preprocessed folder.

Preprocessing keeps the tracker's landmarks in each clip's mels.npz. For folders made before it did, they are found once
in the crops, and smoothed as the tracker's, all but the lips. Both are then stored in one file beside the data (see
clip_arrays.py).
"""

import cv2
import dask
import numpy as np

from audio_hparams import hparams
from lipgan.data import tar_shards
from lipgan.data.clip_arrays import ArrayKind, ClipArray, ClipArrays, open_arrays
from lipgan.data.clip_folder import MELS_NAME
from lipgan.data.index import BROKEN, ClipIndex
from lipgan.faces.detector import LipLandmarks
from lipgan.faces.landmarks import NUM_LANDMARKS
from lipgan.faces.tracker import smooth_landmarks
from lipgan.utils.cli import UserError
from lipgan.utils.parallel import in_workers
from lipgan.utils.progress import tracked

KIND = ArrayKind("landmarks", 2 * NUM_LANDMARKS, "dlib 68, smoothed, lips not")
FEW = 2_000  # crops for which starting worker processes does not pay


def read_landmarks(index: ClipIndex) -> ClipArrays:
    """Open the landmarks of all crops of an index: rows of 136 numbers, x and y of 68 points as fractions of the side.

    A crop that is not an image has NaN. Landmarks that preprocessing did not keep are found first, with a bar, at 3 ms
    of a core each. Raises UserError for a clip that kills the process that reads it.
    """

    def compute(missing):
        older = []
        for row, stored in _stored(index, [row for row, _ in missing]):
            if stored is None:
                older.append(row)
            else:
                yield ClipArray(row, 0, stored)
        yield from _found_in_crops(index, older)

    return open_arrays(index, KIND, compute)


def _stored(index, rows):
    """Yield (row, its landmarks in mels.npz, (N, 136), or None) for the given rows."""
    if index.places is None:
        for row in rows:
            yield row, _read_stored(index, row, index.root / index.names[row] / MELS_NAME)
        return
    row_of = {index.names[row]: row for row in rows}
    for name, _, npz, _ in tar_shards.read_member(tar_shards.shard_files(index.root)):
        if name in row_of:
            yield row_of[name], _read_stored(index, row_of[name], npz)


def _read_stored(index, row, npz):
    """Read the landmarks of one mels.npz in the order of the index's frames: (N, 136) float32, or None."""
    try:
        with np.load(npz, allow_pickle=False) as arrays:
            if "landmarks" not in arrays.files:
                return None
            order = np.argsort(arrays["frame_ids"])
            landmarks = arrays["landmarks"][order].reshape(-1, KIND.width)
    except BROKEN:
        return None
    return landmarks if len(landmarks) == len(index.frames(row)) else None


def _found_in_crops(index, rows):
    """Yield a ClipArray of the landmarks found in the crops of each row, by all cores where there are many crops."""
    jobs = (([_crop_bytes(index, row, int(n)) for n in index.frames(row)], index.frames(row).tolist()) for row in rows)
    if sum(len(index.frames(row)) for row in rows) > FEW and dask.system.CPU_COUNT > 1:
        results = in_workers(landmarks_of_crops, jobs, dask.system.CPU_COUNT, None)
    else:
        results = ((number, landmarks_of_crops(*job)) for number, job in enumerate(jobs))
    for number, landmarks in tracked(results, "landmarks of older clips, once", len(rows)):
        if landmarks is None:
            name = index.root / index.names[rows[number]]
            raise UserError(f"{name} kills the process that finds landmarks in it; remove it")
        yield ClipArray(rows[number], 0, landmarks)


def _crop_bytes(index, row, frame):
    """Read the bytes of a crop's file; empty if it is missing, which training reports when it reads the crop."""
    try:
        return index.jpeg(row, frame)
    except FileNotFoundError:
        return b""


def landmarks_of_crops(jpegs, frame_ids):
    """Find the landmarks in a clip's crops, given as the bytes of their files: (N, 136) float32.

    All but the lips are smoothed over time.

    frame_ids: (N,) ascending; where a frame is missing, nothing is smoothed across. NaN where a crop is not an image.
    """
    find, points = LipLandmarks(), np.full((len(jpegs), NUM_LANDMARKS, 2), np.nan, "float32")
    for row, data in enumerate(jpegs):
        crop = cv2.imdecode(np.frombuffer(data, "uint8"), cv2.IMREAD_COLOR) if data else None
        if crop is not None:
            points[row] = find.face(crop)
    known = ~np.isnan(points[:, 0, 0])
    breaks = np.flatnonzero((np.diff(frame_ids) != 1) | (np.diff(known) != 0)) + 1
    # In crop coordinates: a box moves evenly over so few frames, so the mean is the same as in the video's pixels.
    stretches = [
        smooth_landmarks(stretch, hparams.fps, lips=False) for stretch in np.split(points, breaks) if len(stretch)
    ]
    return np.concatenate(stretches).reshape(-1, KIND.width).astype("float32")
