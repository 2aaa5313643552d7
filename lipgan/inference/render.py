"""Rendering at the video's own resolution: the frame's pixels moved by the lips' flow, paint only inside the mouth.

The network works on a grid of 96 pixels. Its smooth parts (the correction of the flow, the paint) are interpolated to
the crop's size in the frame; the sharp ones (the flow at the lips' edges, the border of the inner mouth) are formulas
(`models.lip_flow`) and are evaluated there.
"""

import dataclasses

import cv2
import numpy as np

from lipgan.inference.blend import paste_mask
from lipgan.models import lip_flow


@dataclasses.dataclass(frozen=True)
class MouthMaps:
    """What the network says about one mouth. Coordinates are parts of the crop's side, y before x in flows."""

    reference_lips: np.ndarray  # (40,) float32
    lips: np.ndarray  # (40,) float32
    correction: np.ndarray  # (S/2, S, 2) float32, of the lower half, added to the lips' flow
    overlay: np.ndarray  # (S/2, S, 4) float32, of the lower half: BGR in [0, 1], opacity

    def calmed(self, rest: np.ndarray, share: float) -> "MouthMaps":
        """Return the maps with a share in [0, 1] of motion and paint taken away. rest: lips (40,) without motion."""
        if not share:
            return self
        lips, left = self.lips - share * (self.lips - rest), np.float32(1 - share)
        overlay = self.overlay * np.array([1, 1, 1, left], np.float32)
        return dataclasses.replace(self, lips=lips, correction=left * self.correction, overlay=overlay)


