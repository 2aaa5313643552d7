"""Moving pictures in and out: videos of any kind read upright as BGR, and an mp4 written with its sound."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation

from audio_hparams import hparams
from lipgan.media import audio, webp
from lipgan.media.container import (
    DecodeCounts,
    check_file,
    decode_stream,
    frame_time,
    longest_jump,
    only_dts,
    open_media,
    picture_stream,
    read_packets,
)
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write

STANDARD_RATES = [Fraction(1000 * n, d) for d in (1000, 1001) for n in (24, 25, 30, 48, 50, 60, 100, 120)]
SLOWEST, FASTEST = 5, 120  # frames a second: lips need some, and hardly any screen shows more
AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)  # Hz
LIMITED, FULL = 1, 2
H264, PRESET = "libx264", "veryfast"  # half of the work of "fast"; at crf 16 as sharp as that at 18, 25 % larger
THREADS = min(8, os.cpu_count() or 1)
# Without these swscale rounds down, which makes a picture darker by two levels each way.
EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
# Colours alone, at half resolution, are scaled where a picture keeps its size: bilinear takes half of bicubic's time.
SAME_SIZE, OTHER_SIZE = EXACT | Interpolation.BILINEAR, EXACT | Interpolation.BICUBIC


class Colour(NamedTuple):
    """What a video's numbers mean, in the codes of ITU-T H.273 that FFmpeg uses; the defaults are a new file's."""

    range: int = LIMITED  # 0 unknown, 1 limited (16 to 235), 2 full
    matrix: int = 1  # 1 BT.709, 5 and 6 BT.601, 9 BT.2020, 2 unknown
    primaries: int = 1
    transfer: int = 1

    def settled(self, height: int) -> "Colour":
        """The same with range and matrix known: where the file does not say, what players take for this height."""
        matrix = {1: 1, 4: 4, 5: 5, 6: 6, 7: 7, 9: 9, 10: 9}.get(self.matrix, 1 if height >= 720 else 6)
        return self._replace(range=self.range or LIMITED, matrix=matrix)

    @property
    def swscale_matrix(self) -> int:
        """The matrix in swscale's numbers, which has one for both of BT.601's."""
        return 5 if self.matrix == 6 else self.matrix


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What `read_frames` gives: upright, square pixels, constant rate. Damage at the end may leave fewer frames."""

    width: int
    height: int
    fps: Fraction
    num_frames: int
    duration_s: float
    has_audio: bool
    colour: Colour


def as_rate(fps) -> Fraction:
    """A frame rate as a rational number: 29.97 means 30000/1001. ValueError unless it is above 0."""
    if not fps > 0:
        raise ValueError(f"a frame rate is above 0, not {fps}")
    rate = fps if isinstance(fps, Fraction) else Fraction(str(fps))
    near = [standard for standard in STANDARD_RATES if abs(standard - rate) < Fraction(1, 200)]
    return min(near, key=lambda standard: abs(standard - rate)) if near else rate


def probe(path) -> VideoInfo:
    """Tell what `read_frames` will give: decodes the first frame and reads the times of all, without decoding those.

    The rate is the usual distance of the frames where nearly all keep it (so a dropped frame does not change it), else
    their average; outside of 5 to 120 frames a second it becomes 25 or 120. UserError when no frame can be read.
    """
    path = check_file(path)
    if webp.moves(path):
        return _probe_webp(path)
    with _open_video(path) as (container, stream):
        frame = next(decode_stream(container, stream), None)
        if frame is None:
            raise UserError(f"no frame of {path} can be decoded; check the file, or convert it to mp4")
        upright = _Upright(stream, frame)
        height, width = upright(frame).shape[:2]
        has_audio = bool(container.streams.audio)
    with _open_video(path) as (container, stream):
        times, num_packets, last_s = _packet_times(container, stream)
        said = [rate for rate in (stream.average_rate, stream.guessed_rate) if rate]
        fps = _frame_rate(said, times, complete=len(times) == num_packets)
        duration_s = float(times[-1] - times[0] + (last_s or 1 / fps)) if len(times) else float(num_packets / fps)
    num_frames = max(1, round(duration_s * fps))
    return VideoInfo(width, height, fps, num_frames, duration_s, has_audio, upright.colour)


