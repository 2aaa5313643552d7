"""Score finished videos, of any program, against the originals that they were made from."""

import dataclasses
import itertools
import pathlib

import cv2
import numpy as np

from audio_hparams import hparams
from lipgan.evaluation import metrics
from lipgan.evaluation.free_speech import SHARED_CLOCK
from lipgan.evaluation.results import COPIED_REFERENCE, MEAN_FACE, VIDEO, Row, SkippedClip
from lipgan.evaluation.scoring import ScoredClip, image_scores, lip_scores
from lipgan.faces import crop as face_crop
from lipgan.faces.detector import FaceDetector, LipLandmarks
from lipgan.faces.landmarks import LIPS
from lipgan.faces.tracker import find_boxes
from lipgan.media import video
from lipgan.media.audio import load_wav
from lipgan.utils.cli import UserError
from lipgan.utils.files import read_rows

IMG_SIZE = 96  # of the crops whose images are compared
LANDMARK_SIZE = 192  # of the crops in which landmarks are found
SHARPNESS_STEP = 7  # frames between two whose sharpness is measured at their own resolution
SMALLEST_MOUTH = 8  # pixels of a mouth region's side, from which on it has a sharpness


@dataclasses.dataclass(frozen=True)
class VideoPair:
    """A finished video and the original whose mouth it should show."""

    name: str
    video: pathlib.Path
    original: pathlib.Path | None  # None: there is none
    person: str
    lag: float | None = None  # frames by which the original's audio is late against its lips; None: not known


@dataclasses.dataclass(frozen=True)
class PairedCrops:
    """Face crops of an original and of the finished video, cut with the same boxes, and the landmarks of both."""

    frames: list[int]  # (N,) numbers at hparams.fps of the frames that have a face in both
    num_frames: int  # that both videos have
    truth: np.ndarray  # (N, IMG_SIZE, IMG_SIZE, 3) uint8 BGR
    crops: np.ndarray  # the same of the finished video
    true_points: np.ndarray  # (N, 68, 2) landmarks in units of a crop's side
    points: np.ndarray  # the same of the finished video
    sharpness: float  # of the mouth region at the frames' own resolution, finished / original


def listed_pairs(path) -> list[VideoPair]:
    """Read a CSV file with the columns video and original, and perhaps person and lag; the video's path is the name.

    Raises UserError where a column or a file is missing, or two lines have one video.
    """
    pairs = {}
    for number, row in enumerate(read_rows(path, "pairs", ("video", "original")), 1):
        name, files = row["video"], {column: pathlib.Path(row[column] or "") for column in ("video", "original")}
        for column, file in files.items():
            if not file.is_file():
                problem = f"{file} is no file" if row[column] else "the cell is empty"
                raise UserError(f"--pairs {path}, video {number}, column {column}: {problem}; give the path of a file")
        if name in pairs:
            raise UserError(f"--pairs {path}, video {number}: {name} stands there already; give each video one line")
        try:
            lag = float(row["lag"]) if row.get("lag") else None
        except ValueError:
            raise UserError(f"--pairs {path}, video {number}: lag {row['lag']!r} is no number of frames") from None
        person = row.get("person") or files["original"].parent.name
        pairs[name] = VideoPair(name, files["video"], files["original"], person=person, lag=lag)
    return list(pairs.values())


def pairs_of_folders(videos, originals) -> list[VideoPair]:
    """Pair the files of one folder with those of the same stem, which is the name, in another.

    The original is None where there is none. Raises UserError for a missing folder or one without videos.
    """
    for folder in (videos, originals):
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; give --videos and --originals the folders of the two")
    files = {path.stem: path for path in sorted(originals.iterdir()) if path.is_file()}
    results = sorted(path for path in videos.iterdir() if path.is_file())
    if not results:
        raise UserError(f"{videos} holds no file; give --videos the folder of the finished videos")
    return [VideoPair(path.stem, path, files.get(path.stem), person=path.stem) for path in results]


def score_videos(pairs, detector="cnn", timer=SHARED_CLOCK):
    """Score finished videos against their originals: yields a ScoredClip or a SkippedClip for each VideoPair.

    Both are read at hparams.fps frames per second, from their first frame on. Images are compared in the boxes of the
    original's face, a video of another size resized to the original's; landmarks are those of each video's own face.
    """
    detector, landmarks = FaceDetector(detector), LipLandmarks()
    for pair in pairs:
        if pair.original is None:
            yield SkippedClip(pair.name, "no original of the same name")
            continue
        try:
            result, original = (video.probe(file) for file in (pair.video, pair.original))
            paired = _paired_crops(result, original, detector, landmarks)
            if len(paired.frames) < hparams.min_crops:
                yield SkippedClip(pair.name, f"fewer than {hparams.min_crops} frames with a face")
                continue
            timing = _timing(pair, paired, timer)
        except UserError as e:
            yield SkippedClip(pair.name, str(e))
            continue
        if abs(result.duration_s - original.duration_s) > 1.5 / hparams.fps:
            seconds = f"{result.duration_s:.2f} s, its original {original.duration_s:.2f} s"
            print(f"{pair.video.name}: {seconds}; the first {paired.num_frames} frames count")
        yield _scored(pair, paired, timing)


