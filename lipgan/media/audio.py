"""Audio in: a file's audio track on its video's clock, its mel spectrogram, and the window of a video frame."""

import array
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np

from audio_hparams import hparams
from lipgan.media.container import decode_stream, frame_time, longest_jump, open_media, video_stream
from lipgan.utils.cli import UserError

MAX_SLIP_S = 0.04  # timestamps may stray this far before silence is inserted or audio cut: many files round them
MAX_SILENCE_S = 3_600.0  # inserted into one file for gaps of its timestamps; damaged ones could ask for years
USUAL_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}  # AAC has these
FRAMES_PER_CHUNK = 2_048  # mel frames computed at once: about 25 MB of temporary arrays
SCAN_S = 600.0  # a track is judged by its first so many seconds, or until something is heard
SILENT_PEAK = 1e-3  # -60 dB: under it a track counts as silent
LOUDEST_FLOAT = 4.0  # float samples over this are on the scale of some integer type
INTEGER_SCALES = (2.0**15, 2.0**23, 2.0**31)
FAINT_CHANNEL = 1e-4  # energy relative to the loudest channel under which a channel is left out of the mix
CANCELLED = 0.2  # energy of the mix relative to that of its unrelated channels under which they cancel each other


class Block(NamedTuple):
    """A piece of audio: samples (channels, n) float32 in about [-1, 1], rate in Hz, layout as FFmpeg names it."""

    samples: np.ndarray
    rate: int
    layout: str


@dataclasses.dataclass(frozen=True)
class AudioTrack:
    """One audio track of a file and how it is read. From `open_audio`; `load_wav` and `read_blocks` take it."""

    path: pathlib.Path
    index: int  # among the file's audio tracks, from 0
    start_s: float  # time of sample 0 on the container's clock
    gain: float = 1.0  # by which samples are multiplied: float samples may be on an integer scale
    mix: tuple[float, ...] | None = None  # weight of each channel in mono; None: as the layout suggests
    notes: tuple[str, ...] = ()  # what the user should know


def melspectrogram(wav: np.ndarray) -> np.ndarray:
    """Return the mel spectrogram on the paper's scale: (n,) at 16 kHz -> (num_mels, 1 + n // hop_size) in [-4, 4].

    float32, computed in chunks, in float64: one hour of audio needs its own 230 MB, 92 MB for the result, and 45 MB on
    top (tracemalloc). ValueError for no samples at all; a single one will do.
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
        pieces = np.lib.stride_tricks.sliding_window_view(_preemphasis(wav, span), hparams.n_fft)[:: hparams.hop_size]
        magnitude = np.abs(np.fft.rfft(pieces * window, axis=1))  # (frames, n_fft // 2 + 1)
        # No matrix product: in a thread beside others, NumPy's OpenBLAS was seen to hang in a large one.
        bands = [np.einsum("tf,f->t", magnitude[:, bins], weights) for bins, weights in _mel_bands()]
        level_db = 20 * np.log10(np.maximum(1e-5, np.stack(bands))) - hparams.ref_level_db
        scaled = 2 * hparams.max_abs_value * (level_db / -hparams.min_level_db + 1) - hparams.max_abs_value
        mel[:, frames] = scaled.clip(-hparams.max_abs_value, hparams.max_abs_value)
    return mel


def _preemphasis(wav, index):
    """Return pre-emphasised samples at `index` (int64); outside of the audio its edges are reflected repeatedly."""
    last = len(wav) - 1
    index = np.mod(index, 2 * last) if last else np.zeros_like(index)
    index = np.where(index > last, 2 * last - index, index)
    before = np.where(index > 0, wav[index - 1], 0)
    return wav[index].astype(np.float64) - hparams.preemphasis * before.astype(np.float64)


@functools.cache
def mel_bank() -> np.ndarray:
    """Return librosa's Slaney-normalised mel filters: (num_mels, n_fft // 2 + 1) float64."""
    import librosa.filters  # its second of import is paid only where mels are computed

    return librosa.filters.mel(
        sr=hparams.sample_rate,
        n_fft=hparams.n_fft,
        n_mels=hparams.num_mels,
        fmin=hparams.fmin,
        fmax=hparams.fmax,
        dtype=np.float64,
    )


@functools.cache
def _mel_bands():
    """Return the filters without their zeros: [(slice of bins, weights), ...]."""
    spans = [slice(bins[0], bins[-1] + 1) for bins in map(np.flatnonzero, mel_bank())]
    return [(bins, weights[bins]) for bins, weights in zip(spans, mel_bank(), strict=True)]


