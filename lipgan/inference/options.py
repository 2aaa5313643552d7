"""What batch_inference.py is asked for, looked at before anything is loaded: numbers, files, and what is in them."""

import contextlib
import os

from lipgan.media import video
from lipgan.media.audio import read_blocks
from lipgan.media.image import read_picture
from lipgan.utils.cli import UserError

LONGEST_NAME = 255  # bytes, on nearly every file system
RANGES = {
    "fps": (video.SLOWEST, video.FASTEST),
    "max_sec": (0.001, 1e6),
    "sync_offset_ms": (-5000, 5000),
    "crf": (0, 51),
    "start": (0, 1e6),
    "end": (0.001, 1e6),
    "resize_factor": (0.25, 32),
    "face_index": (0, 1000),
    "lipgan_batch_size": (1, 4096),
    "n_gpu": (0, 1024),
}
INPUTS = ("checkpoint_path", "face", "audio", "face_det_checkpoint", "ref_face")


def check_numbers(face_box, **numbers):
    """Raise UserError for a number that cannot be meant, of those in RANGES (None: not given)."""
    for name, number in numbers.items():
        low, high = RANGES[name]
        if number is not None and not low <= number <= high:
            raise UserError(f"--{name} {number:g} is out of range; give a number from {low:g} to {high:g}")
    if face_box:
        top, bottom, left, right = face_box
        if bottom - top < 8 or right - left < 8:
            raise UserError(
                f"--face_box {top} {bottom} {left} {right} is no box; give top, bottom, left, right in pixels"
            )


def check_inputs(**paths):
    """Raise UserError for files, by the names of their options, that are not there (None: not given)."""
    for option, path in paths.items():
        if path is not None and not path.is_file():
            found = "is a folder" if path.is_dir() else "does not exist"
            raise UserError(f"--{option} {path} {found}; give the path of a file")


def check_result(path, inputs, overwrite, option="outfile", ending=".mp4"):
    """Raise UserError for a file that must not or cannot be written. option: what gives it its name."""
    if path.suffix.lower() != ending:
        raise UserError(f"--{option} {path}: what is written is {ending[1:]}; give a name that ends in {ending}")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UserError(f"{path.name[:40]}... is too long for a name; give a shorter one with --{option}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give another --{option}")
    if path.exists() and any(path.samefile(file) for file in inputs if file):
        raise UserError(f"{path} is one of the inputs; give another --{option}")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already; give --overwrite to replace it, or another --{option}")
    folder = next(p for p in (path.parent, *path.parent.parents) if p.exists())
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, no folder; give another --{option}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written to; give another --{option}")


def check_media(face, audio):
    """Raise UserError unless the face is a picture or a video and the audio has sound. Returns a video's own rate."""
    own_fps = None if read_picture(face) is not None else video.probe(face).fps
    with contextlib.closing(read_blocks(audio)) as blocks:
        next(blocks)
    return own_fps
