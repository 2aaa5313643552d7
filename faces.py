"""Faces: found, followed, cropped, and fed to the generator.

Boxes are (top, bottom, left, right) in pixels, bottom and right exclusive; they may reach past the picture's edge.
Frames and crops are BGR uint8.
"""

import bz2
import hashlib
import importlib.util
import itertools
import pathlib
import tempfile
import typing

import cv2
import dlib
import numpy as np

import mmod
from audio_hparams import hparams
from errors import UserError, whole_file

DETECTORS = ("cnn", "hog")
FACE_PX = 95  # dlib's CNN sees best at this size, and is blind under 80
KEYFRAME_S = 0.6  # the detector looks this often; between, landmarks are followed from frame to frame
POINTS_SMOOTH_S = 0.2  # over which landmarks are averaged: they tremble less then, and stay with a head that moves
CUT_LEVELS = 28.0  # mean absolute difference of two thumbnails, in grey levels, that is a cut
WHOLE_SIDES = (320, 640, 1280, 1920)  # longer sides at which a whole picture is searched, until a face is found
RIGID = slice(17, 48)  # of dlib's 68 landmarks: brows, nose and eyes, which do not move with the mouth


class Face(typing.NamedTuple):
    """One face in one frame, in the frame's pixels."""

    square: np.ndarray  # (4,) float64: its box before that is lengthened
    points: np.ndarray  # (68, 2) float32: dlib's landmarks, x and y


class Track(typing.NamedTuple):
    """One face through N frames, smoothed over time; zeros where there is none."""

    boxes: np.ndarray  # (N, 4) int32, final: lengthened, pads added
    found: np.ndarray  # (N,) bool
    points: np.ndarray  # (N, 68, 2) float32: dlib's landmarks, x and y in the frame's pixels; None where not looked for
    shots: np.ndarray  # (N,) int32: the number of the shot, between cuts, that each frame belongs to


def model_file(name):
    """Path of a model inside face_recognition_models, a package that must not be imported (it needs pkg_resources)."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None:
        raise UserError("the package face_recognition_models is missing; pip install -r requirements.txt")
    return pathlib.Path(spec.submodule_search_locations[0]) / "models" / name


def _unpacked(path):
    """The .dat of a detector file, unpacked once beside the other temporary files when it is a .bz2."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(
            f"--face_det_checkpoint {path}: no such file; leave it out to use the detector that pip installed"
        )
    if path.suffix != ".bz2":
        return path
    packed = path.read_bytes()
    target = pathlib.Path(tempfile.gettempdir()) / f"lipgan_{hashlib.sha256(packed).hexdigest()[:16]}.dat"
    if not target.exists():
        try:
            unpacked = bz2.decompress(packed)
        except (OSError, ValueError) as e:
            raise UserError(f"--face_det_checkpoint {path}: not a whole bz2 file ({e}); download it again") from e
        with whole_file(target) as temporary:
            temporary.write_bytes(unpacked)
    return target


