"""List the videos of a preprocessing run: those of a file list, or all below a folder, or one shard of them."""

import argparse
import collections
import dataclasses
import typing

from lipgan.data.clip_folder import SUBSETS
from lipgan.data.filelists import read_filelist
from lipgan.utils.cli import UserError

ENDINGS = (".mp4", ".mpg", ".mpeg", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".ts", ".mts", ".3gp")
FORMS = tuple(form for ending in ENDINGS for form in (ending, ending.upper()))


class Job(typing.NamedTuple):
    """One clip to preprocess."""

    name: str  # its folder below final_data_root, main/<speaker>/<clip>
    source: str  # path of the video


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` equal parts of a list, such as the share of a job array's task."""

    number: int  # 1 to count
    count: int

    @classmethod
    def parse(cls, text):
        """Read "3/64"; an argparse type."""
        number, slash, count = text.partition("/")
        if not slash or not 1 <= int(number) <= int(count):
            raise argparse.ArgumentTypeError(f"{text} is not I/N with I from 1 to N")
        return cls(int(number), int(count))

    def part(self, items):
        """Return every count-th item, from the number-th on."""
        return items[self.number - 1 :: self.count]


def listed_jobs(videos_root, split, filelists):
    """List the clips of a file list. Returns ([Job], [names of clips without a video]). Raises UserError."""
    if not videos_root.is_dir():
        raise UserError(f"no folder {videos_root}; give the one that holds main/ with --videos_data_root")
    names = read_filelist(filelists / f"{split}.txt")
    if not names:
        raise UserError(f"{filelists / f'{split}.txt'} lists no clips; use another --split or --filelists, or --all")
    subset = "pretrain" if split == "pretrain" else "main"
    jobs, missing = [], []
    for name in names:
        candidates = (path + form for path in _places(name, subset, split) for form in FORMS)
        source = next((path for path in map(videos_root.joinpath, candidates) if path.is_file()), None)
        if source is None:
            missing.append(f"{subset}/{name}")
        else:
            jobs.append(Job(f"{subset}/{name}", str(source)))
    if not jobs:
        raise UserError(
            f"none of the {len(names)} clips of {filelists / f'{split}.txt'} (such as {names[0]}) is in {videos_root}; "
            f"--videos_data_root must hold {subset}/<speaker>/<clip>.mp4, or be laid out as LRS3 or LRW"
        )
    return jobs, missing


def _places(name, subset, split):
    """List the possible paths of <speaker>/<clip> without the ending: as in LRS2, bare, as in LRS3, and as in LRW.

    LRW has videos of the same name in the folders of its splits, so its clip names begin with the split.
    """
    if subset == "pretrain":
        return f"pretrain/{name}", name
    speaker, clip = name.split("/")
    lrw = f"{speaker}/{split}/{clip.removeprefix(f'{split}_')}"
    return f"main/{name}", name, f"{'test' if split == 'test' else 'trainval'}/{name}", lrw


def all_jobs(videos_root):
    """List every video below a folder: <speaker> is the video's folder, <clip> its name without the ending.

    Where two would get the same name, the folders above (joined by _), then the endings become part of both names.
    Raises UserError.
    """
    if not videos_root.is_dir():
        raise UserError(f"no folder {videos_root}; give the one that holds the videos with --videos_data_root")
    sources = [
        p.relative_to(videos_root) for p in videos_root.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file()
    ]
    sources = sorted(path for path in sources if not any(part.startswith(".") for part in path.parts))
    if not sources:
        raise UserError(f"no video below {videos_root} (looked for {' '.join(ENDINGS)})")

    def named(path, above, ending):
        subset = path.parts[0] if path.parts[0] in SUBSETS and len(path.parts) > 1 else None
        folders = path.parts[1 if subset else 0 : -1] or (videos_root.resolve().name or "video",)
        speaker = "_".join(folders) if above else folders[-1]
        clip = path.stem + (path.suffix.replace(".", "_") if ending else "")
        return f"{subset or 'main'}/{speaker}/{clip}"

    names = {}
    for above, ending in ((False, False), (True, False), (True, True)):
        counts = collections.Counter(names.get(path) or named(path, above, ending) for path in sources)
        for path in sources:
            if path not in names and counts[named(path, above, ending)] == 1:
                names[path] = named(path, above, ending)
    clashing = [str(path) for path in sources if path not in names]
    if clashing:
        raise UserError(f"{' and '.join(clashing[:2])} would get the same name; rename one of them")
    return [Job(names[path], str(videos_root / path)) for path in sources]
