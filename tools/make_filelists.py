"""Write the lists of LRS3, of LRW, or of any folder of videos: train.txt, val.txt, test.txt and pretrain.txt.

    python -m tools.make_filelists --videos_data_root lrs3/ --out filelists/lrs3
    python -m tools.make_filelists --videos_data_root lrw/ --out filelists/lrw
    python -m tools.make_filelists --videos_data_root my_videos/ --out filelists/mine --val_share 0.05 --test_share 0.05

LRS3: pretrain/ and test/ become lists as they are; a few speakers of trainval/ are held out for validation. LRW: the
folders train, val and test of each word. Any other collection: whole speakers (folders) are held out, or clips where
all videos are in one folder. Give the folder of the lists as --filelists to preprocess.py (--all for such other
collections), train_unet.py, train.py and evaluate.py. LRS2 has its own lists.
"""

import argparse
import pathlib
import zlib

from lipgan.preprocessing.video_list import ENDINGS, all_jobs
from lipgan.utils import cli
from lipgan.utils.cli import UserError, script
from lipgan.utils.files import atomic_write

LRW_SPLITS = ("train", "val", "test")


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--videos_data_root", type=pathlib.Path, required=True, help="folder of the videos")
    add("--out", type=pathlib.Path, required=True, help="folder to write the lists to")
    add("--val_share", type=cli.share, default=0.02, help="share of the speakers for validation (default: %(default)s)")
    add(
        "--test_share",
        type=cli.share,
        default=0.02,
        help="share of the speakers for tests, where the collection has no test set (default: %(default)s)",
    )
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Write the lists and print their sizes. Returns an exit status."""
    args = parse_args(argv)
    kind, lists = divide(args.videos_data_root, args.val_share, args.test_share)
    if taken := [name for name in lists if (args.out / f"{name}.txt").exists()]:
        raise UserError(f"{args.out / f'{taken[0]}.txt'} exists; give another --out")
    for name, clips in lists.items():
        with atomic_write(args.out / f"{name}.txt") as temporary:
            temporary.write_text("".join(f"{clip}\n" for clip in clips), encoding="utf-8")
    print(f"{args.videos_data_root}: {kind}; {', '.join(f'{name} {len(clips)}' for name, clips in lists.items())}")
    for name in ("train", "val"):
        if not lists[name]:
            print(f"WARNING: {name}.txt is empty: too few speakers for these shares")
    return 0


def divide(root, val_share, test_share):
    """Divide a collection. Returns its kind in words, and {"train": [<speaker>/<clip>, ...], "val": ..., ...}."""
    if not root.is_dir():
        raise UserError(f"no folder {root}; give the one that holds the videos with --videos_data_root")
    if (root / "trainval").is_dir():
        lists = _by_speaker(_clips(root / "trainval"), val_share, 0.0)
        lists["test"] = _clips(root / "test")
        return "LRS3's layout", lists | {"pretrain": _clips(root / "pretrain")}
    words = [path for path in sorted(root.iterdir()) if all((path / split).is_dir() for split in LRW_SPLITS)]
    if words:
        # Each of the three folders has other videos of the same names.
        named = {name: [(word, clip) for word in words for clip in _stems(word / name)] for name in LRW_SPLITS}
        lists = {name: [f"{word.name}/{name}_{clip}" for word, clip in clips] for name, clips in named.items()}
        return "LRW's layout", lists
    names = [job.name.partition("/") for job in all_jobs(root)]
    lists = _by_speaker([name for subset, _, name in names if subset == "main"], val_share, test_share)
    pretrain = [name for subset, _, name in names if subset == "pretrain"]
    return "a folder of videos, to be preprocessed with --all", lists | ({"pretrain": pretrain} if pretrain else {})


def _clips(folder):
    return [f"{speaker.name}/{clip}" for speaker in sorted(folder.glob("*/")) for clip in _stems(speaker)]


def _stems(folder):
    return sorted(path.stem for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def _by_speaker(clips, val_share, test_share):
    """Divide clips by whole speakers, or one by one where there is only one speaker. Deterministic."""
    alone = len({clip.split("/")[0] for clip in clips}) == 1
    if alone:
        print("WARNING: one folder holds all videos: validation and test clips are of training's speakers")
    unit_of = {clip: clip if alone else clip.split("/")[0] for clip in clips}
    units = sorted(set(unit_of.values()), key=lambda unit: zlib.crc32(unit.encode()))  # in a fixed random order
    num_val, num_test = (max(1, round(share * len(units))) if share else 0 for share in (val_share, test_share))
    place = {
        unit: "val" if n < num_val else "test" if n < num_val + num_test else "train" for n, unit in enumerate(units)
    }
    return {name: [clip for clip in clips if place[unit_of[clip]] == name] for name in LRW_SPLITS}


if __name__ == "__main__":
    raise SystemExit(main())
