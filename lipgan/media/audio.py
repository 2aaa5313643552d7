"""Sound in: any file's sound on its picture's clock, its mel spectrogram, and the window of a video frame."""

import array
import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np

from audio_hparams import hparams
from lipgan.media.container import decode_stream, frame_time, longest_jump, open_media, picture_stream
from lipgan.utils.cli import UserError

MAX_SLIP_S = 0.04  # timestamps may stray this far before silence is put in or sound taken out: many files round them
USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}  # AAC has these
FRAMES_PER_CHUNK = 2_048  # mel frames computed at once: about 25 MB of temporary arrays


class Block(NamedTuple):
    """A piece of sound: samples (channels, n) float32 in about [-1, 1], rate in Hz, layout as FFmpeg names it."""

    samples: np.ndarray
    rate: int
    layout: str


def melspectrogram(wav: np.ndarray) -> np.ndarray:
    """Mel spectrogram on the reference's scale: (n,) at 16 kHz -> (num_mels, 1 + n // hop_size) float32 in [-4, 4].

    Computed in chunks, in float64: one hour of sound needs its own 230 MB, 92 MB for the result, and 45 MB on top
    (tracemalloc). ValueError for no samples at all; a single one will do.
    """
    if not len(wav):
        raise ValueError("melspectrogram needs at least one sample")
    num_frames = 1 + len(wav) // hparams.hop_size
    mel = np.empty((hparams.num_mels, num_frames), np.float32)
    window = np.hanning(hparams.win_size + 1)[:-1]  # periodic, as spectra want it
    offsets = np.arange(hparams.n_fft) - hparams.n_fft // 2
    for first in range(0, num_frames, FRAMES_PER_CHUNK):
        frames = np.arange(first, min(first + FRAMES_PER_CHUNK, num_frames))
        span = np.arange(frames[0] * hparams.hop_size + offsets[0], frames[-1] * hparams.hop_size + offsets[-1] + 1)
        pieces = np.lib.stride_tricks.sliding_window_view(_emphasised(wav, span), hparams.n_fft)[:: hparams.hop_size]
        magnitude = np.abs(np.fft.rfft(pieces * window, axis=1))  # (frames, n_fft // 2 + 1)
        # No matrix product: from a thread beside others, NumPy's OpenBLAS was seen to wait for ever in a large one.
        bands = [np.einsum("tf,f->t", magnitude[:, bins], weights) for bins, weights in _mel_bands()]
        level_db = 20 * np.log10(np.maximum(1e-5, np.stack(bands))) - hparams.ref_level_db
        scaled = 2 * hparams.max_abs_value * (level_db / -hparams.min_level_db + 1) - hparams.max_abs_value
        mel[:, frames] = scaled.clip(-hparams.max_abs_value, hparams.max_abs_value)
    return mel


def _emphasised(wav, index):
    """Pre-emphasised samples at `index` (int64), which may lie outside: the edges are mirrors, as often as needed."""
    last = len(wav) - 1
    index = np.mod(index, 2 * last) if last else np.zeros_like(index)
    index = np.where(index > last, 2 * last - index, index)
    before = np.where(index > 0, wav[index - 1], 0)
    return wav[index].astype(np.float64) - hparams.preemphasis * before.astype(np.float64)


@functools.cache
def mel_bank() -> np.ndarray:
    """Triangular filters on Slaney's mel scale, each of area 1: (num_mels, n_fft // 2 + 1) float64.

    The same numbers as librosa.filters.mel(sr=, n_fft=, n_mels=, fmin=, fmax=), whose import alone takes over a second.
    The scale is linear below 1 kHz (200/3 Hz a mel), logarithmic above (27 mels for a factor of 6.4).
    """
    knee_hz, hz_per_mel, growth = 1_000.0, 200 / 3, math.log(6.4) / 27

    def to_mel(hz):
        return hz / hz_per_mel if hz < knee_hz else knee_hz / hz_per_mel + math.log(hz / knee_hz) / growth

    mels = np.linspace(to_mel(hparams.fmin), to_mel(hparams.fmax), hparams.num_mels + 2)
    above = np.maximum(mels - knee_hz / hz_per_mel, 0)
    edges = np.where(above > 0, knee_hz * np.exp(above * growth), mels * hz_per_mel)[:, None]  # Hz
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.fft.rfftfreq(hparams.n_fft, 1 / hparams.sample_rate)
    triangles = np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle))
    return np.maximum(triangles, 0) * 2 / (high - low)


