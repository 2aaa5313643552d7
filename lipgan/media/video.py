"""Video in and out: videos of any kind read upright as BGR, and an mp4 written with its audio."""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from audio_hparams import hparams
from lipgan.media import audio
from lipgan.media.container import (
    MAX_GAP_S,
    DecodeCounts,
    check_file,
    decode_stream,
    frame_time,
    longest_jump,
    only_dts,
    open_media,
    read_packets,
    stream_decoder,
    video_stream,
)
from lipgan.media.image import is_animation, on_white, read_animation
from lipgan.media.tone_map import ToneMapper, is_hdr
from lipgan.utils.cli import UserError
from lipgan.utils.cpus import available_cpus
from lipgan.utils.files import atomic_write

STANDARD_RATES = [Fraction(1000 * n, d) for d in (1000, 1001) for n in (24, 25, 30, 48, 50, 60, 100, 120)]
KEEPS_RATE = 0.75  # share of the steps between frames that are alike where a rate is constant but for dropped frames
SLOWEST, FASTEST = 5, 120  # frames a second: lips need some, and hardly any screen shows more
AAC_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000)  # Hz
LIMITED, FULL = 1, 2
KEYFRAME_S, MAX_KEYFRAMES = 0.5, 200  # `probe` decodes a keyframe every so often, and about so many of a long video
H264, PRESET = "libx264", "veryfast"  # half of the work of "fast"; at crf 16 as sharp as that at 18, 25 % larger
MAX_ENCODER_THREADS = 8
# Without these swscale rounds down, which makes an image darker by two levels each way.
EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
# Colours alone, at half resolution, are scaled where an image keeps its size: bilinear takes half of bicubic's time.
SAME_SIZE, OTHER_SIZE = EXACT | Interpolation.BILINEAR, EXACT | Interpolation.BICUBIC


class Colour(NamedTuple):
    """Colour description in the codes of ITU-T H.273, which FFmpeg uses; the defaults are a new file's."""

    range: int = LIMITED  # 0 unknown, 1 limited (16 to 235), 2 full
    matrix: int = 1  # 1 BT.709, 5 and 6 BT.601, 9 BT.2020, 2 unknown
    primaries: int = 1
    transfer: int = 1

    def settled(self, height: int) -> "Colour":
        """Fill in range and matrix where the file does not say: what players take for this height."""
        matrix = {1: 1, 4: 4, 5: 5, 6: 6, 7: 7, 9: 9, 10: 9}.get(self.matrix, 1 if height >= 720 else 6)
        return self._replace(range=self.range or LIMITED, matrix=matrix)

    @property
    def swscale_matrix(self) -> int:
        """Return the matrix in swscale's numbers, which has one for both of BT.601's."""
        return 5 if self.matrix == 6 else self.matrix


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Properties of a video's frames as `read_frames` gives them: upright, square pixels, SDR, constant rate."""

    width: int
    height: int
    fps: Fraction
    num_frames: int
    duration_s: float
    has_audio: bool
    colour: Colour
    path: pathlib.Path
    frame_shape: tuple[int, int]  # (height, width) as read; `width` and `height` may be replaced by what is used
    notes: tuple[str, ...] = ()  # what the user should know


def as_rate(fps) -> Fraction:
    """Parse a frame rate as a rational number: 29.97 means 30000/1001. Raises ValueError unless it is above 0."""
    if not fps > 0:
        raise ValueError(f"a frame rate is above 0, not {fps}")
    rate = fps if isinstance(fps, Fraction) else Fraction(str(fps))
    near = [standard for standard in STANDARD_RATES if abs(standard - rate) < Fraction(1, 200)]
    return min(near, key=lambda standard: abs(standard - rate)) if near else rate


