"""Live: frames while the speech is still being said, each a fixed time after its audio.

A frame needs the audio around its middle: half of the generator's window after it, and LOOKAHEAD_S more, which the
speech encoder hears as context. Audio comes in blocks of 0.1 s; the last CHUNK_S are encoded again when a frame needs
more than was encoded. Who is slower than the audio plays leaves frames out, so that the delay stays bounded.
"""

import contextlib
import dataclasses
import queue
import threading
import time
from fractions import Fraction

import numpy as np

from lipgan.inference.audio_features import AudioFeatures, audio_features
from lipgan.inference.options import LipsyncOptions
from lipgan.inference.pipeline import Speech, generate_frames
from lipgan.inference.preparation import Audio, prepare
from lipgan.inference.runner import GeneratorRunner
from lipgan.inference.silence_gate import silence_weights
from lipgan.inference.source import open_source

SAMPLE_RATE = 16_000  # Hz
BLOCK = 1_600  # samples: 100 ms, a whole number of mel frames and of the encoder's vectors
CHUNK_S = 4.0  # encoded at a time
LEVEL_S = 10.0  # over which loudness and pauses are judged
HALF_WINDOW_S = {"speech": 0.23, "mel": 0.17}  # that a generator hears after the middle of a frame
LOOKAHEAD_S = 0.16
MAX_BEHIND_S = 0.2  # of unused audio, before frames are left out
FOREVER = np.broadcast_to(np.float32(0), (24 * 3600 * SAMPLE_RATE,))  # no memory: the clip's length is not known


class EndOfSpeech(Exception):
    """Raised where a frame lies after the end of the audio."""


@dataclasses.dataclass(frozen=True)
class LiveFrame:
    """A frame of a live result."""

    image: np.ndarray  # (H, W, 3) BGR uint8
    number: int  # of the frame in the result's time; one that is left out is missing in the sequence
    fps: Fraction
    delay_s: float  # from the sound in the middle of the frame to now


def live_frames(face, blocks, runner: GeneratorRunner, options=LipsyncOptions(), skip=True):  # noqa: B008 (frozen)
    """Yield LiveFrames of a face (path of an image or video) that says what arrives, until it ends.

    blocks: an iterable of (1600,) float32, 16 kHz mono, each given when it has been heard; it is read in a thread, from
    when the face has been found on. runner: of `load_runner(batch_size=1)`. skip: leave frames out when late. Raises
    UserError.
    """
    if runner.batch_size != 1:
        raise ValueError(f"the runner makes {runner.batch_size} frames at a time; load_runner(batch_size=1)")
    options = options.with_defaults(runner.info)
    clip = prepare(open_source(face, options), Audio(None, None, FOREVER), options)
    speech = LiveSpeech(runner, options, clip.source, skip)
    frames = generate_frames(clip, runner.reset(clip.source.is_still), options, speech=speech)
    with speech.listening(blocks), contextlib.closing(frames), contextlib.suppress(EndOfSpeech):
        for index, (image, _) in enumerate(frames):
            number = speech.number(index)
            delay_s = time.monotonic() - speech.start_s - (number + 0.5) / float(clip.source.fps)
            yield LiveFrame(image, number, clip.source.fps, delay_s)