def _probe_webp(path):
    height, width = webp.shape(path)
    shown = webp.durations(path)
    fps = _frame_rate([], np.cumsum(shown) - shown, complete=True)
    return VideoInfo(width, height, fps, max(1, round(shown.sum() * fps)), float(shown.sum()), False, Colour())


def read_frames(path, fps=None, counts: DecodeCounts | None = None) -> Iterator[np.ndarray]:
    """Stream a video's frames at a constant rate (`fps`, or what `probe` says): BGR uint8 (H, W, 3), upright.

    Frame k is the one nearest to k / fps seconds after the first frame. Where frames are damaged or missing, the one
    before is held, so that the picture keeps its clock. A cut-off file ends early. counts: adds up decoded and damaged
    frames while they are read. UserError when no frame can be read.
    """
    path = check_file(path)
    fps = as_rate(fps) if fps else probe(path).fps
    if webp.moves(path):
        yield from (_flat(picture) for picture in _at_rate(webp.timed(path), fps))
        return
    upright = shown = picture = None
    with _open_video(path) as (container, stream):
        for frame in _at_rate(_timed(container, stream, counts), fps):
            upright = upright or _Upright(stream, frame)
            picture = picture.copy() if frame is shown else upright(frame)
            shown = frame
            yield picture
    if upright is None:
        raise UserError(f"no frame of {path} can be decoded; check the file, or convert it to mp4")


@contextlib.contextmanager
def _open_video(path):
    """Yield (container, video stream) with its decoder on a few threads."""
    with open_media(path) as container:
        stream = picture_stream(container)
        if stream is None:
            raise UserError(f"{path} has no picture, only sound; give a picture or a video")
        stream.thread_type = "AUTO"
        yield container, stream


def first_frames(path):
    """One or two pictures of what may be an animation; none where FFmpeg cannot decode it."""
    with contextlib.suppress(UserError), _open_video(path) as (container, stream):
        frames = list(itertools.islice(decode_stream(container, stream), 2))
        return [_Upright(stream, frame)(frame) for frame in frames]


def _timed(container, stream, counts=None):
    """Decode as (seconds since the first frame, seconds shown, av.VideoFrame), in order of time."""
    step_s = 1 / float(stream.average_rate or stream.guessed_rate or hparams.fps)
    longest_s = longest_jump(container)
    start_s = last_s = None
    for frame in decode_stream(container, stream, counts):
        time_s = frame_time(frame)
        if time_s is None:
            time_s = 0.0 if last_s is None else last_s + step_s
        if last_s is None:
            start_s = time_s
        elif time_s - last_s > longest_s or time_s - last_s < -1:  # the clock was set anew
            start_s += time_s - last_s - step_s
        elif time_s <= last_s:
            continue
        last_s = time_s
        shown_s = float((frame.duration or 0) * frame.time_base)
        yield time_s - start_s, shown_s if 0 < shown_s < longest_s else step_s, frame


def _at_rate(timed, fps):
    """Pick, for each moment k / fps, the nearest frame, but none over half an output frame before its time."""
    fps, k, shown = float(fps), 0, None
    for time_s, duration_s, frame in timed:
        while shown:
            moment_s = k / fps
            if time_s - moment_s <= 0.5 / fps and time_s - moment_s < moment_s - shown[0]:
                break
            yield shown[2]
            k += 1
        shown = time_s, duration_s, frame
    for _ in range(k, max(1, round((shown[0] + shown[1]) * fps)) if shown else 0):
        yield shown[2]


def _packet_times(container, stream):
    """When frames are shown, in seconds, sorted (float64), of those packets that say so; the number of packets; and how
    long the last is shown (0: unknown).
    """
    shown = (packet for packet in read_packets(container, stream) if not packet.is_discard)
    stamps = [(packet.dts if only_dts(container) else packet.pts, packet.duration or 0) for packet in shown]
    timed = sorted(stamp for stamp in stamps if stamp[0] is not None)
    times = np.array([pts for pts, _ in timed], np.float64) * float(stream.time_base)
    return times, len(stamps), float(timed[-1][1] * stream.time_base) if timed else 0.0


