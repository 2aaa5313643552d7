"""A picture that tests know in any way up."""

import numpy as np


def quadrants(width=64, height=48):
    """A picture whose quarters differ, which shows its orientation."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (30, 30, 200)
    picture[: height // 2, width // 2 :] = (30, 200, 30)
    picture[height // 2 :, : width // 2] = (200, 30, 30)
    picture[height // 2 :, width // 2 :] = (200, 200, 200)
    return picture


def corners(picture):
    """The middles of the four quarters: (2, 2, 3) int."""
    height, width = picture.shape[:2]
    return picture[height // 4 :: height // 2, width // 4 :: width // 2].astype(int)
