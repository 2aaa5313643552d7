"""Where the face is in a video, kept on disk: another sound or other weights then cost no search.

A file is named after the video's content and all that decides on boxes, so it is never wrong, only missing.
"""

import contextlib
import hashlib
import json
import sys
import zipfile

import numpy as np

from audio_hparams import hparams
from errors import whole_file

VERSION = 1  # to be raised when `faces` finds other boxes in the same video


def cache_path(folder, video, **settings):
    """The file for this video (by content: a copy under another name counts as the same) and these settings."""
    with video.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b")
    digest.update(json.dumps([VERSION, hparams.as_dict(), settings], sort_keys=True, default=str).encode())
    return folder / f"{digest.hexdigest()[:32]}.npz"


def load_boxes(path, num_frames):
    """The boxes (N, 4) int32 and found (N,) bool of the first num_frames frames (or all of a shorter video), or None.

    A file that cannot be read is passed over with a line on stderr.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            boxes, found, whole = arrays["boxes"], arrays["found"], bool(arrays["whole"])
        if boxes.shape != (len(found), 4) or boxes.dtype != np.int32 or found.dtype != bool:
            raise ValueError(f"boxes of shape {boxes.shape}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        print(f"{path} is no file of boxes ({e}); faces are searched anew", file=sys.stderr)
        return None
    return (boxes[:num_frames], found[:num_frames]) if whole or len(found) >= num_frames else None


def save_boxes(path, boxes, found, whole):
    """Keep boxes. whole: they are of all frames of the video. Where nothing can be written, nothing is kept."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, boxes=boxes, found=found, whole=whole)
