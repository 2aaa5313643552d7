"""Rendering at the video's own resolution: the frame's pixels moved by the lips' flow.

The network works on a grid of 96 pixels. What is smooth (the flow of each lip, the network's correction of it, the
distances to the edges of the inner mouth) is known on a grid of points and interpolated at the frame's pixels; what is
sharp (the line where the lips meet, the border of the inner mouth) is formed of the distances there. What is between
the lips is a layer of its own, behind them (`mouth_interior`), with `drawn_teeth` where the image shows none. The
network's paint is not used: too coarse for lips, and no better there than a plain dark; without it the network takes
two thirds of the time.
`benchmarks/bench_render.py` times it.
"""

import dataclasses
import functools

import cv2
import numpy as np

from lipgan.faces.crop import rotate_points
from lipgan.faces.landmarks import opening
from lipgan.inference.blend import RISE, mask_rise, paste_mask
from lipgan.inference.drawn_teeth import TeethLook, draw_teeth, hidden_teeth
from lipgan.inference.mouth_detail import adjust_detail
from lipgan.inference.mouth_interior import Inside, dark_inside, edges, moved_share, off_teeth, teeth
from lipgan.models import lip_flow

GRID_POINTS = 160  # along a side of the crop: interpolated from these, the flow is off by 0.2 % of its largest offset
BESIDE_MOUTH = 0.08  # of the side: further from the corners of the mouth its inside plays no part
MOUTH_REACH = 0.07  # of the side: nor further outside of the inner lips
CALM = 0.01  # of the side: a mouth that opens by this is still at rest, by twice as much no longer
CORRECTED = 0.04  # of the side: below the middle, in which the network's correction begins
SEAM_REACH = 8  # softnesses of the line where the lips meet: past it the other lip's flow counts less than 0.04 %


@dataclasses.dataclass(frozen=True)
class MouthMaps:
    """What the network says about one mouth. Coordinates are parts of the crop's side, y before x in flows."""

    reference_lips: np.ndarray  # (40,) float32
    lips: np.ndarray  # (40,) float32
    correction: np.ndarray  # (S/2, S, 2) float32, of the lower half, added to the lips' flow
    inside: Inside | None = None  # another crop of the same size, whose teeth show; None: the reference's own
    detail: float = np.nan  # `mouth_detail` that the mouth shall have; nan: what comes out
    teeth_look: TeethLook | None = None  # of teeth that are drawn where `inside` hides them; None: none are

    def in_pause(self, rest: np.ndarray, speaking: np.ndarray, share: float) -> "MouthMaps":
        """Return the maps with a share in [0, 1] of the motion taken away, unless the mouth opens, as for breath.

        rest: lips (40,) without motion, to which the network has added its own. speaking: those that they are for a
        mouth that opens.
        """
        motion = self.lips - rest
        calm = float(np.clip(2 - opening(motion.reshape(-1, 2)) / CALM, 0, 1))
        left = np.float32(1 - calm * share)
        lips = speaking + np.float32(calm) * (rest - speaking) + left * motion
        return dataclasses.replace(self, lips=lips, correction=left * self.correction)


