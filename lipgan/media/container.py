"""Media containers: open a file, find its streams, decode them, and read their clocks."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Iterator

import av

from lipgan.utils.cli import UserError
from lipgan.utils.cpus import available_cpus

# No pattern, so that "%d.gif" is a file; and a playlist that names addresses opens no connection.
OPEN_OPTIONS = {"pattern_type": "none", "protocol_whitelist": "file,crypto,data"}
# PyAV before 19 refuses a file whose title is not in UTF-8 without this option; later ones have no such option.
OLDER_PYAV = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
MAX_VIDEO_PIXELS = 8192 * 4320  # of one frame: a damaged header can claim any size, and would be given that memory
MAX_GAP_S = 600.0  # a jump of the timestamps by more than this is a clock that was reset, not a pause
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these drop the alpha channel


def check_file(path) -> pathlib.Path:
    """Return the path of a regular file that is not empty. UserError in one line for anything else."""
    path = pathlib.Path(path)
    if str(path) == "-" and not path.exists():
        raise UserError(
            "- is the standard input, which can be read only once; save it to a file first and give its path"
        )
    if not path.exists():
        if address := re.match(r"([a-z][a-z0-9+.-]+):/+(?=[^/])", str(path), re.IGNORECASE):
            shown = f"{address[1]}://{str(path)[address.end() :]}"  # pathlib keeps only one of its slashes
            raise UserError(f"{shown} is an address, not a file; download it first and give the path of the file")
        raise UserError(f"{path} does not exist; check the name")
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file; give an audio, image or video file")
    if not path.is_file():
        kind = "pipe" if path.is_fifo() else "socket" if path.is_socket() else "device"
        raise UserError(f"{path} is a {kind}, which can be read only once; save it to a file first and give its path")
    if not path.stat().st_size:
        raise UserError(f"{path} is empty (0 bytes); copy or download it again")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read (permission denied); change its permissions or copy it")
    return path


@contextlib.contextmanager
def open_media(path):
    """Open an audio or video file with PyAV. UserError as in `check_file`, and for an unknown kind of file."""
    try:
        # An absolute path, so that "http:x.wav" is a file.
        container = av.open(str(check_file(path).absolute()), options=OPEN_OPTIONS, **OLDER_PYAV)
    except (av.FFmpegError, ValueError, OverflowError) as e:
        reason = getattr(e, "strerror", None) or e
        raise UserError(f"{path} is no audio or video that can be read ({reason}); check or convert it") from None
    with container:
        if container.format.name == "tty":
            raise UserError(f"{path} is a text; give an audio, image or video file")
        yield container


def video_stream(container):
    """Return the video stream of an open file, or None; the cover of a song is not one.

    The default one of those that have a decoder, else the first. UserError for frames larger than MAX_VIDEO_PIXELS.
    """
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    stream = min(streams, key=_preference, default=None)
    context = stream and stream.codec_context
    if context and context.width * context.height > MAX_VIDEO_PIXELS:
        raise UserError(
            f"{container.name}: its frames are {context.width} x {context.height} pixels; the largest that are read "
            "are 8192 x 4320; make a smaller copy"
        )
    return stream


def _preference(stream):
    """Sort key of a video stream: a decodable one first, then the default one, then the earliest."""
    default = bool(stream.disposition & av.stream.Disposition.default)
    return stream.codec_context is None, not default, stream.index


def read_packets(container, stream) -> Iterator:
    """Demux one stream; a file ends where nothing more can be read."""
    with contextlib.suppress(av.FFmpegError, ValueError, OverflowError):
        yield from (packet for packet in container.demux(stream) if packet.size)


def stream_decoder(container, stream):
    """Return the decoder of a stream, a few threads each: libvpx for VP8 and VP9 with an alpha channel.

    UserError where there is none for it.
    """
    decoder = stream.codec_context
    if decoder is None:
        raise UserError(f"{container.name}: its {stream.type} is of a kind that has no decoder here; convert it")
    if stream.type == "video":
        if stream.metadata.get("alpha_mode") == "1" and decoder.name in ALPHA_DECODERS:
            decoder = av.CodecContext.create(ALPHA_DECODERS[decoder.name], "r")
        decoder.options = {"max_pixels": str(MAX_VIDEO_PIXELS)}
        decoder.thread_type = "AUTO"
    decoder.thread_count = min(4, available_cpus())
    return decoder


@dataclasses.dataclass
class DecodeCounts:
    """How many frames `decode_stream` gave, and how many decoding errors there were; it counts while it is read."""

    num_frames: int = 0
    num_damaged: int = 0  # frames marked as corrupt, and packets that cannot be decoded


def decode_stream(container, stream, counts: DecodeCounts | None = None) -> Iterator:
    """Decode one stream frame by frame; what is damaged is skipped. UserError where there is no decoder for it."""
    counts = counts or DecodeCounts()
    decoder = stream_decoder(container, stream)
    first_dts = shift = None
    for packet in itertools.chain(read_packets(container, stream), [None]):
        first_dts = packet.dts if packet and first_dts is None else first_dts
        try:
            for frame in decoder.decode(packet):
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
    """Return whether the file has decoding times but no presentation times: FFmpeg's guesses jump back and forth."""
    return container.format.name == "avi"


def frame_time(frame) -> float | None:
    """Return when a decoded frame is shown or heard, in seconds on the container's clock; None where it is unknown."""
    return None if frame.pts is None else float(frame.pts * frame.time_base)


def longest_jump(container) -> float:
    """Return in seconds how far a timestamp may jump: further than the file is long, and its clock was reset."""
    return min(container.duration / av.time_base if container.duration else 3_600.0, MAX_GAP_S)