class FaceDetector:
    """dlib's CNN ("cnn") or HOG ("hog") face detector with dlib's 68 landmarks. Not to be shared between threads.

    checkpoint: a mmod_human_face_detector .dat or .dat.bz2 instead of the installed one. Raises UserError.
    """

    def __init__(self, kind="cnn", checkpoint=None):
        if kind not in DETECTORS:
            raise UserError(f"--detector {kind}: choose one of {', '.join(DETECTORS)}")
        self.kind = self.name = kind
        if kind == "cnn":
            path = _unpacked(checkpoint) if checkpoint else model_file("mmod_human_face_detector.dat")
            self.name = f"cnn {path.name} {path.stat().st_size}"
            self._search = mmod.load_detector(path)
        else:
            hog = dlib.get_frontal_face_detector()
            self._search = lambda rgb: [mmod.sides(rect) for rect in hog(rgb, 0)]
        self._landmarks = dlib.shape_predictor(str(model_file("shape_predictor_68_face_landmarks.dat")))

    def detect(self, frame, scale=1.0):
        """All faces in the frame seen at `scale`. Returns (N, 4) float64 boxes in the frame's pixels, largest first."""
        if scale != 1.0:
            size = [max(1, round(n * scale)) for n in frame.shape[1::-1]]
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        boxes = np.array(self._search(rgb), np.float64).reshape(-1, 4) / scale
        return boxes[np.argsort([-_area(b) for b in boxes], kind="stable")]

    def detect_whole(self, frame, sides=WHOLE_SIDES, twice=True):
        """Faces of a whole picture, coarse to fine: large faces are found at little cost, and stop the search."""
        longer = max(frame.shape[:2])
        scales = [side / longer for side in sides if side < longer]
        scales += [1.0] if longer <= max(sides) else []
        scales += [2.0] if twice and longer <= max(sides) // 2 else []
        for scale in scales:
            boxes = self.detect(frame, scale)
            if len(boxes):
                return boxes
        return np.zeros((0, 4))

    def detect_all(self, frame):
        """All faces of a picture, small ones beside large ones too, each once. (N, 4) float64, largest first."""
        longer, found = max(frame.shape[:2]), []
        for side in [side for side in WHOLE_SIDES if side < longer] + [min(longer, max(WHOLE_SIDES))]:
            boxes = self.detect(frame, side / longer)
            found += [box for box in boxes if all(overlap(box, other) < 0.3 for other in found)]
        return np.array(sorted(found, key=lambda b: -_area(b))).reshape(-1, 4)

    def detect_near(self, frame, box):
        """Faces in the region twice the box, seen at the size at which the detector is best."""
        side = max(box[1] - box[0], box[3] - box[2])
        top, left = (max(0, int(v)) for v in (box[0] - side / 2, box[2] - side / 2))
        bottom, right = int(box[1] + side / 2), int(box[3] + side / 2)
        region = frame[top : max(0, bottom), left : max(0, right)]
        if min(region.shape[:2]) < 8:
            return np.zeros((0, 4))
        return self.detect(region, FACE_PX / side) + np.array([top, top, left, left])

    def landmarks(self, frame, box):
        """dlib's 68 landmarks of the face in the box. Returns (68, 2) float64 of (x, y) in the frame's pixels."""
        top, bottom, left, right = (round(float(v)) for v in box)
        # The predictor looks only round the box: a copy of that part is cheaper than turning the whole frame to RGB.
        margin = (bottom - top) // 2
        y, x = max(0, top - margin), max(0, left - margin)
        region = frame[y : max(0, bottom + margin), x : max(0, right + margin)]
        if min(region.shape[:2]) < 8:
            raise ValueError(f"box {box} lies outside of the picture {frame.shape[:2]}")
        region = cv2.cvtColor(region, cv2.COLOR_BGR2RGB)
        shape = self._landmarks(region, dlib.rectangle(left - x, top - y, right - x, bottom - y))
        return np.array([(p.x + x, p.y + y) for p in shape.parts()], np.float64)

    def face(self, frame, box):
        """The Face in `box`, its square (before it is lengthened) placed by its rigid landmarks; None if lost.

        The square is nearly the same from either detector, and holds still while the mouth moves.
        """
        try:
            points = self.landmarks(frame, box)
        except ValueError:
            return None
        rigid = points[RIGID]
        (x, y), unit = rigid.mean(0), np.sqrt(((rigid - rigid.mean(0)) ** 2).sum(1).mean())
        half, y = hparams.crop_side / 2 * unit, y + hparams.crop_down * unit
        inside = 0 < y < frame.shape[0] and 0 < x < frame.shape[1]
        square = np.array([y - half, y + half, x - half, x + half])
        return Face(square, points.astype(np.float32)) if inside and half > 4 else None

    def place(self, frame, box):
        """The square of `face` alone: (4,) float64, or None."""
        face = self.face(frame, box)
        return None if face is None else face.square


