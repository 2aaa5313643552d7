"""Media containers: open a file, find its streams, decode them, and read their clocks."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator

import av

from lipgan.utils.cli import UserError

# PyAV before 19 refuses a file whose title is not in UTF-8, unless told so; later ones have no such option.
OPEN_OPTIONS = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def check_file(path) -> pathlib.Path:
    """The path of a file that can be tried. UserError in one line when it is missing, a folder, or empty."""
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; check the name")
    if not path.is_file():
        raise UserError(f"{path} is a folder or a device, not a file; give a sound, picture or video file")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty (0 bytes); copy or download it again")
    return path


@contextlib.contextmanager
def open_media(path):
    """Open a sound or video file with PyAV. UserError as in `check_file`, and for a kind of file that is not known."""
    try:
        # A whole path, so that "http:x.wav" is a file; and no pattern, so that "%d.gif" is one.
        container = av.open(str(check_file(path).absolute()), options={"pattern_type": "none"}, **OPEN_OPTIONS)
    except av.FFmpegError as e:
        raise UserError(f"{path} is no sound or video that can be read ({e.strerror}); check or convert it") from None
    with container:
        if container.format.name == "tty":
            raise UserError(f"{path} is a text; give a sound, picture or video file")
        yield container


def picture_stream(container):
    """The video stream of an open file, or None; the cover of a song is not one."""
    cover = av.stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)


def read_packets(container, stream) -> Iterator:
    """Read one stream's packets; where nothing more can be read, a file is over."""
    with contextlib.suppress(av.FFmpegError):
        yield from (packet for packet in container.demux(stream) if packet.size)


@dataclasses.dataclass
class DecodeCounts:
    """How many frames `decode_stream` gave, and how many decoding errors there were; it counts while it is read."""

    num_frames: int = 0
    num_damaged: int = 0  # frames marked as corrupt, and packets that cannot be decoded


def decode_stream(container, stream, counts: DecodeCounts | None = None) -> Iterator:
    """Decode one stream frame by frame; what is damaged is skipped. UserError where there is no decoder for it."""
    counts = counts or DecodeCounts()
    if stream.codec_context is None:
        raise UserError(f"{container.name}: its {stream.type} is of a kind that has no decoder here; convert it")
    stream.codec_context.thread_count = min(4, os.cpu_count() or 1)
    first_dts = shift = None
    for packet in itertools.chain(read_packets(container, stream), [None]):
        first_dts = packet.dts if packet and first_dts is None else first_dts
        try:
            for frame in packet.decode() if packet else stream.decode(None):
                counts.num_frames += 1
                counts.num_damaged += frame.is_corrupt
                frame.time_base = stream.time_base  # those a decoder gives at the end have none
                if only_dts(container) and first_dts is not None:
                    shift = (frame.dts or 0) - first_dts if shift is None else shift
                    frame.pts = None if frame.dts is None else frame.dts - shift
                yield frame
        except av.EOFError:
            continue
        except av.FFmpegError:
            counts.num_damaged += 1


def only_dts(container) -> bool:
    """Whether the file says when frames are decoded but not when they are shown: FFmpeg's guesses go back and forth."""
    return container.format.name == "avi"


def frame_time(frame) -> float | None:
    """When a decoded frame is shown or heard, in seconds on the container's clock; None where the file does not say."""
    return None if frame.pts is None else float(frame.pts * frame.time_base)


def longest_jump(container) -> float:
    """Seconds: a timestamp that jumps further than the file is long does not tell the time, its clock was set anew."""
    return container.duration / av.time_base if container.duration else 3_600.0
