"""Still pictures of any kind: upright, BGR, 8 bits."""

import contextlib

import cv2
import numpy as np

from lipgan.media import container, video, webp
from lipgan.utils.cli import UserError

OTHERS = {  # how files begin that hold a picture of a kind that can't be read
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    **{b"ftyp" + brand: "HEIC" for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")},
}


def read_picture(path) -> np.ndarray | None:
    """Read a still picture, told by its content: BGR uint8 (H, W, 3), upright, laid on white where transparent.

    None when it is no still picture: then it may be a video, as a GIF of several frames is. UserError when it is
    missing, a damaged picture, or one of a kind that cannot be read.
    """
    path = container.check_file(path)
    with path.open("rb") as file:
        head = file.read(4096)
        readable = _readable(path, file)
    if webp.moves(path):
        return None
    if _may_move(head) and (frames := video.first_frames(path)):
        return frames[0] if len(frames) == 1 else None
    if readable:
        with _quiet_opencv():
            return _decoded(path)
    if kind := _other_kind(head):
        raise UserError(f"{path} is a picture of the kind {kind}, which cannot be read; save it as PNG or JPEG")
    return None


def _readable(path, file):
    """Whether OpenCV has a decoder for this content."""
    name = str(path)
    with contextlib.suppress(UnicodeEncodeError):
        name.encode()
        return cv2.haveImageReader(name)
    return cv2.haveImageReader(f"/dev/fd/{file.fileno()}")  # OpenCV crashes on a name that is not UTF-8


def _may_move(head):
    """Whether it may be an animation that FFmpeg decodes: GIF or PNG."""
    return head.startswith(b"GIF8") or (head.startswith(b"\x89PNG") and b"acTL" in head)


def _other_kind(head):
    """What the file is, where it is one of OTHERS; None else."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<?xml") and b"<svg" in text:
        return "SVG"
    return next((kind for start, kind in OTHERS.items() if text.startswith(start) or head[4:12] == start), None)


@contextlib.contextmanager
def _quiet_opencv():
    """OpenCV tells of damaged pictures on stderr; they get one line from us."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def _decoded(path):
    data = np.fromfile(path, np.uint8)
    try:
        layers = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as e:
        raise UserError(f"{path} is too large a picture, or damaged ({e.err}); make it smaller") from e
    if layers is not None and layers.dtype not in (np.uint8, np.uint16):
        return _from_floats(layers)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)  # applies the camera's orientation, 8 bits, three channels
    if picture is None:
        raise UserError(f"{path} looks like a picture but cannot be decoded; save or download it again")
    if layers is not None and layers.shape[2:] == (4,):
        plain = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        alpha = _turned_alike(layers[:, :, 3], plain, picture)
        picture = video.on_white(picture, alpha / np.iinfo(layers.dtype).max)
    return picture


def _from_floats(layers):
    """A float or 32-bit picture, of values from 0 to 1, to 255, or to its own largest, as BGR uint8."""
    layers = np.nan_to_num(np.atleast_3d(layers).astype(np.float32))
    colours = layers[:, :, : 3 if layers.shape[2] > 2 else 1]
    usual, largest = np.percentile(colours, 95), colours.max()
    top = 1 if usual <= 1 else max(255, largest)  # a few pixels of a lamp may be over 1
    picture = np.round(colours.clip(0, top) * np.float32(255 / top)).astype(np.uint8)
    picture = np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))
    if layers.shape[2] == 4:
        picture = video.on_white(picture, (layers[:, :, 3] / max(1, layers[:, :, 3].max())).clip(0, 1))
    return picture


def _turned_alike(alpha, plain, upright):
    """Turn and mirror alpha as `upright` is, compared with `plain`: OpenCV applies no orientation to four channels."""
    for mirrored in (False, True):
        for turns in range(4):
            both = [np.rot90(layer[:, ::-1] if mirrored else layer, turns) for layer in (plain, alpha)]
            if both[0].shape == upright.shape and (both[0] == upright).all():
                return both[1]
    return alpha
