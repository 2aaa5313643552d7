"""Files that would take long to make again, kept on disk for the next start.

A file begins with a checksum: one that is damaged counts as missing. The folder is $LIPGAN_CACHE, else `lipgan` in
$XDG_CACHE_HOME or ~/.cache; where it cannot be written, nothing is kept.
"""

import contextlib
import hashlib
import os
import pathlib

from lipgan.utils.files import atomic_write

MAX_BYTES = 128 * 2**20  # of the folder: a generator and the speech encoder take 20 MB; the oldest files go first
CHECKSUM_BYTES = 32  # of SHA-256


def read(key, ending) -> bytes | None:
    """Return what was stored under a key; None where nothing was, or it is damaged."""
    path = key and _path(key, ending)
    try:
        stored = path.read_bytes() if path else b""
    except OSError:
        return None
    data = memoryview(stored)[CHECKSUM_BYTES:]
    if len(stored) <= CHECKSUM_BYTES or hashlib.sha256(data).digest() != stored[:CHECKSUM_BYTES]:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the latest used is kept the longest
    return bytes(data)


def write(key, ending, data: bytes):
    """Store data under a key, and remove the oldest files of a folder that grows too large."""
    path = key and _path(key, ending)
    if not path:
        return
    with contextlib.suppress(OSError):
        with atomic_write(path) as temporary:
            temporary.write_bytes(hashlib.sha256(data).digest() + data)
        _trim(path.parent)


def _path(key, ending):
    """Return the file of a key; None where no folder can be named."""
    try:
        general = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError:  # there is no home
        general = ""
    folder = pathlib.Path(os.environ.get("LIPGAN_CACHE") or pathlib.Path(general) / "lipgan")
    return folder / f"{key}.{ending}" if folder.is_absolute() else None


def _trim(folder):
    """Remove the files that were not used for the longest until the others take MAX_BYTES at most."""
    states = sorted(((path.stat(), path) for path in folder.iterdir()), key=lambda entry: -entry[0].st_mtime)
    total = 0
    for state, path in states:
        total += state.st_size
        if total > MAX_BYTES:
            path.unlink(missing_ok=True)
