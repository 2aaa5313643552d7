"""Finished videos, of any program, scored against the originals that they were made from."""

import collections
import itertools
import pathlib

import cv2
import numpy as np

from audio_hparams import hparams
from lipgan.data.lip_landmarks import LipLandmarks
from lipgan.evaluation.scoring import COPIED, MEAN, ScoredClip, score
from lipgan.faces import crop as face_crop
from lipgan.faces.detector import FaceDetector
from lipgan.faces.tracker import find_boxes
from lipgan.media import video
from lipgan.utils.cli import UserError
from lipgan.utils.files import read_rows

IMG_SIZE = 96
ROW = "video"


def listed_pairs(path):
    """The (name, video, original) of a CSV file with the columns video and original; the name is the video's cell.

    Raises UserError where a column or a file is missing, or two lines have one video.
    """
    pairs = {}
    for number, row in enumerate(read_rows(path, "pairs", ("video", "original")), 1):
        name, files = row["video"], {column: pathlib.Path(row[column] or "") for column in ("video", "original")}
        for column, file in files.items():
            if not file.is_file():
                found = f"{file} is no file" if row[column] else "the cell is empty"
                raise UserError(f"--pairs {path}, video {number}, column {column}: {found}; give the path of a file")
        if name in pairs:
            raise UserError(f"--pairs {path}, video {number}: {name} stands there already; give each video one line")
        pairs[name] = (name, *files.values())
    return list(pairs.values())


def pairs_of_folders(videos, originals):
    """The (name, video, original) of the files of one folder and those of the same stem, the name, in another.

    The original is None where there is none. Raises UserError for what is no folder, or no video at all.
    """
    for folder in (videos, originals):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give --videos and --originals the folders of the two")
    files = {path.stem: path for path in sorted(originals.iterdir()) if path.is_file()}
    results = sorted(path for path in videos.iterdir() if path.is_file())
    if not results:
        raise UserError(f"{videos} holds no file; give --videos the folder of the finished videos")
    return [(path.stem, path, files.get(path.stem)) for path in results]


def score_videos(pairs, detector="cnn"):
    """Score videos against their originals: (ScoredClips, skipped). pairs: (name, video, original or None).

    Both are read at hparams.fps frames a second, from their first frame on. Faces are found in the original, and the
    same boxes are cut from both; a video of another size is brought to the original's. The ScoredClips come one after
    another, and skipped, a Counter by reason, is whole when they have ended.
    """
    skipped = collections.Counter()
    return _scored(pairs, FaceDetector(detector), skipped), skipped


def _scored(pairs, detector, skipped):
    landmarks = LipLandmarks()
    for name, path, original in pairs:
        if original is None:
            skipped["no original of the same name"] += 1
            continue
        try:
            lengths = [video.probe(file).duration_s for file in (path, original)]
            truth, crops, frames, count = _crops(path, original, detector)
        except UserError as e:
            skipped[str(e)] += 1
            continue
        if len(frames) < hparams.min_crops:
            skipped[f"fewer than {hparams.min_crops} frames with a face"] += 1
            continue
        if abs(lengths[0] - lengths[1]) > 1.5 / hparams.fps:
            print(f"{path.name}: {lengths[0]:.2f} s, its original {lengths[1]:.2f} s; the first {count} frames count")
        points = np.stack([landmarks.face(crop) for crop in truth])
        ids = np.asarray(frames)
        copied = np.where((ids - ids[0] < hparams.min_reference_gap)[:, None, None, None], truth[-1:], truth[:1])
        rows = {ROW: crops, COPIED: copied, MEAN: np.broadcast_to(truth.mean(0).round().astype("uint8"), truth.shape)}
        scores = {row: score(made, truth, points, landmarks) for row, made in rows.items()}
        yield ScoredClip(name, frames, truth, points, rows, scores)


def _crops(result, original, detector):
    """Crops (N, S, S, 3) of the original and of the result, their frame numbers, and how many frames both have."""
    boxes, found = find_boxes(video.read_frames(original, hparams.fps), hparams.fps, detector)
    if not found.any():
        raise UserError("no face found in the original")
    truth, crops, frames, count = [], [], [], 0
    pairs = zip(video.read_frames(original, hparams.fps), video.read_frames(result, hparams.fps), strict=False)
    for count, (theirs, ours) in enumerate(itertools.islice(pairs, len(boxes)), 1):
        if not found[count - 1]:
            continue
        if ours.shape != theirs.shape:
            ours = cv2.resize(ours, theirs.shape[1::-1], interpolation=cv2.INTER_AREA)
        for frame, kept in ((theirs, truth), (ours, crops)):
            kept.append(face_crop.crop(frame, boxes[count - 1], IMG_SIZE))
        frames.append(count - 1)
    return np.stack(truth), np.stack(crops), frames, count