def render_mouth(crop, maps: MouthMaps, rows: slice, columns: slice, roll: float = 0.0):
    """Return rows and columns of a crop in which the lips have moved: (R, C, 3) float32 in [0, 255].

    crop: (H, W, 3) uint8 BGR, of any size, showing maps.reference_lips. roll: degrees by which the network saw the crop
    rotated anticlockwise about its middle. rows: of the lower half.
    """
    height, width = crop.shape[:2]
    if roll:
        flow, overlay, inside = _rotated_maps(maps, height, width, rows, columns, roll)
    else:
        y = lip_flow.pixel_centres(height, rows.start, rows.stop)
        x = lip_flow.pixel_centres(width, columns.start, columns.stop)
        smooth = _stretch(np.concatenate([maps.correction, maps.overlay], axis=-1), y, x)
        flow = lip_flow.lip_flow(maps.reference_lips, maps.lips, y, x) + smooth[..., :2]
        overlay, inside = smooth[..., 2:], lip_flow.overlay_mask(maps.lips, y, x)
    grid_y, grid_x = (np.arange(s.start, s.stop, dtype=np.float32) for s in (rows, columns))
    map_x, map_y = grid_x[None] + width * flow[..., 1], grid_y[:, None] + height * flow[..., 0]
    source = map_x.astype(np.float32), map_y.astype(np.float32)
    moved = cv2.remap(crop, *source, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    # Where the reference shows the inside of its own mouth, that is better than paint.
    reference_mouth, first_row = _reference_mouth(maps, height, width, roll)
    shown = cv2.remap(reference_mouth, source[0], source[1] - first_row, cv2.INTER_LINEAR)
    opacity = (overlay[..., 3] * inside * (1 - lip_flow.OVERLAY_KEEP * shown))[..., None]
    return moved + opacity * (255 * overlay[..., :3] - moved)


def paste_mouth(frame, crop, maps: MouthMaps, box, landmarks=None, roll: float = 0.0):
    """Return a copy of the frame in which the crop's mouth has moved, feathered along the jaw.

    frame: (H, W, 3) uint8 BGR. crop: (h, w, 3), what the box (top, bottom, left, right) shows, or another picture of
    the same face fitted there. landmarks: (68, 2) of the frame's face in the frame's pixels, or None. Pixels where
    `blend.paste_mask` is 0 stay as they are.
    """
    top, bottom, left, right = (int(v) for v in box)
    height, width = bottom - top, right - left
    result = frame.copy()
    rows = slice(max(height // 2, -top), min(bottom, frame.shape[0]) - top)
    columns = slice(max(0, -left), min(right, frame.shape[1]) - left)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return result
    size = maps.overlay.shape[1]
    mask = cv2.resize(paste_mask(size, box, landmarks), (width, height), interpolation=cv2.INTER_LINEAR)
    mask = mask[rows, columns]
    used_rows, used_columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(used_rows):
        return result
    mask = mask[used_rows[0] : used_rows[-1] + 1, used_columns[0] : used_columns[-1] + 1, None]
    rows = slice(rows.start + used_rows[0], rows.start + used_rows[-1] + 1)
    columns = slice(columns.start + used_columns[0], columns.start + used_columns[-1] + 1)
    mouth = render_mouth(crop, maps, rows, columns, roll)
    region = result[top + rows.start : top + rows.stop, left + columns.start : left + columns.stop]
    region[...] = np.clip(region + mask * (mouth - region) + 0.5, 0, 255).astype(np.uint8)
    return result


def _reference_mouth(maps, height, width, roll):
    """The inside of the reference's mouth in its crop's lower half, (R, W) float32 in [0, 1], and the first row."""
    lips = maps.reference_lips.reshape(-1, 2)
    if roll:
        to = cv2.getRotationMatrix2D((0.5, 0.5), -float(roll), 1)
        lips = lips @ to[:, :2].T + to[:, 2]
    first_row = height // 2
    mask = lip_flow.inner_mouth(lips, lip_flow.pixel_centres(height, first_row), lip_flow.pixel_centres(width))
    return mask.astype(np.float32), np.float32(first_row)


def _stretch(maps, y, x):
    """Interpolate the network's maps of the lower half, (S/2, S, C), at rows y and columns x in parts of the side."""
    half, size = maps.shape[:2]
    to = np.array([[(x[-1] - x[0]) * size / max(len(x) - 1, 1), 0, x[0] * size - 0.5],
                   [0, (y[-1] - y[0]) * size / max(len(y) - 1, 1), y[0] * size - 0.5 - half]])  # fmt: skip
    return _warp_channels(maps, to, (len(x), len(y)))


def _warp_channels(maps, to, size):
    """Sample maps (H, W, C) where an affine map sends pixels: (rows, columns, C). size: (columns, rows)."""
    how = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    parts = [
        cv2.warpAffine(np.ascontiguousarray(maps[..., i : i + 3], np.float32), to, size, **how)
        for i in range(0, maps.shape[-1], 3)  # OpenCV warps at most four channels at once
    ]
    return np.dstack(parts)


def _rotated_maps(maps, height, width, rows, columns, roll):
    """Flow, overlay and inner mouth at rows and columns of a crop that the network saw rotated."""
    y, x = lip_flow.pixel_centres(height), lip_flow.pixel_centres(width)
    smooth = _stretch(np.concatenate([maps.correction, maps.overlay], axis=-1), y, x)
    smooth[: height // 2] = 0
    flow = smooth[..., :2] + lip_flow.lip_flow(maps.reference_lips, maps.lips, y, x)
    inside = lip_flow.overlay_mask(maps.lips, y, x)
    turn = cv2.getRotationMatrix2D((0.5, 0.5), float(roll), 1)[:, :2]  # of parts of the side: crop -> what was seen
    flow = flow[..., ::-1] @ turn  # (x, y) offsets turned back: the transpose is the inverse
    flow = np.concatenate([flow[..., 1:], flow[..., :1], smooth[..., 2:], inside[..., None]], axis=-1)
    # Pixel -> parts of the side -> rotated -> pixel of the rotated grid
    scale = np.diag([width, height, 1.0])
    rotation = np.vstack([cv2.getRotationMatrix2D((0.5, 0.5), float(roll), 1), [0, 0, 1]])
    shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    start = np.array([[1, 0, columns.start], [0, 1, rows.start], [0, 0, 1]])
    to = (np.linalg.inv(shift) @ scale @ rotation @ np.linalg.inv(scale) @ shift @ start)[:2]
    target = (columns.stop - columns.start, rows.stop - rows.start)
    flow = _warp_channels(flow, to, target)
    return flow[..., :2], flow[..., 2:6], flow[..., 6]