def _frame_rate(said, times, complete):
    """The constant rate that fits these times best, as a Fraction: one that the file says where they bear it out."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    if not complete or not len(steps):
        rate = said[0] if said else Fraction(hparams.fps)
    else:
        usual = steps[np.abs(steps / np.median(steps) - 1) < 0.25]
        usual = usual if len(usual) >= 0.9 * len(steps) else steps
        measured = len(usual) / usual.sum()
        likely = [*said, min(STANDARD_RATES, key=lambda rate: abs(float(rate) - measured))]
        fitting = (rate for rate in likely if abs(float(rate) * usual.sum() - len(usual)) < 0.5)
        rate = as_rate(next(fitting, None) or Fraction(measured).limit_denominator(1001))
    if rate < SLOWEST:
        return Fraction(hparams.fps)
    return min(rate, Fraction(FASTEST))


class _Upright:
    """Makes BGR pictures of decoded frames, all as the first one says: size, square pixels, way up, colours."""

    def __init__(self, stream, frame):
        aspect = stream.sample_aspect_ratio or 1
        self.size = round(frame.width * (aspect if 0.2 < aspect < 5 else 1)), frame.height
        context = stream.codec_context
        full = context.color_range == FULL or frame.format.name.startswith("yuvj")
        self.colour = Colour(
            FULL if full else context.color_range, context.colorspace, context.color_primaries, context.color_trc
        )
        matrix = frame.side_data.get("DISPLAYMATRIX")
        self.turn = np.frombuffer(bytes(matrix), np.int32)[[0, 1, 3, 4]] if matrix else (1, 0, 0, 1)

    def __call__(self, frame):
        width, height = self.size
        is_rgb = frame.format.is_rgb or frame.format.has_palette
        has_alpha = any(component.is_alpha for component in frame.format.components)
        matrix = self.colour.settled(height).swscale_matrix
        picture = frame.reformat(
            width,
            height,
            "bgra" if has_alpha else "bgr24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=FULL if is_rgb or self.colour.range == FULL else LIMITED,
            dst_color_range=FULL,
            interpolation=SAME_SIZE if (width, height) == (frame.width, frame.height) else OTHER_SIZE,
        ).to_ndarray()
        if has_alpha:
            picture = on_white(picture[:, :, :3], picture[:, :, 3] / 255)
        return np.ascontiguousarray(self._turned(picture))

    def _turned(self, picture):
        """Apply the display matrix (x' = a x + c y, y' = b x + d y): from cameras, quarter turns and mirrors."""
        a, b, c, d = self.turn
        if abs(b) > abs(a):
            picture, a, d = picture.transpose(1, 0, 2), c, b
        return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _flat(picture):
    """A copy of a BGRA picture, BGR, on white."""
    return on_white(np.array(picture[:, :, :3]), picture[:, :, 3] / 255)


def on_white(picture, alpha):
    """Lay BGR uint8 (H, W, 3) on white where alpha (H, W), 0 to 1, is not 1."""
    if (alpha == 1).all():
        return picture
    return np.round(255 - (255.0 - picture) * alpha[:, :, None]).astype(np.uint8)


class VideoWriter:
    """Write an mp4 (H.264, AAC, faststart) with exactly the frames given and the whole sound of another file.

        with VideoWriter("results/out.mp4", 640, 480, Fraction(30000, 1001), audio="speech.wav") as writer:
            writer.write(frame)  # BGR uint8 (480, 640, 3)

    The file appears under its name when the block ends well. Odd sizes grow by one pixel. colour: the source's, to be
    kept and tagged. crf: H.264's quality, lower is better. lossless: H.264 in RGB, bit-exact, which few players show.
    comment: kept in the file's metadata. audio: any file that `audio.read_blocks` reads, at its own rate and channels
    where AAC has them. max_s: only the first so many seconds of it. UserError, before the first frame, for a name that
    is not mp4 and for sound that cannot be read.
    """

    def __init__(
        self, path, width, height, fps, audio=None, colour=None, crf=16, lossless=False, comment=None, max_s=None
    ):
        self.path, self.width, self.height, self.fps = pathlib.Path(path), width, height, as_rate(fps)
        if self.path.suffix.lower() not in (".mp4", ".m4v", ".mov"):
            raise UserError(f"the result is an mp4, but its name is {self.path.name}; name it {self.path.stem}.mp4")
        self.colour = (colour or Colour()).settled(height)
        self.crf, self.lossless, self.comment = crf, lossless, comment
        self.audio, self.max_s, self.num_frames, self.num_samples = audio, max_s, 0, 0

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.blocks, rate, channels = _open_sound(self.audio) if self.audio else (None, 0, 0)
            temporary = stack.enter_context(atomic_write(self.path))
            stack.enter_context(self._told())
            self.container = stack.enter_context(av.open(str(temporary), "w", "mp4", {"movflags": "+faststart"}))
            if self.comment:
                self.container.metadata["comment"] = self.comment
            self.video = self._add_video()
            self.sound = self._add_sound(rate, channels) if self.blocks else None
            self.blocks = self.blocks and audio.first_seconds(self.blocks, self.max_s)
            self.container.start_encoding()  # opens the encoders: what they refuse is told now
            stack.push(self._finish)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception):
        return self.stack.__exit__(*exception)

    @contextlib.contextmanager
    def _told(self):
        """FFmpeg's errors in one line."""
        try:
            yield
        except av.FFmpegError as e:
            raise UserError(f"cannot write {self.path} ({e.strerror}); disk full, or picture too large?") from e
        except av.codec.codec.UnknownCodecError as e:
            raise UserError(
                f"this PyAV has no encoder {e}; take its own wheel: pip install --force-reinstall av"
            ) from e

    def _add_video(self):
        """The H.264 stream, its colours tagged."""
        quality = {"qp": "0"} if self.lossless else {"crf": str(self.crf)}
        options = {"preset": PRESET, "threads": str(THREADS), **quality}
        stream = self.container.add_stream(H264 + "rgb" * self.lossless, self.fps, options=options)
        stream.width, stream.height = self.width + self.width % 2, self.height + self.height % 2
        stream.pix_fmt = "bgr24" if self.lossless else "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self.fps
        if not self.lossless:
            context.color_range, context.colorspace = self.colour.range, self.colour.matrix
            context.color_primaries, context.color_trc = self.colour.primaries, self.colour.transfer
        return stream

    def _add_sound(self, rate, channels):
        """The AAC stream, at 96 kbit/s a channel, or the most that AAC has at a low rate."""
        stream = self.container.add_stream("aac", rate)
        stream.layout = audio.USUAL_LAYOUTS[channels]
        stream.bit_rate = channels * min(96_000, 6 * rate)
        return stream

    def write(self, frame: np.ndarray):
        """Add the next frame: BGR uint8 (height, width, 3)."""
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"frame {frame.shape} {frame.dtype}, but the video is {(self.height, self.width, 3)} uint8"
            )
        if self.width % 2 or self.height % 2:
            frame = cv2.copyMakeBorder(frame, 0, self.height % 2, 0, self.width % 2, cv2.BORDER_REPLICATE)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "bgr24")
        if not self.lossless:
            matrix = self.colour.swscale_matrix
            picture = picture.reformat(
                format="yuv420p",
                src_colorspace=matrix,
                dst_colorspace=matrix,
                src_color_range=FULL,
                dst_color_range=self.colour.range,
                interpolation=SAME_SIZE,
            )
        picture.pts, picture.time_base = self.num_frames, 1 / self.fps
        self.num_frames += 1
        self.container.mux(self.video.encode(picture))
        self._write_sound(self.num_frames / self.fps)

    def _write_sound(self, until_s):
        """Encode sound up to a time, so that both streams grow together; at its end, what the encoder holds."""
        while self.blocks and self.num_samples < until_s * self.sound.rate:
            block = next(self.blocks, None)
            if block is None:
                self.blocks = None
                self.container.mux(self.sound.encode(None))
                return
            frame = audio.as_frame(block._replace(layout=self.sound.layout.name))
            frame.pts, frame.time_base = self.num_samples, Fraction(1, block.rate)
            self.num_samples += frame.samples
            self.container.mux(self.sound.encode(frame))

    def _finish(self, error, *_):
        """Write what is left, unless the block failed."""
        if error:
            return
        if not self.num_frames:
            raise ValueError("no frame was written")
        self.container.mux(self.video.encode(None))
        self._write_sound(float("inf"))


def _open_sound(path):
    """(Blocks as AAC can have them, rate in Hz, number of channels). Other rates and channel counts are converted."""
    blocks = audio.read_blocks(path)
    first = next(blocks)
    channels = len(first.samples)
    if first.rate in AAC_RATES and channels in audio.USUAL_LAYOUTS:
        return itertools.chain([first], blocks), first.rate, channels
    blocks.close()
    rate = next((rate for rate in AAC_RATES if first.rate <= rate <= 48_000), 48_000)
    mono = channels not in audio.USUAL_LAYOUTS
    return audio.read_blocks(path, rate=rate, mono=mono), rate, 1 if mono else channels
