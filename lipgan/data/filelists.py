"""Which clips of a preprocessed folder are for training, validation and tests: by lists."""

import pathlib

import numpy as np

from lipgan.data.clip_folder import MELS_NAME, SUBSETS
from lipgan.data.index import open_index
from lipgan.data.tar_shards import shard_files
from lipgan.utils.cli import UserError

SPLITS = ("train", "pretrain", "val", "test")
DEFAULT_FOLDER = pathlib.Path("filelists")


def read_filelist(path, subsets=False) -> list[str]:
    """The clips of one file list as `<speaker>/<clip>`, in order, each once: first column, blank lines skipped.

    subsets: also take names with their main/ or pretrain/ before them.
    Raises UserError for a missing file and for a line that is not such a name.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no file list {path}; give {'another' if subsets else 'its folder with --filelists'}")
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file of one <speaker>/<clip> a line") from None
    names = list(dict.fromkeys(line[0] for line in lines if line))
    for name in names:
        parts = name.split("/")
        if subsets and len(parts) == 3 and parts[0] in SUBSETS:
            parts = parts[1:]
        if len(parts) != 2 or not all(parts) or set(parts) & {".", ".."}:
            raise UserError(f"{path}: {name!r} is not <speaker>/<clip>; one clip a line, such as speaker/00001")
    return names


def find_clips(data_root, split: str, filelists, index=None, leave_out=None) -> tuple[list[pathlib.Path], list[str]]:
    """The folders of a split's preprocessed clips, and lines to print about lists and clips that are missing.

    train, val and test live in main/ and are told apart by <filelists>/<split>.txt only; pretrain lives in pretrain/,
    and train has its clips too. Where a list is missing, all clips of its folder are taken, and a line says so.
    leave_out: a file of clips that are not taken, <speaker>/<clip> or main/<speaker>/<clip> a line, or None.
    index: of `data_root`, from `open_index`, where it is at hand: then no folder is looked into.
    Raises UserError when `data_root` holds no clip at all.
    """
    data_root, filelists = pathlib.Path(data_root), pathlib.Path(filelists)
    folders = {"train": ["main", "pretrain"], "pretrain": ["pretrain"]}.get(split, ["main"])
    if index is None and shard_files(data_root):
        index = open_index(data_root)
    there = index.names if index else _clips_below(data_root)
    there = dict.fromkeys(sorted(there, key=lambda name: name.split("/")))
    if not there:
        raise UserError(
            f"no preprocessed clips in {data_root}; make them with preprocess.py --final_data_root {data_root}"
        )
    clips, notes = [], []
    for subset in folders:
        filelist = filelists / f"{'pretrain' if subset == 'pretrain' else split}.txt"
        below = [name for name in there if name.startswith(f"{subset}/")]
        if subset == "pretrain" and split == "train" and not below:
            continue
        if not filelist.is_file():
            clips += below
            notes.append(f"WARNING: no {filelist}: ALL {len(below)} clips of {data_root / subset} are used for {split}")
            continue
        names = read_filelist(filelist)
        found = [f"{subset}/{name}" for name in names if f"{subset}/{name}" in there]
        clips += found
        if len(found) < len(names):
            first = next(name for name in names if f"{subset}/{name}" not in there)
            notes.append(
                f"{len(names) - len(found)} of the {len(names)} clips of {filelist} are not in {data_root / subset} "
                f"(the first: {first}); they are left out"
            )
    if leave_out:
        unwanted = set(read_filelist(leave_out, subsets=True))
        kept = [name for name in clips if name not in unwanted and name.partition("/")[2] not in unwanted]
        notes.append(f"{len(clips) - len(kept)} of the {len(clips)} clips for {split} are left out, by {leave_out}")
        clips = kept
    return [data_root / name for name in clips], notes


def evenly_spaced(clips: list, most: int | None) -> list:
    """At most so many of the clips, evenly spaced from the first to the last; all where `most` is None."""
    if not most or len(clips) <= most:
        return clips
    return [clips[number] for number in np.linspace(0, len(clips) - 1, most).astype(int)]


def _clips_below(root):
    return [path.parent.relative_to(root).as_posix() for path in root.glob(f"*/*/*/{MELS_NAME}")]