@functools.cache
def _mel_bands():
    """The filters without their zeros: [(slice of bins, weights), ...]."""
    spans = [slice(found[0], found[-1] + 1) for found in map(np.flatnonzero, mel_bank())]
    return [(bins, weights[bins]) for bins, weights in zip(spans, mel_bank(), strict=True)]


def mel_window(mel: np.ndarray, frame: int, fps) -> np.ndarray:
    """Cut the mel frames centred on the middle of one video frame, padded with silence past either end.

    mel: (num_mels, time) float32 in [-4, 4]. frame: 0-based index. Returns (num_mels, hparams.mel_window) float32.
    """
    first = hparams.mel_start(frame, fps)
    last = first + hparams.mel_window
    window = np.full((mel.shape[0], hparams.mel_window), -hparams.max_abs_value, np.float32)
    inside = mel[:, max(first, 0) : max(last, 0)]
    start = max(-first, 0)
    window[:, start : start + inside.shape[1]] = inside
    return window


def load_wav(path, max_s: float | None = None) -> np.ndarray:
    """Read the sound of any sound or video file: (n,) float32, 16 kHz mono; sample 0 is heard when frame 0 is shown.

    max_s: read only the first so many seconds. UserError when there is no file, no sound in it, or none that can be
    decoded; a cut-off file gives what is left.
    """
    blocks = first_seconds(read_blocks(path, rate=hparams.sample_rate, mono=True), max_s)
    samples = array.array("f")  # grows in place: many small arrays, joined at the end, take twice the memory
    for block in blocks:
        samples.frombytes(block.samples[0].astype(np.float32, copy=False).tobytes())
    return np.frombuffer(samples, np.float32)


def first_seconds(blocks, max_s: float | None) -> Iterator[Block]:
    """Cut a stream of Blocks off after max_s seconds, but not before its first sample; None: not at all."""
    given = 0
    for block in blocks:
        left = None if max_s is None else max(1, round(max_s * block.rate)) - given
        yield block._replace(samples=block.samples[:, :left])
        given += block.samples.shape[1]
        if left is not None and left <= block.samples.shape[1]:
            return


def read_blocks(path, rate: int | None = None, mono: bool = False) -> Iterator[Block]:
    """Stream a file's sound as Blocks of one rate and layout: the file's own, or `rate` Hz and one channel when asked.

    Where the file has a video, the first sample is heard at the moment frame 0 is shown: sound that starts late is led
    by silence, sound that starts early is cut. Memory does not grow with the file. Errors as in `load_wav`.
    """
    convert = None
    empty = True
    for block in itertools.chain(_on_clock(path), [None]):  # None: give what the resampler still holds
        if convert is None and block is not None:
            convert = _Converter(
                rate or block.rate, "mono" if mono else block.layout, 1 if mono else len(block.samples)
            )
        for converted in convert(block) if convert else ():
            empty = False
            yield converted
    if empty:
        raise UserError(f"the sound of {path} is over before its picture starts, or has no samples; give another file")


def _picture_start(path):
    """Time of the first frame of a file's video on the container's clock, in seconds; None without a video."""
    with open_media(path) as container:
        stream = picture_stream(container)
        readable = stream is not None and stream.codec_context is not None
        first = next(decode_stream(container, stream), None) if readable else None
        return None if first is None else frame_time(first) or 0.0


