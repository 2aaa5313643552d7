"""What is used of a picture or a video: a stretch of its time, at a size."""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import pathlib
from fractions import Fraction

import cv2
import numpy as np
import tqdm

from audio_hparams import hparams
from lipgan.faces import crop, tracker
from lipgan.faces.detector import FaceDetector
from lipgan.faces.selection import FaceChoice
from lipgan.inference.reference import WAYS, References, read_references
from lipgan.inference.track_cache import cache_path, load_track, save_track
from lipgan.media import video
from lipgan.media.audio import load_wav, melspectrogram
from lipgan.media.image import read_picture
from lipgan.utils.cli import UserError
from lipgan.utils.parallel import prefetch, timed


@dataclasses.dataclass(frozen=True)
class Footage:
    """The frames of a video, a stretch of it, at a rate, each side divided by resize_factor. From `open_footage`."""

    path: pathlib.Path
    info: video.VideoInfo  # of what `frames` gives
    first: int  # frame of the file, read at this rate
    resize_factor: float

    def frames(self, count=None):
        """Yield the first `count` frames (None: all), BGR uint8 (H, W, 3). UserError where none can be decoded."""
        count = self.info.num_frames if count is None else min(count, self.info.num_frames)
        frame = None
        with contextlib.closing(video.read_frames(self.path, self.info.fps)) as read:
            for frame in itertools.islice(read, self.first, self.first + count):
                yield resized(frame, self.resize_factor)
        if frame is None:  # a damaged end
            start_s = float(self.first / self.info.fps)
            raise UserError(f"no frame of {self.path} can be decoded from --start {start_s:g} on; give an earlier one")

    def first_frame(self):
        """BGR uint8 (H, W, 3). UserError where it cannot be decoded."""
        with contextlib.closing(self.frames(1)) as frames:
            return next(frames)


def open_footage(path, start_s=0.0, end_s=None, resize_factor=1.0, fps=None):
    """The Footage of a video from start_s up to end_s (None: its end), at fps (None: its own rate).

    Raises UserError where nothing is left of it.
    """
    info = video.probe(path)
    if fps:
        rate = video.as_rate(fps)
        info = dataclasses.replace(info, fps=rate, num_frames=max(1, round(info.duration_s * rate)))
    first = round(start_s * info.fps)
    last = info.num_frames if end_s is None else min(round(end_s * info.fps), info.num_frames)
    if first >= last:
        end = f" --end {end_s:g}" if end_s is not None else ""
        raise UserError(
            f"--start {start_s:g}{end}: no frame of {path}, which lasts {info.duration_s:.2f} s, lies there; "
            "give seconds inside of it"
        )
    num_frames = last - first
    height, width = resized_shape((info.height, info.width), resize_factor)
    info = dataclasses.replace(
        info, width=width, height=height, num_frames=num_frames, duration_s=float(num_frames / info.fps)
    )
    return Footage(path, info, first, resize_factor)


def resized_shape(shape, factor):
    """(height, width) with both sides divided by the factor, at least 1."""
    return tuple(max(1, round(side / factor)) for side in shape[:2])


def resized(frame, factor):
    """The frame with both sides divided by the factor; itself where that is 1."""
    if factor == 1:
        return frame
    height, width = resized_shape(frame.shape, factor)
    shrinks = cv2.INTER_AREA if factor > 1 else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(frame, (width, height), interpolation=shrinks))