def probe(path) -> VideoInfo:
    """Find out what `read_frames` will give: reads the times of all frames, and decodes a few keyframes.

    The rate is the usual distance of the frames where most keep it (so a dropped frame does not change it), else
    their average; outside of 5 to 120 frames a second it becomes 25 or 120. Where the size changes, it is the largest.
    UserError when no frame can be read.
    """
    path = check_file(path)
    if is_animation(path):
        return _probe_animation(path)
    with _open_video(path) as (container, stream):
        frame = next(decode_stream(container, stream), None)
        if frame is None:
            raise UserError(f"no frame of {path} can be decoded; check the file, or convert it to mp4")
        convert = _FrameConverter(stream, frame)
        has_audio = bool(container.streams.audio)
    with _open_video(path) as (container, stream):
        survey = _survey(container, stream, convert)
        rates = [rate for rate in (stream.average_rate, stream.guessed_rate) if rate]
        fps = _frame_rate(rates, survey.times, complete=len(survey.times) == survey.num_packets)
    duration_s = float(survey.num_packets / fps)
    if len(survey.times):
        duration_s = float(survey.times[-1] - survey.times[0] + (survey.last_s or 1 / fps))
    shapes, notes = list(dict.fromkeys([convert.shape(frame), *survey.shapes])), []
    height, width = max(shapes, key=lambda shape: shape[0] * shape[1])
    if len(shapes) > 1:
        sizes = ", ".join(f"{w} x {h}" for h, w in shapes)
        notes.append(f"the frame size of {path} changes ({sizes}); frames are fitted into {width} x {height} with bars")
    if frame.interlaced_frame or survey.is_interlaced:
        notes.append(f"{path} is interlaced; it is deinterlaced")
    notes += _rate_notes(path, fps, survey.times)
    if is_hdr(convert.colour.transfer):
        notes.append(f"{path} is HDR; its colours are tone-mapped to SDR (BT.709)")
    num_frames = max(1, round(duration_s * fps))
    return VideoInfo(
        width, height, fps, num_frames, duration_s, has_audio, convert.output_colour, path, (height, width), (*notes,)
    )


def _rate_notes(path, fps, times):
    """Return what to say of frames that come more slowly or faster than at the rate that is used, as a list."""
    average = (
        float((len(times) - 1) / (times[-1] - times[0])) if len(times) > 1 and times[-1] > times[0] else float(fps)
    )
    if SLOWEST <= average <= FASTEST * 1.02:
        return []
    return [f"{path} shows {average:.4g} frames per second; {float(fps):g} are used (--fps chooses another rate)"]


def _probe_animation(path):
    height = width = 0
    shown = []
    for _, shown_s, frame in read_animation(path):
        shown.append(shown_s)
        height, width = frame.shape[:2]
    times, duration_s = np.cumsum(shown) - shown, float(np.sum(shown))
    fps = _frame_rate([], times, complete=True)
    num_frames = max(1, round(duration_s * fps))
    notes = tuple(_rate_notes(path, fps, times))
    return VideoInfo(width, height, fps, num_frames, duration_s, False, Colour(), path, (height, width), notes)


def read_frames(source, fps=None, counts: DecodeCounts | None = None, planes=False) -> Iterator[np.ndarray]:
    """Stream a video's frames at a constant rate (`fps`, or the video's own): BGR uint8 (H, W, 3), upright.

    source: a path, or what `probe` returned for it. Frame k is the one nearest to k / fps seconds after the first
    frame. Where frames are damaged or missing, the one before is held, so that the video keeps its clock. A cut-off
    file ends early. counts: adds up decoded and damaged frames while they are read. planes: where frames need not be
    rotated, scaled or tone-mapped, they come as yuv420p planes, (3 H / 2, W) uint8, as the decoder gives them.
    UserError when none can be read.
    """
    info = source if isinstance(source, VideoInfo) else probe(source)
    fps = as_rate(fps or info.fps)
    if is_animation(info.path):
        yield from _at_rate(read_animation(info.path), fps)
        return
    convert = shown = image = None
    with _open_video(info.path) as (container, stream):
        for frame in _at_rate(_timed(container, stream, counts), fps):
            convert = convert or _FrameConverter(stream, frame, info.frame_shape)
            if frame is not shown:
                image = convert.planes(frame) if planes and convert.is_plain(frame) else convert(frame)
            else:
                image = image.copy()
            shown = frame
            yield image
    if convert is None:
        raise UserError(f"no frame of {info.path} can be decoded; check the file, or convert it to mp4")


@contextlib.contextmanager
def _open_video(path):
    """Yield (container, video stream)."""
    with open_media(path) as container:
        stream = video_stream(container)
        if stream is None:
            raise UserError(f"{path} has no video, only audio; give an image or a video")
        yield container, stream


