"""How far lips move for a person and a recording."""

import numpy as np
import pytest

from lipgan.faces.landmarks import FACING, mean_opening
from lipgan.inference.articulation import LIMITS, OWN_POWER, RENDERED, SURE, deviation, motion_gain


def openings(deviation_, seconds=4):
    """Openings 25 times a second, which rise and fall five times a second."""
    return deviation_ * np.sqrt(2) * np.sin(np.arange(25 * seconds) * 2 * np.pi / 5)


def members(disagreement, deviation_=0.02):
    """Openings (N, 2) of two members that disagree by a share of the deviation of their mean."""
    apart = disagreement * deviation_ * np.where(np.arange(100) % 2, 1, -1)
    return np.stack([openings(deviation_) + apart, openings(deviation_) - apart], axis=1)


def test_opening_is_the_mean_gap_between_the_inner_lips():
    lips = np.zeros((2, 20, 2), np.float32)
    lips[1, list(FACING[1]), 1] = 0.02, 0.05, 0.02
    np.testing.assert_allclose(mean_opening(lips.reshape(2, 40)), [0, 0.03], atol=1e-7)


def test_pauses_do_not_count():
    talk = openings(0.02)
    assert deviation(talk) == pytest.approx(0.02, rel=0.02)
    assert deviation(np.concatenate([np.zeros(100), talk, np.zeros(50)])) == pytest.approx(0.02, rel=0.02)
    assert deviation(talk[:10]) == deviation(np.zeros(0)) == 0


def test_person_of_a_video_goes_on_moving_the_lips_as_far():
    assert motion_gain(members(0.1), 0.02 / RENDERED) == pytest.approx(1, abs=0.02)
    assert motion_gain(members(0.1), 0.03 / RENDERED) == pytest.approx(1.5**OWN_POWER, rel=0.02)
    assert (motion_gain(members(0.1), 0.008), motion_gain(members(0.1), 0.2)) == LIMITS


def test_of_a_silent_person_only_the_speech_is_known():
    for unknown in (None, 0.0, 0.004):
        assert motion_gain(members(0.1), unknown) == SURE[1]


def test_lips_move_less_where_the_members_agree():
    assert motion_gain(members(0.05)) < motion_gain(members(0.2)) < motion_gain(members(0.4)) < 1.2


def test_silence_moves_nothing():
    assert motion_gain(np.zeros((100, 4))) == 1
    assert motion_gain(np.zeros((3, 4)), 0.02) == 1