STILL_FPS = 25  # frames a second of a result made from a still picture
BRIDGE = 5  # frames without a face that are taken to have one, between others that do


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is to be made, as far as it is known before a generator is needed. From `prepare`."""

    face: pathlib.Path
    audio: pathlib.Path
    max_s: float | None  # seconds of sound that are used; None: all
    still: np.ndarray | None  # (H, W, 3) BGR uint8, shown throughout; None where `face` is a moving picture
    footage: Footage | None  # of a moving picture
    colour: video.Colour | None  # of a video
    fps: Fraction
    num_frames: int  # of the result
    mel: np.ndarray  # (80, T) float32
    boxes: np.ndarray  # (N, 4) int32, one for each of the N frames of the source (1 of a still) that are used
    found: np.ndarray  # (N,) bool: frames that have a face
    points: np.ndarray | None  # (N, 68, 2) float32: dlib's landmarks of the face; None where boxes were given
    references: References | None  # None: each frame is its own
    seconds: dict  # spent so far, by phase

    @property
    def shape(self):
        """(height, width) of its frames."""
        info = self.footage and self.footage.info
        return (info.height, info.width) if info else self.still.shape[:2]

    def landmarks(self, index):
        """Those of the face in frame `index`, (68, 2) float32 in parts of its crop."""
        return crop.to_crop_coords(self.points[index], self.boxes[index])

    def excess_roll(self, index):
        """By how many degrees the crop of frame `index` is turned for the generator, so that the head is upright."""
        return 0.0 if self.points is None else float(crop.excess_roll(self.landmarks(index)))


def prepare(
    face,
    audio,
    *,
    fps=None,
    detector=None,
    pads=(0, 0, 0, 0),
    boxes=None,
    static=False,
    max_s=None,
    box_cache=None,
    choice=None,
    start_s=0.0,
    end_s=None,
    resize_factor=1.0,
    reference="fitted",
    progress=False,
) -> Clip:
    """Read the sound, find the face, and settle how many frames there will be: round(duration_s * fps), at least 1.

    fps: frames a second of the result (default: a video's own rate, 25 for a picture); a video of another rate is
    resampled by time. static: use the first frame of a video as a still picture. detector: a `faces.FaceDetector`
    (default: the CNN). pads: (T, B, L, R) pixels. boxes: where the face is, instead of a search: (4,) for all frames or
    (N, 4), zeros where there is none; pads are added. max_s: use only so many seconds of the sound. box_cache: folder
    in which the boxes of videos are kept, so that the next call for as much of the same video searches nothing.
    choice: which face, a `choice.FaceChoice` (default: the largest). start_s, end_s: the stretch of the video that is
    used (the sound is used from its beginning). resize_factor: by which the picture's sides are divided; boxes and pads
    are in pixels of the smaller picture.
    reference: what a video's generator looks at, of `reference.WAYS`; "same" where boxes are given.
    Raises UserError, also where no frame has a face.
    """
    if reference not in WAYS:
        raise ValueError(f"reference {reference!r} is none of {', '.join(WAYS)}")
    face, audio, seconds = pathlib.Path(face), pathlib.Path(audio), {}

    def sound(work, *given):
        with timed(seconds, "sound"):
            return work(*given)

    with concurrent.futures.ThreadPoolExecutor(1) as beside, timed(seconds, "faces"):
        heard = beside.submit(sound, load_wav, audio, max_s)
        still, footage, rate = _source(face, fps, static, start_s, end_s, resize_factor)
        kept = None
        if boxes is None:
            detector, choice = detector or FaceDetector(), choice or FaceChoice()
            if box_cache and still is None:
                kept = _kept_in(pathlib.Path(box_cache), footage, detector, pads, choice)
        wav = heard.result()
        num_frames = max(1, round(Fraction(len(wav), hparams.sample_rate) * rate))
        heard = beside.submit(sound, melspectrogram, wav)
        del wav  # a long one is large
        track = load_track(kept, num_frames) if kept else None
        if track is None:
            track = _searched(still, footage, rate, num_frames, detector, pads, boxes, choice, progress)
            if kept:
                count = len(track.found)
                save_track(kept, track, whole=count < num_frames or count == footage.info.num_frames)
        mel = heard.result()
    found = track.found
    if not found.any():
        searched = f"any of the {len(found)} frames of" if len(found) > 1 else "the picture"
        if detector and choice.by_picture:
            raise UserError(f"no face like --ref_face's found in {searched} {face}; --list_faces shows who is there")
        how = f"detector {detector.kind}" if detector else "the given boxes"
        raise UserError(f"no face found in {searched} {face} ({how}); try --face_box T B L R or a larger face")
    height, width = still.shape[:2] if still is not None else (footage.info.height, footage.info.width)
    _check_boxes(track.boxes[found], height, width)
    colour = footage.info.colour if footage else None
    footage, references = (footage, None) if still is None else (None, None)
    if footage:
        with timed(seconds, "references"):
            references = read_references(reference, footage, track)
    return Clip(face, audio, max_s, still, footage, colour, rate, num_frames, mel, *track[:3], references, seconds)


def _kept_in(folder, footage, detector, pads, choice):
    """The file in which the boxes of this footage are kept."""
    settings = {"detector": detector.name, "pads": list(pads), "bridge": BRIDGE, **choice.settings}
    settings |= {"fps": footage.info.fps, "first": footage.first, "num_frames": footage.info.num_frames}
    return cache_path(folder, footage.path, **settings, resize_factor=footage.resize_factor)


def _searched(still, footage, rate, num_frames, detector, pads, boxes, choice, progress):
    """The tracking.Track of the picture, or of as much of the video as the sound needs. Only that is kept."""
    frames = [still] if still is not None else footage.frames(num_frames)
    with contextlib.closing(prefetch(frames, 8)) as read:
        total = 1 if still is not None else min(num_frames, footage.info.num_frames)
        bar = tqdm.tqdm(read, "faces", total, disable=not progress, unit="frame")
        if boxes is None:
            return tracker.follow_face(bar, rate, detector, pads, BRIDGE, choice)
        return tracker.Track(*_given_boxes(boxes, sum(1 for _ in bar), pads), None, None, None)


def _source(face, fps, static, start_s, end_s, resize_factor):
    """The still picture (or None), the Footage of a video (or None), and the frames a second of the result."""
    still = read_picture(face)
    if still is not None:
        return resized(still, resize_factor), None, video.as_rate(fps or STILL_FPS)
    footage = open_footage(face, start_s, end_s, resize_factor, fps)
    return footage.first_frame() if static else None, footage, footage.info.fps


def _given_boxes(boxes, num_frames, pads):
    """The caller's boxes as `tracking.find_boxes` would give them, for the frames that there are."""
    boxes = np.asarray(boxes, np.int32)
    boxes = np.broadcast_to(boxes, (num_frames, 4)) if boxes.ndim == 1 else boxes[:num_frames]
    if boxes.shape != (num_frames, 4):
        raise ValueError(f"boxes are {boxes.shape}, but {num_frames} frames of the face are needed")
    found = boxes.any(axis=1)
    return boxes + np.array([-pads[0], pads[1], -pads[2], pads[3]], np.int32) * found[:, None], found


def _check_boxes(boxes, height, width):
    """Raise UserError for a box that is empty or outside of the picture, as --pads and --face_box can make it."""
    top, bottom, left, right = boxes.T
    seen = (bottom - top > 1) & (right - left > 1) & (bottom > 0) & (top < height) & (right > 0) & (left < width)
    if not seen.all():
        box = " ".join(str(v) for v in boxes[~seen][0])
        raise UserError(
            f"the face's box {box} is empty or outside of the picture ({height} x {width}); change --pads or --face_box"
        )
