"""A preprocessed folder packed into a few large tar files, for file systems on which many small files are slow.

    packed/
      preprocess.json       as in the tree
      shard_00000.tar ...   members main/<speaker>/<clip>/0.jpg ...: WebDataset's layout; `tar xf` gives the tree again

Each clip lies in one shard, and clips are sorted by name. Training does not read from front to back: the index
(index.py) knows where every crop lies.
"""

import dataclasses
import io
import itertools
import os
import pathlib
import shutil
import tarfile

import numpy as np

from lipgan.data.clip_folder import MELS_NAME, SETTINGS_NAME, SUBSETS
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_dir
from lipgan.utils.progress import tracked

SHARDS = "shard_*.tar"


@dataclasses.dataclass(frozen=True)
class Places:
    """The places of an index's crops in packed shards: the open files, the shard of each clip, offsets and sizes."""

    files: list
    shard: np.ndarray  # (C,) int32
    offsets: np.ndarray  # (N,) int64
    sizes: np.ndarray  # (N,) int32

    def read(self, row, position):
        """Read the bytes of one crop's file."""
        return read_at(self.files[self.shard[row]], int(self.sizes[position]), int(self.offsets[position]))


def read_at(file, size, offset):
    """Read `size` bytes of an open file from `offset` on, from any thread."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, offset)
    with open(file.name, "rb", buffering=0) as again:  # noqa: PTH123 (no pread on Windows)
        again.seek(offset)
        return again.read(size)


def shard_files(root):
    """List the shards of a packed folder, in order; empty for a tree."""
    return sorted(pathlib.Path(root).glob(SHARDS))


def stamps(files):
    """Describe the shards, so that a later change is noticed: [[name, size, mtime in ns], ...]."""
    return [[file.name, (status := file.stat()).st_size, status.st_mtime_ns] for file in files]


def read_member(files, name=MELS_NAME):
    """Yield (clip, number of its shard, its file of this name, {file name: (offset, size)}) for each clip that has it.

    Raises UserError for a truncated shard.
    """
    for number, path in enumerate(files):
        try:
            with tarfile.open(path, "r:") as tar:
                for clip, group in itertools.groupby(_members(tar), key=lambda m: m.name.rpartition("/")[0]):
                    members = {m.name.rpartition("/")[2]: (m.offset_data, m.size) for m in group}
                    if name in members:
                        offset, size = members[name]
                        tar.fileobj.seek(offset)
                        yield clip, number, io.BytesIO(tar.fileobj.read(size)), members
        except tarfile.ReadError as e:
            raise UserError(
                f"{path} is not a complete tar file ({e}); copy it again, or pack it again with tools.pack_dataset"
            ) from None


def _members(tar):
    """Iterate over the members without the list of all of them that tarfile keeps."""
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()


def pack(data_root, out, shard_bytes):
    """Pack every clip of a preprocessed tree into shards of about `shard_bytes`. Returns the numbers (clips, shards).

    `out` appears complete or not at all. The same tree gives the same bytes. Raises UserError.
    """
    root, out = pathlib.Path(data_root), pathlib.Path(out)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; give --out a new folder")
    folders = sorted(path.parent for subset in SUBSETS for path in root.glob(f"{subset}/*/*/{MELS_NAME}"))
    if not folders:
        raise UserError(f"no preprocessed clips in {root}; make them with preprocess.py --final_data_root {root}")
    with atomic_dir(out) as temporary:
        if (root / SETTINGS_NAME).is_file():
            shutil.copyfile(root / SETTINGS_NAME, temporary / SETTINGS_NAME)
        count, tar = 0, None
        for folder in tracked(folders, "packing"):
            if tar is None or tar.offset >= shard_bytes:
                if tar:
                    tar.close()
                tar = tarfile.open(temporary / f"shard_{count:05d}.tar", "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
                count += 1
            _add(tar, folder, folder.relative_to(root).as_posix())
        tar.close()
    return len(folders), count


def _add(tar, folder, name):
    """Add one clip's files, the frames in order."""
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    for path in sorted(files, key=lambda path: (path.suffix, int(path.stem) if path.stem.isdigit() else 0, path.name)):
        member = tarfile.TarInfo(f"{name}/{path.name}")
        data = path.read_bytes()
        member.size, member.mode = len(data), 0o644
        tar.addfile(member, io.BytesIO(data))
