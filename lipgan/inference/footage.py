"""What is used of a picture or a video: a stretch of its time, at a size."""

import contextlib
import dataclasses
import itertools
import pathlib

import cv2
import numpy as np

from lipgan.media import video
from lipgan.utils.errors import UserError


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
