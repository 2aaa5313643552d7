"""Audio features: what a generator hears, computed once for the whole audio and cut into a window for each frame."""

import dataclasses
from fractions import Fraction

import numpy as np

from audio_hparams import hparams
from lipgan.media.audio import mel_window, melspectrogram

KINDS = ("mel", "speech")


@dataclasses.dataclass(frozen=True)
class AudioFeatures:
    """The features of one recording. From `audio_features`.

    kind: "mel", values (80, T) float32 in [-4, 4], 80 a second, windows (80, 27, 1); or "speech", values (T, 335)
    float32 of `lipgan.models.speech`, 50 a second, windows (23, 335).
    """

    kind: str
    values: np.ndarray

    def window(self, frame, fps, offset_ms=0, silence=0.0):
        """Return what the generator hears for one video frame, float32.

        frame: 0-based index. offset_ms: positive values use later audio. silence: share, 0 to 1, of silence that is
        mixed in. What lies before and after the recording is silence.
        """
        if self.kind == "mel":
            window = mel_window(self.values, frame + Fraction(offset_ms) / 1000 * fps, fps)[..., None]
            quiet = np.float32(-hparams.max_abs_value)
        else:
            from lipgan.models import speech

            window, quiet = speech.feature_window(self.values, frame, fps, offset_ms), speech.silence()
        return window + np.float32(silence) * (quiet - window) if silence else window


def audio_features(kind, wav):
    """Compute the AudioFeatures of a kind (of KINDS; each generator says which) of 16 kHz mono audio, (n,) float32."""
    if kind == "mel":
        return AudioFeatures(kind, melspectrogram(wav))
    if kind == "speech":
        from lipgan.models import speech

        return AudioFeatures(kind, speech.encode(wav))
    raise ValueError(f"audio features {kind!r} are none of {', '.join(KINDS)}")
