"""Training options, recipes, and options restored from a training state. Imports no Keras."""

import argparse
import json
import os
import pathlib

import h5py

from lipgan.models.metadata import KINDS
from lipgan.training.machines import ALONE, Machines, from_slurm
from lipgan.utils.cli import UserError, positive_float, positive_int, share

# Defaults of training's options: the paper's, and those of the rotation in docs/experiments.md.
RECIPES = {
    "reference": {},
    "lips": {
        "model": "warp_tdnn",
        "width": 0.5,
        "pretrain_audio": 1500,
        "mouth_weight": 1.0,
        "landmark_weight": 0.1,
        "balance": True,
        "augment": True,
    },
}


def find_machines(coordinator, num_processes, process_id) -> Machines:
    """The processes that train together, as these options say; what is None is SLURM's, if srun started this one."""
    slurm, given = from_slurm(os.environ), (coordinator, num_processes, process_id)
    if num_processes == 1:
        return ALONE
    if slurm.num_processes == 1 and None in given and given != (None, None, None):
        raise UserError("--coordinator, --num_processes and --process_id go together; give all three, to every process")
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        gpus = len([name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name])
    else:
        gpus = len(list(pathlib.Path("/dev").glob("nvidia[0-9]*")))
    chosen = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    return slurm._replace(visible_gpus=gpus, **{k: v for k, v in chosen.items() if v is not None})


def _told(values):
    return " ".join(f"--{name}" if value is True else f"--{name} {value}" for name, value in values.items())


def add_training_args(parser, *, lr, name):
    """The options of train_unet.py and train.py. lr: default learning rate. name: default --checkpoint_name."""
    add = parser.add_argument
    add("--data_root", required=True, help="folder made by preprocess.py (its --final_data_root)")
    add("--filelists", default="filelists/", help="folder of train.txt and val.txt (default: %(default)s)")
    add("--leave_out", help="file of clips that are not used, such as dataset_report.py's leave_out.txt")
    add("--logdir", default="logs/", help="folder of the run; one in use gets a number added (default: %(default)s)")
    add(
        "--recipe",
        choices=RECIPES,
        default="reference",
        help=f"defaults of other options: the paper's, or 'lips': {_told(RECIPES['lips'])} (default: %(default)s)",
    )
    add("--model", choices=KINDS, default="residual", help="generator (default: %(default)s)")
    add("--width", type=positive_float, default=1.0, help="multiplies all filter counts (default: %(default)s)")
    add("--img_size", type=int, default=96, help="side of the face crops in pixels (default: %(default)s)")
    add("--resume", help="training state to go on from, or weights (.weights.h5, legacy .h5) to start from")
    add("--checkpoint_name", default=name, help="stem of the weights' file names (default: %(default)s)")
    add("--checkpoint_freq", type=positive_int, default=1000, help="batches between checkpoints (default: %(default)s)")
    add("--epochs", type=positive_int, help="epochs to train in all (default: 100, or as many as --steps needs)")
    add("--steps", type=positive_int, help="stop after so many batches in all (default: after --epochs)")
    add("--steps_per_epoch", type=positive_int, help="batches of an epoch at most (default: every target frame once)")
    add("--batch_size", type=positive_int, help="samples a batch, in all (default: 96 on GPUs, 16 without)")
    add("--lr", type=positive_float, default=lr, help="Adam's learning rate (default: %(default)s)")
    add(
        "--lr_decay_steps",
        type=positive_int,
        help="batch by which it has fallen to 0, along a cosine (default: constant)",
    )
    add("--warmup_steps", type=positive_int, help="batches over which it first rises to that (default: none)")
    add(
        "--precision",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        help="of the numbers inside the networks (default: mixed_bfloat16 where the device has it, else float32)",
    )
    add(
        "--accumulate",
        type=positive_int,
        default=1,
        help="batches whose mean gradient makes one update; epochs, steps and the log count batches (default: 1)",
    )
    add(
        "--ema",
        type=share,
        nargs="?",
        const=0.999,
        help="give users averaged weights; the average's momentum, an update (default: none; without a number 0.999)",
    )
    add(
        "--balance",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="draw rare speakers more often, by the root of what there is of each",
    )
    add(
        "--augment",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="mirror faces, shift them a little, change their colours and voices",
    )
    add("--workers", type=positive_int, default=2, help="threads that read data (default: %(default)s)")
    add(
        "--val_samples", type=positive_int, default=480, help="samples of val.txt to validate on (default: %(default)s)"
    )
    add("--seed", type=int, default=0, help="of weights, order and wrong sounds (default: %(default)s)")
    add("--all_images", help="accepted for the reference's sake and ignored: folders are indexed anew")
    _add_mouth_args(add)
    _add_device_args(add)


def _add_device_args(add):
    """On what they train: options of add_training_args."""
    add("--n_gpu", type=positive_int, default=1, help="GPUs of each process that share a batch (default: %(default)s)")
    add("--coordinator", help="HOST:PORT of process 0, when several processes train together (default: SLURM's)")
    add("--num_processes", type=positive_int, help="processes that train together (default: SLURM's, or 1)")
    add("--process_id", type=int, help="which of them this one is, from 0 (default: SLURM's)")
    add("--backend", choices=("tensorflow", "jax"), help="default: KERAS_BACKEND, or tensorflow")


def _add_mouth_args(add):
    """What leads a network to use the sound sooner: options of add_training_args."""
    add("--mouth_weight", type=float, default=0.0, help="of the L1 loss over the mouth alone (default: %(default)s)")
    add("--landmark_weight", type=float, default=0.0, help="of the lips' landmarks' error (default: %(default)s)")
    add(
        "--pretrain_audio",
        type=int,
        default=0,
        help="batches in which the audio encoder first learns lips alone (default: 0)",
    )


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
