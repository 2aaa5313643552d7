"""Face tracker: detects a face in keyframes, follows its landmarks between them and smooths both over time.

Boxes are (top, bottom, left, right) in pixels, as in `detector`; frames are BGR uint8.
"""

import itertools
import typing

import cv2
import numpy as np

from audio_hparams import hparams
from lipgan.faces.detector import WHOLE_SIDES, Face, final_box, overlap
from lipgan.faces.landmarks import LIPS
from lipgan.faces.occlusion import NUM_CELLS

KEYFRAME_S = 0.6  # interval of detections; in between, landmarks are followed from frame to frame
POINTS_SMOOTH_S = 0.2  # window of the landmarks' moving average: short enough for a moving head
LIPS_SMOOTH_S = 0.08  # shorter for lips: closures last 80 ms. At 25 fps, still a fifth of their motion is lost
CUT_LEVELS = 28.0  # mean absolute difference of two thumbnails, in grey levels, above which they may show a cut
SAME_VIEW = 0.9  # correlation of two thumbnails above which a difference is a change of light, such as a flash


class Track(typing.NamedTuple):
    """One face in N frames, smoothed over time; zeros in frames without a face."""

    boxes: np.ndarray  # (N, 4) int32 crop boxes: lengthened for the chin, pads added
    found: np.ndarray  # (N,) bool: frames that have a box
    points: np.ndarray  # (N, 68, 2) float32: dlib's landmarks, x and y in the frame's pixels; None for given boxes
    shots: np.ndarray  # (N,) int32: number of the shot, between cuts, that each frame belongs to; None with points
    seen: np.ndarray  # (N,) bool: frames whose face is not interpolated from its neighbours; None with points
    light: np.ndarray | None = None  # (N,) float32: mean grey level of each frame, 0 to 255, or None
    cells: np.ndarray | None = None  # (N, NUM_CELLS, 3) uint8: of `occlusion.face_cells`, or None


class _Tracker:
    """Follows one face through one shot after another; detects faces in keyframes only."""

    def __init__(self, detector, selection=None):
        self.detector, self.selection = detector, selection

    def first(self, frame, twice=True):
        """Find the selected Face (by default the largest) in a shot's first frame. Returns None without one."""
        if self.selection is not None:
            if self.selection.is_explicit:  # it may be a small face
                boxes = self.selection.detect(self.detector, frame)
            else:
                boxes = self.detector.detect_whole(frame, twice=twice)
            return self._selected(frame, boxes)
        for box in self.detector.detect_whole(frame, twice=twice):
            face = self._face(frame, box)
            if face is not None:
                return face
        return None

    def _selected(self, frame, boxes):
        faces = [face for face in (self._face(frame, box) for box in boxes) if face is not None]
        index = self.selection.pick(self.detector, frame, [face.square for face in faces])
        return None if index is None else faces[index]

    def near(self, frame, square):
        """Find the Face that overlaps a square most. Returns None without one."""
        boxes = [b for b in self.detector.detect_near(frame, square) if overlap(b, square) > 0.2]
        return self._face(frame, max(boxes, key=lambda b: overlap(b, square))) if boxes else None

    def search(self, frame, square):
        """Search a lost Face in the whole image: the nearest to `square`, its last place, of about the same size."""
        boxes = self.detector.detect_whole(frame, sides=WHOLE_SIDES[:2], twice=False)
        if self.selection is not None:
            return self._selected(frame, boxes)
        if square is not None:
            boxes = sorted(boxes, key=lambda b: abs(b - square).sum())
        for box in boxes:
            if square is None or 0.5 < (box[1] - box[0]) / (square[1] - square[0]) < 2:
                return self._face(frame, box)
        return None

    def _face(self, frame, box):
        """Return the Face in a detector's box, or None where the landmarks do not agree with the box."""
        face = self.detector.face(frame, box)
        if face is None or overlap(face.square, box) < 0.3:
            return None
        # Again from the refined box: landmarks depend a little on the box that they start from.
        refined = self.detector.face(frame, face.square)
        return face if refined is None or overlap(refined.square, face.square) < 0.5 else refined

    def interpolate(self, frames, left, right):
        """Find the Faces of the frames between two keyframes, whose Faces (or None) are `left` and `right`.

        Landmarks are followed forwards. If they do not end at `right`, or only one keyframe has a face, the face is
        detected in the middle frame, and the same is done with both halves.
        """
        if not frames or (left is None and right is None):
            return [None] * len(frames)
        if left is not None and right is not None:
            followed, face = [], left
            for frame in frames:
                moved = self.detector.face(frame, face.square)
                if moved is None or overlap(moved.square, face.square) < 0.6:
                    break
                followed.append(face := moved)
            if len(followed) == len(frames) and overlap(face.square, right.square) > 0.6:
                return followed
        middle, square = len(frames) // 2, (left if left is not None else right).square
        face = self.near(frames[middle], square)
        if face is None:  # absent, or moved out of the searched region by a pan
            face = self.search(frames[middle], square)
        before = self.interpolate(frames[:middle], left, face)
        return [*before, face, *self.interpolate(frames[middle + 1 :], face, right)]


