"""Rendering at the frame's own resolution."""

import dataclasses

import cv2
import numpy as np
import pytest

from lipgan.faces import crop as face_crop
from lipgan.faces.landmarks import LIPS, NOSE_BASE
from lipgan.inference import mouth_interior, render
from lipgan.inference.blend import RISE, mask_rise
from lipgan.inference.drawn_teeth import teeth_look
from lipgan.inference.mouth_detail import mouth_detail
from lipgan.inference.mouth_interior import Inside
from lipgan.models import lip_flow

BOX = (20, 250, 30, 230)  # of a face in a frame of 280 x 260
PIXELS = np.mgrid[:230, :200]


def lips(opening):
    """Lips (40,) float32 at the usual place in a crop."""
    angles = np.arange(12) / 12 * 2 * np.pi + np.pi
    outer = np.stack([np.cos(angles) * 0.13, np.sin(angles) * (0.04 + opening / 2)], axis=1)
    angles = np.arange(8) / 8 * 2 * np.pi + np.pi
    inner = np.stack([np.cos(angles) * 0.1, np.sin(angles) * opening / 2], axis=1)
    return np.add(np.concatenate([outer, inner]), (0.5, 0.72)).astype(np.float32).ravel()


def maps(shown, target):
    return render.MouthMaps(lips(shown), lips(target), np.zeros((48, 96, 2), np.float32))


def opening_maps(image, target):
    """The maps of a mouth that is shut in the image and opens on drawn teeth."""
    return dataclasses.replace(maps(0.0, target), teeth_look=teeth_look(crop_of(image), lips(0.0)))


