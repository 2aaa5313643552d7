"""Which of several faces is followed: named once, then known again by what it looks like.

A face is compared by dlib's descriptor (King 2017, a ResNet): 128 numbers, nearer than 0.6 for images of one person.
"""

import hashlib

import cv2
import dlib
import numpy as np

from lipgan.faces.detector import FaceDetector, model_file, overlap
from lipgan.utils.cli import UserError

SAME_PERSON = 0.6  # distance of descriptors
SAME_PLACE = 0.2  # overlap (intersection over union) of a face and a box that a user gives
CHIP_PX = 150  # side of the upright, centred image that the descriptor is taken of


class FaceChoice:
    """The face that `tracking` follows: the largest, or one that is named. After a cut, only the same person.

    index: counted from left to right, from 0. box: (T, B, L, R) pixels that the face overlaps most. image: a BGR
    image of the person (its largest face counts); in every shot the nearest face is taken, if it is near enough.
    Give one of these at most; one object is for one video. first: `FaceDetector.detect_all` of its first frame, where
    that is known. Raises UserError, later too: when the first frame with faces has no such one.
    """

    def __init__(self, index=None, box=None, image=None, first=None):
        if sum(v is not None for v in (index, box, image)) > 1:
            raise UserError("--face_index, --face_box and --ref_face exclude each other; give one of them")
        self.index, self.box, self._first, self._network = index, box, first, None
        self.by_image = image is not None
        self.named = index is not None or box is not None or self.by_image
        self._chip = self._descriptor = None  # of the person, as soon as known; the descriptor only when it is needed
        if self.by_image:
            detector = FaceDetector()
            squares = placed(detector, image, detector.detect_whole(image))
            if not squares:
                raise UserError("--ref_face: no face found in that image; give one that shows the face from the front")
            self._chip = _chip(detector, image, squares[0])

    @property
    def settings(self):
        """What decides on boxes, for `box_cache`: plain values."""
        person = None if self._chip is None else hashlib.sha256(self._chip.tobytes()).hexdigest()
        return {"index": self.index, "box": self.box, "person": person}

    def look(self, detector, frame):
        """The boxes (N, 4) of all faces of a shot's first frame."""
        known, self._first = self._first, None
        return detector.detect_all(frame) if known is None else known

    def pick(self, detector, frame, squares):
        """Which of these placed squares of a shot's first frame with faces is it? Returns its number, or None."""
        if not squares:
            return None
        if self._chip is None:
            number = self._named(squares)
            self._chip = _chip(detector, frame, squares[number])
            return number
        distances = [self.distance(detector, frame, square) for square in squares]
        nearest = int(np.argmin(distances))
        return nearest if distances[nearest] < SAME_PERSON else None

    def _named(self, squares):
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
                    f"--face_box {' '.join(map(str, self.box))}: no face is found there; --list_faces shows what is"
                )
            return int(np.argmax(shares))
        return int(np.argmax([square[1] - square[0] for square in squares]))

    def distance(self, detector, frame, square):
        """How unlike the chosen person this face is: the distance of the descriptors."""
        if self._network is None:
            self._network = dlib.face_recognition_model_v1(str(model_file("dlib_face_recognition_resnet_model_v1.dat")))
        if self._descriptor is None:
            self._descriptor = np.array(self._network.compute_face_descriptor(self._chip))
        chip = _chip(detector, frame, square)
        return float(np.linalg.norm(self._descriptor - np.array(self._network.compute_face_descriptor(chip))))


def _chip(detector, frame, square):
    """The face turned upright, centred and scaled as the descriptor wants it: (150, 150, 3) RGB uint8."""
    top, bottom, left, right = square
    side = bottom - top
    y, x = (int(max(0, v - side / 2)) for v in (top, left))
    region = np.ascontiguousarray(frame[y : int(bottom + side / 2), x : int(right + side / 2), ::-1])
    points = detector.landmarks(frame, square) - (x, y)
    box = dlib.rectangle(*(round(v) for v in (left - x, top - y, right - x, bottom - y)))
    shape = dlib.full_object_detection(box, [dlib.point(round(px), round(py)) for px, py in points])
    return dlib.get_face_chip(region, shape, CHIP_PX)


def list_faces(detector, frame):
    """The placed squares (N, 4) of all faces of a frame, from left to right."""
    return sorted(placed(detector, frame, detector.detect_all(frame)), key=lambda s: s[2] + s[3])


def placed(detector, frame, boxes):
    """The squares of those boxes in which there is a face: a list of (4,)."""
    squares = [detector.place(frame, box) for box in boxes]
    return [square for square in squares if square is not None]


def draw_faces(frame, squares):
    """A copy of the frame in which each square is drawn with its number."""
    image, scale = frame.copy(), max(frame.shape[:2]) / 1000
    thick = max(1, round(3 * scale))
    for number, (top, bottom, left, right) in enumerate(np.round(squares).astype(int)):
        cv2.rectangle(image, (left, top), (right, bottom), (0, 255, 255), thick)
        at = (left + 2 * thick, bottom - 3 * thick)
        for colour, extra in (((0, 0, 0), 3), ((0, 255, 255), 0)):
            cv2.putText(image, str(number), at, cv2.FONT_HERSHEY_SIMPLEX, 1.5 * scale + 0.5, colour, thick + extra)
    return image