def mel_window(mel: np.ndarray, frame: int, fps) -> np.ndarray:
    """Return the mel frames centred on the middle of one video frame, padded with silence at both ends.

    mel: (num_mels, time) float32 in [-4, 4]. frame: 0-based index. Returns (num_mels, hparams.mel_window) float32.
    """
    first = hparams.mel_start(frame, fps)
    last = first + hparams.mel_window
    window = np.full((mel.shape[0], hparams.mel_window), -hparams.max_abs_value, np.float32)
    inside = mel[:, max(first, 0) : max(last, 0)]
    start = max(-first, 0)
    window[:, start : start + inside.shape[1]] = inside
    return window


# Which track, and how it is read --------------------------------------------------------------------------------------


def open_audio(path, track: int | None = None, on_video_clock: bool = True) -> AudioTrack:
    """Choose an audio track of an audio or video file and find out how to read it, by decoding it once.

    track: its number among the file's audio tracks, from 0; None: the file's default one, but one that can be decoded
    before one that cannot, and one that is heard before a silent one. on_video_clock: sample 0 is heard when frame 0 of
    the file's video is shown, which the lips of that video need; False: nothing at the start is cut, as for audio that
    goes with another face. UserError where there is no file, no audio in it, or none that can be decoded.
    """
    with open_media(path) as container:
        audio = container.streams.audio
        if not audio:
            raise UserError(f"{path} has no audio; give a file that has some")
        if track is not None and not 0 <= track < len(audio):
            last = len(audio) - 1
            raise UserError(f"--audio_track {track}: the audio tracks of {path} are numbered from 0 to {last}")
        names = [_track_name(number, stream) for number, stream in enumerate(audio)]
        best = container.streams.best("audio")
        first = audio.index(best) if best is not None and best.codec_context else 0
        order = sorted(range(len(audio)), key=lambda number: (number != first, number))
    scans = {}
    for number in order if track is None else [track]:
        scan = _scan(path, number)
        if scan is not None:
            scans[number] = scan
            if not scan.is_silent:
                break
    if not scans:
        codecs = ", ".join(names if track is None else [names[track]])
        raise UserError(f"the audio of {path} is empty or cannot be decoded ({codecs}); check it, or convert it to wav")
    index = next((number for number, scan in scans.items() if not scan.is_silent), next(iter(scans)))
    scan, notes = scans[index], []
    if len(names) > 1:
        notes.append(f"{path} has {len(names)} audio tracks; {names[index]} is used (--audio_track chooses another)")
    gain, mix, others = scan.settings(path)
    start_s, video_s = scan.start_s, _video_start(path)
    if video_s is not None:
        start_s = video_s if on_video_clock else min(video_s, start_s)
    return AudioTrack(pathlib.Path(path), index, start_s, gain, mix, (*notes, *others))


def _track_name(number, stream):
    """Return how a track is named in messages: number 1 (eng, aac, stereo)."""
    context = stream.codec_context
    parts = [stream.metadata.get("language"), context.name if context else "unknown codec"]
    with_layout = context is not None and context.layout is not None
    parts.append(context.layout.name if with_layout else None)
    return f"number {number} ({', '.join(part for part in parts if part and part != 'und')})"


