"""Pack a preprocessed folder into a few large tar files, for network file systems on which many small files are slow.

    python -m tools.pack_dataset --data_root lrs2_preprocessed --out lrs2_packed

train_unet.py, train.py and evaluate.py accept either as --data_root, and draw the same samples in the same order. The
shards are plain tar files in WebDataset's layout. Copy them with their times (cp -p, rsync -a), or they are indexed
again.
"""

import argparse
import pathlib

from lipgan.data.index import open_index
from lipgan.data.tar_shards import pack
from lipgan.utils import cli
from lipgan.utils.cli import script


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_root", type=pathlib.Path, required=True, help="folder made by preprocess.py")
    add("--out", type=pathlib.Path, required=True, help="new folder for the shards; it appears complete or not at all")
    add("--shard_mb", type=cli.positive_int, default=1000, help="size of a shard, MB (default: %(default)s)")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Pack a folder, and index the result. Returns an exit status."""
    args = parse_args(argv)
    clips, count = pack(args.data_root, args.out, args.shard_mb * 1_000_000)
    open_index(args.out)
    print(f"{clips} clips in {count} shards in {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
