"""Blending: the mouth changes, and no edge shows."""

import cv2
import numpy as np
import pytest

from lipgan.faces.crop import crop
from lipgan.faces.tracker import find_boxes
from lipgan.inference.blend import JAW, frame_mask, paste_back, paste_mask

BOX = (75, 193, 78, 180)  # of the photo's face


def placed(image, hog):
    (box,), _ = find_boxes([image], 25, hog)
    return box, hog.landmarks(image, (box[0], box[0] + (box[1] - box[0]) / 1.15, box[2], box[3]))


def fine(image):
    """What is finer than a generator's pixel in a crop of 300 pixels."""
    return image.astype(np.float32) - cv2.GaussianBlur(image.astype(np.float32), (0, 0), 2)


def test_paste_back_changes_the_lower_half_inside_the_mask_only(astronaut):
    rng, box = np.random.default_rng(0), (40, 190, 60, 190)
    generated = rng.integers(0, 256, (96, 96, 3), dtype="uint8")
    changed = (paste_back(astronaut, generated, box) != astronaut).any(axis=-1)
    mask = frame_mask(astronaut.shape, box, 96)
    assert not changed[mask == 0].any()
    assert changed[mask > 0.5].mean() > 0.9
    changed[115:189, 61:189] = False  # what is left: all but the box's lower half within its edges
    assert not changed.any()


def test_the_mask_follows_the_jaw(astronaut, hog):
    box, landmarks = placed(astronaut, hog)
    mask, height = frame_mask(astronaut.shape, box, 96, landmarks), box[1] - box[0]
    jaw = landmarks[JAW].astype(np.float32)
    below = [p for p in np.argwhere(mask > 0) if p[0] > landmarks[33, 1]]
    outside = [-cv2.pointPolygonTest(jaw, (float(x), float(y)), True) / height for y, x in below]
    assert 0.09 < max(outside) < 0.2  # room for a chin that moves down
    beside = [o for o, (y, _) in zip(outside, below, strict=True) if y < landmarks[4, 1]]
    assert 0 < max(beside) < 0.1
    assert mask[tuple(landmarks[57].round().astype(int)[::-1])] == 1  # the lower lip


def test_without_landmarks_the_mask_is_that_of_the_mean_jaw(astronaut):
    np.testing.assert_array_equal(paste_mask(96), paste_mask(96, BOX, np.full((68, 2), np.nan)))


def test_unchanged_face_stays_sharp(astronaut, hog):
    large = cv2.resize(astronaut, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    large = np.clip(large + np.random.default_rng(0).normal(0, 4, large.shape), 0, 255).astype(np.uint8)
    box, landmarks = placed(large, hog)
    result = paste_back(large, crop(large, box, 96), box, landmarks)
    inside = frame_mask(large.shape, box, 96, landmarks) > 0.9
    assert fine(result)[inside].std() == pytest.approx(fine(large)[inside].std(), rel=0.1)
    assert np.abs(result.astype(int) - large)[inside].mean() < 1


def test_blurred_frame_is_not_sharpened(astronaut, hog):
    blurred = cv2.GaussianBlur(cv2.resize(astronaut, None, fx=3, fy=3), (0, 0), 8)
    box, landmarks = placed(blurred, hog)
    generated = cv2.GaussianBlur(crop(astronaut, [v // 3 for v in box], 96), (0, 0), 1)
    inside = frame_mask(blurred.shape, box, 96, landmarks) > 0.9
    enlarged = cv2.resize(generated, (box[3] - box[2], box[1] - box[0]), interpolation=cv2.INTER_CUBIC)
    plain = blurred.copy()
    plain[box[0] : box[1], box[2] : box[3]] = enlarged
    assert fine(paste_back(blurred, generated, box, landmarks))[inside].std() <= fine(plain)[inside].std() + 0.2


def test_moved_chin_is_not_doubled():
    def chin(row, size, width):  # skin with a dark line, as under a chin
        rows = np.arange(size, dtype=np.float32)[:, None, None] / size
        return np.broadcast_to(160 - 90 * np.exp(-(((rows - row) / width) ** 2)), (size, size, 3)).astype(np.uint8)

    result = paste_back(chin(0.84, 300, 0.004), chin(0.74, 96, 0.012), (0, 300, 0, 300))[:, 150].mean(axis=-1)
    assert result[round(0.74 * 300) - 3 : round(0.74 * 300) + 3].min() < 100
    assert result[round(0.80 * 300) : round(0.88 * 300)].min() > 140


def test_colour_shift_leaves_no_step(astronaut, hog):
    (box,), _ = find_boxes([astronaut], 25, hog)
    same = crop(astronaut, box, 96)
    result = paste_back(astronaut, np.clip(same.astype(int) + np.array([12, -9, 7]), 0, 255).astype(np.uint8), box)
    difference = cv2.blur(result.astype(np.float32) - astronaut.astype(np.float32), (5, 5))
    assert np.abs(difference).mean(axis=(0, 1)).max() < 1
    assert np.abs(difference).max() < 12


def test_paste_back_at_the_edges_of_the_frame(astronaut):
    generated = np.full((96, 96, 3), 128, np.uint8)
    for box in ((-40, 90, -30, 100), (180, 300, 170, 290), (-10, 300, -10, 300)):
        assert paste_back(astronaut, generated, box).shape == astronaut.shape