class _Scan:
    """What the blocks of a track show: peaks, energies of its channels, and samples that are no numbers."""

    def __init__(self):
        self.start_s, self.layout, self.is_float_pcm = 0.0, None, False
        self.peaks, self.num_invalid, self.covariance = [], 0, None

    def add(self, block):
        """Add a Block whose samples are as the decoder gave them."""
        samples, invalid = _valid(block.samples)
        self.num_invalid += invalid
        self.peaks.append(float(np.abs(samples).max(initial=0)))
        if self.layout is None:
            self.layout, self.covariance = block.layout, np.zeros((len(samples), len(samples)))
        if block.layout == self.layout:
            wide = samples.astype(np.float64)
            self.covariance += np.einsum("at,bt->ab", wide, wide)  # no matrix product: see melspectrogram

    @property
    def is_silent(self):
        return max(self.peaks) < SILENT_PEAK

    def settings(self, path):
        """Return (gain, weights of the channels, notes)."""
        notes, gain = [], 1.0
        loud = sorted(self.peaks)[-1 - len(self.peaks) // 50]  # a few damaged blocks say nothing
        if self.num_invalid:
            notes.append(f"{self.num_invalid} samples of the audio of {path} are NaN or infinite; they become silence")
        if self.is_float_pcm and loud > LOUDEST_FLOAT:
            scale = next((scale for scale in INTEGER_SCALES if loud <= scale), loud)
            gain = 1 / scale
            notes.append(f"the float samples of {path} reach {loud:.5g} instead of 1; they are divided by {scale:.10g}")
        if self.is_silent:
            notes.append(f"the audio of {path} is silent, so the mouth stays at rest")
            return gain, None, notes
        mix, cancelled = _channel_mix(self.covariance, self.layout)
        if cancelled:
            channel = int(np.argmax(mix))
            notes.append(f"the channels of {path} cancel each other out; channel {channel} alone drives the lips")
        return gain, tuple(map(float, mix)), notes


def _scan(path, index):
    """Return the _Scan of a track, or None where nothing of it can be decoded."""
    scan, seconds = _Scan(), 0.0
    with open_media(path) as container:
        stream = container.streams.audio[index]
        if stream.codec_context is None:
            return None
        scan.is_float_pcm = stream.codec_context.name.startswith("pcm_f")
        for block, time_s in _timed_blocks(decode_stream(container, stream)):
            if not scan.peaks:
                scan.start_s = time_s or 0.0
            scan.add(block)
            seconds += block.samples.shape[1] / block.rate
            if seconds > SCAN_S and not scan.is_silent:
                break
    return scan if scan.peaks else None


def _valid(samples):
    """Return the samples with silence for what is no number, and how many those are."""
    invalid = ~(np.abs(samples) <= INTEGER_SCALES[-1])
    count = int(np.count_nonzero(invalid))
    return (np.where(invalid, np.float32(0), samples) if count else samples), count


def _channel_mix(covariance, layout):
    """Return the weights (channels,) of a mono mix that keeps speech, and whether the plain mix cancels itself.

    Channels that are silent beside the others are left out, so that the mix is not quieter than they are. Channels in
    opposite phase would cancel each other: then the loudest one is used alone.
    """
    usual, energies = _layout_weights(layout), np.diag(covariance)
    weights = np.where(energies > FAINT_CHANNEL * energies[usual > 0].max(initial=0), usual, 0)
    if not weights.any():
        return usual / max(usual.sum(), 1), False
    mixed = np.einsum("a,ab,b->", weights, covariance, weights)
    if mixed >= CANCELLED * (weights**2 * energies).sum():
        return weights / weights.sum(), False
    return np.eye(len(weights))[np.argmax(weights * energies)], True


def _layout_weights(layout):
    """Return the weights (channels,) of a mono mix: films put speech in the centre, noise into the low frequencies."""
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    return np.array([{"FC": 1.0, "LFE": 0.0}.get(name, 0.5) for name in names], np.float32)


# Samples --------------------------------------------------------------------------------------------------------------


def load_wav(source, max_s: float | None = None) -> np.ndarray:
    """Read the audio of a path or an AudioTrack: (n,) float32, 16 kHz mono.

    A path is read on its video's clock, see `open_audio`, which also lists the errors. max_s: only the first so many
    seconds. A cut-off file gives what is left.
    """
    blocks = first_seconds(read_blocks(source, rate=hparams.sample_rate, mono=True), max_s)
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


def read_blocks(source, rate: int | None = None, mono: bool = False) -> Iterator[Block]:
    """Stream the audio of a path or an AudioTrack as Blocks of one rate and layout.

    rate, mono: `rate` Hz and one channel instead of the file's own. Audio that starts after the track's start_s is led
    by silence, audio that starts before is cut. Memory does not grow with the file. Errors as in `open_audio`.
    """
    track = source if isinstance(source, AudioTrack) else open_audio(source)
    convert = None
    empty = True
    for block in itertools.chain(_on_clock(track), [None]):  # None: give what the resampler still holds
        if convert is None and block is not None:
            layout, channels = ("mono", 1) if mono else (block.layout, len(block.samples))
            convert = _Converter(rate or block.rate, layout, channels, track.mix)
        for converted in convert(block) if convert else ():
            empty = False
            yield converted
    if empty:
        raise UserError(f"the audio of {track.path} ends before its video starts, or has no samples; give another file")


def _video_start(path):
    """Return when a file's video starts, in seconds on the container's clock; None without a video."""
    with open_media(path) as container:
        stream = video_stream(container)
        readable = stream is not None and stream.codec_context is not None
        first = next(decode_stream(container, stream), None) if readable else None
        return None if first is None else frame_time(first) or 0.0


def _on_clock(track):
    """Yield Blocks at the track's own rate, with silence in the timestamps' gaps and without what comes too early."""
    start_s, convert = track.start_s, None
    position = inserted = 0  # samples given so far, and silent ones among them
    with open_media(track.path) as container:
        longest_s = longest_jump(container)
        for block, time_s in _timed_blocks(decode_stream(container, container.streams.audio[track.index])):
            convert = convert or _Converter(block.rate, block.layout, len(block.samples))
            for samples, rate, layout in convert(_scaled(block, track.gain)):
                slip = 0 if time_s is None else round((time_s - start_s) * rate) - position
                time_s = None  # it belongs to the first of them
                allowed = MAX_SLIP_S * rate if position else 0
                if slip > min(longest_s * rate, MAX_SILENCE_S * rate - inserted) or (position and slip < -rate):
                    start_s += slip / rate
                elif slip > allowed:
                    position += slip
                    inserted += slip
                    yield from _silence(slip, len(samples), rate, layout)
                elif -slip > allowed:
                    samples = samples[:, -slip:]
                if samples.shape[1]:
                    position += samples.shape[1]
                    yield Block(samples, rate, layout)


def _scaled(block, gain):
    """Return the Block with samples that are numbers, on the scale of 1."""
    samples = _valid(block.samples)[0]
    if gain != 1:
        samples = (samples * np.float32(gain)).clip(-LOUDEST_FLOAT, LOUDEST_FLOAT)
    return block._replace(samples=samples)


def _timed_blocks(frames):
    """Pass decoded frames on as Blocks with their times, the last one no longer than its file says.

    FFmpeg gives the encoder's padding behind the end of AAC as audio.
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
    """Return a decoded audio frame as a Block."""
    channels = len(frame.layout.channels)
    if channels > 7 and frame.format.is_planar:  # PyAV crashes on those
        [frame] = av.AudioResampler(frame.format.packed, frame.layout, frame.sample_rate).resample(frame)
    if frame.format.name.startswith("s64"):  # which PyAV has no array for
        [frame] = av.AudioResampler("dbl", frame.layout, frame.sample_rate).resample(frame)
    samples = frame.to_ndarray()
    layout = USUAL_LAYOUTS.get(channels, frame.layout.name) if "channels" in frame.layout.name else frame.layout.name
    if frame.format.is_packed:
        samples = samples.reshape(-1, channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples / np.float32(2 ** (8 * samples.itemsize - 1))
    with np.errstate(over="ignore"):  # a float64 sample may be beyond float32: it becomes infinite, and then silence
        return Block(samples.astype(np.float32), frame.sample_rate, layout)


def as_frame(block: Block) -> av.AudioFrame:
    """Return a Block as PyAV's frame, without a time."""
    interleaved = np.ascontiguousarray(block.samples.T, np.float32).reshape(1, -1)  # PyAV fails on 8 planes
    frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=block.layout)
    frame.sample_rate = block.rate
    return frame


