"""Still images and animations of any kind, read with Pillow: upright, BGR, 8 bits, in sRGB."""

import contextlib
import io
import warnings
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageOps

from lipgan.media.container import check_file
from lipgan.utils.cli import UserError

# Those of Pillow's that begin in a way of their own and run no other program (as EPS does).
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "PSD", "QOI", "SUN", "TIFF", "WEBP")
ANIMATED = ("AVIF", "GIF", "PNG", "WEBP")  # a phone's MPO and a TIFF of several pages are still images
# What OpenCV reads where Pillow does not: floats in TIFF, PFM and HDR.
OPENCV_STARTS = (b"II*\0", b"MM\0*", b"PF\n", b"Pf\n", b"#?RADIANCE", b"#?RGBE")
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, ArithmeticError,
          MemoryError, RuntimeError)  # fmt: skip
MAX_PIXELS = 110_000_000  # the largest phone cameras but one; such an image takes 1.2 GB while it is read
IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8")  # and WebP: damaged where Pillow does not know them
OTHERS = {  # how files begin that hold an image of a kind that cannot be read
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    **{b"ftyp" + brand: "HEIC" for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")},
}


def read_image(path) -> np.ndarray | None:
    """Read a still image, identified by its content: BGR uint8 (H, W, 3), upright, in sRGB, on white where transparent.

    None when it is no still image: then it may be a video, as a GIF of several frames is. UserError when the file is
    missing, a damaged image, one larger than MAX_PIXELS, or of a kind that cannot be read.
    """
    path = check_file(path)
    with path.open("rb") as file:
        head = file.read(4096)
    is_known = False
    try:
        with _open_image(path) as image:
            is_known = True
            return None if _is_animated(image) else _to_bgr(image)
    except DAMAGE:
        if head.startswith(OPENCV_STARTS):
            return _read_with_opencv(path)
        if is_known or head.startswith(IMAGE_STARTS) or head[8:12] == b"WEBP":
            raise _damaged(path) from None
    if kind := _other_kind(head):
        raise UserError(f"{path} is an image of the kind {kind}, which cannot be read; save it as PNG or JPEG")
    return None


def is_animation(path) -> bool:
    """Return whether the file is a GIF, PNG, WebP or AVIF of more than one frame."""
    with contextlib.suppress(*DAMAGE), _open_image(path) as image:
        return _is_animated(image)
    return False


def read_animation(path) -> Iterator[tuple[float, float, np.ndarray]]:
    """Yield (seconds since the first frame, seconds shown, BGR uint8 (H, W, 3)) for each frame of an animation.

    At most 10 ms count as 100 ms, as in browsers. It ends where it is damaged. UserError when no frame can be read.
    """
    time_s, num_frames = 0.0, 0
    with contextlib.suppress(*DAMAGE), _open_image(path) as image:
        for number in range(int(bool(image.info.get("default_image"))), image.n_frames):
            image.seek(number)
            frame = _to_bgr(image)
            shown_ms = image.info.get("duration", 0)
            shown_s = shown_ms / 1000 if shown_ms > 10 else 0.1
            num_frames += 1
            yield time_s, shown_s, frame
            time_s += shown_s
    if not num_frames:
        raise _damaged(path)


@contextlib.contextmanager
def _open_image(path):
    """Open an image with Pillow, quietly. UserError for a larger one than MAX_PIXELS; else one of DAMAGE."""
    too_large = UserError(f"{path} has over {MAX_PIXELS // 1_000_000} megapixels; make a smaller copy")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(_file(path), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise too_large
                yield image
    except Image.DecompressionBombError:
        raise too_large from None


def _file(path):
    """Return what Pillow opens: of a WebP with several frames a copy that says that it has an alpha channel.

    Else what no frame has painted yet would be black, not transparent.
    """
    with path.open("rb") as file:
        data = bytearray(file.read(30))
        if data[8:16] != b"WEBPVP8X" or not data[20] & 2:
            return path
        data[20] |= 0x10
        return io.BytesIO(data + file.read())


def _is_animated(image):
    return image.format in ANIMATED and bool(getattr(image, "is_animated", False))


def _damaged(path):
    return UserError(f"{path} looks like an image but cannot be decoded; save or download it again")


def _other_kind(head):
    """Return what the file is, where it is one of OTHERS; None else."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<?xml") and b"<svg" in text:
        return "SVG"
    return next((kind for start, kind in OTHERS.items() if text.startswith(start) or head[4:12] == start), None)


def _to_bgr(image):
    """Return the current frame of a Pillow image as upright BGR uint8 (H, W, 3)."""
    profile = image.info.get("icc_profile")
    image.load()
    with contextlib.suppress(*DAMAGE):  # a damaged orientation is none
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        return _from_numbers(values / np.float32(65_535) if image.mode.startswith("I;16") else values)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    elif image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    return on_white(np.ascontiguousarray(np.asarray(_to_srgb(image, profile))[:, :, ::-1]), alpha)


def _to_srgb(image, profile):
    """Return a Pillow image in RGB, converted from its colour profile (ICC, bytes) to sRGB where it has another one."""
    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, *DAMAGE):  # a damaged profile, or one of other channels, is none
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            colours = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[source.profile.xcolor_space.strip()]
            if not (source.profile.profile_description or "").startswith("sRGB"):
                image = image.convert(colours)
                return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return image.convert("RGB")


def on_white(image, alpha):
    """Lay BGR uint8 (H, W, 3) on white by alpha (H, W), float from 0 to 1 or uint8; None is opaque."""
    opaque = 255 if alpha is not None and alpha.dtype == np.uint8 else 1
    if alpha is None or (alpha == opaque).all():
        return image
    flat = np.empty_like(image)
    for top in range(0, len(image), 64):  # a large photo in floats would take gigabytes
        rows = slice(top, top + 64)
        flat[rows] = np.round(255 - (255.0 - image[rows]) * (alpha[rows, :, None] / opaque))
    return flat


@contextlib.contextmanager
def _quiet_opencv():
    """Keep OpenCV from reporting damaged images on stderr."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def _read_with_opencv(path):
    """Read what Pillow does not: BGR uint8 (H, W, 3). UserError where OpenCV does not either."""
    try:
        with _quiet_opencv():
            data = np.fromfile(path, np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
            if image is not None and image.dtype not in (np.uint8, np.uint16):
                return _from_numbers(image)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)  # applies the camera's orientation, 8 bits, three channels
    except cv2.error as e:
        raise UserError(f"{path} is too large an image, or damaged ({e.err}); make it smaller") from e
    if image is None:
        raise _damaged(path)
    return image


def _from_numbers(layers):
    """Return float or integer layers, grey or BGR(A), from 0 to 1, to 255, or to their own largest, as BGR uint8."""
    layers = np.nan_to_num(np.atleast_3d(layers).astype(np.float32))
    colours = layers[:, :, : 3 if layers.shape[2] > 2 else 1]
    usual, largest = np.percentile(colours, 95), colours.max()
    top = 1 if usual <= 1 else max(255, largest)  # a few pixels of a lamp may be over 1
    image = np.round(colours.clip(0, top) * np.float32(255 / top)).astype(np.uint8)
    image = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
    if layers.shape[2] == 4:
        return on_white(image, (layers[:, :, 3] / max(1, layers[:, :, 3].max())).clip(0, 1))
    return image
