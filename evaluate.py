"""Measure how good a generator's mouths are, and whether they follow the audio.

    python evaluate.py --checkpoint_path weights/lipgan.weights.h5 --data_root grid_preprocessed --filelists grid_lists
    python evaluate.py --videos results/ --originals originals/
    python evaluate.py --pairs pairs.csv
    python evaluate.py --scored group_a.json group_b.json

Every number stands beside rows that a generator must beat: a far frame of the clip copied, the clip's mean face, and
the same network fed with another clip's audio. The second and third form score finished videos, of any program, against
originals: those of the same names in two folders, or those that a CSV file lists (columns video and original, and
perhaps person and lag). The last form joins earlier results, such as the groups of a rotation over people.
"""

import argparse
import dataclasses
import pathlib

from lipgan.evaluation.results import MEASURES, read_json, write_csv, write_json
from lipgan.models import backend
from lipgan.models.metadata import KINDS
from lipgan.utils import cli
from lipgan.utils.cli import UserError, script

MAX_OFFSET_MS = 400  # largest lag that is measured
EPILOG = "measures:\n" + "\n".join(f"  {name}: {text}" for name, text in MEASURES.items())


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint_path", help="the generator: X.weights.h5, or a legacy .h5")
    add("--disc_checkpoint_path", help="a discriminator, whose distances are reported too")
    add(
        "--sync_offset_ms", type=offset_ms,
        help="audio offset in ms; positive values use later audio for each frame (default: the checkpoint's)",
    )  # fmt: skip
    add("--model", choices=KINDS, help="kind of generator (default: as the checkpoint says)")
    add("--data_root", help="folder made by preprocess.py")
    add("--filelists", default="filelists/", help="folder of the lists (default: %(default)s)")
    add("--split", choices=("train", "val", "test"), default="test", help="which list (default: %(default)s)")
    add("--leave_out", help="file of clips that are not used, such as dataset_report's leave_out.txt")
    add("--max_clips", type=cli.positive_int, help="number of clips to score, evenly spaced (default: all)")
    add("--videos", type=pathlib.Path, help="folder of finished videos to score instead of a generator")
    add("--originals", type=pathlib.Path, help="folder of their originals, of the same names before the suffix")
    add("--pairs", type=pathlib.Path, help="CSV file of finished videos to score: columns video and original")
    add("--detector", choices=("cnn", "hog"), default="cnn", help="of the originals' faces (default: %(default)s)")
    add("--lags", type=pathlib.Path, help="CSV file of lags by clip: columns clip and lag, frames by which the "
        "clip's own audio is late against its lips (default: 0)")  # fmt: skip
    add("--listener", type=pathlib.Path, help="generator of --model warp; its prediction of lips from speech estimates "
        "these lags instead")  # fmt: skip
    add("--batch_size", type=cli.positive_int, default=16, help="faces at a time (default: %(default)s)")
    add("--scored", type=pathlib.Path, nargs="+", help="files of --json to join instead of scoring anything")
    add("--json", type=pathlib.Path, help="write all measures, row by row, to this file")
    add("--csv", type=pathlib.Path, help="write all measures, a line for each clip and row, to this file")
    add("--picture_dir", type=pathlib.Path, help="write truth | result | reference and mouth opening of clips here")
    add("--max_pictures", type=cli.positive_int, default=8, help="clips in --picture_dir (default: %(default)s)")
    add("--backend", choices=backend.BACKENDS, help="default: KERAS_BACKEND, or openvino")
    args = parser.parse_args(argv)
    finished = args.videos or args.originals
    if args.lags and args.listener:
        parser.error("--lags and --listener exclude each other")
    if args.pairs and finished:
        parser.error("--pairs stands in place of --videos and --originals")
    required = ("videos", "originals") if finished else () if args.pairs else ("checkpoint_path", "data_root")
    required = () if args.scored else required
    if missing := [f"--{name}" for name in required if getattr(args, name) is None]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return args


def offset_ms(text):
    """Parse an audio offset in ms (an argparse type), small enough for a remaining lag to be measured."""
    value = float(text)
    if not abs(value) <= MAX_OFFSET_MS:
        raise argparse.ArgumentTypeError(f"{text} is not from {-MAX_OFFSET_MS} to {MAX_OFFSET_MS}")
    return value


@script
def main(argv=None):
    """Print the tables. Returns an exit status."""
    args = parse_args(argv)
    backend.set_backend(args.backend, default="openvino")
    evaluation = read_json(args.scored) if args.scored else score(args)
    if not evaluation.rows:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in evaluation.skipped.items())
        raise UserError(f"no clip could be scored ({reasons})")
    from lipgan.evaluation.report import print_report

    print_report(evaluation)
    if args.json:
        write_json(args.json, evaluation)
    if args.csv:
        write_csv(args.csv, evaluation)
    return 0


def score(args):
    """Score what the options name: finished videos or a generator. Returns an Evaluation."""
    from lipgan.evaluation.free_speech import Timer, read_lags
    from lipgan.evaluation.report import write_figures
    from lipgan.evaluation.scoring import EvaluationOptions, collect, evaluate_generator
    from lipgan.evaluation.sync_offset import load_listener

    def write_first_figures(number, clip):
        if args.picture_dir and number < args.max_pictures:
            write_figures(args.picture_dir, clip)

    timer = Timer(read_lags(args.lags) if args.lags else None, load_listener(args.listener) if args.listener else None)
    if args.videos or args.pairs:
        from lipgan.evaluation.finished_videos import listed_pairs, pairs_of_folders, score_videos

        pairs = listed_pairs(args.pairs) if args.pairs else pairs_of_folders(args.videos, args.originals)
        return collect(score_videos(pairs, args.detector, timer), len(pairs), on_clip=write_first_figures)
    names = [field.name for field in dataclasses.fields(EvaluationOptions)]
    return evaluate_generator(
        EvaluationOptions(**{name: getattr(args, name) for name in names}), timer, write_first_figures
    )


if __name__ == "__main__":
    raise SystemExit(main())
