"""An image that shows its orientation."""

import numpy as np


def quadrants(width=64, height=48):
    """Return an image whose quarters have different colours: (height, width, 3) uint8 BGR."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (30, 30, 200)
    image[: height // 2, width // 2 :] = (30, 200, 30)
    image[height // 2 :, : width // 2] = (200, 30, 30)
    image[height // 2 :, width // 2 :] = (200, 200, 200)
    return image


def corners(image):
    """Return the colours in the middles of the four quarters: (2, 2, 3) int."""
    height, width = image.shape[:2]
    return image[height // 4 :: height // 2, width // 4 :: width // 2].astype(int)
