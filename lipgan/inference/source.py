"""The source: the image or the stretch of a video whose face will speak, opened and probed once."""

import contextlib
import dataclasses
import itertools
import pathlib
from fractions import Fraction

import cv2
import numpy as np

from lipgan.inference.frame import Frame
from lipgan.media import video
from lipgan.media.image import read_image
from lipgan.utils.cli import UserError, note

STILL_FPS = 25  # frames per second of a result made from a still image
LARGEST = (3840, 2160)  # sides, the longer one first, into which larger frames are fitted by default


@dataclasses.dataclass(frozen=True)
class Source:
    """What is used of an image or a video: a stretch of time, at a rate, at a size. From `open_source`."""

    path: pathlib.Path
    fps: Fraction  # of the result
    height: int
    width: int
    num_frames: int  # 1 of a still image
    image: np.ndarray | None  # (H, W, 3) BGR uint8, shown throughout; None for a video
    info: video.VideoInfo | None  # of the file, where that is a video
    first: int = 0  # the video's first frame that is used, counted at `fps`
    resize_factor: float = 1.0

    @property
    def is_still(self):
        """Whether one image is shown throughout."""
        return self.image is not None

    @property
    def colour(self):
        """The video.Colour of a video's file; None for an image."""
        return self.info.colour if self.info else None

    def frames(self, count=None):
        """Yield the first `count` frames (None: all), BGR uint8 (H, W, 3). UserError where none can be decoded."""
        count = self.num_frames if count is None else min(count, self.num_frames)
        if self.is_still:
            yield from itertools.repeat(self.image, count)
            return
        frame = None
        with contextlib.closing(video.read_frames(self.info, self.fps)) as frames:
            for frame in itertools.islice(frames, self.first, self.first + count):
                yield resize(frame, self.resize_factor)
        if frame is None:  # a damaged end
            start_s = float(self.first / self.fps)
            raise UserError(f"no frame of {self.path} can be decoded from --start {start_s:g} on; give an earlier one")

    def plane_frames(self, count):
        """Yield the first `count` frames as `frame.Frame`s, which are converted to BGR only where that is asked for."""
        colour = (self.colour or video.Colour()).settled(self.height)
        if self.is_still:
            yield from itertools.repeat(Frame(colour, image=self.image), count)
            return
        if self.resize_factor != 1:
            yield from (Frame(colour, image=image) for image in self.frames(count))
            return
        with contextlib.closing(video.read_frames(self.info, self.fps, planes=True)) as frames:
            for data in itertools.islice(frames, self.first, self.first + count):
                yield Frame(colour, planes=data) if data.ndim == 2 else Frame(colour, image=data)

    def first_frame(self):
        """Return the first frame, BGR uint8 (H, W, 3). UserError where it cannot be decoded."""
        with contextlib.closing(self.frames(1)) as frames:
            return next(frames)


def open_source(path, options) -> Source:
    """Open the image or video of a face, with one probe. options: a `LipsyncOptions`.

    Raises UserError, also where no frame lies between --start and --end.
    """
    path = pathlib.Path(path)
    image = read_image(path)
    if image is None:
        return _open_video(path, options)
    if options.start or options.end:
        note(f"--start and --end are for videos; {path} is an image")
    factor = _resize_factor(path, image.shape, options)
    return _still(path, resize(image, factor), video.as_rate(options.fps or STILL_FPS), None)


def _still(path, image, fps, info):
    return Source(path, fps, *image.shape[:2], num_frames=1, image=image, info=info)


def _open_video(path, options):
    info = video.probe(path)
    for line in info.notes:
        note(line)
    fps = video.as_rate(options.fps) if options.fps and (options.static or not options.keep_fps) else info.fps
    if fps != info.fps and not options.static:
        own, other = f"{float(info.fps):.5g}", f"{float(fps):.5g}"
        note(f"{path} has {own} frames per second, the result {other} (--keep_fps: its own)")
    num_frames = info.num_frames if fps == info.fps else max(1, round(info.duration_s * fps))
    first = round(options.start * fps)
    last = num_frames if options.end is None else min(round(options.end * fps), num_frames)
    if first >= last:
        end = f" --end {options.end:g}" if options.end is not None else ""
        raise UserError(
            f"--start {options.start:g}{end}: no frame of {path}, which lasts {info.duration_s:.2f} s, lies there; "
            "give seconds inside of it"
        )
    factor = _resize_factor(path, (info.height, info.width), options)
    height, width = resized_shape((info.height, info.width), factor)
    source = Source(path, fps, height, width, last - first, None, info, first, factor)
    return _still(path, source.first_frame(), fps, info) if options.static else source


def _resize_factor(path, shape, options):
    """Return the factor by which the sides of a frame (height, width, ...) are divided: as asked for, or to LARGEST."""
    if options.resize_factor is not None:
        return options.resize_factor
    factor = max(1.0, max(shape[:2]) / LARGEST[0], min(shape[:2]) / LARGEST[1])
    if factor > 1:
        height, width = resized_shape(shape, factor)
        note(f"{path} has {shape[1]} x {shape[0]} pixels; {width} x {height} are used (--resize_factor 1 keeps all)")
    return factor


def resized_shape(shape, factor):
    """Return (height, width) with both sides divided by the factor, at least 1."""
    return tuple(max(1, round(side / factor)) for side in shape[:2])


def resize(frame, factor):
    """Return the frame with both sides divided by the factor; itself where that is 1."""
    if factor == 1:
        return frame
    height, width = resized_shape(frame.shape, factor)
    interpolation = cv2.INTER_AREA if factor > 1 else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(frame, (width, height), interpolation=interpolation))
