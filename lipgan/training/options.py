"""Options that several scripts share, and the choice of backend: all that is settled before Keras is imported."""

import argparse
import importlib.util
import os
import pathlib
import subprocess
import sys
import types

from lipgan.models.metadata import KINDS
from lipgan.training.machines import ALONE, Machines, from_slurm
from lipgan.utils.errors import UserError

VERSION = "0.4"  # of the program; videos tell it
BACKENDS = ("tensorflow", "jax", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16")  # of inference
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


def positive_int(text):
    """An argparse type: a whole number over 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not over 0")
    return value


def positive_float(text):
    """An argparse type: a number over 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not over 0")
    return value


def share(text):
    """An argparse type: a number from 0 to under 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to under 1")
    return value


def has_gpu():
    """Whether the machine shows an NVIDIA device. Imports nothing."""
    return any(pathlib.Path("/dev").glob("nvidia[0-9]*")) or pathlib.Path("/dev/dxg").exists()


def has_bfloat16(kind="CPU"):
    """Whether a device of this kind multiplies bfloat16 numbers itself: GPUs from Ampere on, CPUs with AVX512-BF16 or
    AMX, all TPUs."""
    if kind == "TPU":
        return True
    if kind == "GPU":
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        try:
            told = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60).stdout.split()
            return float(told[0]) >= 8.0
        except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):
            return False
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def set_backend(wanted, default):
    """Fix Keras' backend before its first import: `wanted`, or KERAS_BACKEND, or `default`. Returns its name.

    In place of TensorFlow as the default, JAX is taken where only that is installed.

    Where Keras is imported already its backend stays, and a line says so.
    """
    if "keras" in sys.modules:
        current = sys.modules["keras"].backend.backend()
        if wanted and wanted != current:
            print(f"warning: Keras already runs on {current}; --backend {wanted} is ignored", file=sys.stderr)
        return current
    if default == "tensorflow" and importlib.util.find_spec("tensorflow") is None and importlib.util.find_spec("jax"):
        default = "jax"
    backend = wanted or os.environ.get("KERAS_BACKEND") or default
    if backend not in BACKENDS or importlib.util.find_spec(backend) is None:
        raise UserError(
            f"--backend {backend} is not installed; pip install {backend}, or choose of {', '.join(BACKENDS)}"
        )
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return backend


def import_keras():
    """Import Keras for inference, the first time without packages that it only draws, wraps and windows with.

    Those (matplotlib, scikit-learn, and on OpenVINO scipy.signal) take four fifths of its start-up: 2.6 of 3.2 s of CPU
    time. Whoever needs them later imports them as ever.
    """
    hidden = {"matplotlib": None, "sklearn": None}  # Keras does without either
    if os.environ.get("KERAS_BACKEND") == "openvino":
        hidden["scipy.signal"] = types.ModuleType("scipy.signal")  # scipy finds the real one when it is asked for
    hidden = {name: module for name, module in hidden.items() if name not in sys.modules and "keras" not in sys.modules}
    sys.modules.update(hidden)
    try:
        import keras  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]


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
