"""Preprocess one video: check it, follow the face, and write its crops, landmarks, mel spectrogram and audio.

`run_job` is what a worker process calls. No deep-learning framework is loaded.
"""

import dataclasses
import enum
import errno
import functools
import pathlib
import threading
import time
import traceback

import av
import numpy as np

from audio_hparams import hparams
from lipgan.data.clip_folder import is_clip, write_clip
from lipgan.faces import crop
from lipgan.faces.detector import FaceDetector
from lipgan.faces.tracker import follow_face
from lipgan.media import audio, video
from lipgan.media.container import DecodeCounts, open_media
from lipgan.utils.cli import UserError

MIN_INTACT = 0.9  # share of a clip's seconds that must be there, and of its frames that must decode without errors
FATAL = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT}  # the next clip would fail as well


class Status(enum.StrEnum):
    """How the preprocessing of a video ended."""

    DONE = "done"  # its folder is written
    SKIPPED = "skipped"  # the video cannot be used
    FAILED = "failed"  # an unexpected error, or a worker process that was killed by it


@dataclasses.dataclass(frozen=True)
class ClipResult:
    """The result of preprocessing one video."""

    status: Status
    reason: str = ""  # why there is no folder; clips are counted by this text
    num_frames: int = 0  # at hparams.fps
    num_crops: int = 0
    num_damaged: int = 0  # frames of the source with decoding errors
    seconds: float = 0.0  # of a worker


@dataclasses.dataclass(frozen=True)
class ClipSettings:
    """How crops are made. The same for all clips of a preprocessed folder."""

    img_size: int = 96  # pixels
    detector: str = "cnn"
    checkpoint: pathlib.Path | None = None  # detector file; None: the installed one
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # pixels by which the face box grows: top, bottom, left, right


class UnusableClip(Exception):
    """A clip that cannot be used; the message is the reason by which it is counted."""


def run_job(source: str, folder: str, settings: ClipSettings) -> ClipResult:
    """Preprocess a video in a worker process and return a ClipResult, also where the video cannot be used.

    Raises OSError for what would make every other clip fail too: a full disk, missing permissions.
    """
    start = time.perf_counter()
    detector = _detector(threading.get_ident(), settings.detector, settings.checkpoint)
    if is_clip(folder):  # written by a worker that was killed before it could report
        return ClipResult(Status.DONE)
    try:
        result = preprocess_clip(source, folder, detector, settings)
    except UnusableClip as e:
        result = ClipResult(Status.SKIPPED, str(e))
    except OSError as e:
        if is_clip(folder):  # a worker of a previous, killed run was faster
            return ClipResult(Status.DONE)
        if e.errno in FATAL:
            raise
        result = ClipResult(Status.FAILED, f"unexpected error ({e.strerror or e})")
    except Exception as e:  # one odd clip of a hundred thousand must not stop the others: it is counted and named
        line = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{pathlib.Path(line.filename).name}:{line.lineno}"
        result = ClipResult(Status.FAILED, f"unexpected error ({type(e).__name__} in {where})")
    return dataclasses.replace(result, seconds=time.perf_counter() - start)


@functools.cache
def _detector(thread, kind, checkpoint):
    """Load a detector once per worker thread: it must not be shared, and workers of a cluster outlive a run."""
    return FaceDetector(kind, checkpoint)


def preprocess_clip(source, folder, detector: FaceDetector, settings: ClipSettings | None = None) -> ClipResult:
    """Write one video's crops, landmarks, mel spectrogram and audio to `folder`.

    The video is streamed twice, once to follow the face and once to cut the crops, so it never lies in memory.
    Raises UnusableClip with the reason, OSError when `folder` cannot be written.
    """
    source, settings = pathlib.Path(source), settings or ClipSettings()
    wav = _read_audio(source)
    counts = DecodeCounts()
    frames = video.read_frames(source, hparams.fps, counts)
    track = follow_face(frames, hparams.fps, detector, settings.pads, smooth_lips=False)
    if counts.num_damaged > (1 - MIN_INTACT) * counts.num_frames:
        raise UnusableClip("damaged video")
    num_crops = int(track.found.sum())
    if not num_crops:
        raise UnusableClip("no face")
    if num_crops < hparams.min_crops:
        raise UnusableClip(f"fewer than {hparams.min_crops} faces")
    frames = zip(video.read_frames(source, hparams.fps), track.boxes, track.found, strict=True)
    crops = (crop.crop(frame, box, settings.img_size) for frame, box, has_face in frames if has_face)
    boxes = track.boxes[track.found]
    landmarks = crop.to_crop_coords(track.points[track.found], boxes)
    frame_ids, mel = np.flatnonzero(track.found), audio.melspectrogram(wav)
    write_clip(folder, crops, frame_ids, boxes, mel, wav, landmarks=landmarks)
    return ClipResult(Status.DONE, "", len(track.found), num_crops, counts.num_damaged)


def _read_audio(source):
    """Read the audio of a video that is long and complete enough, (n,) float32 at 16 kHz. Raises UnusableClip."""
    if source.stat().st_size == 0:
        raise UnusableClip("empty file")
    try:
        info = video.probe(source)
    except UserError as e:
        raise UnusableClip("no readable video") from e
    if not info.has_audio:
        raise UnusableClip("no audio")
    try:
        wav = audio.load_wav(source)
    except UserError as e:
        raise UnusableClip("no readable audio") from e
    if max(info.duration_s, len(wav) / hparams.sample_rate) < MIN_INTACT * _claimed_duration(source):
        raise UnusableClip("truncated file")
    if round(info.duration_s * hparams.fps) < hparams.min_crops:
        raise UnusableClip(f"fewer than {hparams.min_crops} frames")
    if len(wav) < hparams.sample_rate * hparams.mel_window / hparams.mels_per_second:
        raise UnusableClip("audio too short")
    return wav


def _claimed_duration(source):
    """Return the duration in a file's header, s; 0 for formats without one, such as mpg."""
    with open_media(source) as container:
        says_length = {"mp4", "matroska", "avi"} & set(container.format.name.split(","))
        return (container.duration or 0) / av.time_base if says_length else 0.0
