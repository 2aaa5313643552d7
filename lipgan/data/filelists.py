"""File lists: divide a preprocessed folder's clips into training, validation and test clips."""

import pathlib

import numpy as np

from lipgan.data.clip_folder import MELS_NAME, SUBSETS
from lipgan.data.index import open_index
from lipgan.data.tar_shards import shard_files
from lipgan.utils.cli import UserError

SPLITS = ("train", "pretrain", "val", "test")
DEFAULT_FOLDER = pathlib.Path("filelists")


def read_filelist(path, subsets=False) -> list[str]:
    """Read the clips of one file list as `<speaker>/<clip>`, in order, without duplicates: only the first column.

    subsets: also accept names that begin with main/ or pretrain/.
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
    """List the folders of a split's preprocessed clips. Also returns lines to print about missing lists and clips.

    train, val and test live in main/ and are divided by <filelists>/<split>.txt only; pretrain lives in pretrain/, and
    its clips belong to train too. Where a list is missing, all clips of its folder are used, and a line says so.
    leave_out: a file of clips to leave out, <speaker>/<clip> or main/<speaker>/<clip> a line, or None.
    index: of `data_root`, from `open_index`; without it the folder is listed.
    Raises UserError when `data_root` holds no clip at all, and when `filelists` does not exist but is another folder
    than the default one, so that a mistyped --filelists does not mix test clips into training.
    """
    data_root, filelists = pathlib.Path(data_root), pathlib.Path(filelists)
    if filelists != DEFAULT_FOLDER and not filelists.is_dir():
        raise UserError(
            f"--filelists {filelists} is not a folder; give the one that holds {split}.txt, or leave it out to use all "
            "clips"
        )
    folders = {"train": ["main", "pretrain"], "pretrain": ["pretrain"]}.get(split, ["main"])
    if index is None and shard_files(data_root):
        index = open_index(data_root)
    existing = index.names if index else _clips_below(data_root)
    existing = dict.fromkeys(sorted(existing, key=lambda name: name.split("/")))
    if not existing:
        raise UserError(
            f"no preprocessed clips in {data_root}; make them with preprocess.py --final_data_root {data_root}"
        )
    clips, notes = [], []
    for subset in folders:
        filelist = filelists / f"{'pretrain' if subset == 'pretrain' else split}.txt"
        below = [name for name in existing if name.startswith(f"{subset}/")]
        if subset == "pretrain" and split == "train" and not below:
            continue
        if not filelist.is_file():
            clips += below
            notes.append(f"WARNING: no {filelist}: ALL {len(below)} clips of {data_root / subset} are used for {split}")
            continue
        names = read_filelist(filelist)
        listed = [f"{subset}/{name}" for name in names if f"{subset}/{name}" in existing]
        clips += listed
        if len(listed) < len(names):
            first = next(name for name in names if f"{subset}/{name}" not in existing)
            notes.append(
                f"{len(names) - len(listed)} of the {len(names)} clips of {filelist} are not in {data_root / subset} "
                f"(the first: {first}); they are left out"
            )
    if leave_out:
        excluded = set(read_filelist(leave_out, subsets=True))
        remaining = [name for name in clips if name not in excluded and name.partition("/")[2] not in excluded]
        count = len(clips) - len(remaining)
        notes.append(f"{count} of the {len(clips)} clips for {split} are left out, by {leave_out}")
        clips = remaining
    return [data_root / name for name in clips], notes


def evenly_spaced(clips: list, most: int | None) -> list:
    """Pick at most so many clips, evenly spaced from the first to the last; all where `most` is None."""
    if not most or len(clips) <= most:
        return clips
    return [clips[number] for number in np.linspace(0, len(clips) - 1, most).astype(int)]


def _clips_below(root):
    return [path.parent.relative_to(root).as_posix() for path in root.glob(f"*/*/*/{MELS_NAME}")]