@dataclasses.dataclass(frozen=True)
class _Grid:
    """Points that cover a region of a crop: rows and columns of the crop as the network saw it, perhaps rotated."""

    rows: np.ndarray  # (N,) float32, in parts of the side
    columns: np.ndarray  # (M,) float32, as well
    of_pixel: np.ndarray  # (2, 3): pixel (x, y) of the region -> column and row in the grid
    turn: np.ndarray  # (2, 2): offset (x, y) in the crop -> in the rotated crop

    def at_pixels(self, values, rows, columns):
        """Interpolate values (N, M, C) at rows and columns (slices) of the region."""
        to = self.of_pixel.copy()
        to[:, 2] += to[:, 0] * columns.start + to[:, 1] * rows.start
        return _sample(values, to, (columns.stop - columns.start, rows.stop - rows.start))

    def region_where(self, condition, shape):
        """Return the rows and columns (slices) of the region, of this shape, around the points where (N, M) is true."""
        left, top, width, height = cv2.boundingRect(condition.astype(np.uint8))
        if not width:
            return None
        corners = np.array([[[x, y] for x in (left - 1, left + width) for y in (top - 1, top + height)]], np.float64)
        x, y = cv2.transform(corners, cv2.invertAffineTransform(self.of_pixel))[0].T
        rows, columns = (
            slice(max(0, int(np.floor(values.min()))), min(size, int(np.ceil(values.max())) + 1))
            for values, size in ((y, shape[0]), (x, shape[1]))
        )
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def paste_mouth(frame, crop, maps: MouthMaps, box, landmarks=None, roll: float = 0.0):
    """Return a copy of the frame in which the crop's mouth has moved, feathered along the jaw.

    frame: (H, W, 3) uint8 BGR. crop: (h, w, 3), what the box (top, bottom, left, right) shows, or another image of
    the same face fitted there. landmarks: (68, 2) of the frame's face in the frame's pixels, or None. Pixels where
    `blend.paste_mask` is 0 stay as they are.
    """
    box, points = tuple(int(v) for v in box), None if landmarks is None else np.float32(landmarks).tobytes()
    from_other_frame = bool(np.isfinite(maps.detail))
    masked = _visible_mask(maps.correction.shape[1], frame.shape[:2], box, points, from_other_frame)
    result = frame.copy()
    if masked is None:
        return result
    mask, rest, rows, columns = masked
    mouth = render_mouth(crop, maps, rows, columns, roll)
    region = result[box[0] + rows.start : box[0] + rows.stop, box[2] + columns.start : box[2] + columns.stop]
    region[...] = cv2.blendLinear(mouth, np.ascontiguousarray(region), mask, rest)
    if from_other_frame:
        place = tuple(slice(b + s.start, b + s.stop) for b, s in ((box[0], rows), (box[2], columns)))
        adjust_detail(result, _in_frame(maps.lips, box, roll), maps.detail, mask, place)
    return result


def _in_frame(lips, box, roll):
    """Return lips (40,), as the network saw the crop, in the pixels of the frame that the box lies in: (20, 2)."""
    lips = lips.reshape(-1, 2)
    if roll:
        lips = rotate_points(lips, -roll)
    top, bottom, left, right = box
    return lips * (right - left, bottom - top) + (left - 0.5, top - 0.5)


def render_mouth(crop, maps: MouthMaps, rows: slice, columns: slice, roll: float = 0.0):
    """Return rows and columns of a crop in which the lips have moved: (R, C, 3) uint8.

    crop: (H, W, 3) uint8 BGR, of any size, showing maps.reference_lips. roll: degrees by which the network saw the crop
    rotated anticlockwise about its middle.
    """
    share = moved_share(maps.reference_lips, maps.lips)
    touching = (lip_flow.touching(lips).ravel() for lips in (maps.reference_lips, maps.lips))
    inside, look = maps.inside or Inside(crop, maps.reference_lips), maps.teeth_look
    maps = MouthMaps(*touching, maps.correction)
    grid = _grid(crop.shape, rows, columns, roll)
    below_upper, above_lower = lip_flow.edge_distances(maps.lips, grid.rows, grid.columns)
    x, y = _source(crop.shape, maps, grid, (above_lower - below_upper) / 2, rows, columns)
    near = (np.minimum(below_upper, above_lower) > -MOUTH_REACH) & _beside_mouth(maps, grid)
    region = grid.region_where(near, x.shape) if share else None
    if region is None:
        return _sampled(crop, x, y)
    reference, target = edges(maps.reference_lips), edges(maps.lips)
    sides = (columns, region[1]), (rows, region[0])
    here = [np.arange(s.start + r.start, s.start + r.stop, dtype=np.float32) for s, r in sides]
    here = np.meshgrid(*here, sparse=not roll)  # upright, a column's x is the same in all of its rows
    place = _to_parts(crop.shape, *here, roll)
    if reference.is_open:
        source = _to_parts(crop.shape, x[region], y[region], roll)
        lowered = share * off_teeth(reference, target, source, place)
        x[region], y[region] = _lowered(x[region], y[region], lowered, crop.shape, grid)
    mouth, seen = _sampled(crop, x, y), share * target.inside(*place)
    left, top, width, height = cv2.boundingRect((seen > 0).astype(np.uint8))
    if width:
        part = slice(top, top + height), slice(left, left + width)
        region = tuple(slice(r.start + p.start, r.start + p.stop) for r, p in zip(region, part, strict=True))
        here, place = ([_part(values, *part) for values in pair] for pair in (here, place))
        lowered, shown = teeth(edges(inside.lips), target, place, inside.split)
        own = _sampled(inside.crop, *_lowered(*here, lowered, crop.shape, grid))
        behind = dark_inside(target, place, _lip_colour(crop, maps.reference_lips, roll))
        if look and (hidden := hidden_teeth(inside.lips)):
            shown = (1 - hidden) * shown
            draw_teeth(behind, maps.reference_lips, target, place, look, hidden)
        behind += shown[..., None] * (own - behind)
        lips = mouth[region]
        mouth[region] = np.clip(lips + seen[part][..., None] * (behind - lips) + 0.5, 0, 255).astype(np.uint8)
    return mouth


