"""How well lips can be told from sound, by how many people were listened to: the correlation on others.

    python experiments/listening_curve.py --data_root grid_preprocessed/ \\
        --filelists filelists/grid/rotation_b --speakers 1 10

The audio encoder of `--model warp_tdnn` alone learns from the people of train.txt, without those of test.txt: from the
one with most clips, then from the next ones too. It is scored on the clips of test.txt by how the mouth's opening
correlates with the truth (the mean over clips, and its 95 % interval).
"""

import argparse
import collections
import contextlib
import io
import pathlib
import sys

from audio_hparams import hparams
from lipgan.utils import cli
from lipgan.utils.cli import script

ROOT = pathlib.Path(__file__).parents[1]


sys.path.insert(0, str(ROOT))


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data_root", required=True, help="folder made by preprocess.py")
    add("--filelists", required=True, help="folder of train.txt and test.txt")
    add(
        "--speakers",
        type=cli.positive_int,
        nargs="+",
        required=True,
        help="how many people to learn from, one after another",
    )
    add("--steps", type=cli.positive_int, default=1500, help="batches of 64 sounds (default: %(default)s)")
    add("--width", type=cli.positive_float, default=0.5, help="multiplies all filter counts (default: %(default)s)")
    add("--seed", type=int, default=0, help="of weights and order (default: %(default)s)")
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Print a line of the table for each number of people."""
    args = parse_args(argv)
    import keras

    from generator import build_generator
    from lipgan.data.dataset import FaceDataset
    from lipgan.data.filelists import find_clips
    from lipgan.data.index import open_index
    from lipgan.data.lip_landmarks import read_landmarks
    from lipgan.evaluation.metrics import interval
    from lipgan.training.lip_expert import pretrain_audio_encoder

    index = open_index(args.data_root)
    landmarks = read_landmarks(index)
    train, test = (find_clips(args.data_root, split, args.filelists, index)[0] for split in ("train", "test"))
    scored = FaceDataset(test, index=index, landmarks=landmarks)
    unseen = {clip.parent for clip in test}
    clips_of = collections.defaultdict(list)
    for clip in train:
        if clip.parent not in unseen:
            clips_of[clip.parent].append(clip)
    by_size = sorted(clips_of, key=lambda speaker: (-len(clips_of[speaker]), speaker))
    print(f"scored: {len(scored.clips)} clips of {len(unseen)} people; {len(by_size)} others to learn from")
    print("| people | minutes | correlation |\n|---|---|---|", flush=True)
    for count in args.speakers:
        clips = [clip for speaker in by_size[:count] for clip in clips_of[speaker]]
        dataset = FaceDataset(clips, index=index, landmarks=landmarks, balance=True, augment=True)
        minutes = len(dataset) / hparams.fps / 60
        keras.utils.set_random_seed(args.seed)
        generator = build_generator("warp_tdnn", dataset.img_size, args.width)
        with contextlib.redirect_stdout(io.StringIO()):
            scores = pretrain_audio_encoder(generator, dataset, scored, args.steps, args.seed)
        mean, low, high = interval(scores)
        people = min(count, len(by_size))
        print(f"| {people} | {minutes:.1f} | {mean:.2f} ({low:.2f} to {high:.2f}) |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