def _area(box):
    return max(0.0, box[1] - box[0]) * max(0.0, box[3] - box[2])


def overlap(a, b):
    """Intersection over union of two boxes, 0 to 1."""
    common = _area((max(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), min(a[3], b[3])))
    return common / max(_area(a) + _area(b) - common, 1e-9)


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
        """A Face lost from its place, searched in the whole picture: the nearest to where it was, if it is as large."""
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
    step = max(1, min(frame.shape[:2]) // 256)  # of a large picture, some pixels are enough
    frame = frame[::step, ::step]
    return cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA).astype(np.int16)


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
    tracker, found, shots = _Tracker(detector, choice), [], []
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
        cut = before is None or np.abs(thumbnail - before).mean() > CUT_LEVELS
        before = thumbnail
        if cut:
            end_shot()
            shots.append(n)
            last, lost_at = tracker.first(frame, twice=not searched), None
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
    return _final(_bridged(found, shots, bridge), shots, fps, pads)


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


def _final(faces, shots, fps, pads):
    """The Track of Faces (or None): smoothed over time within each unbroken stretch, lengthened, padded, rounded."""
    found = np.array([face is not None for face in faces], bool)
    boxes, points = np.zeros((len(faces), 4), np.int32), np.zeros((len(faces), 68, 2), np.float32)
    starts = set(shots) | {i for i in range(1, len(found)) if found[i] != found[i - 1]} | {0, len(found)}
    window, short = (round(seconds * float(fps)) // 2 * 2 + 1 for seconds in (hparams.smooth_s, POINTS_SMOOTH_S))
    for start, end in itertools.pairwise(sorted(starts)):
        if start == end or not found[start]:
            continue
        squares = np.stack([face.square for face in faces[start:end]])
        for n, face in enumerate(faces[start:end], start):
            points[n] = face.points
        longest = (end - start - 1) // 2 * 2 + 1
        boxes[start:end] = [final_box(square, pads) for square in _smoothed(squares, min(window, longest))]
        for k in range(points.shape[1]):  # one by one: a long video's are large
            points[start:end, k] = _smoothed(points[start:end, k], min(short, longest))
    return Track(boxes, found, points, np.searchsorted(shots, np.arange(len(faces)), "right").astype(np.int32))


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


def final_box(square, pads=(0, 0, 0, 0)):
    """The crop's box of a placed square: lengthened downwards for the chin, then grown by pads (T, B, L, R pixels)."""
    top, bottom, left, right = square
    bottom += hparams.crop_lengthen * (bottom - top)
    box = np.array([top - pads[0], bottom + pads[1], left - pads[2], right + pads[3]])
    return np.round(box).astype(np.int32)


def crop(frame, box, img_size):
    """The box's content resized to (img_size, img_size, 3) uint8; past the picture's edge the edge is repeated."""
    top, bottom, left, right = (int(v) for v in box)
    height, width = frame.shape[:2]
    inside = frame[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if min(bottom - top, right - left) < 1 or not inside.size:
        raise ValueError(f"box {top} {bottom} {left} {right} lies outside of the picture {height} x {width}")
    edges = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    if any(edges):
        inside = cv2.copyMakeBorder(inside, *edges, cv2.BORDER_REPLICATE)
    shrinks = img_size < max(inside.shape[:2])
    return cv2.resize(inside, (img_size, img_size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def generator_input(reference, pose):
    """The generator's six channels: the reference crop, and the target frame's crop with its lower half black.

    reference, pose: (..., S, S, 3) BGR uint8. Returns (..., S, S, 6) float32 in [0, 1].
    """
    return generator_bytes(reference, pose).astype(np.float32) / np.float32(255)


def generator_bytes(reference, pose):
    """As `generator_input`, but (..., S, S, 6) uint8 in [0, 255], for a network's own device to scale."""
    six = np.concatenate([reference, pose], axis=-1)
    six[..., six.shape[-2] // 2 :, :, 3:] = 0
    return six