def _scored(pair, paired, timing):
    """Score one pair: the finished video, a far frame copied, and the mean face."""
    truth, true_points = paired.truth, paired.true_points
    ids = np.asarray(paired.frames)
    last = (ids - ids[0] < hparams.min_reference_gap)[:, None, None]  # where the far frame is the last one
    copied = np.where(last[..., None], truth[-1:], truth[:1])
    mean = np.broadcast_to(truth.mean(0).round().astype("uint8"), truth.shape)
    still = np.broadcast_to(true_points.mean(0), true_points.shape)
    results = {VIDEO: paired.crops, COPIED_REFERENCE: copied, MEAN_FACE: mean}
    points = {VIDEO: paired.points, COPIED_REFERENCE: np.where(last, true_points[-1:], true_points[:1])}
    points[MEAN_FACE] = still
    rows = [
        Row(
            clip=pair.name, person=pair.person, row=row, own_lag=timing.lag,
            **vars(image_scores(crops, truth)), **vars(lip_scores(points[row], true_points, paired.frames, timing)),
        )
        for row, crops in results.items()
    ]  # fmt: skip
    rows[0] = dataclasses.replace(rows[0], sharpness_native=paired.sharpness)
    return ScoredClip(pair.name, tuple(rows), paired.frames, truth, true_points, results)


def _timing(pair, paired, timer):
    opening = metrics.on_time_axis(metrics.mouth_opening(paired.true_points), paired.frames)
    try:
        wav = load_wav(pair.original)
    except UserError:  # an original without audio
        wav = None
    timing = timer(pair.name, wav, opening)
    return timing if pair.lag is None else dataclasses.replace(timing, lag=pair.lag)


def _paired_crops(result_info, original_info, detector, landmarks) -> PairedCrops:
    """Cut the faces of both videos and find their landmarks. Raises UserError where one has no face.

    A face made from a still image does not follow the original's head: landmarks are found where each video's face is.
    """
    boxes, found = find_boxes(video.read_frames(original_info, hparams.fps), hparams.fps, detector)
    own_boxes, own_found = find_boxes(video.read_frames(result_info, hparams.fps), hparams.fps, detector)
    num_frames = min(len(found), len(own_found))
    frames = np.flatnonzero(found[:num_frames] & own_found[:num_frames]).tolist()
    if not frames:
        raise UserError(f"no face found in the {'finished video' if found.any() else 'original'}")
    used, truth, crops, points, mouths = set(frames), [], [], ([], []), ([], [])
    both = zip(*(video.read_frames(info, hparams.fps) for info in (original_info, result_info)), strict=False)
    for number, (true, result) in enumerate(itertools.islice(both, num_frames)):
        if number not in used:
            continue
        truth.append(face_crop.crop(true, boxes[number], IMG_SIZE))
        same_size = result
        if result.shape != true.shape:
            same_size = cv2.resize(result, true.shape[1::-1], interpolation=cv2.INTER_AREA)
        crops.append(face_crop.crop(same_size, boxes[number], IMG_SIZE))
        for side, (frame, box) in enumerate(((true, boxes[number]), (result, own_boxes[number]))):
            points[side].append(landmarks.face(face_crop.crop(frame, box, LANDMARK_SIZE)))
            if len(truth) % SHARPNESS_STEP == 1:
                mouths[side].append(mouth_at_full_size(frame, box, points[side][-1]))
    sharp = [both for both in zip(*mouths, strict=True) if min(min(mouth.shape[:2]) for mouth in both) > SMALLEST_MOUTH]
    return PairedCrops(
        frames=frames, num_frames=num_frames, truth=np.stack(truth), crops=np.stack(crops),
        true_points=np.stack(points[0]), points=np.stack(points[1]),
        sharpness=metrics.sharpness(*([mouths[side] for mouths in sharp] for side in (1, 0))) if sharp else np.nan,
    )  # fmt: skip


def mouth_at_full_size(frame, box, points):
    """Cut the square about the mouth, 1.4 times as wide as it, from a frame (H, W, 3), at the frame's own resolution.

    box: of the crop in which the landmarks, (68, 2) in units of its side, were found.
    """
    top, bottom, left, right = (float(edge) for edge in box)
    points = points * (right - left, bottom - top) + (left, top)
    centre, half = points[LIPS].mean(0), 0.7 * np.linalg.norm(points[48] - points[54])
    (x0, y0), (x1, y1) = ((centre + sign * half).astype(int).clip(0) for sign in (-1, 1))
    return frame[y0:y1, x0:x1]
