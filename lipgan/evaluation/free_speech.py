"""How the audio of a clip lies against its own lips: the clip's lag, and the moments at which the lips must close.

Many clips found in the wild have audio that is 1 to 3 frames late. Results are compared with the truth at the clip's
own lag, which is known, or estimated from what a listener expects the mouth to do.
"""

import collections.abc
import dataclasses

from audio_hparams import hparams
from lipgan.evaluation.sync_offset import listener_offset
from lipgan.utils.cli import UserError
from lipgan.utils.files import read_rows


@dataclasses.dataclass(frozen=True)
class Timing:
    """The audio of one clip against its own lips."""

    lag: float = 0.0  # frames at hparams.fps by which the audio is late
    closures: tuple[float, ...] = ()  # moments of /p b m/ in the audio, in frames


NO_LAG = Timing()


@dataclasses.dataclass(frozen=True)
class Timer:
    """Finds the Timing of clips.

    lags: known ones by clip; a clip that is not in it has lag 0. listener: estimates the lag instead: a function of
    16 kHz audio (N,) that gives the mouth opening to expect, one value per frame at hparams.fps.
    """

    lags: dict[str, float] | None = None
    listener: collections.abc.Callable | None = None

    def __call__(self, name, wav, opening) -> Timing:
        """Time a clip by its name, its audio (None where it is not kept) and the curve of its mouth opening."""
        if wav is None or not len(wav):
            return Timing((self.lags or {}).get(name, 0.0))
        lag = (self.lags or {}).get(name, 0.0)
        if self.listener is not None:
            offset = listener_offset(self.listener(wav), opening)
            lag = offset.lag if offset else 0.0
        return Timing(lag, closure_moments(wav))


SHARED_CLOCK = Timer()  # for clips whose audio and lips agree, as those of GRID, LRS2 and this project


def closure_moments(wav) -> tuple[float, ...]:
    """Find the /p b m/ of speech, in frames at hparams.fps: the peaks of their probability by the speech encoder.

    wav: (N,) float, 16 kHz mono. The centre of frame k is moment k.
    """
    from lipgan.models import speech

    vectors = speech.closure_vectors(speech.closure_probability(speech.encode(wav)))
    return tuple((vectors / speech.VECTORS_PER_SECOND * hparams.fps - 0.5).tolist())


def read_lags(path) -> dict[str, float]:
    """Read a CSV file of lags by clip: columns clip (speaker/clip, also with main/ before it) and lag. UserError."""
    lags = {}
    for number, row in enumerate(read_rows(path, "lags", ("clip", "lag")), 1):
        try:
            lags["/".join(row["clip"].split("/")[-2:])] = float(row["lag"] or 0)
        except ValueError:
            raise UserError(f"--lags {path}, line {number}: lag is {row['lag']!r}; give a number of frames") from None
    return lags