def _timed(container, stream, counts=None):
    """Decode as (seconds since the first frame, seconds shown, av.VideoFrame), in order of time."""
    step_s = _usual_step(stream)
    longest_s = longest_jump(container)
    start_s = last_s = None
    for frame in _deinterlaced(decode_stream(container, stream, counts)):
        time_s = frame_time(frame)
        if time_s is None:
            time_s = 0.0 if last_s is None else last_s + step_s
        if last_s is None:
            start_s = time_s
        elif time_s - last_s > longest_s or time_s - last_s < -1:  # the clock was reset
            start_s += time_s - last_s - step_s
        elif time_s <= last_s:
            continue
        last_s = time_s
        shown_s = float((frame.duration or 0) * frame.time_base)
        yield time_s - start_s, shown_s if 0 < shown_s < longest_s else step_s, frame


def _usual_step(stream):
    """Return the seconds between frames that a stream states; those of 25 per second where it states none or years."""
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / rate) if rate and rate * MAX_GAP_S > 1 else 1 / hparams.fps


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


def _deinterlaced(frames):
    """Pass frames on, from the first one on that says that it is interlaced through FFmpeg's deinterlacer.

    Frames that say nothing come out as they are. A change of size or format starts it again.
    """
    graph = kind = None
    for frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield frame
            continue
        if kind != (kind := (frame.width, frame.height, frame.format.name)):
            yield from _drained(graph)
            graph = _deinterlacer(frame)
        if frame.pts is None:  # the filter needs a time
            yield frame
            continue
        graph.push(frame)
        yield from _available(graph)
    yield from _drained(graph)


def _deinterlacer(frame):
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    deinterlace = graph.add("bwdif", mode="send_frame", parity="auto", deint="interlaced")
    graph.link_nodes(source, deinterlace, graph.add("buffersink")).configure()
    return graph


def _available(graph):
    """Yield the frames that a filter graph has ready."""
    with contextlib.suppress(av.FFmpegError):  # it wants more input, or is at its end
        while True:
            yield graph.pull()


def _drained(graph):
    """Yield what a filter graph still holds (None: nothing)."""
    if graph is not None:
        with contextlib.suppress(av.FFmpegError):
            graph.push(None)
        yield from _available(graph)


class _Survey(NamedTuple):
    """Facts that a video's packets and some of its keyframes show."""

    times: np.ndarray  # (N,) float64: when frames are shown, in seconds, sorted, of those packets that say so
    num_packets: int
    last_s: float  # how long the last frame is shown (0: unknown)
    shapes: list  # upright (height, width) of the keyframes
    is_interlaced: bool


def _survey(container, stream, convert):
    """Demux a whole video, and decode a keyframe now and then: nearly all codecs change their size only there."""
    decoder = stream_decoder(container, stream)
    decoder.skip_frame = "NONKEY"
    every_s = max(KEYFRAME_S, (container.duration or 0) / av.time_base / MAX_KEYFRAMES)
    stamps, shapes, interlaced, next_s = [], [], [], -np.inf
    for packet in itertools.chain(read_packets(container, stream), [None]):
        if packet is not None:
            stamp = packet.dts if only_dts(container) else packet.pts
            if not packet.is_discard:
                stamps.append((stamp, packet.duration or 0))
            time_s = len(stamps) / hparams.fps if stamp is None else float(stamp * stream.time_base)
            if not (packet.is_keyframe and (time_s >= next_s or packet.has_sidedata("new_extradata"))):
                continue
            next_s = time_s + every_s
        with contextlib.suppress(av.FFmpegError):
            for frame in decoder.decode(packet):
                shapes.append(convert.shape(frame))
                interlaced.append(frame.interlaced_frame)
    timed = sorted(stamp for stamp in stamps if stamp[0] is not None)
    times = np.array([pts for pts, _ in timed], np.float64) * float(stream.time_base)
    last_s = float(timed[-1][1] * stream.time_base) if timed else 0.0
    last_s = last_s if last_s < longest_jump(container) else 0.0
    times = _without_jumps(times, longest_jump(container), _usual_step(stream))
    return _Survey(times, len(stamps), last_s, shapes, any(interlaced))


def _without_jumps(times, longest_s, step_s):
    """Return sorted times (N,) with steps of step_s in place of those over longest_s: there the clock was reset."""
    steps = np.diff(times)
    if not (steps > longest_s).any():
        return times
    return times[0] + np.cumsum([0, *np.where(steps > longest_s, step_s, steps)])