def _thumbnail(frame):
    step = max(1, min(frame.shape[:2]) // 256)  # subsampling a large image first is enough, and faster
    frame = frame[::step, ::step]
    return cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA).astype(np.int16)


def _is_cut(before, after):
    """Return whether two thumbnails (64, 64, 3) show different views, not one view in another light."""
    if np.abs(after - before).mean() <= CUT_LEVELS:
        return False
    a, b = (levels.reshape(-1, 3) - levels.mean((0, 1)) for levels in (before, after))
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return ((a * b).sum(0) / np.maximum(scale, 1e-6)).mean() < SAME_VIEW


def find_boxes(frames, fps, detector, pads=(0, 0, 0, 0), bridge=0, selection=None):
    """Track a face as `follow_face` does. Returns its boxes (N, 4) int32, zeros without a face, and found (N,) bool."""
    track = follow_face(frames, fps, detector, pads, bridge, selection)
    return track.boxes, track.found


def follow_face(frames, fps, detector, pads=(0, 0, 0, 0), bridge=0, selection=None, smooth_lips=True):
    """Track one face through the frames: the largest at the start of each shot, or the selected one. Returns a Track.

    frames: iterable of BGR frames, read once; at most KEYFRAME_S seconds of them are held at a time.
    selection: a `selection.FaceSelection`, which also restricts later shots to the same person.
    bridge: longest gap without a face, in frames, that is interpolated within a shot.
    smooth_lips: False keeps the lips as they are in each frame, for networks to learn from.
    """
    tracker, faces, shots, light = _Tracker(detector, selection), [], [], []
    pending, last, previous, searched = [], None, None, False
    step = max(1, round(KEYFRAME_S * float(fps)))

    def close(right):  # the frames between the last keyframe and a new one, or the end of the shot
        nonlocal pending
        faces.extend(tracker.interpolate(pending, last, right))
        pending = []

    def end_shot():
        if pending:
            final = pending.pop()
            face = tracker.near(final, last.square) if last is not None else None
            close(face)
            faces.append(face)

    for n, frame in enumerate(frames):
        thumbnail = _thumbnail(frame)
        cut = previous is None or _is_cut(previous, thumbnail)
        previous = thumbnail
        light.append(thumbnail.mean())
        if cut:
            end_shot()
            shots.append(n)
            last, lost_at = tracker.first(frame, twice=not searched or detector.search_small), None
            searched = True
            faces.append(last)
        elif len(pending) + 1 < step:
            pending.append(frame)
        else:
            near = tracker.near(frame, last.square) if last is not None else None
            if last is not None:
                lost_at = last.square
            face = near if near is not None else tracker.search(frame, lost_at)
            close(face)
            faces.append(face)
            last = face
    end_shot()
    seen = np.array([face is not None for face in faces], bool)
    track = _final(_bridged(faces, shots, bridge), shots, fps, pads, smooth_lips)
    return track._replace(seen=seen, light=np.array(light, np.float32))


def _bridged(faces, shots, longest):
    """Interpolate gaps of at most `longest` frames that have a Face at both ends in the same shot."""
    faces = list(faces)
    for start, end in itertools.pairwise([*shots, len(faces)]):
        known = [n for n in range(start, end) if faces[n] is not None]
        for before, after in itertools.pairwise(known):
            if after - before - 1 <= longest:
                for n in range(before + 1, after):
                    share = (n - before) / (after - before)
                    ends = zip(faces[before], faces[after], strict=True)
                    faces[n] = Face(*((1 - share) * a + share * b for a, b in ends))
    return faces


def _final(faces, shots, fps, pads, smooth_lips):
    """Make the Track of Faces (or None): smoothed within each run of frames, lengthened, padded and rounded."""
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
        points[start:end] = smooth_landmarks(points[start:end], fps, smooth_lips)
    shots = np.searchsorted(shots, np.arange(len(faces)), "right").astype(np.int32)
    return Track(boxes, found, points, shots, None, cells=cells)


def smooth_landmarks(points, fps, lips=True):
    """Average landmarks over POINTS_SMOOTH_S, lips over LIPS_SMOOTH_S or, with lips False, not at all.

    points: (N, 68, 2) of consecutive frames. Returns the same shape.
    """
    window, smooth = min(_odd_window(POINTS_SMOOTH_S, fps), _longest_window(len(points))), np.empty_like(points)
    lip_window = min(_odd_window(LIPS_SMOOTH_S, fps), window) if lips else 1
    for k in range(points.shape[1]):  # one by one: the arrays of a long video are large
        smooth[:, k] = _smoothed(points[:, k], lip_window if k >= LIPS.start else window)
    return smooth


def _odd_window(seconds, fps):
    return round(seconds * float(fps)) // 2 * 2 + 1


def _longest_window(num_frames):
    return (num_frames - 1) // 2 * 2 + 1


def _smoothed(values, window):
    """Compute the moving average over an odd window of rows; at both ends, the line that fits the last window.

    values: (N, C), N >= window. Equals scipy's savgol_filter of order 1, which takes a second to import.
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
