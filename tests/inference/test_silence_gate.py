"""Silence gate: pauses are found at their times, and the mouth fades to rest there."""

import pathlib

import numpy as np
import pytest

from lipgan.inference.silence_gate import EASE_S, silence_weights, silent_runs
from lipgan.media.audio import load_wav

SPEECH = pathlib.Path(__file__).parents[2] / "examples" / "speech.wav"


def audio_of(*parts, noise=0.0):
    """Audio of tones and pauses: (seconds, loudness) each, in white noise of this standard deviation."""
    rng = np.random.default_rng(0)
    wav = np.concatenate([level * np.sin(np.arange(round(s * 16_000)) * 0.2) for s, level in parts])
    return (wav + noise * rng.standard_normal(len(wav))).astype("float32")


@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.005])  # none, -66 and -46 dB of full scale
def test_pause_is_detected_at_its_time(noise):
    ((first, end),) = silent_runs(audio_of((1, 0.5), (0.8, 0), (1, 0.5), noise=noise))
    assert first / 80 == pytest.approx(1.0, abs=0.04) and end / 80 == pytest.approx(1.8, abs=0.04)


def test_short_pauses_and_soft_syllables_are_speech():
    assert silent_runs(audio_of((1, 0.5), (0.2, 0), (1, 0.5))) == []
    syllables = [(0.12, 0.02), (0.08, 0.004)] * 6  # 28 to 42 dB softer
    assert silent_runs(audio_of((1, 0.5), *syllables, (1, 0.5))) == []


def test_constant_tone_is_speech():
    assert silent_runs(audio_of((3, 0.5), noise=0.1)) == []


def test_pauses_of_soft_speech_in_noise_are_detected():
    ((first, end),) = silent_runs(audio_of((1, 0.02), (0.8, 0), (1, 0.02), noise=0.0002))
    assert first / 80 == pytest.approx(1.0, abs=0.04) and end / 80 == pytest.approx(1.8, abs=0.04)


def test_weights_fade_in_and_out_inside_the_pause():
    weights = silence_weights(audio_of((1, 0.5), (1, 0), (1, 0.5)), 150, 50)
    assert weights.shape == (150,) and weights.dtype == np.float32
    assert not weights[:48].any() and not weights[102:].any()
    assert (weights[60:90] == 1).all()
    assert np.abs(np.diff(weights)).max() < 2 / (EASE_S * 50)


def test_quiet_speech_has_the_pauses_of_loud_speech():
    wav = load_wav(SPEECH)
    quiet = (np.round(wav * 10 ** (-30 / 20) * 32_768) / 32_768).astype("float32")  # 16 bits, 30 dB lower
    loud_weights, quiet_weights = (silence_weights(w, 120, 25) for w in (wav, quiet))
    assert np.abs(loud_weights - quiet_weights).mean() < 0.02


def test_silence_at_the_ends_is_full_rest():
    weights = silence_weights(audio_of((0.5, 0), (1, 0.5), (0.5, 0)), 50, 25)
    assert (weights[:8] == 1).all() and (weights[-8:] == 1).all() and not weights[14:36].any()


def test_audio_without_speech_is_full_rest():
    assert (silence_weights(audio_of((1, 0)), 25, 25) == 1).all()


def test_offset_shifts_the_weights():
    wav = audio_of((1, 0.5), (1, 0), (1, 0.5))
    np.testing.assert_allclose(
        silence_weights(wav, 70, 25, offset_frames=5), silence_weights(wav, 75, 25)[5:], atol=1e-6
    )


def test_speech_is_not_silence():
    weights = silence_weights(load_wav(SPEECH), 124, 25)
    assert (weights > 0).mean() < 0.25
