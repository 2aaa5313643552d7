"""Face selection: choose one of several faces by number, place or photo, and recognise the person after cuts.

Faces are compared by dlib's descriptor (King 2017, a ResNet): 128 numbers, whose distance is under 0.6 for images of
one person.
"""

import hashlib

import cv2
import dlib
import numpy as np

from lipgan.faces.detector import FaceDetector, model_file, overlap
from lipgan.utils.cli import UserError

SAME_PERSON = 0.6  # largest distance of two descriptors of one person
SAME_PLACE = 0.2  # smallest overlap (intersection over union) of a face and --face_box
CHIP_PX = 150  # side of the aligned face image that the descriptor is computed from


class FaceSelection:
    """Selects the face that `tracker.follow_face` follows: the largest one by default. After a cut, the same person.

    index: position from left to right, from 0. box: (T, B, L, R) in pixels; the face that overlaps it most is selected.
    image: BGR image of the person, whose largest face counts; in every shot the most similar face is selected if its
    distance is under SAME_PERSON. At most one of the three. first: the result of `FaceDetector.detect_all` for the
    first frame, if known. Use one object for one video. Raises UserError, also from `pick`: when the first frame with
    faces has no such face.
    """

    def __init__(self, index=None, box=None, image=None, first=None):
        if sum(v is not None for v in (index, box, image)) > 1:
            raise UserError("--face_index, --face_box and --ref_face exclude each other; give one of them")
        self.index, self.box, self._first_boxes, self._network = index, box, first, None
        self.by_image = image is not None
        self.is_explicit = index is not None or box is not None or self.by_image
        self._chip = self._descriptor = None  # of the person; the descriptor is computed when first needed
        if self.by_image:
            detector = FaceDetector()
            squares = face_squares(detector, image, detector.detect_whole(image))
            if not squares:
                raise UserError("--ref_face: no face found in that image; give one that shows the face from the front")
            self._chip = _chip(detector, image, squares[0])

    @property
    def settings(self):
        """The settings that a cached track depends on, as plain values for `track_cache`."""
        person = None if self._chip is None else hashlib.sha256(self._chip.tobytes()).hexdigest()
        return {"index": self.index, "box": self.box, "person": person}

    def detect(self, detector, frame):
        """Detect all faces of a shot's first frame: boxes (N, 4)."""
        boxes, self._first_boxes = self._first_boxes, None
        return detector.detect_all(frame) if boxes is None else boxes

    def pick(self, detector, frame, squares):
        """Return the index of the selected face among `squares`, those of a shot's first frame with faces, or None."""
        if not squares:
            return None
        if self._chip is None:
            number = self._initial(squares)
            self._chip = _chip(detector, frame, squares[number])
            return number
        distances = [self.distance(detector, frame, square) for square in squares]
        nearest = int(np.argmin(distances))
        return nearest if distances[nearest] < SAME_PERSON else None

    def _initial(self, squares):
        """Return the index of the face that the options name, the largest one without options. Raises UserError."""
        if self.index is not None:
            order = sorted(range(len(squares)), key=lambda n: squares[n][2] + squares[n][3])
            if self.index >= len(order):
                raise UserError(
                    f"--face_index {self.index}: the first frame with faces has {len(order)}, counted from 0 from left "
                    "to right; --list_faces shows them"
                )
            return order[self.index]
        if self.box is not None:
            shares = [overlap(square, self.box) for square in squares]
            if max(shares) < SAME_PLACE:
                raise UserError(
                    f"--face_box {' '.join(map(str, self.box))}: no face found there; --list_faces shows all faces"
                )
            return int(np.argmax(shares))
        return int(np.argmax([square[1] - square[0] for square in squares]))

    def distance(self, detector, frame, square):
        """Return the descriptor distance between the selected person and a face."""
        if self._network is None:
            self._network = dlib.face_recognition_model_v1(str(model_file("dlib_face_recognition_resnet_model_v1.dat")))
        if self._descriptor is None:
            self._descriptor = np.array(self._network.compute_face_descriptor(self._chip))
        chip = _chip(detector, frame, square)
        return float(np.linalg.norm(self._descriptor - np.array(self._network.compute_face_descriptor(chip))))


def _chip(detector, frame, square):
    """Align a face for the descriptor network: upright, centred, (150, 150, 3) RGB uint8."""
    top, bottom, left, right = square
    side = bottom - top
    y, x = (int(max(0, v - side / 2)) for v in (top, left))
    region = np.ascontiguousarray(frame[y : int(bottom + side / 2), x : int(right + side / 2), ::-1])
    points = detector.landmarks(frame, square) - (x, y)
    box = dlib.rectangle(*(round(v) for v in (left - x, top - y, right - x, bottom - y)))
    shape = dlib.full_object_detection(box, [dlib.point(round(px), round(py)) for px, py in points])
    return dlib.get_face_chip(region, shape, CHIP_PX)


def list_faces(detector, frame):
    """Return the squares (N, 4) of all faces of a frame, from left to right."""
    return sorted(face_squares(detector, frame, detector.detect_all(frame)), key=lambda s: s[2] + s[3])


def face_squares(detector, frame, boxes):
    """Return the squares, (4,) each, of the boxes that hold a face."""
    squares = [detector.square(frame, box) for box in boxes]
    return [square for square in squares if square is not None]


def draw_faces(frame, squares):
    """Draw each square with its number on a copy of the frame."""
    image, scale = frame.copy(), max(frame.shape[:2]) / 1000
    thick = max(1, round(3 * scale))
    for number, (top, bottom, left, right) in enumerate(np.round(squares).astype(int)):
        cv2.rectangle(image, (left, top), (right, bottom), (0, 255, 255), thick)
        at = (left + 2 * thick, bottom - 3 * thick)
        for colour, extra in (((0, 0, 0), 3), ((0, 255, 255), 0)):
            cv2.putText(image, str(number), at, cv2.FONT_HERSHEY_SIMPLEX, 1.5 * scale + 0.5, colour, thick + extra)
    return image
