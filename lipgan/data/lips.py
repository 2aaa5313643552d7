"""dlib's landmarks of the lips in face crops."""

import functools

import cv2
import numpy as np

from audio_hparams import hparams
from lipgan.faces import faces
from lipgan.faces.faces import LIPS

MIRRORED = [6, 5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 16, 15, 14, 13, 12, 19, 18, 17]  # which of them is which in a mirror
NUM_LIPS = 20  # dlib's landmarks 48 to 67: 12 of the outer lips, 8 of the inner ones


class LipLandmarks:
    """dlib's landmarks of the lips in face crops, whose place in the crop is known."""

    def __init__(self):
        self._detector = faces.FaceDetector("hog")

    def __call__(self, crop):
        """(S, S, 3) uint8 -> (20, 2) float64, x and y in parts of the crop's side."""
        return self.face(crop)[LIPS]

    def face(self, crop):
        """All 68 landmarks: (S, S, 3) uint8 -> (68, 2) float64."""
        side = 2 * crop.shape[0]  # the predictor rounds to pixels
        large = cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC)
        square = (0, side / (1 + hparams.crop_lengthen), 0, side)
        return self._detector.landmarks(large, square) / side


def opening(lips):
    """How far the mouth is open: between the inner lips' middles. (..., 20, 2) -> (...)."""
    return lips[..., 18, 1] - lips[..., 14, 1]


_landmarks = functools.cache(LipLandmarks)  # it is large


def lips_of_files(jpegs):
    """The lips in crops, given as the bytes of their files: (N, 40) float16; NaN where one is no picture."""
    find, lips = _landmarks(), np.full((len(jpegs), 2 * NUM_LIPS), np.nan, "float16")
    for row, data in enumerate(jpegs):
        crop = cv2.imdecode(np.frombuffer(data, "uint8"), cv2.IMREAD_COLOR) if data else None
        if crop is not None:
            lips[row] = find(crop).ravel()
    return lips