def _silence(num_samples, channels, rate, layout):
    """Yield Blocks of silence, none longer than a second."""
    for first in range(0, num_samples, rate):
        yield Block(np.zeros((channels, min(rate, num_samples - first)), np.float32), rate, layout)


class _Converter:
    """Converts Blocks of any rate and layout to one; called with None at the end, returns what the resampler holds."""

    def __init__(self, rate, layout, channels, mix=None):
        self.rate, self.layout, self.channels, self.mix = rate, layout, channels, mix
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
            samples = np.repeat(_mix(samples, block.layout, self.mix), self.channels, axis=0)
        if block.rate == self.rate:
            yield Block(samples, self.rate, self.layout)
            return
        self.resampler = self.resampler or av.AudioResampler("flt", self.layout, self.rate)
        for resampled in self.resampler.resample(as_frame(Block(samples, block.rate, self.layout))):
            yield _as_block(resampled)


def _mix(samples, layout, mix=None):
    """Mix (channels, n) to (1, n) by these weights, or the layout's."""
    weights = _layout_weights(layout) if mix is None or len(mix) != len(samples) else np.array(mix, np.float32)
    total = weights.sum() or np.float32(1)
    return np.einsum("c,ct->t", weights / total, samples)[None]  # no matrix product: see melspectrogram
