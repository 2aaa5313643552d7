"""Live: what is heard block by block moves the mouth as the whole recording does, and ends with it."""

import pathlib

import numpy as np
import pytest

from lipgan.inference import live
from lipgan.inference.audio_features import AudioFeatures
from lipgan.inference.options import LipsyncOptions
from lipgan.media.audio import load_wav, mel_window, melspectrogram

ROOT = pathlib.Path(__file__).parents[2]


class Runner:
    """The part of a GeneratorRunner that LiveSpeech asks; it hears mel spectrograms, which need no network."""

    audio_kind, info = "mel", {}


class Still:
    """The part of a Source that LiveSpeech asks."""

    is_still = False


@pytest.fixture
def blocks():
    """The example's speech in blocks, and as a whole."""
    wav = load_wav(ROOT / "examples" / "speech.wav")
    wav = np.pad(wav, (0, -len(wav) % live.BLOCK))
    return wav.reshape(-1, live.BLOCK), wav


def listener(skip=False):
    return live.LiveSpeech(Runner(), LipsyncOptions(silence_gate=False), Still(), skip)


def test_windows_are_those_of_the_whole_recording(blocks):
    parts, wav = blocks
    mel, speech, count = melspectrogram(wav), listener(), 0
    with speech.listening(parts), pytest.raises(live.EndOfSpeech):
        while True:
            heard = speech.window(count, 25)[..., 0]
            expected = mel_window(mel, count, 25)
            if 8 < count < 115:  # the padding of both ends differs
                np.testing.assert_allclose(heard, expected, atol=1e-4)
            assert speech.number(count) == count
            count += 1
    assert count == round(len(wav) / live.SAMPLE_RATE * 25)


def test_frame_waits_only_for_its_audio_window(blocks):
    parts, _ = blocks
    speech, given = listener(), []
    heard = (given.append(1) or part for part in parts)
    needed_s = 0.02 + live.HALF_WINDOW_S["mel"] + live.LOOKAHEAD_S
    for _ in range(int(needed_s * live.SAMPLE_RATE / live.BLOCK) + 1):
        speech._arrived.put(next(heard))
    speech.window(0, 25)  # without one more block, which would never come
    assert speech._received >= needed_s * live.SAMPLE_RATE


def test_late_generator_drops_frames(blocks):
    parts, _ = blocks
    speech = listener(skip=True)
    for part in parts[:20]:  # 2 s have been heard before the first frame is made
        speech._arrived.put(part)
    speech.window(0, 25)
    behind_s = 2 - (speech.number(0) + 0.5) / 25 - live.HALF_WINDOW_S["mel"] - live.LOOKAHEAD_S
    assert 0 <= behind_s <= live.MAX_BEHIND_S and speech.number(0) > 30
    speech._arrived.put(parts[20])
    speech.window(1, 25)
    assert speech.number(1) == speech.number(0) + 1


def test_long_speech_is_discarded_without_clock_drift():
    speech = listener()
    for _ in range(400):
        speech._arrived.put(np.zeros(live.BLOCK, np.float32))
        speech._take()
    assert speech._received == 400 * live.BLOCK and len(speech._wav) <= 2 * live.LEVEL_S * live.SAMPLE_RATE
    assert isinstance(speech._features, AudioFeatures) and speech.window(950, 25).shape == (80, 27, 1)
