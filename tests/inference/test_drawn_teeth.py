"""Teeth for images with a shut mouth."""

import cv2
import numpy as np
import pytest

from lipgan.inference import drawn_teeth
from lipgan.inference.mouth_interior import edges
from lipgan.models.lip_flow import SHUT_GAP

SIZE = 400
PLACE = (
    (np.arange(SIZE, dtype=np.float32)[None] + 0.5) / SIZE,
    (np.arange(SIZE, dtype=np.float32)[:, None] + 0.5) / SIZE,
)
LINE = 0.72  # where the lips meet


def lips(gap, drop=0.0):
    """Lips (40,) whose inner edges lie `gap` apart, the lower one `drop` below LINE; the mouth is 0.28 wide."""
    inner = np.float32([[0.36, 0], [0.43, -1], [0.5, -1], [0.57, -1], [0.64, 0], [0.57, 1], [0.5, 1], [0.43, 1]])
    points = np.zeros((20, 2), np.float32)
    points[12:] = inner * (1, gap / 2) + (0, LINE + drop)
    points[:12] = (0.5, LINE)
    points[0], points[6] = points[12], points[16]
    return points.ravel()


def drawn(target, look=None, share=1.0):
    image = np.zeros((SIZE, SIZE, 3), np.float32)
    look = look or drawn_teeth.TeethLook(np.full(3, 200, np.float32), 0.001)
    drawn_teeth.draw_teeth(image, lips(0.0), edges(target), PLACE, look, share)
    return image[..., 1]


def bottom_edge(image, column):
    return np.flatnonzero(image[:, column] > 20).max() / SIZE


def test_an_open_or_smiling_image_has_teeth_of_its_own():
    assert drawn_teeth.hidden_teeth(lips(0.0)) == drawn_teeth.hidden_teeth(lips(SHUT_GAP)) == 1
    assert drawn_teeth.hidden_teeth(lips(0.03)) == 0


def test_teeth_stay_while_the_lips_move():
    near, far = drawn(lips(0.05)), drawn(lips(0.08, drop=0.02))
    column = SIZE // 2 - 12  # the middle of an incisor
    assert bottom_edge(near, column) == pytest.approx(bottom_edge(far, column), abs=0.003)
    assert LINE + 0.005 < bottom_edge(near, column) < LINE + 0.02


def test_teeth_are_symmetric_and_darker_towards_the_side_and_the_upper_lip():
    image, row = drawn(lips(0.06)), int(SIZE * LINE)
    np.testing.assert_allclose(image, image[:, ::-1], atol=0.5)
    in_front, aside = image[row, SIZE // 2 - 12], image[row, int(0.41 * SIZE)]
    assert 0 < aside < in_front
    assert image[row - 8, SIZE // 2 - 12] < in_front
    assert image[row, SIZE // 2] < in_front  # between two incisors


def test_hardly_parted_lips_let_in_less_light():
    row, column = int(SIZE * LINE), SIZE // 2 - 12
    assert drawn(lips(0.012))[row, column] < 0.9 * drawn(lips(0.06))[row, column]


def test_share_makes_teeth_transparent():
    np.testing.assert_allclose(drawn(lips(0.06), share=0.5), drawn(lips(0.06)) / 2, atol=0.01)


def test_teeth_are_as_blurred_as_the_image():
    crop = np.full((SIZE, SIZE, 3), (100, 140, 190), np.uint8)
    crop[int(LINE * SIZE) :, :, :] = (60, 70, 150)
    wide = lips(0.0)
    wide[1::2] += np.where(np.arange(20) % 2, 0.03, -0.03)  # lips of some height
    deviations = [1.0, 3.0]
    looks = [drawn_teeth.teeth_look(cv2.GaussianBlur(crop, (0, 0), sigma), wide) for sigma in deviations]
    np.testing.assert_allclose([look.blur * SIZE for look in looks], deviations, rtol=0.25)
    sharp, soft = (np.abs(np.diff(drawn(lips(0.06), look)[:, SIZE // 2 - 12])).max() for look in looks)
    assert soft < sharp


@pytest.mark.parametrize("skin", [(40, 60, 90), (120, 150, 200), (200, 215, 235)])
def test_teeth_are_paler_than_skin_and_as_bright(skin):
    look = drawn_teeth.teeth_look(np.full((100, 100, 3), skin, np.uint8), lips(0.0))
    assert np.ptp(look.colour) / look.colour.mean() < 0.8 * np.ptp(skin) / np.mean(skin)
    assert 0.9 < look.colour.mean() / np.mean(skin) < 1.6


def test_teeth_of_a_grey_image_are_grey():
    look = drawn_teeth.teeth_look(np.full((100, 100, 3), 130, np.uint8), lips(0.0), roll=20.0)
    assert np.ptp(look.colour) < 1e-3
