"""Train the network that tells how the lips of one image would be at rest, closed and neutral.

    python -m tools.train_rest_lips --data_root grid_preprocessed --filelists filelists/grid/rotation_a --out rest.npz

It learns from the landmarks of the people in train.txt, and prints the error on those in test.txt beside that of the
network in this repository (which has seen GRID's people) and of taking the lips as they are. The constants are used
where they are copied to lipgan/faces/rest_lips.npz.
"""

import argparse
import pathlib

import numpy as np

from lipgan.utils import cli
from lipgan.utils.cli import UserError, script
from lipgan.utils.files import atomic_write


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_root", type=pathlib.Path, required=True, help="folder written by preprocess.py")
    add("--filelists", type=pathlib.Path, required=True, help="folder of train.txt and test.txt, no person in both")
    add("--out", type=pathlib.Path, required=True, help="the constants, .npz")
    add("--steps", type=cli.positive_int, default=3000, help="batches of 256 mouths (default: %(default)s)")
    add("--seed", type=int, default=0, help="default: %(default)s")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Train, print the errors and write the constants. Returns an exit status."""
    args = parse_args(argv)
    from lipgan.faces.rest_lips import load_model, save_model
    from lipgan.training.rest_lips import fit_rest_model, rest_error

    train, test = (read_people(args.data_root, args.filelists / f"{name}.txt") for name in ("train", "test"))
    if shared := sorted(train.keys() & test.keys()):
        raise UserError(f"{args.filelists}: {shared[0]} is in train.txt and in test.txt; divide the lists by people")
    model = fit_rest_model(list(train.values()), args.steps, args.seed)
    print(f"trained on {len(train)} people; error on {len(test)} others, in 1/1000 of the crop's side")
    print("| rest shape from | talking | smiling |\n|---|---|---|")
    for name, other in (("this network", model), ("the repository's", load_model()), ("the lips themselves", None)):
        talking, smiling = rest_error(other, list(test.values()), np.random.default_rng(args.seed))
        print(f"| {name} | {1000 * talking:.1f} | {1000 * smiling:.1f} |")
    with atomic_write(args.out) as temporary:
        save_model(model, temporary)
    print(args.out)


def read_people(data_root, filelist):
    """Read `training.rest_lips.person_samples` of the people on a list: {person: (lips, rest)}."""
    from lipgan.data.filelists import read_filelist
    from lipgan.data.index import open_index
    from lipgan.data.lip_landmarks import read_landmarks
    from lipgan.training.rest_lips import person_samples

    index = open_index(data_root)
    landmarks, rows = read_landmarks(index), {name.removeprefix("main/"): row for row, name in enumerate(index.names)}
    frames = {}
    for clip in read_filelist(filelist):
        if clip in rows:
            points = landmarks.read(rows[clip]).reshape(-1, 68, 2)
            frames.setdefault(clip.split("/")[0], []).append(points[np.isfinite(points).all(axis=(1, 2))])
    if not frames:
        raise UserError(f"{filelist}: none of its clips is in {data_root}; preprocess them first")
    return {person: person_samples(np.concatenate(points)) for person, points in frames.items()}


if __name__ == "__main__":
    raise SystemExit(main())
