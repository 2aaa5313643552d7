"""Indices of dlib's 68 landmarks, the mouth region of a crop, and mouth opening. NumPy only."""

RIGID = slice(17, 48)  # of dlib's 68 landmarks: brows, nose and eyes, which do not move with the mouth
EYES, LIPS = (slice(36, 42), slice(42, 48)), slice(48, 68)
MIRRORED = [6, 5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 16, 15, 14, 13, 12, 19, 18, 17]  # which of them is which in a mirror
NUM_LANDMARKS = 68
NUM_LIPS = 20  # dlib's landmarks 48 to 67: 12 of the outer lips, 8 of the inner ones


def opening(lips):
    """How far the mouth is open: between the inner lips' middles. (..., 20, 2) -> (...)."""
    return lips[..., 18, 1] - lips[..., 14, 1]


MOUTH = (0.54, 0.94, 0.21, 0.79)  # top, bottom, left, right of the mouth in the crop, open or shut, by hparams' placing
