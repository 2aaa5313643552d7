"""One face followed through a video: found in keyframes, carried on by its landmarks, smoothed over time.

Boxes are (top, bottom, left, right) in pixels, as of `faces`; frames are BGR uint8.
"""

import itertools
import typing

import cv2
import numpy as np

from audio_hparams import hparams
from lipgan.faces.detector import WHOLE_SIDES, Face, final_box, overlap
from lipgan.faces.landmarks import LIPS
from lipgan.faces.occlusion import NUM_CELLS

KEYFRAME_S = 0.6  # the detector looks this often; between, landmarks are followed from frame to frame
POINTS_SMOOTH_S = 0.2  # over which landmarks are averaged: they tremble less then, and stay with a head that moves
LIPS_SMOOTH_S = 0.08  # lips move fast: closures last 80 ms
CUT_LEVELS = 28.0  # mean absolute difference of two thumbnails, in grey levels, that may be a cut
SAME_VIEW = 0.9  # correlation of two thumbnails from which on that is a change of light: a flash, a stage


class Track(typing.NamedTuple):
    """One face through N frames, smoothed over time; zeros where there is none."""

    boxes: np.ndarray  # (N, 4) int32, final: lengthened, pads added
    found: np.ndarray  # (N,) bool
    points: np.ndarray  # (N, 68, 2) float32: dlib's landmarks, x and y in the frame's pixels; None where not looked for
    shots: np.ndarray  # (N,) int32: the number of the shot, between cuts, that each frame belongs to; None with points
    seen: np.ndarray  # (N,) bool: frames whose face was found, not taken from frames before and after; None with points
    light: np.ndarray | None = None  # (N,) float32: mean level of each frame, 0 to 255; None where it is not known
    cells: np.ndarray | None = None  # (N, NUM_CELLS, 3) uint8: of `occlusion.face_cells`; None where it is not known


class _Tracker:
    """Follows one face through one shot after another. The detector looks at keyframes only."""

    def __init__(self, detector, choice=None):
        self.detector, self.choice = detector, choice

    def first(self, frame, twice=True):
        """The chosen Face of a shot's first frame (without a choice the largest), or None."""
        if self.choice is not None:
            named = self.choice.named  # who names a face may mean a small one
            boxes = self.choice.look(self.detector, frame) if named else self.detector.detect_whole(frame, twice=twice)
            return self._chosen(frame, boxes)
        for box in self.detector.detect_whole(frame, twice=twice):
            face = self._placed(frame, box)
            if face is not None:
                return face
        return None

    def _chosen(self, frame, boxes):
        found = [face for face in (self._placed(frame, box) for box in boxes) if face is not None]
        number = self.choice.pick(self.detector, frame, [face.square for face in found])
        return None if number is None else found[number]

    def near(self, frame, square):
        """The Face that overlaps the given square most, or None."""
        boxes = [b for b in self.detector.detect_near(frame, square) if overlap(b, square) > 0.2]
        return self._placed(frame, max(boxes, key=lambda b: overlap(b, square))) if boxes else None

    def again(self, frame, square):
        """A Face lost from its place, searched in the whole image: the nearest to where it was, if it is as large."""
        boxes = self.detector.detect_whole(frame, sides=WHOLE_SIDES[:2], twice=False)
        if self.choice is not None:
            return self._chosen(frame, boxes)
        if square is not None:
            boxes = sorted(boxes, key=lambda b: abs(b - square).sum())
        for box in boxes:
            if square is None or 0.5 < (box[1] - box[0]) / (square[1] - square[0]) < 2:
                return self._placed(frame, box)
        return None

    def _placed(self, frame, box):
        face = self.detector.face(frame, box)
        if face is None or overlap(face.square, box) < 0.3:  # the landmarks have gone astray
            return None
        # Once more from the better box: the landmarks depend a little on the box that they start from.
        refined = self.detector.face(frame, face.square)
        return face if refined is None or overlap(refined.square, face.square) < 0.5 else refined

    def settle(self, frames, left, right):
        """Faces of the frames between two keyframes whose Face (or None) is known.

        Landmarks are followed from left to right. Where they do not arrive at the right one, or only one end has a
        face, the detector looks at the middle frame, and both halves are settled.
        """
        if not frames or (left is None and right is None):
            return [None] * len(frames)
        if left is not None and right is not None:
            between, face = [], left
            for frame in frames:
                moved = self.detector.face(frame, face.square)
                if moved is None or overlap(moved.square, face.square) < 0.6:
                    break
                between.append(face := moved)
            if len(between) == len(frames) and overlap(face.square, right.square) > 0.6:
                return between
        middle, known = len(frames) // 2, (left if left is not None else right).square
        face = self.near(frames[middle], known)
        if face is None:  # gone, or in a pan farther than the region that was searched
            face = self.again(frames[middle], known)
        before = self.settle(frames[:middle], left, face)
        return [*before, face, *self.settle(frames[middle + 1 :], face, right)]


def _thumbnail(frame):
    step = max(1, min(frame.shape[:2]) // 256)  # of a large image, some pixels are enough
    frame = frame[::step, ::step]
    return cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA).astype(np.int16)


def _is_cut(before, after):
    """Return whether two thumbnails (64, 64, 3) show different views, not one view in another light."""
    if np.abs(after - before).mean() <= CUT_LEVELS:
        return False
    a, b = (levels.reshape(-1, 3) - levels.mean((0, 1)) for levels in (before, after))
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return ((a * b).sum(0) / np.maximum(scale, 1e-6)).mean() < SAME_VIEW


