"""References: whose lips, teeth and skin the generator uses for each frame of a video.

The networks learned with another frame of the clip as reference. A frame that is its own reference shows the lips that
were there, and they leak into the result; a fixed frame does not fit where the head turns. So the mouth of one frame of
the shot, nearly closed, is fitted into each frame's own crop (`experiments/compare_references.py` compares the modes).
References are searched in the first 10 s of each shot.
"""

import contextlib
import dataclasses

import cv2
import numpy as np

from lipgan.faces import crop as face_crop
from lipgan.faces.crop import to_crop_coords
from lipgan.faces.landmarks import EYES, LIPS
from lipgan.faces.occlusion import COLUMNS, DARK, ROWS, UPPER_COLUMNS
from lipgan.inference.frame_cache import FrameStore
from lipgan.inference.mouth_detail import mouth_detail
from lipgan.inference.mouth_interior import Inside, jaw_split, visible_edges
from lipgan.utils.smoothstep import smoothstep

# fitted: the frame itself with the mouth of the shot's reference frame fitted in. same: the frame itself.
REFERENCE_MODES = ("fitted", "same")
STILL_POINTS = [0, 1, 2, *range(14, 48)]  # of dlib's 68 landmarks: the ears' side of the jaw, brows, nose, eyes
MAX_GAIN = 4.0  # by which the reference's colours are brightened at most: noise is too; darkened by any factor
COLOUR_LEVELS = 6.0  # grey levels of a channel from which on its gain is its own: below, rounding would colour lips
USUAL_CONTRAST = 0.8, 1.25  # of a face relative to another frame, beyond what light alone changes, that poses explain
MAX_CONTRAST = 4.0
STILL_CELLS = np.ones((ROWS, COLUMNS), bool)  # of `occlusion.face_cells`, those about the mouth left out
STILL_CELLS[2:7, 3:9] = False
STILL_CELLS = np.append(STILL_CELLS, np.ones(UPPER_COLUMNS, bool))
BRIGHT = 0.6  # of the light in a shot's bright frames: darker ones, as in a fade, are no reference
DETAIL_STEP, DETAIL_FRAMES = 3, 75  # which frames' fine detail is measured: those that are read anyway, or so many
SEARCH_S = 10  # seconds of a shot in which its reference is searched
USUAL_OPENING, USUAL_WIDTH = 0.06, 0.6  # so many of the mouths in a shot are less open, and less wide
OPEN = 0.85  # as many are less open than the one that shows the inside of the mouth
REACH = (0.62, 0.58)  # half width and height of what is fitted, about the lips' middle, in parts of the eyes' distance
FEATHER = 0.35  # of that reach, from its edge inwards


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The mouth of another frame, fitted into a crop: all that must be kept of it, beside that crop."""

    rows: slice
    columns: slice
    pixels: np.ndarray  # (R, C, 3) uint8: what the crop shows there

    def onto(self, own):
        """Return a copy of the crop (h, w, 3) uint8 with the other mouth."""
        result = own.copy()
        result[self.rows, self.columns] = self.pixels
        return result


@dataclasses.dataclass(frozen=True)
class FittedInside:
    """The inside of another frame's open mouth, fitted into a crop."""

    mouth: Fitted
    lips: np.ndarray  # as of Inside, or (20, 2)
    split: float

    def onto(self, own):
        """Return the Inside for the crop (h, w, 3) uint8."""
        return Inside(self.mouth.onto(own), self.lips, self.split)


@dataclasses.dataclass
class References:
    """The reference frames of a video. Not to be shared between threads."""

    crops: FrameStore  # of K, each on a canvas of the same size, at its upper left corner
    shapes: list  # of K (height, width): of each crop
    points: np.ndarray  # (K, 68, 2) float32: landmarks in parts of the crop's side
    number: np.ndarray  # (N,) int: which of the K each frame refers to; -1 where there is no face
    open_number: np.ndarray  # (N,) int: as well, for the inside of its mouth
    insides: list  # of K: lips (20, 2) of `mouth_interior.visible_edges`, and `jaw_split`
    detail: np.ndarray  # (N,) float32: mean `mouth_detail` of the shot's mouths; nan where none was measured
    indices: np.ndarray  # (K,) int: their frames
    contrast: np.ndarray  # (N,) float32: of `face_contrast`
    _recent: dict = dataclasses.field(default_factory=dict)  # crops that were read last, by number: often the next too

    def fit(self, index, own, points):
        """Return the reference of frame `index`, whose own crop (h, w, 3) has landmarks `points` (68, 2).

        Returns it as a Fitted, and its landmarks (68, 2) in parts of the crop's side.
        """
        return self._fitted(index, self.number[index], own, points)

    def fit_inside(self, index, own, points):
        """Return the FittedInside of a reference whose mouth is open; None where that is the one of `fit` anyway.

        own, points: as of `fit`. Its lips are (20, 2).
        """
        number = self.open_number[index]
        if number == self.number[index]:
            return None
        edges, split = self.insides[number]
        fitted, landmarks = self._fitted(index, number, own, points, edges)
        return FittedInside(fitted, landmarks[LIPS], split)

    def _fitted(self, index, number, own, points, lips=None):
        if number not in self._recent:
            if len(self._recent) > 1:  # one for the lips, one for their inside
                self._recent.clear()
            height, width = self.shapes[number]
            self._recent[number] = self.crops.get(number)[:height, :width]
        there = self.points[number]
        if lips is not None:
            there = np.concatenate([there[: LIPS.start], lips])
        contrast = change_of_contrast(*self.contrast[[self.indices[number], index]])
        return fit_mouth(self._recent[number], there, own, points, contrast)


