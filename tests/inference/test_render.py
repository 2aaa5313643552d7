"""Rendering at the frame's own resolution."""

import cv2
import numpy as np

from lipgan.inference import render

BOX = (20, 250, 30, 230)  # of a face in a frame of 280 x 260
PIXELS = np.mgrid[:230, :200]


def lips(opening):
    """Lips (40,) float32 at the usual place in a crop."""
    angles = np.arange(12) / 12 * 2 * np.pi + np.pi
    outer = np.stack([np.cos(angles) * 0.13, np.sin(angles) * (0.04 + opening / 2)], axis=1)
    angles = np.arange(8) / 8 * 2 * np.pi + np.pi
    inner = np.stack([np.cos(angles) * 0.1, np.sin(angles) * opening / 2], axis=1)
    return np.add(np.concatenate([outer, inner]), (0.5, 0.72)).astype(np.float32).ravel()


def maps(shown, target, paint=(1, 1, 1), opacity=0.0):
    overlay = np.tile(np.float32([*paint, opacity]), (48, 96, 1))
    return render.MouthMaps(lips(shown), lips(target), np.zeros((48, 96, 2), np.float32), overlay)


def frame():
    noise = np.random.default_rng(0).integers(0, 256, (280, 260, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def crop_of(image):
    return image[BOX[0] : BOX[1], BOX[2] : BOX[3]]


def test_lips_that_stay_change_nothing():
    image = frame()
    np.testing.assert_array_equal(render.paste_mouth(image, crop_of(image), maps(0.03, 0.03), BOX), image)


def test_calmed_mouth_is_the_references():
    image, moved = frame(), maps(0.03, 0.06, opacity=1.0)
    calmed = moved.calmed(moved.reference_lips, 1.0)
    np.testing.assert_array_equal(render.paste_mouth(image, crop_of(image), calmed, BOX), image)
    half = moved.calmed(moved.reference_lips, 0.5)
    np.testing.assert_allclose(half.lips, (moved.lips + moved.reference_lips) / 2, atol=1e-6)
    assert half.overlay[..., 3].max() == 0.5 and half.overlay[..., :3].min() == 1


def test_pixels_outside_of_the_mask_stay_as_they_are():
    image = frame()
    result = render.paste_mouth(image, crop_of(image), maps(0.0, 0.08), BOX)
    changed = (result != image).any(axis=2)
    assert changed.any()
    assert not changed[: BOX[0] + 115].any() and not changed[BOX[1] :].any()
    assert not changed[:, : BOX[2]].any() and not changed[:, BOX[3] :].any()


def test_moved_pixels_stay_as_sharp_as_the_frame():
    image = frame()
    result = render.paste_mouth(image, crop_of(image), maps(0.0, 0.05), BOX)
    mouth = slice(BOX[0] + 140, BOX[0] + 200), slice(BOX[2] + 60, BOX[2] + 140)
    sharpness = [cv2.Laplacian(x[mouth], cv2.CV_32F).var() for x in (image, result)]
    assert 0.7 < sharpness[1] / sharpness[0] < 1.3


def test_paint_shows_inside_the_open_mouth_only():
    image = np.full((280, 260, 3), 100, np.uint8)
    opened = render.paste_mouth(image, crop_of(image), maps(0.0, 0.1, opacity=1.0), BOX)
    middle = BOX[0] + round(0.72 * 230), BOX[2] + 100
    assert (opened[middle] > 230).all()
    closed = render.paste_mouth(image, crop_of(image), maps(0.1, 0.0, opacity=1.0), BOX)
    np.testing.assert_allclose(closed, 100, atol=1)


def test_a_tilted_head_is_rendered_as_an_upright_one():
    image, mouth = frame(), maps(0.0, 0.06)
    upright = render.paste_mouth(image, crop_of(image), mouth, BOX)
    nearly = render.paste_mouth(image, crop_of(image), mouth, BOX, roll=1e-4)
    assert np.abs(upright.astype(int) - nearly).max() <= 2


def test_a_box_past_the_edge_is_rendered_where_it_is_visible():
    image = frame()[:200]
    whole = cv2.copyMakeBorder(image, 0, 80, 0, 0, cv2.BORDER_REPLICATE)
    result = render.paste_mouth(image, crop_of(whole), maps(0.0, 0.08), BOX)
    assert result.shape == image.shape and (result != image).any()
