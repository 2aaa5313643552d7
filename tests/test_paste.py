"""paste.py: the mouth changes, and nothing shows where it was put."""

import cv2
import numpy as np

from faces import crop, find_boxes
from paste import lower_half_mask, paste_back


def test_paste_back_changes_the_lower_half_inside_the_mask_only(astronaut):
    rng, box = np.random.default_rng(0), (40, 190, 60, 190)
    generated = rng.integers(0, 256, (96, 96, 3), dtype="uint8")
    result = paste_back(astronaut, generated, box)
    mask = np.zeros(astronaut.shape[:2], np.float32)
    mask[40:190, 60:190] = lower_half_mask(150, 130)
    changed = (result != astronaut).any(axis=-1)
    assert not changed[mask == 0].any()
    assert changed[mask > 0.5].mean() > 0.9
    assert not mask[: (40 + 190) // 2].any() and not mask[189].any()


def test_paste_back_of_the_same_face_in_other_colours_leaves_no_step(astronaut, hog):
    (box,), _ = find_boxes([astronaut], 25, hog)
    same = crop(astronaut, box, 96)
    result = paste_back(astronaut, np.clip(same.astype(int) + np.array([12, -9, 7]), 0, 255).astype(np.uint8), box)
    difference = cv2.blur(result.astype(np.float32) - astronaut.astype(np.float32), (5, 5))
    assert np.abs(difference).mean(axis=(0, 1)).max() < 1
    assert np.abs(difference).max() < 12


def test_paste_back_works_at_the_edges_of_the_picture(astronaut):
    generated = np.full((96, 96, 3), 128, np.uint8)
    for box in ((-40, 90, -30, 100), (180, 300, 170, 290), (-10, 300, -10, 300)):
        assert paste_back(astronaut, generated, box).shape == astronaut.shape
