"""Timing of a clip's audio against its lips: lags from a file or a listener, and the moments of /p b m/."""

import pathlib

import numpy as np
import pytest

from lipgan.evaluation import free_speech
from lipgan.media.audio import load_wav
from lipgan.utils.cli import UserError

SPEECH = pathlib.Path(__file__).parents[2] / "examples" / "speech.wav"
ONE_SECOND = np.zeros(16_000, "float32")


@pytest.fixture
def no_closures(monkeypatch):
    monkeypatch.setattr(free_speech, "closure_moments", lambda wav: ())


def test_lags_are_read_by_clip(tmp_path):
    (tmp_path / "lags.csv").write_text("clip,crops,lag\nmain/a/1,50,2.5\nb/2,50,\n")
    assert free_speech.read_lags(tmp_path / "lags.csv") == {"a/1": 2.5, "b/2": 0.0}
    (tmp_path / "lags.csv").write_text("clip,lag\na/1,late\n")
    with pytest.raises(UserError, match="line 1: lag is 'late'; give a number of frames"):
        free_speech.read_lags(tmp_path / "lags.csv")


def test_known_lag_is_used_and_others_are_zero(no_closures):
    timer = free_speech.Timer(lags={"a/1": 2.0})
    curve = np.zeros(25)
    assert [timer(name, ONE_SECOND, curve).lag for name in ("a/1", "a/2")] == [2, 0]
    assert timer("a/1", None, curve) == free_speech.Timing(2.0)


def test_listener_estimates_the_lag(no_closures):
    opening = np.convolve(np.random.default_rng(0).random(106), np.hanning(7) / 3, "valid")
    timer = free_speech.Timer(listener=lambda wav: np.roll(opening, 2))
    assert timer("a/1", ONE_SECOND, opening).lag == pytest.approx(2, abs=0.2)


@pytest.mark.slow
def test_closures_lie_at_p_b_m():
    # "Before you believe a moving mouth, ask who made it. A program moved this one."
    moments = np.array(free_speech.closure_moments(load_wav(SPEECH)))
    assert moments[:3] / 25 == pytest.approx([0.2, 0.56, 1.04], abs=0.06) and 6 <= len(moments) <= 8
    assert free_speech.closure_moments(ONE_SECOND) == ()
