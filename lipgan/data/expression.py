"""Random changes of a reference's expression, so that a renderer learns to close any smile: other lips, same face."""

import cv2
import numpy as np

from lipgan.faces.landmarks import FACING, MOVES_WITH
from lipgan.models import lip_flow


def draw_expression(lips, rng):
    """Draw other lips for the same face: wider or narrower, corners up or down, more or less open.

    lips: (40,) in parts of the crop's side. Returns the same, float32.
    """
    points = np.array(lips, np.float64).reshape(-1, 2)
    centre, half_width = (points[0] + points[6]) / 2, max(points[6, 0] - points[0, 0], 1e-3) / 2
    gap = rng.uniform(0, 1.4)
    moved = points.copy()
    for facing in zip(*FACING, strict=True):
        middle = points[list(facing)].mean(axis=0)
        for inner in facing:
            moved[MOVES_WITH[inner]] += (gap - 1) * (points[inner] - middle)
    x = (moved[:, 0] - centre[0]) / half_width
    moved[:, 0] = centre[0] + (moved[:, 0] - centre[0]) * np.exp(rng.normal(0, 0.12))
    moved[:, 1] -= half_width * rng.normal(0, 0.15) * (x**2 - 0.3)
    moved += rng.normal(0, 0.004, 2)
    return moved.ravel().astype(np.float32)


def change_expression(crop, lips, new_lips):
    """Move the lips of a crop (S, S, 3) uint8 from `lips` to `new_lips`, both (40,); returns the crop."""
    size = crop.shape[0]
    centres = lip_flow.pixel_centres(size)
    flow = lip_flow.lip_flow(lips, new_lips, centres, centres)
    grid = np.arange(size, dtype=np.float32)
    x, y = grid[None] + size * flow[..., 1], grid[:, None] + size * flow[..., 0]
    return cv2.remap(crop, x.astype(np.float32), y.astype(np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
