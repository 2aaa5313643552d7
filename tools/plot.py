"""Draw the curves of training runs from their stats.jsonl, for those without TensorBoard.

python -m tools.plot logs/unet logs/gan --out curves.png
"""

import argparse
import pathlib

from lipgan.training.config import STATS_NAME, read_stats
from lipgan.utils.cli import UserError, script
from lipgan.utils.files import atomic_write

UNDRAWN = ("epoch", "batches", "epoch_s")


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("runs", nargs="+", help="run folders, or stats.jsonl files; several are drawn over one another")
    add("--out", help="the PNG (default: curves.png in the first run's folder)")
    add("--names", nargs="+", help="losses to draw, by their names in stats.jsonl (default: all)")
    return parser.parse_args(argv)


def read_run(path):
    """Read the rows of a run, given its folder or its stats.jsonl. Raises UserError."""
    path = pathlib.Path(path)
    path = path / STATS_NAME if path.is_dir() else path
    try:
        rows = read_stats(path)
    except OSError as e:
        raise UserError(f"{path}: {e.strerror}; give the folder of a run") from None
    except ValueError as e:
        raise UserError(f"{path} is no stats.jsonl ({e}); give the folder of a run") from None
    if not rows:
        raise UserError(f"{path} holds no epoch yet; wait for the first, or train with fewer --steps_per_epoch")
    return rows


def draw(path, runs, names=None):
    """Draw runs, {label: rows of `read_run`}, to a PNG: a small chart for each name, over the batches."""
    from matplotlib.figure import Figure

    found = dict.fromkeys(name for rows in runs.values() for row in rows for name in row if name not in UNDRAWN)
    if unknown := [name for name in names or () if name not in found]:
        raise UserError(f"--names {' '.join(unknown)}: not in these runs; there are {', '.join(found)}")
    names, columns = names or list(found), 3
    figure = Figure(figsize=(4 * columns, 2.6 * -(-len(names) // columns)), layout="constrained")
    for number, name in enumerate(names):
        axes = figure.add_subplot(-(-len(names) // columns), columns, number + 1, title=name, xlabel="batches")
        for label, rows in runs.items():
            points = [(row["batches"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), marker=".", label=label) if points else None
        if number == 0 and len(runs) > 1:
            axes.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


@script
def main(argv=None):
    """Draw the curves. Returns an exit status; the picture's path is the last line on stdout."""
    args = parse_args(argv)
    runs = {str(run): read_run(run) for run in args.runs}
    first = pathlib.Path(args.runs[0])
    out = pathlib.Path(args.out) if args.out else (first if first.is_dir() else first.parent) / "curves.png"
    draw(out, runs, args.names)
    print(out)


if __name__ == "__main__":
    raise SystemExit(main())
