"""Face tracks of videos, cached on disk: other audio or other weights then need no search.

A file is named after the video's content and all that decides on boxes, so it is never wrong, only missing. It holds as
many frames as the audio needed; longer audio searches the video again.
"""

import contextlib
import hashlib
import json
import zipfile

import numpy as np

from audio_hparams import hparams
from lipgan.faces.occlusion import NUM_CELLS
from lipgan.faces.tracker import Track
from lipgan.utils.cli import warn
from lipgan.utils.files import atomic_write

VERSION = 7  # raise it when `lipgan.faces` finds other boxes in the same video


def cache_path(folder, video, **settings):
    """Return the file for this video (by content: a copy under another name is the same) and these settings."""
    with video.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b")
    digest.update(json.dumps([VERSION, hparams.as_dict(), settings], sort_keys=True, default=str).encode())
    return folder / f"{digest.hexdigest()[:32]}.npz"


def load_track(path, num_frames):
    """Return the tracker.Track of the first num_frames frames (or all of a shorter video), or None.

    A file that cannot be read is skipped with a line on stderr.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            track, whole = Track(*(arrays[name] for name in Track._fields)), bool(arrays["whole"])
        count = len(track.found)
        expected = ((count, 4), np.int32), ((count,), bool), ((count, 68, 2), np.float32), ((count,), np.int32)
        expected += (((count,), bool), ((count,), np.float32), ((count, NUM_CELLS, 3), np.uint8))
        if [(array.shape, array.dtype) for array in track] != [*expected]:
            raise ValueError(f"boxes of shape {track.boxes.shape}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        warn(f"{path} is not a face track ({e}); the video is searched again")
        return None
    return Track(*(array[:num_frames] for array in track)) if whole or count >= num_frames else None


def save_track(path, track, whole):
    """Write a tracker.Track. whole: it is of all frames of the video. A folder that cannot be written is no error."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **track._asdict(), whole=whole)