def read_references(mode, source, track, covered=None):
    """Choose the reference frames by the face track, and read them. None where each frame is its own reference.

    mode: of REFERENCE_MODES. source: a `source.Source` of a video. track: its `tracker.Track`; without landmarks
    nothing can be chosen. covered: as of `choose_references`.
    """
    if mode == "same" or track.points is None:
        return None
    fps = float(source.fps)
    of_frame = [choose_references(track, fps, covered, share) for share in (USUAL_OPENING, OPEN)]
    indices = np.unique(of_frame)
    indices = indices[indices >= 0]
    numbers = (np.where(rows < 0, -1, np.searchsorted(indices, rows)) for rows in of_frame)
    shapes = [(int(b[1] - b[0]), int(b[3] - b[2])) for b in track.boxes[indices]]
    canvas, row = np.zeros((*np.max(shapes, axis=0), 3), np.uint8), 0
    points = to_crop_coords(track.points[indices], track.boxes[indices])
    crops, insides = FrameStore(), []
    detail = np.full(len(track.found), np.nan, np.float32)
    measured = _measured_frames(track, covered)
    last = max(indices[-1], min(len(track.found), DETAIL_FRAMES) - 1)
    with contextlib.closing(source.plane_frames(last + 1)) as frames:  # few are converted to BGR
        for index, frame in enumerate(frames):
            if measured[index]:
                detail[index] = mouth_detail(frame.bgr(), track.points[index][LIPS])
            if row < len(indices) and index == indices[row]:
                crop = face_crop.cut(frame.bgr(), track.boxes[index])
                lips = visible_edges(crop, points[row][LIPS])
                insides.append((lips, jaw_split(crop, lips)))
                canvas[: shapes[row][0], : shapes[row][1]] = crop
                crops.put(row, canvas)
                row += 1
    detail, contrast = _mean_of_shots(detail, track.shots), face_contrast(track.cells, len(track.found))
    return References(crops, shapes, points, *numbers, insides, detail, indices, contrast)


def _measured_frames(track, covered):
    """Return the frames whose `mouth_detail` is measured, some of each shot's first DETAIL_FRAMES: (N,) bool."""
    numbers = np.arange(len(track.found))
    _, first, of_frame = np.unique(track.shots, return_index=True, return_inverse=True)
    early = (numbers % DETAIL_STEP == 0) & (numbers - first[of_frame] < DETAIL_FRAMES)
    seen = track.seen & track.found & early
    return seen if covered is None else seen & ~covered


def _mean_of_shots(values, shots):
    """Return the mean of values (N,) over each shot, without nan: (N,)."""
    means = np.full_like(values, np.nan)
    for shot in np.unique(shots):
        known = values[(shots == shot) & np.isfinite(values)]
        means[shots == shot] = known.mean() if len(known) else np.nan
    return means


def choose_references(track, fps, covered=None, share=USUAL_OPENING):
    """Return, for each frame of a `tracker.Track`, the index of its reference frame: (N,) int, -1 without a face.

    covered: (N,) bool, frames whose mouth cannot be seen (None: of none). share: as of `usual_frame`.
    """
    of_frame = np.full(len(track.found), -1)
    for shot in np.unique(track.shots):
        own = np.flatnonzero((track.shots == shot) & track.found)
        if len(own):
            first = own[track.seen[own]][: max(1, round(SEARCH_S * fps))]
            if covered is not None and not covered[first].all():
                first = first[~covered[first]]
            if track.light is not None:
                first = first[track.light[first] >= BRIGHT * np.quantile(track.light[first], 0.9)]
            of_frame[own] = first[usual_frame(track.points[first], share)]
    return of_frame


def usual_frame(points, share=USUAL_OPENING):
    """Return the index of the frame, of those with landmarks (N, 68, 2), with the most usual mouth and pose.

    share: share of the mouths that are less open than the one that is looked for (0: none).
    """
    left, right = (points[:, eye].mean(1) for eye in EYES)
    unit = np.linalg.norm(right - left, axis=1).clip(1e-6)
    opening = np.linalg.norm(points[:, 66] - points[:, 62], axis=1) / unit
    width = np.linalg.norm(points[:, 54] - points[:, 48], axis=1) / unit
    yaw = (points[:, 30] - (left + right) / 2)[:, 0] / unit  # of the tip of the nose
    pitch = (points[:, 30] - (left + right) / 2)[:, 1] / unit
    targets = (opening, np.quantile(opening, share)), (width, np.quantile(width, USUAL_WIDTH))
    targets += tuple((value, np.median(value)) for value in (yaw, pitch))
    distance = sum(np.abs(value - target) / max(value.std(), 1e-3) for value, target in targets)
    return int(np.argmin(distance))


