"""Indices of dlib's 68 landmarks, the mouth region of a crop, mouth opening and its closing. NumPy only."""

import functools

import numpy as np

RIGID = slice(17, 48)  # of dlib's 68 landmarks: brows, nose and eyes, which do not move with the mouth
NOSE_BASE = slice(31, 36)
EYES, LIPS = (slice(36, 42), slice(42, 48)), slice(48, 68)
# Which landmark is which in a mirror: of all 68, and of the lips alone.
MIRRORED_FACE = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46]
MIRRORED_FACE += [39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
MIRRORED = [number - LIPS.start for number in MIRRORED_FACE[LIPS]]
NUM_LANDMARKS = 68
NUM_LIPS = 20  # dlib's landmarks 48 to 67: 12 of the outer lips, 8 of the inner ones
FACING = ((13, 14, 15), (19, 18, 17))  # of these: inner landmarks of the upper and the lower lip that face each other
# The landmarks that move vertically with each of these, itself included.
MOVES_WITH = {13: [13, 1, 2], 14: [14, 3], 15: [15, 4, 5], 19: [19, 10, 11], 18: [18, 9], 17: [17, 7, 8]}

MOUTH = (0.54, 0.94, 0.21, 0.79)  # top, bottom, left, right of the mouth in the crop, open or shut, by hparams' placing


def mouth_slices(img_size):
    """Return the rows and the columns of the mouth in a crop of img_size pixels, as slices."""
    return tuple(slice(round(a * img_size), round(b * img_size)) for a, b in (MOUTH[:2], MOUTH[2:]))


def opening(lips):
    """Compute the mouth opening, the gap between the middles of the inner lips: (..., 20, 2) -> (...)."""
    return lips[..., 18, 1] - lips[..., 14, 1]


def mean_opening(lips):
    """Measure the mean gap between FACING landmarks: (..., 40) -> (...). Lips are an array or a tensor of Keras."""
    return sum(lips[..., 2 * low + 1] - lips[..., 2 * up + 1] for up, low in zip(*FACING, strict=True)) / 3


@functools.cache
def closing_matrices():
    """Return what lips do to meet, both alike, as matrices: lips (40,) -> gaps (3,), and gaps -> shifts of lips (40,).

    `lips + lips @ first @ second` has no gap between FACING landmarks. float32.
    """
    gaps, shifts = np.zeros((2 * NUM_LIPS, 3), np.float32), np.zeros((3, 2 * NUM_LIPS), np.float32)
    for pair, (upper, lower) in enumerate(zip(*FACING, strict=True)):
        for inner, side in ((upper, -1), (lower, 1)):
            gaps[2 * inner + 1, pair] = side
            for landmark in MOVES_WITH[inner]:
                shifts[pair, 2 * landmark + 1] = -0.5 * side
    return gaps, shifts