def _on_clock(path):
    """Yield Blocks at the sound's own rate, with silence in the timestamps' gaps and without what comes too early."""
    start_s = _picture_start(path)
    convert = None
    position = 0  # samples given so far
    with open_media(path) as container:
        if not container.streams.audio:
            raise UserError(f"{path} has no sound; give a file that has one")
        longest_s = longest_jump(container)
        for block, time_s in _timed_blocks(decode_stream(container, container.streams.best("audio"))):
            convert = convert or _Converter(block.rate, block.layout, len(block.samples))
            start_s = time_s if start_s is None else start_s
            for samples, rate, layout in convert(block):
                slip = 0 if time_s is None else round((time_s - start_s) * rate) - position
                time_s = None  # it belongs to the first of them
                allowed = MAX_SLIP_S * rate if position else 0
                if slip > longest_s * rate or (position and slip < -rate):
                    start_s += slip / rate
                elif slip > allowed:
                    position += slip
                    yield from _silence(slip, len(samples), rate, layout)
                elif -slip > allowed:
                    samples = samples[:, -slip:]
                if samples.shape[1]:
                    position += samples.shape[1]
                    yield Block(samples, rate, layout)
    if convert is None:
        raise UserError(f"the sound of {path} is empty or cannot be decoded; check it, or convert it to wav")


def _timed_blocks(frames):
    """Pass decoded frames on as Blocks with their times, the last one no longer than its file says.

    FFmpeg gives the encoder's padding behind the end of AAC as sound.
    """
    held = None
    for frame in frames:
        if held:
            yield _as_block(held), frame_time(held)
        held = frame
    if held:
        block = _as_block(held)
        length = round(float((held.duration or 0) * held.time_base) * block.rate)
        rounding = float(held.time_base) * block.rate
        if 0 < length < block.samples.shape[1] - rounding:
            block = block._replace(samples=block.samples[:, :length])
        yield block, frame_time(held)


def _as_block(frame):
    """A decoded audio frame as a Block."""
    channels = len(frame.layout.channels)
    if channels > 7 and frame.format.is_planar:  # PyAV crashes on those
        [frame] = av.AudioResampler(frame.format.packed, frame.layout, frame.sample_rate).resample(frame)
    samples = frame.to_ndarray()
    layout = USUAL_LAYOUTS.get(channels, frame.layout.name) if "channels" in frame.layout.name else frame.layout.name
    if frame.format.is_packed:
        samples = samples.reshape(-1, channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples / np.float32(2 ** (8 * samples.itemsize - 1))
    return Block(samples.astype(np.float32), frame.sample_rate, layout)


def as_frame(block: Block) -> av.AudioFrame:
    """A Block as PyAV's frame, without a time."""
    interleaved = np.ascontiguousarray(block.samples.T, np.float32).reshape(1, -1)  # PyAV fails on 8 planes
    frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=block.layout)
    frame.sample_rate = block.rate
    return frame


def _silence(num_samples, channels, rate, layout):
    """Blocks of silence, none longer than a second."""
    for first in range(0, num_samples, rate):
        yield Block(np.zeros((channels, min(rate, num_samples - first)), np.float32), rate, layout)


class _Converter:
    """Brings Blocks of any rate and layout to one; called with None at the end, gives what the resampler holds."""

    def __init__(self, rate, layout, channels):
        self.rate, self.layout, self.channels = rate, layout, channels
        self.resampler, self.source_rate = None, rate

    def __call__(self, block):
        if block is None or block.rate != self.source_rate:
            for frame in self.resampler.resample(None) if self.resampler else ():
                yield _as_block(frame)
            self.resampler = None
        if block is None:
            return
        samples, self.source_rate = block.samples, block.rate
        if block.layout != self.layout:
            samples = np.repeat(_mix(samples, block.layout), self.channels, axis=0)
        if block.rate == self.rate:
            yield Block(samples, self.rate, self.layout)
            return
        self.resampler = self.resampler or av.AudioResampler("flt", self.layout, self.rate)
        for resampled in self.resampler.resample(as_frame(Block(samples, block.rate, self.layout))):
            yield _as_block(resampled)


def _mix(samples, layout):
    """Mix (channels, n) to (1, n): films put speech in the centre, and noise into the low frequency channel."""
    weights = [{"FC": 1.0, "LFE": 0.0}.get(channel.name, 0.5) for channel in av.AudioLayout(layout).channels]
    weights = np.array(weights, np.float32)
    return np.einsum("c,ct->t", weights / weights.sum(), samples)[None]  # no matrix product: see melspectrogram
