"""The numbers that tie audio to frames and faces to crops: one frozen object that every other file reads.

They are stored with preprocessed data and with weights, and compared on loading: a network only knows the windows and
crops that it was trained on.
"""

import dataclasses
import math
from fractions import Fraction


@dataclasses.dataclass(frozen=True)
class HParams:
    """What preprocessing, training, inference and evaluation must agree on (defaults: K R et al. 2019's own scale)."""

    # Audio
    sample_rate: int = 16_000  # Hz, mono
    preemphasis: float = 0.97
    n_fft: int = 800
    win_size: int = 800  # samples: 50 ms, Hann
    hop_size: int = 200  # samples between mel frames: 12.5 ms, so 80 mel frames a second
    num_mels: int = 80
    fmin: float = 55.0  # Hz
    fmax: float = 7_600.0  # Hz
    ref_level_db: float = 20.0
    min_level_db: float = -100.0  # this and everything under it becomes -max_abs_value
    max_abs_value: float = 4.0  # mels lie in [-4, 4]
    mel_window: int = 27  # mel frames per video frame: 337.5 ms
    fps: int = 25  # frames per second of preprocessed data

    # Face: the crop's place is taken from the brows, eyes and nose, which do not move with the mouth. The unit is the
    # root mean square distance of those 31 landmarks from their mean. The numbers are the average dlib HOG box.
    crop_side: float = 4.0  # width of the crop
    crop_down: float = 0.82  # from the landmarks' mean down to the middle of the square
    crop_lengthen: float = 0.15  # the square grows downwards by this part of its side, for the open mouth's chin
    smooth_s: float = 0.6  # seconds over which boxes are averaged (centred)

    # Samples
    min_reference_gap: int = 6  # frames between target and reference
    min_wrong_gap: int = 5  # frames between the right and a wrong window of the same clip
    min_crops: int = 12  # a clip with fewer is not trained on

    @property
    def mels_per_second(self) -> float:
        """Mel frames per second."""
        return self.sample_rate / self.hop_size

    def mel_start(self, frame: int, fps) -> int:
        """Return the first mel frame of the window that is centred on video frame `frame` (0-based).

        fps: int, float or Fraction. The result may be negative: audio is silent before its start.
        """
        middle = (Fraction(frame) + Fraction(1, 2)) / Fraction(fps) * Fraction(self.sample_rate, self.hop_size)
        return math.floor(middle + Fraction(1, 2)) - self.mel_window // 2

    def as_dict(self) -> dict:
        """Return the numbers as plain values, for JSON."""
        return dataclasses.asdict(self)

    def differences(self, other: dict) -> list[str]:
        """List the differences from `other`, a stored `as_dict`, as "name: here x, there y"; empty if they agree."""
        mine = self.as_dict()
        return [f"{k}: here {v}, there {other[k]}" for k, v in mine.items() if k in other and other[k] != v]


hparams = HParams()