def _frame_rate(said, times, complete):
    """Fit a constant rate to these times, as a Fraction: one that the file says where they bear it out."""
    steps = np.diff(times)
    steps = steps[steps > 0]
    if not complete or not len(steps):
        rate = said[0] if said and said[0] <= FASTEST else Fraction(hparams.fps)  # a file of one image may say 90,000
    else:
        usual = steps[np.abs(steps / np.median(steps) - 1) < 0.25]
        usual = usual if len(usual) >= KEEPS_RATE * len(steps) else steps
        measured = len(usual) / usual.sum()
        if measured < SLOWEST:
            return Fraction(hparams.fps)
        likely = [*said, min(STANDARD_RATES, key=lambda rate: abs(float(rate) - measured))]
        fitting = (rate for rate in likely if abs(float(rate) * usual.sum() - len(usual)) < 0.5)
        rate = as_rate(next(fitting, None) or Fraction(measured).limit_denominator(1001))
    if rate < SLOWEST:
        return Fraction(hparams.fps)
    return min(rate, Fraction(FASTEST))


def reformatter():
    """Return `reformat` of a new VideoReformatter, in one thread and for one thread.

    It keeps the tables of its last conversion. A frame's own `reformat` makes them, and a pool of threads, again for
    each frame, and keeps both for as long as the frame.
    """
    return functools.partial(VideoReformatter().reformat, threads=1)


class _FrameConverter:
    """Converts decoded frames to upright BGR images of one size, with square pixels, in SDR."""

    def __init__(self, stream, frame, shape=None):
        """frame: the first one. shape: (height, width) of the images; None: those of the first frame."""
        aspect = stream.sample_aspect_ratio or 1
        self.aspect = aspect if 0.2 < aspect < 5 else 1
        context = stream.codec_context
        full = context.color_range == FULL or frame.format.name.startswith("yuvj")
        tags = (context.colorspace, context.color_primaries, context.color_trc)
        self.colour = Colour(FULL if full else context.color_range, *tags)
        self.output_colour = Colour() if is_hdr(self.colour.transfer) else self.colour
        self._matrix, self._rotation = None, None
        self.target = shape or self.shape(frame)
        self.tone_map = None
        self._reformat = reformatter()

    def shape(self, frame):
        """Return the upright (height, width) of a decoded frame."""
        height, width = frame.height, max(1, round(frame.width * self.aspect))
        return (width, height) if _is_quarter_turn(self._display_matrix(frame)) else (height, width)

    def _display_matrix(self, frame):
        """Return (a, b, c, d) of a frame's display matrix: x' = a x + c y, y' = b x + d y.

        It is read again only where the rotation changes: a frame whose side data was read refers to itself, and keeps
        its pixels until Python's garbage collector finds it, some hundred frames later.
        """
        if self._matrix is None or frame.rotation != self._rotation:
            matrix = frame.side_data.get("DISPLAYMATRIX")
            self._matrix = np.frombuffer(bytes(matrix), np.int32)[[0, 1, 3, 4]] if matrix else (1, 0, 0, 1)
            self._rotation = frame.rotation
        return self._matrix

    def __call__(self, frame):
        image = np.ascontiguousarray(_upright(self._to_bgr(frame), self._display_matrix(frame)))
        return image if image.shape[:2] == self.target else _with_bars(image, self.target)

    def is_plain(self, frame):
        """Return whether a frame is shown as it lies in the file: upright, square pixels, opaque YUV, even sizes."""
        a, b, _, d = self._display_matrix(frame)
        is_yuv = not frame.format.is_rgb and not frame.format.has_palette and len(frame.format.components) == 3
        even = not (frame.width % 2 or frame.height % 2)
        as_shown = self.aspect == 1 and (frame.height, frame.width) == self.target and b == 0 and a > 0 and d > 0
        return is_yuv and even and as_shown and not is_hdr(self.colour.transfer)

    def planes(self, frame):
        """Return a plain frame as yuv420p planes, one after another: (3 H / 2, W) uint8."""
        if frame.format.name not in ("yuv420p", "yuvj420p"):
            settled = self.colour.settled(frame.height)
            matrix, color_range = settled.swscale_matrix, settled.range
            colours = {"src_colorspace": matrix, "dst_colorspace": matrix, "src_color_range": color_range}
            colours |= {"dst_color_range": color_range, "interpolation": SAME_SIZE}
            frame = self._reformat(frame, format="yuv420p", **colours)
        return frame.to_ndarray()

    def _to_bgr(self, frame):
        """Return a frame as BGR uint8, as it lies in the file but with square pixels."""
        width, height = max(1, round(frame.width * self.aspect)), frame.height
        is_rgb = frame.format.is_rgb or frame.format.has_palette
        has_alpha = any(component.is_alpha for component in frame.format.components)
        matrix = self.colour.settled(height).swscale_matrix
        colours = {
            "src_colorspace": matrix,
            "dst_colorspace": matrix,
            "src_color_range": FULL if is_rgb or self.colour.range == FULL else LIMITED,
            "dst_color_range": FULL,
            "interpolation": SAME_SIZE if (width, height) == (frame.width, frame.height) else OTHER_SIZE,
        }
        if is_hdr(self.colour.transfer):
            self.tone_map = self.tone_map or ToneMapper(self.colour.transfer)
            linear = self._reformat(frame, width, height, ToneMapper.FORMAT, **colours)
            return self.tone_map(linear).to_ndarray(format="bgr24")
        image = self._reformat(frame, width, height, "bgra" if has_alpha else "bgr24", **colours).to_ndarray()
        return on_white(image[:, :, :3], image[:, :, 3] / 255) if has_alpha else image


