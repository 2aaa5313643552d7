"""Audio files for tests."""

import wave

import numpy as np


def write_wav(path, seconds):
    """Write a soft tone, 16 kHz mono PCM16, and return its path."""
    tone = 8000 * np.sin(np.arange(round(seconds * 16_000)) * 0.2)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(tone.astype("<i2").tobytes())
    return path