def find_boxes(frames, fps, detector, pads=(0, 0, 0, 0), bridge=0, choice=None):
    """`follow_face` without landmarks: boxes (N, 4) int32, zeros where there is no face, and found (N,) bool."""
    track = follow_face(frames, fps, detector, pads, bridge, choice)
    return track.boxes, track.found


def follow_face(frames, fps, detector, pads=(0, 0, 0, 0), bridge=0, choice=None):
    """Follow a face through the frames: the largest at the start of a shot, from then on the same. Returns a Track.

    frames: iterable of BGR frames, read once and not kept (at most KEYFRAME_S seconds of them at a time).
    choice: a `choice.FaceChoice`: another one than the largest, and after a cut the same person only.
    bridge: gaps of up to so many frames without a face, within a shot, get boxes between those of their ends.
    """
    tracker, found, shots, light = _Tracker(detector, choice), [], [], []
    pending, last, before, searched = [], None, None, False
    step = max(1, round(KEYFRAME_S * float(fps)))

    def close(right):  # settle what lies between the last keyframe and a new one (or the end of the shot)
        nonlocal pending
        found.extend(tracker.settle(pending, last, right))
        pending = []

    def end_shot():
        if pending:
            final = pending.pop()
            face = tracker.near(final, last.square) if last is not None else None
            close(face)
            found.append(face)

    for n, frame in enumerate(frames):
        thumbnail = _thumbnail(frame)
        cut = before is None or _is_cut(before, thumbnail)
        before = thumbnail
        light.append(thumbnail.mean())
        if cut:
            end_shot()
            shots.append(n)
            last, lost_at = tracker.first(frame, twice=not searched or detector.search_small), None
            searched = True
            found.append(last)
        elif len(pending) + 1 < step:
            pending.append(frame)
        else:
            near = tracker.near(frame, last.square) if last is not None else None
            if last is not None:
                lost_at = last.square
            face = near if near is not None else tracker.again(frame, lost_at)
            close(face)
            found.append(face)
            last = face
    end_shot()
    seen = np.array([face is not None for face in found], bool)
    return _final(_bridged(found, shots, bridge), shots, fps, pads, seen)._replace(light=np.array(light, np.float32))


def _bridged(found, shots, longest):
    """The Faces with gaps of at most `longest` frames, which have a face at both ends in the same shot, filled."""
    found = list(found)
    for start, end in itertools.pairwise([*shots, len(found)]):
        known = [n for n in range(start, end) if found[n] is not None]
        for before, after in itertools.pairwise(known):
            if after - before - 1 <= longest:
                for n in range(before + 1, after):
                    share = (n - before) / (after - before)
                    ends = zip(found[before], found[after], strict=True)
                    found[n] = Face(*((1 - share) * a + share * b for a, b in ends))
    return found


def _final(faces, shots, fps, pads, seen):
    """The Track of Faces (or None): smoothed over time within each unbroken stretch, lengthened, padded, rounded."""
    found = np.array([face is not None for face in faces], bool)
    boxes, points = np.zeros((len(faces), 4), np.int32), np.zeros((len(faces), 68, 2), np.float32)
    cells = np.zeros((len(faces), NUM_CELLS, 3), np.uint8)
    starts = set(shots) | {i for i in range(1, len(found)) if found[i] != found[i - 1]} | {0, len(found)}
    window = _odd_window(hparams.smooth_s, fps)
    for start, end in itertools.pairwise(sorted(starts)):
        if start == end or not found[start]:
            continue
        squares = np.stack([face.square for face in faces[start:end]])
        for n, face in enumerate(faces[start:end], start):
            points[n], cells[n] = face.points, face.cells
        smooth = _smoothed(squares, min(window, _longest_window(end - start)))
        boxes[start:end] = [final_box(square, pads) for square in smooth]
        points[start:end] = smooth_landmarks(points[start:end], fps)
    shots = np.searchsorted(shots, np.arange(len(faces)), "right").astype(np.int32)
    return Track(boxes, found, points, shots, seen, cells=cells)


def smooth_landmarks(points, fps):
    """Average landmarks over POINTS_SMOOTH_S, lips over LIPS_SMOOTH_S.

    points: (N, 68, 2) of an unbroken stretch of frames. Returns the same.
    """
    window, smooth = min(_odd_window(POINTS_SMOOTH_S, fps), _longest_window(len(points))), np.empty_like(points)
    lip_window = min(_odd_window(LIPS_SMOOTH_S, fps), window)
    for k in range(points.shape[1]):  # one by one: those of a long video are large
        smooth[:, k] = _smoothed(points[:, k], lip_window if k >= LIPS.start else window)
    return smooth


def _odd_window(seconds, fps):
    return round(seconds * float(fps)) // 2 * 2 + 1


def _longest_window(num_frames):
    return (num_frames - 1) // 2 * 2 + 1


def _smoothed(values, window):
    """The moving average over an odd window of rows; half a window at both ends, the line that fits a window best.

    values: (N, C), N >= window. scipy's savgol_filter of order 1 is the same, but takes a second to import.
    """
    if window < 3:
        return values
    half, sums = window // 2, np.cumsum(np.pad(values, ((1, 0), (0, 0))), axis=0, dtype=np.float64)
    smooth = np.empty(values.shape)
    smooth[half : len(values) - half] = (sums[window:] - sums[:-window]) / window
    time = np.arange(-half, half + 1)[:, None]
    for rows, line in ((slice(0, window), slice(0, half)), (slice(len(values) - window, None), slice(half + 1, None))):
        slope = (time * values[rows]).sum(0) / (time**2).sum()
        smooth[rows][line] = (values[rows].mean(0, dtype=np.float64) + time * slope)[line]
    return smooth