def _is_quarter_turn(matrix):
    return abs(int(matrix[1])) > abs(int(matrix[0]))


def _upright(image, matrix):
    """Apply a display matrix: from cameras, quarter turns and mirrors."""
    a, b, c, d = matrix
    if _is_quarter_turn(matrix):
        image, a, d = image.transpose(1, 0, 2), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _with_bars(image, shape):
    """Fit an image into (height, width), centred, with black bars where its shape is another one."""
    scale = min(shape[0] / image.shape[0], shape[1] / image.shape[1])
    height, width = (max(1, min(round(side * scale), most)) for side, most in zip(image.shape[:2], shape, strict=True))
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    canvas = np.zeros((*shape, 3), np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Encoder settings of a result."""

    colour: Colour | None = None  # the source's, to be kept and tagged; None: usual for the size
    crf: int = 16  # H.264's quality, lower is better
    lossless: bool = False  # H.264 in RGB, bit-exact, which few players show
    comment: str | None = None  # kept in the file's metadata
    max_s: float | None = None  # only the first so many seconds of the audio


class VideoWriter:
    """Write an mp4 (H.264, AAC, faststart) with exactly the frames given and the whole audio of another file.

        with VideoWriter("results/out.mp4", 640, 480, Fraction(30000, 1001), audio="speech.wav") as writer:
            writer.write(frame)  # BGR uint8 (480, 640, 3)

    The file appears under its name when the block ends well. Odd sizes grow by one pixel. audio: what
    `audio.read_blocks` takes, at its own rate and channels where AAC has them. UserError, before the first frame, for a
    name that is not mp4 and for audio that cannot be read.
    """

    def __init__(self, path, width, height, fps, audio=None, encoding=Encoding()):
        self.path, self.width, self.height, self.fps = pathlib.Path(path), width, height, as_rate(fps)
        if self.path.suffix.lower() not in (".mp4", ".m4v", ".mov"):
            raise UserError(f"the result is an mp4, but its name is {self.path.name}; name it {self.path.stem}.mp4")
        self.encoding, self.colour = encoding, (encoding.colour or Colour()).settled(height)
        self.audio, self.num_frames, self.num_samples = audio, 0, 0
        self._reformat = reformatter()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.blocks, rate, channels = _open_audio(self.audio) if self.audio else (None, 0, 0)
            temporary = stack.enter_context(atomic_write(self.path))
            stack.enter_context(self._user_errors())
            self.container = stack.enter_context(av.open(str(temporary), "w", "mp4", {"movflags": "+faststart"}))
            if self.encoding.comment:
                self.container.metadata["comment"] = self.encoding.comment
            self.video_stream = self._add_video()
            self.audio_stream = self._add_audio(rate, channels) if self.blocks else None
            self.blocks = self.blocks and audio.first_seconds(self.blocks, self.encoding.max_s)
            self.container.start_encoding()  # opens the encoders: what they refuse is known now
            stack.push(self._finish)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception):
        return self.stack.__exit__(*exception)

    @contextlib.contextmanager
    def _user_errors(self):
        """Turn FFmpeg's errors into a UserError of one line."""
        try:
            yield
        except av.FFmpegError as e:
            raise UserError(f"cannot write {self.path} ({e.strerror}); disk full, or frames too large?") from e
        except av.codec.codec.UnknownCodecError as e:
            raise UserError(
                f"this PyAV has no encoder {e}; take its own wheel: pip install --force-reinstall av"
            ) from e

    def _add_video(self):
        """Add the H.264 stream, its colours tagged."""
        quality = {"qp": "0"} if self.encoding.lossless else {"crf": str(self.encoding.crf)}
        options = {"preset": PRESET, "threads": str(min(MAX_ENCODER_THREADS, available_cpus())), **quality}
        stream = self.container.add_stream(H264 + "rgb" * self.encoding.lossless, self.fps, options=options)
        stream.width, stream.height = self.width + self.width % 2, self.height + self.height % 2
        stream.pix_fmt = "bgr24" if self.encoding.lossless else "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self.fps
        if not self.encoding.lossless:
            context.color_range, context.colorspace = self.colour.range, self.colour.matrix
            context.color_primaries, context.color_trc = self.colour.primaries, self.colour.transfer
        return stream

    def _add_audio(self, rate, channels):
        """Add the AAC stream, at 96 kbit/s a channel, or the most that AAC has at a low rate."""
        stream = self.container.add_stream("aac", rate)
        stream.layout = audio.USUAL_LAYOUTS[channels]
        stream.bit_rate = channels * min(96_000, 6 * rate)
        return stream

    def write(self, frame: np.ndarray):
        """Add the next frame: BGR uint8 (height, width, 3), or yuv420p planes (3 height / 2, width) of even size."""
        if frame.ndim == 2 and not self.encoding.lossless:
            if frame.shape != (self.height * 3 // 2, self.width):
                raise ValueError(f"planes {frame.shape}, but the video is {(self.height, self.width)}")
            self._encode(av.VideoFrame.from_ndarray(frame, "yuv420p"))
            return
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"frame {frame.shape} {frame.dtype}, but the video is {(self.height, self.width, 3)} uint8"
            )
        if self.width % 2 or self.height % 2:
            frame = cv2.copyMakeBorder(frame, 0, self.height % 2, 0, self.width % 2, cv2.BORDER_REPLICATE)
        encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "bgr24")
        if not self.encoding.lossless:
            matrix = self.colour.swscale_matrix
            encoded = self._reformat(
                encoded,
                format="yuv420p",
                src_colorspace=matrix,
                dst_colorspace=matrix,
                src_color_range=FULL,
                dst_color_range=self.colour.range,
                interpolation=SAME_SIZE,
            )
        self._encode(encoded)

    def _encode(self, frame):
        frame.pts, frame.time_base = self.num_frames, 1 / self.fps
        self.num_frames += 1
        self.container.mux(self.video_stream.encode(frame))
        self._write_audio(self.num_frames / self.fps)

    def _write_audio(self, until_s):
        """Encode audio up to a time, so that both streams grow together; at its end, what the encoder holds."""
        while self.blocks and self.num_samples < until_s * self.audio_stream.rate:
            block = next(self.blocks, None)
            if block is None:
                self.blocks = None
                self.container.mux(self.audio_stream.encode(None))
                return
            frame = audio.as_frame(block._replace(layout=self.audio_stream.layout.name))
            frame.pts, frame.time_base = self.num_samples, Fraction(1, block.rate)
            self.num_samples += frame.samples
            self.container.mux(self.audio_stream.encode(frame))

    def _finish(self, error, *_):
        """Write what is left, unless the block failed."""
        if error:
            return
        if not self.num_frames:
            raise ValueError("no frame was written")
        self.container.mux(self.video_stream.encode(None))
        self._write_audio(float("inf"))


def _open_audio(source):
    """Return (Blocks as AAC can have them, rate in Hz, number of channels); other rates and counts are converted."""
    blocks = audio.read_blocks(source)
    first = next(blocks)
    channels = len(first.samples)
    if first.rate in AAC_RATES and channels in audio.USUAL_LAYOUTS:
        return itertools.chain([first], blocks), first.rate, channels
    blocks.close()
    rate = next((rate for rate in AAC_RATES if first.rate <= rate <= 48_000), 48_000)
    mono = channels not in audio.USUAL_LAYOUTS
    return audio.read_blocks(source, rate=rate, mono=mono), rate, 1 if mono else channels