class LiveSpeech:
    """Stands for a `pipeline.Speech` of a recording that is not at its end yet: `window` waits for the audio.

    start_s: when the first sample was heard, on the clock of time.monotonic.
    """

    def __init__(self, runner, options, source, skip):
        self._kind, self._options, self._source, self._skip = runner.audio_kind, options, source, skip
        self._offset_s = Fraction(options.sync_offset_ms or runner.info.get("sync_offset_ms", 0)) / 1000
        self._arrived, self._ended, self.start_s = queue.SimpleQueue(), False, 0.0
        # Silence before the first sample: then all chunks have one length, for which the encoder is compiled now.
        self._wav, self._before = np.zeros(int(CHUNK_S * SAMPLE_RATE), np.float32), int(CHUNK_S * SAMPLE_RATE)
        self._dropped = 0  # samples that are forgotten, at the beginning of _wav
        self._encoded, self._skipped, self._numbers = -1, 0, {}
        self._features, self._speech = None, None
        self._encode()

    @contextlib.contextmanager
    def listening(self, blocks):
        """Read the blocks in a thread during the `with` block."""
        stop = threading.Event()

        def read():
            try:
                for block in blocks:
                    if not self.start_s:
                        self.start_s = time.monotonic() - len(block) / SAMPLE_RATE
                    self._arrived.put(np.asarray(block, np.float32))
                    if stop.is_set():
                        break
            finally:
                self._arrived.put(None)

        threading.Thread(target=read, daemon=True).start()
        try:
            yield
        finally:
            stop.set()
            self._arrived.put(None)  # for a frame that waits

    @property
    def _received(self):
        """Number of samples received."""
        return self._dropped + len(self._wav) - self._before

    def number(self, index):
        """Return the number, in the result's time, of the frame that was generated as the index-th."""
        return self._numbers.get(index, index + self._skipped)

    def window(self, frame, fps):
        """Return what the generator hears for the frame that it generates next, as soon as that has arrived."""
        while self._skip and not self._ended and not self._arrived.empty():
            self._take()
        behind = self._received - self._needed(frame + self._skipped, fps)
        if self._skip and behind > MAX_BEHIND_S * SAMPLE_RATE:
            self._skipped += int(behind / SAMPLE_RATE * fps)
        number = frame + self._skipped
        self._numbers[frame] = number
        needed = self._needed(number, fps)
        while self._received < needed and not self._ended:
            self._take()
        if self._ended and number >= round(self._received / SAMPLE_RATE * fps):
            raise EndOfSpeech
        if self._encoded < min(needed, self._received):
            self._encode()
        return self._window(number, fps)

    def expressed(self, mouth, frame):
        """Return the _Mouth with the expression of the frame whose window was asked for last."""
        return self._speech.expressed(mouth, 0)

    def _needed(self, number, fps):
        """Return how many samples must have been heard for a frame."""
        middle_s = (Fraction(number) + Fraction(1, 2)) / fps + self._offset_s
        return int((float(middle_s) + HALF_WINDOW_S[self._kind] + LOOKAHEAD_S) * SAMPLE_RATE)

    def _take(self):
        """Wait for the next block."""
        block = self._arrived.get()
        if block is None:
            self._ended = True
            return
        self._wav = np.concatenate([self._wav, block])
        if (spare := len(self._wav) - int(2 * LEVEL_S * SAMPLE_RATE)) > 0:  # seldom: half of it is forgotten then
            spare = (spare + int(LEVEL_S * SAMPLE_RATE)) // BLOCK * BLOCK
            self._wav, self._dropped = self._wav[spare:], self._dropped + spare

    def _encode(self):
        """Encode the last CHUNK_S of the audio."""
        length = int(CHUNK_S * SAMPLE_RATE)
        first = -(-max(0, len(self._wav) - length) // BLOCK) * BLOCK
        chunk = np.pad(self._wav[first:], (0, length - len(self._wav[first:])))
        recent = self._wav[max(0, len(self._wav) - min(self._received or length, int(LEVEL_S * SAMPLE_RATE))) :]
        if self._kind == "speech":
            from lipgan.models import speech

            values = speech.encode(chunk, gain=speech.speech_gain(recent))
            self._features = AudioFeatures("speech", values[: (len(self._wav) - first) // speech.STRIDE + 1])
        else:
            self._features = audio_features(self._kind, chunk)
        self._features_start = first + self._dropped - self._before  # the sample that is the chunk's first
        self._encoded = self._received

    def _window(self, number, fps):
        """Return the window of a frame, and keep what its expression depends on."""
        count = min(self._received, int(LEVEL_S * SAMPLE_RATE))
        start_s = Fraction(self._received - count, SAMPLE_RATE)
        offset_frames = number + (self._offset_s - start_s) * fps
        pauses = silence_weights(self._wav[len(self._wav) - count :], 1, fps, offset_frames)
        silence = pauses if self._options.gates_silence(self._kind) else np.zeros_like(pauses)
        is_still = self._source.is_still
        pauses = pauses if is_still else None
        options = self._options
        self._speech = Speech(self._features, silence, 0, pauses, options.expression, options.motion_gain)
        offset_ms = 1000 * (self._offset_s - Fraction(self._features_start, SAMPLE_RATE))
        return self._features.window(number, fps, offset_ms, silence[0])
