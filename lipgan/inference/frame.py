"""Frames that are converted to BGR only where the face is: the rest reaches the encoder as the decoder gave it.

Turning a whole frame of 1280x720 from YUV to BGR and back takes as long as encoding it, and costs quality everywhere.
"""

import threading

import av
import cv2
import numpy as np

from lipgan.media.video import FULL, SAME_SIZE, reformatter

_local = threading.local()  # of `reformatter`s, each for one thread


class Frame:
    """One frame, held as BGR or as yuv420p planes, the other form computed when it is needed; never changed.

    image: (H, W, 3) BGR uint8, or planes: (3 H / 2, W) uint8, the planes one after another; colour: `video.Colour`,
    settled. Sizes are even where planes are used.
    """

    def __init__(self, colour, image=None, planes=None):
        self.colour, self._image, self._planes = colour, image, planes
        self.shape = image.shape[:2] if planes is None else (planes.shape[0] * 2 // 3, planes.shape[1])

    @property
    def num_bytes(self):
        """The memory that the frame takes."""
        return sum(array.nbytes for array in (self._image, self._planes) if array is not None)

    @property
    def data(self):
        """The array that the frame was made from."""
        return self._planes if self._image is None else self._image

    def region(self, rows, columns):
        """Return these rows and columns (slices) as BGR uint8; of planes, they start and stop at even numbers."""
        if self._image is not None:
            return self._image[rows, columns]
        return to_bgr(_join(*(plane[r, c] for plane, r, c in _slices(self._planes, rows, columns))), self.colour)

    def patched(self, rows, columns, pixels, before=None):
        """Return the frame with a region replaced by BGR uint8 pixels. before: that region, where it is at hand."""
        before = self.region(rows, columns) if before is None else before
        return PatchedFrame(self, rows, columns, pixels, before)

    def bgr(self):
        """Return the frame as BGR uint8 (H, W, 3)."""
        return to_bgr(self._planes, self.colour) if self._image is None else self._image

    def planes(self):
        """Return the frame as yuv420p planes (3 H / 2, W) uint8; the size must be even."""
        if self._planes is None:
            self._planes = to_planes(self._image, self.colour)
        return self._planes


class PatchedFrame:
    """A Frame in which a region was replaced. From `Frame.patched`."""

    def __init__(self, base, rows, columns, pixels, before):
        self.base, self.shape, self._rows, self._columns = base, base.shape, rows, columns
        self._pixels, self._before = pixels, before

    def bgr(self):
        """Return the frame as BGR uint8 (H, W, 3): the base's where no pixel was changed."""
        image, changed = self.base.bgr().copy(), (self._before != self._pixels).any(axis=2)
        image[self._rows, self._columns][changed] = self._pixels[changed]
        return image

    def planes(self):
        """Return the frame as yuv420p planes (3 H / 2, W) uint8: those of the base where no pixel of it was changed.

        What is added is the difference of the two regions, converted alike: so nothing changes beside the patch, and
        its chroma fades out as its luma does.
        """
        planes = self.base.planes().copy()
        rows, columns = _even_bounds(cv2.absdiff(self._before, self._pixels))
        if rows is None:
            return planes
        old, new = (to_planes(pixels[rows, columns], self.base.colour) for pixels in (self._before, self._pixels))
        inside = _shift(rows, self._rows.start), _shift(columns, self._columns.start)
        changes = _slices(cv2.subtract(new, old, dtype=cv2.CV_16S), slice(None), slice(None))
        for (plane, r, c), (change, _, _) in zip(_slices(planes, *inside), changes, strict=True):
            plane[r, c] = cv2.add(np.ascontiguousarray(plane[r, c]), change, dtype=cv2.CV_8U)  # saturates
        return planes


def _shift(bounds, start):
    return slice(bounds.start + start, bounds.stop + start)


def _even_bounds(difference):
    """Return the rows and columns, slices from even to even indices, that hold all of (H, W, 3) uint8 that is not 0.

    (None, None) where all is 0.
    """
    left, top, width, height = cv2.boundingRect(difference.reshape(len(difference), -1))  # an image of width 3 W
    if not width:
        return None, None
    ends = (top, top + height), (left // 3, -(-(left + width) // 3))
    return tuple(slice(first // 2 * 2, -(-end // 2) * 2) for first, end in ends)


def _slices(planes, rows, columns):
    """Return (plane, rows, columns) for Y, U and V: views of yuv420p planes (3 H / 2, W), with what the slices are."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    half = [slice(None if s.start is None else s.start // 2, None if s.stop is None else s.stop // 2)
            for s in (rows, columns)]  # fmt: skip
    return (planes[:height], rows, columns), (chroma[0], *half), (chroma[1], *half)


def _join(y, u, v):
    return np.concatenate([y.ravel(), u.ravel(), v.ravel()]).reshape(y.shape[0] * 3 // 2, y.shape[1])


def to_bgr(planes, colour):
    """Convert yuv420p planes (3 H / 2, W) uint8 to BGR uint8 (H, W, 3)."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), "yuv420p")
    return _reformat(frame, "bgr24", colour, colour.range, FULL)


def to_planes(image, colour):
    """Convert BGR uint8 (H, W, 3), of even size, to yuv420p planes (3 H / 2, W) uint8."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24")
    return _reformat(frame, "yuv420p", colour, FULL, colour.range)


def _reformat(frame, pixel_format, colour, from_range, to_range):
    if not hasattr(_local, "reformat"):
        _local.reformat = reformatter()
    matrix = colour.swscale_matrix
    colours = {"src_colorspace": matrix, "dst_colorspace": matrix, "src_color_range": from_range}
    colours |= {"dst_color_range": to_range, "interpolation": SAME_SIZE}
    return _local.reformat(frame, frame.width, frame.height, pixel_format, **colours).to_ndarray()
