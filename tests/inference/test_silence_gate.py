"""silence.py: pauses are found at their times, and the mouth rests there without a jump."""

import pathlib

import numpy as np
import pytest

from lipgan.inference.silence_gate import EASE_S, rest, silent_runs
from lipgan.media.audio import load_wav, melspectrogram

SPEECH = pathlib.Path(__file__).parents[2] / "examples" / "speech.wav"


def mel_of(*parts, noise=0.0):
    """The mel of tones and pauses: (seconds, loudness) each, in white noise of this standard deviation."""
    rng = np.random.default_rng(0)
    wav = np.concatenate([level * np.sin(np.arange(round(s * 16_000)) * 0.2) for s, level in parts])
    return melspectrogram((wav + noise * rng.standard_normal(len(wav))).astype("float32"))


@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.005])  # none, -66 and -46 dB of full scale
def test_a_pause_is_found_where_it_is(noise):
    ((first, end),) = silent_runs(mel_of((1, 0.5), (0.8, 0), (1, 0.5), noise=noise))
    assert first / 80 == pytest.approx(1.0, abs=0.04) and end / 80 == pytest.approx(1.8, abs=0.04)


def test_short_pauses_and_soft_speech_are_speech():
    assert silent_runs(mel_of((1, 0.5), (0.2, 0), (1, 0.5))) == []
    syllables = [(0.12, 0.02), (0.08, 0.004)] * 6  # 28 to 42 dB softer
    assert silent_runs(mel_of((1, 0.5), *syllables, (1, 0.5))) == []


def test_an_even_sound_without_pauses_is_speech():
    assert silent_runs(mel_of((3, 0.5), noise=0.1)) == []


def test_the_pauses_of_soft_speech_in_noise_are_found():
    ((first, end),) = silent_runs(mel_of((1, 0.02), (0.8, 0), (1, 0.02), noise=0.0002))
    assert first / 80 == pytest.approx(1.0, abs=0.04) and end / 80 == pytest.approx(1.8, abs=0.04)


def test_the_mouth_rests_in_the_pause_and_moves_there_and_back_without_a_jump():
    at_rest = rest(mel_of((1, 0.5), (1, 0), (1, 0.5)), 150, 50)
    assert at_rest.shape == (150,) and at_rest.dtype == np.float32
    assert not at_rest[:48].any() and not at_rest[102:].any()
    assert (at_rest[60:90] == 1).all()
    assert np.abs(np.diff(at_rest)).max() < 2 / (EASE_S * 50)


def test_silence_at_an_end_rests_from_the_first_frame_to_the_last():
    at_rest = rest(mel_of((0.5, 0), (1, 0.5), (0.5, 0)), 50, 25)
    assert (at_rest[:8] == 1).all() and (at_rest[-8:] == 1).all() and not at_rest[14:36].any()


def test_a_sound_without_any_speech_rests_throughout():
    assert (rest(mel_of((1, 0)), 25, 25) == 1).all()


def test_a_late_window_rests_later_by_as_much():
    mel = mel_of((1, 0.5), (1, 0), (1, 0.5))
    np.testing.assert_allclose(rest(mel, 70, 25, late=5), rest(mel, 75, 25)[5:], atol=1e-6)


def test_speech_itself_is_not_taken_for_silence():
    at_rest = rest(melspectrogram(load_wav(SPEECH)), 124, 25)
    assert (at_rest > 0).mean() < 0.25
