"""Occlusion: covered mouths and profiles are detected by the lower face's colours."""

import cv2
import numpy as np
import pytest

from lipgan.faces import occlusion
from lipgan.faces.tracker import Track


def hand(image):
    cv2.ellipse(image, (100, 145), (45, 30), 0, 0, 360, (40, 40, 45), -1)


def microphone(image):
    cv2.circle(image, (100, 152), 15, (30, 30, 30), -1)
    cv2.line(image, (100, 152), (100, 199), (40, 40, 40), 9)


def spoon(image):
    cv2.line(image, (103, 145), (130, 199), (40, 40, 30), 9)
    cv2.ellipse(image, (100, 142), (15, 10), 0, 0, 360, (30, 30, 25), -1)


def face(number, covered=False, cover=hand):
    """Draw a face of 200 x 200 pixels with noise and an opening mouth. Returns it with its landmarks (68, 2)."""
    rng = np.random.default_rng(number)
    image = np.full((200, 200, 3), (110, 140, 190), np.uint8)
    gap = round(6 * (1 + np.sin(number)))
    cv2.ellipse(image, (100, 140), (26, 3 + gap), 0, 0, 360, (70, 60, 140), -1)
    if covered:
        cover(image)
    points = np.full((68, 2), 100.0)
    points[36:42], points[42:48], points[30] = (70, 80), (130, 80), (100, 110)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8), points + rng.normal(0, 0.3, (68, 2))


def shot(covered, num_frames=50, cover=hand):
    """Return the cells and landmarks of a shot in which these frames are covered."""
    faces = [face(number, number in covered, cover) for number in range(num_frames)]
    return np.stack([occlusion.face_cells(*f) for f in faces]), np.stack([points for _, points in faces])


@pytest.mark.parametrize("cover", [hand, microphone, spoon])
def test_covered_frames_of_a_shot_are_detected(cover):
    cells, points = shot(range(20, 30), cover=cover)
    np.testing.assert_array_equal(np.flatnonzero(occlusion.covered_frames(cells, points)), np.arange(20, 30))


def test_speech_and_a_change_of_light_are_no_occlusion():
    cells, points = shot(())
    assert not occlusion.covered_frames(cells, points).any()
    cells[25:] = cells[25:] // 2
    assert not occlusion.covered_frames(cells, points).any()


def test_mouth_that_opens_once_is_no_occlusion():
    cells, points = shot(
        range(20, 30), cover=lambda image: cv2.ellipse(image, (100, 140), (24, 5), 0, 0, 360, (30, 20, 60), -1)
    )
    assert not occlusion.covered_frames(cells, points).any()


def test_permanent_occlusion_counts_as_the_face():
    assert not occlusion.covered_frames(*shot(range(50))).any()


def test_profile_counts_as_covered_and_a_head_turn_does_not():
    cells, points = shot(range(20, 30))
    points[20:30, 30, 0] += 12  # of 60 between the eyes
    assert not occlusion.covered_frames(cells, points).any()
    points[20:30, 30, 0] += 25
    np.testing.assert_array_equal(np.flatnonzero(occlusion.covered_frames(cells, points)), np.arange(20, 30))


def test_share_rises_before_an_occlusion_and_falls_after_it():
    cells, points = shot(range(20, 30))
    found, shots = np.ones(50, bool), np.ones(50, np.int32)
    share = occlusion.covered_share(Track(None, found, points, shots, found, cells=cells), 25)
    assert (share[20:30] == 1).all() and (np.diff(share[14:21]) >= 0).all() and (np.diff(share[29:36]) <= 0).all()
    assert 0 < share[18] < 1 and 0 < share[31] < 1 and not share[:14].any() and not share[36:].any()
    assert not occlusion.covered_share(Track(None, found, None, None, None), 25).any()


@pytest.mark.parametrize("covered", [(7,), (7, 20), (0, 1), (48, 49)])
def test_one_or_two_frames_are_no_occlusion(covered):
    cells, points = shot(covered)
    found, shots = np.ones(50, bool), np.ones(50, np.int32)
    assert not occlusion.covered_share(Track(None, found, points, shots, found, cells=cells), 25).any()