def frame():
    noise = np.random.default_rng(0).integers(0, 256, (280, 260, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def crop_of(image):
    return image[BOX[0] : BOX[1], BOX[2] : BOX[3]]


def test_lips_that_stay_change_nothing():
    image = frame()
    np.testing.assert_array_equal(render.paste_mouth(image, crop_of(image), maps(0.03, 0.03), BOX), image)


def test_mouth_in_a_pause_is_the_references():
    image, moved = frame(), maps(0.03, 0.035)
    calm = moved.in_pause(moved.reference_lips, moved.lips, 1.0)
    np.testing.assert_array_equal(render.paste_mouth(image, crop_of(image), calm, BOX), image)
    half = moved.in_pause(moved.reference_lips, moved.lips, 0.5)
    np.testing.assert_allclose(half.lips, (moved.lips + moved.reference_lips) / 2, atol=1e-6)


def test_mouth_that_opens_for_breath_in_a_pause_moves():
    breath, smile, speaking = maps(0.03, 0.06), lips(0.01), lips(0.0)
    breath = dataclasses.replace(breath, lips=smile + breath.lips - lips(0.0))
    moved = breath.in_pause(smile, speaking, 1.0)
    np.testing.assert_allclose(moved.lips, speaking + breath.lips - smile, atol=1e-6)


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
    mouth = slice(BOX[0] + 174, BOX[0] + 205), slice(BOX[2] + 60, BOX[2] + 140)  # lower lip and chin
    sharpness = [cv2.Laplacian(x[mouth], cv2.CV_32F).var() for x in (image, result)]
    assert 0.7 < sharpness[1] / sharpness[0] < 1.3


def test_mouth_that_was_shut_opens_on_teeth_and_dark():
    image = np.full((280, 260, 3), 100, np.uint8)
    opened = render.paste_mouth(image, crop_of(image), opening_maps(image, 0.1), BOX)
    below_teeth = BOX[0] + round(0.745 * 230), BOX[2] + 100
    assert (opened[below_teeth] < 40).all()
    assert (opened[BOX[0] + round(0.715 * 230), BOX[2] + 95] > 60).all()  # an incisor
    np.testing.assert_allclose(opened[BOX[0] + round(0.72 * 230) - 30], 100, atol=1)
    closed = render.paste_mouth(image, crop_of(image), maps(0.1, 0.0), BOX)
    np.testing.assert_allclose(closed, 100, atol=1)


def striped_teeth(gap):
    """A grey image whose mouth, as wide open as `lips(gap)`, shows white teeth with dark lines between them."""
    image = np.full((280, 260, 3), 100, np.uint8)
    y, x = np.mgrid[:230, :200]
    inside = ((x + 0.5) / 200 - 0.5) ** 2 / 0.1**2 + ((y + 0.5) / 230 - 0.72) ** 2 / (gap / 2) ** 2 < 0.85
    crop_of(image)[inside] = np.where(x[inside] % 8 < 2, 120, 250)[:, None]
    return image


def test_the_inside_of_the_mouth_is_grey_in_an_image_of_greys():
    image = np.repeat(frame()[..., :1], 3, axis=2)
    opened = opening_maps(image, 0.08)
    result = render.paste_mouth(image, crop_of(image), opened, BOX)
    assert (result != image).any() and (np.ptp(result, axis=2) <= 1).all()
    image[..., 2] = np.minimum(image[..., 2] + 40.0, 255)
    result = render.paste_mouth(image, crop_of(image), opened, BOX)
    assert np.ptp(result, axis=2)[result.max(axis=2) < 60].max() > 10


def test_teeth_stay_in_place_when_lips_open_wider_or_close():
    image = striped_teeth(0.08)
    row, columns = BOX[0] + round(0.72 * 230) - 4, slice(BOX[2] + 92, BOX[2] + 108)
    for target in (0.05, 0.14):
        moved = render.paste_mouth(image, crop_of(image), maps(0.08, target), BOX)
        np.testing.assert_allclose(moved[row, columns], image[row, columns], atol=3)


def test_teeth_of_another_crop_show_between_lips_that_open():
    image, other = np.full((280, 260, 3), 100, np.uint8), striped_teeth(0.08)
    mouth = opening_maps(image, 0.08)
    opened = render.paste_mouth(image, crop_of(image), mouth, BOX)
    inside = dataclasses.replace(mouth, inside=Inside(crop_of(other), lips(0.08)))
    with_teeth = render.paste_mouth(image, crop_of(image), inside, BOX)
    middle = BOX[0] + round(0.72 * 230), slice(BOX[2] + 92, BOX[2] + 108)
    assert opened[middle].max() < 150
    np.testing.assert_allclose(with_teeth[middle], other[middle], atol=6)


def test_lower_teeth_move_with_the_lower_lip():
    image, other = np.full((280, 260, 3), 100, np.uint8), np.full((280, 260, 3), 100, np.uint8)
    inside, rows = crop_of(other), np.arange(230) / 230 - 0.72
    inside[np.abs(rows) < 0.04, 80:120] = 10  # dark, but for a bright row of teeth above the lower lip
    inside[(rows > 0.015) & (rows < 0.04), 80:120] = 250
    split = mouth_interior.jaw_split(inside, lips(0.08).reshape(20, 2))
    assert 0 < split < 0.8
    bright = []
    for gap in (0.06, 0.08, 0.12):
        mouth = dataclasses.replace(maps(0.0, gap), inside=Inside(inside, lips(0.08), split))
        column = crop_of(render.paste_mouth(image, crop_of(image), mouth, BOX))[:, 100, 0]
        bright.append(np.flatnonzero(column > 200).mean() / 230 - gap / 2)
    np.testing.assert_allclose(bright, bright[1], atol=0.008)  # at the same height above the lower lip


def test_a_smile_without_lower_teeth_has_no_split():
    image = np.full((230, 200, 3), 100, np.uint8)
    assert mouth_interior.jaw_split(image, lips(0.08).reshape(20, 2)) == 1
    assert mouth_interior.jaw_split(crop_of(striped_teeth(0.08)), lips(0.08).reshape(20, 2)) == 1
    assert mouth_interior.jaw_split(image, lips(0.0).reshape(20, 2)) == 1


def test_visible_edges_lie_beside_the_teeth():
    image, rows = np.full((230, 200, 3), (60, 60, 160), np.uint8), np.arange(230) / 230 - 0.72
    image[(rows > -0.02) & (rows < 0.026)] = 240
    found = mouth_interior.visible_edges(image, lips(0.04).reshape(20, 2))
    assert 0.745 < found[18, 1] < 0.757  # they end at 0.746, and dlib's landmark lies at 0.74
    np.testing.assert_allclose(found[:12], lips(0.04).reshape(20, 2)[:12])
    image[:] = (60, 60, 160)
    np.testing.assert_allclose(
        mouth_interior.visible_edges(image, lips(0.04).reshape(20, 2)), lips(0.04).reshape(20, 2)
    )


def test_fine_detail_of_the_mouth_follows_the_shot():
    image, mouth = frame(), maps(0.0, 0.05)
    points = render._in_frame(mouth.lips, BOX, 0.0)
    plain = mouth_detail(render.paste_mouth(image, crop_of(image), mouth, BOX), points)
    for factor in (0.6, 1.4):
        aimed = dataclasses.replace(mouth, detail=factor * plain)
        result = render.paste_mouth(image, crop_of(image), aimed, BOX)
        assert mouth_detail(result, points) == pytest.approx(factor * plain, rel=0.15)
        assert not (result != image).any(axis=2)[: BOX[0] + 110].any()


def test_the_mask_begins_above_the_lips_of_a_head_that_nods():
    points = np.tile(np.float32([100, 100]), (68, 1))
    points[NOSE_BASE, 1], points[LIPS, 1] = 108, 122
    first, last = mask_rise((0, 230, 0, 200), points)
    assert 108 / 230 < first < last < 122 / 230
    points[NOSE_BASE, 1], points[LIPS, 1] = 114, 160
    assert mask_rise((0, 230, 0, 200), points)[1] == RISE[1]
    assert mask_rise((0, 230, 0, 200), None) == RISE


def test_no_teeth_show_between_lips_that_meet():
    image = striped_teeth(0.08)
    shut = render.paste_mouth(image, crop_of(image), maps(0.08, 0.005), BOX)
    mouth = slice(BOX[0] + 140, BOX[0] + 190), slice(BOX[2] + 70, BOX[2] + 130)
    assert image[mouth].max() == 250 and shut[mouth].max() < 125


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


def exact_mouth(crop, mouth):
    """The lips and skin of a crop's lower half with each formula evaluated at each pixel: (R, W, 3) uint8."""
    height, width = crop.shape[:2]
    y, x = lip_flow.pixel_centres(height, height // 2), lip_flow.pixel_centres(width)
    flow = lip_flow.lip_flow(mouth.reference_lips, mouth.lips, y, x) + cv2.resize(mouth.correction, (width, len(y)))
    map_x, map_y = (x + flow[..., 1]) * width - 0.5, (y[:, None] + flow[..., 0]) * height - 0.5
    moved = cv2.remap(crop, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return moved


@pytest.mark.parametrize("height", [90, 360, 720])
def test_rendering_agrees_with_the_formulas_at_every_pixel(height):
    crop = cv2.resize(frame(), (height * 5 // 6, height), interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(1)
    correction = cv2.resize(rng.normal(0, 0.004, (6, 12, 2)), (96, 48)).astype(np.float32)
    mouth = render.MouthMaps(lips(0.06), lips(0.09), correction)
    rows, columns = slice(height // 2, height), slice(0, crop.shape[1])
    difference = np.abs(render.render_mouth(crop, mouth, rows, columns).astype(int) - exact_mouth(crop, mouth))
    y, x = lip_flow.pixel_centres(height, height // 2), lip_flow.pixel_centres(crop.shape[1])
    inside = np.minimum(*lip_flow.edge_distances(mouth.lips, y, x)) > -0.02
    difference[inside] = 0  # a layer of its own
    difference[y < 0.5 + render.CORRECTED] = 0  # where the correction begins
    assert (difference > 2).mean() < 1e-3 and difference.max() < 12


def test_nothing_is_dark_beside_the_mouth():
    image = np.full((280, 260, 3), 100, np.uint8)
    result = render.paste_mouth(image, crop_of(image), opening_maps(image, 0.1), BOX)
    painted = (result != image).any(axis=(0, 2)).nonzero()[0]
    width = BOX[3] - BOX[2]
    assert painted[0] > BOX[2] + 0.39 * width and painted[-1] < BOX[2] + 0.61 * width


@pytest.mark.parametrize("roll", [-20.0, 7.0])
def test_a_tilted_head_is_rendered_as_the_upright_crop_is(roll):
    """Rendered in the tilted crop and then turned upright, or turned first: the same mouth."""
    size = 300
    upright = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8), (0, 0), 4)
    tilted, mouth = face_crop.rotate(upright, -roll), maps(0.0, 0.06)
    rows, columns = slice(size // 2, size), slice(0, size)
    rendered = tilted.copy()
    rendered[rows] = render.render_mouth(tilted, mouth, rows, columns, roll)
    expected = render.render_mouth(upright, mouth, rows, columns)
    middle = slice(180, 270), slice(100, 200)
    difference = np.abs(face_crop.rotate(rendered, roll)[middle].astype(int) - expected[30:120, 100:200])
    assert np.abs(upright[middle].astype(int) - expected[30:120, 100:200]).mean() > 3
    assert difference.mean() < 1 and difference.max() < 20
