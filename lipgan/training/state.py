"""What can be read of a run without Keras: what its state is of, how far, with which options; its stats.jsonl."""

import json
import pathlib

import h5py

from lipgan.training.options import RECIPES
from lipgan.utils.errors import UserError

STATE_NAME = "state.weights.h5"
STATS_NAME = "stats.jsonl"
STATE_ATTRIBUTE = "lipgan_state"  # of the HDF5 file: JSON with epoch, batch, options, and what the networks are
# Options that a resumed run does not take over.
OF_THE_MACHINE = (
    "resume",
    "resume_gen",
    "resume_disc",
    "n_gpu",
    "workers",
    "coordinator",
    "num_processes",
    "process_id",
)


def read_state(path):
    """What a training state says of itself, or None where the file is not one. Raises UserError where there is none."""
    path = pathlib.Path(path)
    if path.is_dir():
        path /= STATE_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a {STATE_NAME}, a .weights.h5 or a legacy .h5 file")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path} is no HDF5 file; give a {STATE_NAME}, a .weights.h5 or a legacy .h5 file")
    with h5py.File(path) as file:
        state = file.attrs.get(STATE_ATTRIBUTE)
    return json.loads(state) | {"path": path} if state else None


def read_stats(path):
    """The rows of a run's stats.jsonl: [{name: value}, ...]."""
    # The last line of a run that is being written, or that was killed, may be half.
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def parse_with_state(parser, argv):
    """Parse the options of train_unet.py or train.py.

    What is not given is as the --recipe says, or rather as it was in --resume's run.
    """
    parser.set_defaults(**RECIPES[parser.parse_args(argv).recipe])
    args = parser.parse_args(argv)
    state = read_state(args.resume) if args.resume else None
    if not state:
        return args
    of_the_run = {k: v for k, v in state.get("options", {}).items() if k in vars(args) and k not in OF_THE_MACHINE}
    parser.set_defaults(**of_the_run)
    return parser.parse_args(argv)