def _part(values, rows, columns):
    """Return rows and columns of values (R, C), (R, 1) or (1, C)."""
    return values[rows if len(values) > 1 else slice(None), columns if values.shape[1] > 1 else slice(None)]


def _sampled(crop, x, y):
    return cv2.remap(crop, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _to_parts(shape, x, y, roll):
    """Return pixels (x, y) of a crop of this shape in parts of its side, as the network saw it: float32 each."""
    x, y = (x + np.float32(0.5)) / np.float32(shape[1]), (y + np.float32(0.5)) / np.float32(shape[0])
    if not roll:
        return x, y
    to = cv2.getRotationMatrix2D((0.5, 0.5), float(roll), 1).astype(np.float32)
    return tuple(row[0] * x + row[1] * y + row[2] for row in to)


def _lowered(x, y, offset, shape, grid):
    """Return pixels (x, y) of a crop of this shape that lie lower, as the network saw it, by parts of its side."""
    turn = grid.turn.astype(np.float32)
    return x + shape[1] * turn[1, 0] * offset, y + shape[0] * turn[1, 1] * offset


def _lip_colour(crop, lips, roll):
    """Return the mean colour of the lower lip in a crop: (3,) float32."""
    lips = lips.reshape(-1, 2)
    middle = (lips[[19, 18, 17]] + lips[[10, 9, 8]]) / 2
    if roll:
        middle = rotate_points(middle, -roll)
    size = np.array(crop.shape[1::-1])
    half = max(1, round(0.01 * crop.shape[0]))
    x, y = np.clip(middle * size, half, size - half - 1).astype(int).T
    patches = [crop[b - half : b + half + 1, a - half : a + half + 1] for a, b in zip(x, y, strict=True)]
    return np.mean(patches, axis=(0, 1, 2), dtype=np.float32)


@functools.lru_cache(maxsize=1)  # of a still image each frame's is the same
def _visible_mask(size, shape, box, landmarks, from_other_frame):
    """Return `blend.paste_mask` where it is not 0, what it lacks to 1, and the rows and columns of the box there.

    shape: (H, W) of the frame. landmarks: the bytes of (68, 2) float32, or None. from_other_frame: whether the frame's
    own upper lip must be covered; where lips and frame are of one image, a mask that rises more softly hides that folds
    of the cheeks end. None where nothing can be seen.
    """
    top, bottom, left, right = box
    height, width = bottom - top, right - left
    mask = cv2.resize(_mask(size, box, landmarks, from_other_frame), (width, height), interpolation=cv2.INTER_LINEAR)
    rows = slice(max(0, -top), min(bottom, shape[0]) - top)
    columns = slice(max(0, -left), min(right, shape[1]) - left)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    mask = mask[rows, columns]
    x, y, width, height = cv2.boundingRect((mask > 0).astype(np.uint8))
    if not width:
        return None
    mask = np.ascontiguousarray(mask[y : y + height, x : x + width])
    rows, columns = (slice(s.start + n, s.start + n + m) for s, n, m in ((rows, y, height), (columns, x, width)))
    return mask, 1 - mask, rows, columns


@functools.lru_cache(maxsize=512)  # of 37 kB; that of a frame comes again with it
def _mask(size, box, landmarks, from_other_frame):
    points = None if landmarks is None else np.frombuffer(landmarks, np.float32).reshape(-1, 2)
    return paste_mask(size, box, points, mask_rise(box, points) if from_other_frame else RISE)


def _grid(shape, rows, columns, roll):
    """Return the _Grid for rows and columns of a crop of this shape."""
    height, width = shape[:2]
    rotation = cv2.getRotationMatrix2D((0.5, 0.5), float(roll), 1)  # of parts of the side
    to_parts = np.array([[1 / width, 0, (columns.start + 0.5) / width], [0, 1 / height, (rows.start + 0.5) / height]])
    to = rotation[:, :2] @ to_parts
    to[:, 2] += rotation[:, 2]
    last_x, last_y = columns.stop - columns.start - 1, rows.stop - rows.start - 1
    corners = to @ np.array([[0, last_x, 0, last_x], [0, 0, last_y, last_y], [1, 1, 1, 1]])
    first, span = corners.min(1), np.ptp(corners, axis=1).clip(1e-6)
    counts = np.ceil(span * np.minimum(GRID_POINTS, (width, height))).astype(int) + 1
    to[:, 2] -= first
    x, y = (np.linspace(first[i], first[i] + span[i], counts[i], dtype=np.float32) for i in (0, 1))
    return _Grid(y, x, to * ((counts - 1) / span)[:, None], rotation[:, :2])


def _source(shape, maps, grid, above_seam, rows, columns):
    """Return x and y of the crop's pixels that rows and columns of the result show: (R, C) float32 each.

    above_seam: (N, M), how far the grid's points lie above the line where the lips meet.
    """
    correction = _stretch(maps.correction, grid)
    correction *= np.clip((grid.rows - 0.5) / CORRECTED, 0, 1)[:, None, None]  # the network knows the lower half
    pulls = lip_flow.lip_pulls(maps.reference_lips, maps.lips, grid.rows, grid.columns)
    upper, lower = (_in_pixels(pull + correction, shape, grid.turn) for pull in pulls)
    height, across = rows.stop - rows.start, slice(0, columns.stop - columns.start)
    near_seam = np.abs(above_seam) < SEAM_REACH * lip_flow.SEAM_SOFTNESS
    seam = (grid.region_where(near_seam, (height, across.stop)) or [slice(0, height)])[0]
    above = lip_flow.sigmoid(grid.at_pixels(above_seam, seam, across) / lip_flow.SEAM_SOFTNESS)
    pixel_x, pixel_y = (np.arange(s.start, s.stop, dtype=np.float32) for s in (columns, rows))
    source = []
    for upper_lip, lower_lip, pixel in zip(upper, lower, (pixel_x, pixel_y[:, None]), strict=True):
        values = np.empty((height, across.stop), np.float32)
        values[: seam.stop] = grid.at_pixels(upper_lip, slice(0, seam.stop), across)
        of_lower = grid.at_pixels(lower_lip, slice(seam.start, height), across)
        values[seam.stop :] = of_lower[seam.stop - seam.start :]
        of_lower = of_lower[: seam.stop - seam.start]
        values[seam] = of_lower + above * (values[seam] - of_lower)
        values += pixel
        source.append(values)
    return source


def _beside_mouth(maps, grid):
    """Return whether the grid's columns are those of the mouth, with a margin: (M,) bool.

    Far from the corners both inner lips' curves end at their means: a gap where there is no mouth.
    """
    lips = maps.lips.reshape(-1, 2)
    left, right = lips[lip_flow.UPPER_INNER[0], 0], lips[lip_flow.UPPER_INNER[-1], 0]
    return (grid.columns > left - BESIDE_MOUTH) & (grid.columns < right + BESIDE_MOUTH)


def _in_pixels(flow, shape, turn):
    """Return x and y, (N, M) float32 each, of a flow (N, M, 2) in parts of the rotated crop: upright and in pixels."""
    y, x = np.float32(flow[..., 0]), np.float32(flow[..., 1])
    turn = turn.astype(np.float32)
    return [shape[1 - i] * (x * turn[0, i] + y * turn[1, i]) for i in (0, 1)]


def _stretch(maps, grid):
    """Interpolate the network's maps of the lower half, (S/2, S, C), at the grid's points: (N, M, C)."""
    half, size = maps.shape[:2]
    across, down = ((points[-1] - points[0]) / (len(points) - 1) * size for points in (grid.columns, grid.rows))
    to = np.array([[across, 0, grid.columns[0] * size - 0.5], [0, down, grid.rows[0] * size - 0.5 - half]])
    return _sample(np.ascontiguousarray(maps, np.float32), to, (len(grid.columns), len(grid.rows)))


def _sample(values, to, size):
    """Sample values (H, W, C), at most four channels, where an affine map sends the pixels of an image of this size."""
    how = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    return cv2.warpAffine(values, to, size, **how)
