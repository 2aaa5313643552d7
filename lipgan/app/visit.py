"""What the page does for a visitor, without the page itself: checks uploads, finds faces, makes one video at a time."""

import concurrent.futures
import dataclasses
import pathlib
import shutil
import tempfile
import threading
import time
import traceback

from audio_hparams import hparams
from lipgan.faces import selection
from lipgan.faces.detector import FaceDetector
from lipgan.inference.options import Job, replace_from_row
from lipgan.inference.pipeline import Result, lipsync
from lipgan.inference.preparation import load_audio
from lipgan.inference.runner import GeneratorRunner
from lipgan.inference.source import open_source
from lipgan.utils.cli import UserError, one_line

UPDATE_S = 0.4  # seconds between two reports of progress
NAME_CHARS = 25  # of each input's name, in the name of the result

# What messages of the command line say in other words here, where its options are fields of a page, or do not exist.
WORDS = {
    "try --face_box T B L R or a larger face": "try a larger face, upright and seen from the front",
    "--list_faces shows them": "click on one of the numbered faces, or leave it empty",
    "change --pads or --face_box": "change the pads",
    "does not exist; check the name": "is no longer here; upload it again",
    " (--audio_track chooses another)": "",
    " (--resize_factor 1 keeps all)": "",
    "--audio ": "",
    "--face ": "",
    "--pads": "Pads",
    "--face_index": "Which face",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a visitor may upload, and how long the server keeps it."""

    max_mb: float = 200.0  # of one file
    max_seconds: float = 120.0  # of the audio, and so of the result
    max_waiting: int = 20  # visitors in the queue
    keep_minutes: float = 60.0


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a video is."""

    phase: str
    done: int = 0
    total: int = 0
    left_s: float | None = None  # None: not known yet
    ahead: int = 0  # videos that are made before this one


class Cancelled(Exception):
    """Raised in the work on a video that nobody waits for any more."""


class Studio:
    """Makes the videos of all visitors, one after another, in one thread with one generator.

    runner: of `load_runner`. folder: where videos are written, each in a folder of its own.
    """

    def __init__(self, runner: GeneratorRunner, folder: pathlib.Path, limits: Limits):
        self.limits, self._runner, self._folder = limits, runner, folder
        self._pool, self._waiting = concurrent.futures.ThreadPoolExecutor(1, "studio"), []
        self._detectors = threading.local()  # a detector is for one thread

    def find_faces(self, face):
        """Find the faces of an image, or of a video's first frame. Returns an image (H, W, 3) BGR uint8, and squares.

        The image has the faces numbered; squares: a list of (top, bottom, left, right) in its pixels, from left to
        right. Raises UserError.
        """
        job = Job(face=pathlib.Path(face))
        if not hasattr(self._detectors, "own"):
            info = self._runner.info
            self._detectors.own = FaceDetector(job.options.with_defaults(info).detector)
        with _without_folders(job.face):
            frame = open_source(job.face, job.options).first_frame()
            squares = selection.list_faces(self._detectors.own, frame)
        return selection.draw_faces(frame, squares), [tuple(float(v) for v in square) for square in squares]

    def make(self, face, audio, options):
        """Make a video. Yields Progress about twice a second, at last the Result.

        face, audio: paths. options: {name of an option: text}, as a row of --jobs. The file of the result exists until
        this generator is closed; closing it earlier ends the work. Raises UserError.
        """
        if not face or not audio:
            missing = (
                "a face and a recording of speech" if not face and not audio else "a face" if audio else "the speech"
            )
            raise UserError(f"choose {missing} first")
        if len(self._waiting) > self.limits.max_waiting:
            raise UserError(
                f"{len(self._waiting)} videos are being made or waiting already; try again in a few minutes"
            )
        face, audio = pathlib.Path(face), pathlib.Path(audio)
        folder = pathlib.Path(tempfile.mkdtemp(dir=self._folder))
        out = folder / f"{face.stem[:NAME_CHARS]}_{audio.stem[:NAME_CHARS]}.mp4"
        row = {"face": str(face), "audio": str(audio), "outfile": str(out), "box_cache": "False", **options}
        work = _Work()
        self._waiting.append(work)
        future = self._pool.submit(work.run, row, self._runner, self.limits)
        future.add_done_callback(lambda _: self._waiting.remove(work))
        try:
            with _without_folders(face, audio, out):
                while True:
                    try:
                        yield future.result(timeout=UPDATE_S)
                        return
                    except concurrent.futures.TimeoutError:
                        ahead = self._waiting.index(work) if work in self._waiting else 0
                        yield dataclasses.replace(work.progress, ahead=ahead)
        finally:
            work.cancelled.set()
            future.cancel()
            future.add_done_callback(lambda _: shutil.rmtree(folder, ignore_errors=True))


def in_page_words(text):
    """Return a line of the command line in the words of the page."""
    for command_line, page in WORDS.items():
        text = text.replace(command_line, page)
    return text


class _Work:
    """One video that is made in the studio's thread, while another one watches."""

    def __init__(self):
        self.cancelled, self.progress, self._start_s = threading.Event(), Progress("waiting"), 0.0

    def run(self, row, runner, limits) -> Result:
        """Make the video of a row."""
        self.progress = Progress("reading")
        job = replace_from_row(Job(), row)
        job.check()
        _check_length(job, limits)
        return lipsync(job.face, job.audio, job.out, runner, job.options, self._advance)

    def _advance(self, done, total, phase):
        if self.cancelled.is_set():
            raise Cancelled
        now = time.monotonic()
        if self.progress.phase != phase:
            self._start_s = now
        left_s = (now - self._start_s) / (done - 1) * (total - done) if done > 1 else None
        self.progress = Progress(phase, done, total, left_s)


def _check_length(job, limits):
    """Raise UserError where the audio is longer than the page takes."""
    wav = load_audio(job.audio, dataclasses.replace(job.options, max_sec=limits.max_seconds + 1)).wav
    if len(wav) > limits.max_seconds * hparams.sample_rate:
        raise UserError(
            f"{job.audio} is longer than the {limits.max_seconds:g} s that this page takes; cut it, or use "
            "batch_inference.py"
        )


class _without_folders:
    """Shorten paths to the names that the visitor knows in errors of the block, all of which become UserErrors.

    They are in the words of the page.
    """

    def __init__(self, *paths):
        self._folders = sorted({f"{path.parent}/" for path in paths}, key=len, reverse=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, UserError):
            text = one_line(error)
            for folder in self._folders:
                text = text.replace(folder, "")
            raise UserError(in_page_words(text)) from None
        if isinstance(error, Exception):
            traceback.print_exception(error)  # for who runs the page
            raise UserError(f"unexpected error ({kind.__name__}); try another file, or tell who runs this page")
