"""Animated WebP, which FFmpeg has no decoder for: its times are read from the file, its pictures by OpenCV."""

import math

import cv2
import numpy as np

from lipgan.utils.cli import UserError

CHUNK_BYTES = 200_000_000  # pictures that are decoded at once


def moves(path) -> bool:
    """Whether the file is a WebP of more than one picture."""
    with path.open("rb") as file:
        head = file.read(30)
    return len(head) == 30 and head[8:16] == b"WEBPVP8X" and bool(head[20] & 2) and len(durations(path)) > 1


def shape(path) -> tuple[int, int]:
    """(height, width) of its pictures."""
    with path.open("rb") as file:
        head = file.read(30)
    return tuple(1 + int.from_bytes(head[at : at + 3], "little") for at in (27, 24))


def durations(path) -> np.ndarray:
    """How long each picture is shown, in seconds (N,). At most 10 ms means 100 ms, as browsers take it."""
    found = []
    with path.open("rb") as file:
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            size = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"ANMF":
                found.append(int.from_bytes(file.read(16)[12:15], "little"))
                size -= 16
            file.seek(size + size % 2, 1)
    shown = np.array(found, np.float64) / 1000
    return np.where(shown <= 0.01, 0.1, shown)


def timed(path):
    """Yield (seconds since the first picture, seconds shown, BGRA uint8). UserError where one is damaged.

    They are decoded CHUNK_BYTES at a time, each time from the first on.
    """
    data, shown = np.fromfile(path, np.uint8), durations(path)
    data[20] |= 0x10  # "has alpha": else OpenCV shows black where no picture has painted yet
    starts, count = np.cumsum(shown) - shown, len(shown)
    size = max(1, CHUNK_BYTES // (4 * math.prod(shape(path))))
    for first in range(0, count, size):
        succeeded, animation = cv2.imdecodeanimation(data, start=first, count=min(size, count - first))
        if not succeeded or not animation.frames:
            raise UserError(f"{path}: an animated WebP that cannot be decoded; download it again, or convert it")
        yield from zip(starts[first:], shown[first:], animation.frames, strict=False)