def face_contrast(cells, num_frames):
    """Return the contrast of faces, deviation over mean: (N,) float32, nan where it is too dark or nothing is known.

    cells: (N, NUM_CELLS, 3) uint8 of `occlusion.face_cells`, or None.
    """
    contrast = np.full(num_frames, np.nan, np.float32)
    for start in range(0, 0 if cells is None else num_frames, 1000):  # of a long video all would take a lot of memory
        rows = slice(start, start + 1000)
        grey = cells[rows, STILL_CELLS].mean(axis=2)
        mean = grey.mean(axis=1)
        contrast[rows] = np.where(mean < DARK, np.nan, grey.std(axis=1) / mean.clip(1))
    return contrast


def change_of_contrast(before, after):
    """Return how much more contrast a face has in a second frame than light and pose explain; 1 where unknown.

    before, after: of `face_contrast`. Lamps change colours by a factor, and this is 1; haze, a fade to white and a
    change of the black level add to them.
    """
    change = after / max(before, 1e-6)
    if not np.isfinite(change):
        return 1.0
    return float(np.clip(change / np.clip(change, *USUAL_CONTRAST), 1 / MAX_CONTRAST, MAX_CONTRAST))


def fit_mouth(reference, reference_points, own, own_points, contrast=1.0):
    """Blend the mouth of one crop into another: `reference` (H, W, 3) into `own` (h, w, 3), both uint8.

    points: (68, 2) landmarks in parts of the crop's side. The mouth is moved by the affine map of the parts of the face
    that do not speak, and follows the light around it by a gain per channel, and by a factor of contrast. Returns it as
    a Fitted, and the crop's landmarks (68, 2), those of the lips as they were fitted in.
    """
    size = np.array(own.shape[1::-1], np.float64)
    here, there = own_points * size - 0.5, reference_points * np.array(reference.shape[1::-1]) - 0.5
    known = np.column_stack([there[STILL_POINTS], np.ones(len(STILL_POINTS))])
    to = np.linalg.lstsq(known, here[STILL_POINTS], rcond=None)[0].T
    fitted = np.array(own_points)
    fitted[LIPS] = (there[LIPS] @ to[:, :2].T + to[:, 2] + 0.5) / size
    middle = fitted[LIPS].mean(0) * size - 0.5
    unit = np.linalg.norm(here[EYES[1]].mean(0) - here[EYES[0]].mean(0))
    reach = np.array(REACH) * unit
    first = np.clip(np.floor(middle - reach), 0, size).astype(int)
    last = np.clip(np.ceil(middle + reach) + 1, 0, size).astype(int)
    region = slice(first[1], last[1]), slice(first[0], last[0])
    if (last <= first).any():
        return Fitted(*region, own[region]), fitted
    to[:, 2] -= first
    how = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    moved, around = cv2.warpAffine(reference, to, tuple(int(n) for n in last - first), **how), own[region]
    x, y = (((np.arange(first[i], last[i]) - middle[i]) / reach[i]).astype(np.float32) for i in (0, 1))
    mask = smoothstep((1 - np.sqrt(x * x + (y * y)[:, None])) / FEATHER)
    edge = mask * (1 - mask)
    around = np.ascontiguousarray(around)
    here, there = (_weighted_sum(edge, pixels) for pixels in (around, moved))
    total = max(float(edge.sum()), 1e-6)
    moved = cv2.LUT(moved, _in_light(there / total, here / total, contrast))
    return Fitted(*region, cv2.blendLinear(moved, around, mask, 1 - mask)), fitted


def _in_light(before, after, contrast):
    """Return what the levels 0 to 255 become in a light that changes a mean colour (3,): (1, 256, 3) uint8."""
    brightness = min(after.sum() / max(before.sum(), 1e-6), MAX_GAIN)
    gain = brightness * (after + COLOUR_LEVELS) / (brightness * before + COLOUR_LEVELS)
    levels = before + contrast * (np.arange(256)[:, None] - before)
    return np.clip(np.minimum(gain, MAX_GAIN) * levels + 0.5, 0, 255).astype(np.uint8)[None]


def _weighted_sum(weights, pixels):
    """Return the sum of pixels (R, C, 3) uint8, weighted by (R, C) float32: (3,) float32.

    OpenCV's matrix product keeps to this thread, and takes a third of np.einsum's time.
    """
    return cv2.gemm(weights.reshape(1, -1), pixels.reshape(-1, 3).astype(np.float32), 1, None, 0)[0]
