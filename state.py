"""A training state's file, as far as it can be read without Keras: what it is of, how far, and with which options."""

import json
import pathlib

import h5py

from errors import UserError

STATE_NAME = "state.weights.h5"
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


def parse_with_state(parser, argv):
    """Parse the options of train_unet.py or train.py; those that --resume's run was given hold where they are not."""
    args = parser.parse_args(argv)
    state = read_state(args.resume) if args.resume else None
    if not state:
        return args
    of_the_run = {k: v for k, v in state.get("options", {}).items() if k in vars(args) and k not in OF_THE_MACHINE}
    parser.set_defaults(**of_the_run)
    return parser.parse_args(argv)
