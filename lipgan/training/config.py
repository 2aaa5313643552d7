"""Training configuration: options with their defaults and ranges, recipes, resuming. Imports no Keras."""

import argparse
import dataclasses
import json
import pathlib

import h5py

from lipgan.models.hdf5_claims import check_attributes, readable
from lipgan.models.metadata import KINDS
from lipgan.utils.cli import UserError, non_negative_float, non_negative_int, positive_float, positive_int, share

IMG_SIZES = range(96, 257, 32)

# A recipe is a named set of defaults; options given on the command line override it.
RECIPES = {
    "reference": {},  # the paper's
    "warp": {  # of the shipped weights, see docs/experiments.md
        "model": "warp",
        "width": 0.5,
        "lr": 1e-3,
        "lr_decay_steps": 6000,
        "steps": 6000,
        "steps_per_epoch": 500,
        "batch_size": 8,
        "balance": True,
        "augment": True,
    },
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything that decides the shapes of the networks in a training state."""

    model: str  # kind of the generator, one of `KINDS`
    img_size: int
    width: float
    with_discriminator: bool

    @property
    def generator(self):
        """Arguments of `build_generator`."""
        return self.model, self.img_size, self.width

    @property
    def discriminator(self):
        """Arguments of `build_discriminator`."""
        return self.img_size, self.width

    def __str__(self):
        script = "train.py" if self.with_discriminator else "train_unet.py"
        return f"{script} --model {self.model} --img_size {self.img_size} --width {self.width}"


def _option(default=None, type=str, *, help, group, restored=True, gan_only=False, **argparse_keywords):
    """Declare a field of TrainConfig that is a command-line option, with everything argparse needs to know.

    restored: whether --resume restores the value from the training state. gan_only: whether only train.py has it.
    """
    keywords = {"action": argparse.BooleanOptionalAction} if type is bool else {"type": type} | argparse_keywords
    keywords["help"] = help
    metadata = {"argparse": keywords, "group": group, "restored": restored, "gan_only": gan_only}
    return dataclasses.field(default=default, metadata=metadata)


def _describe_recipe(name):
    values = RECIPES[name].items()
    return " ".join(f"--{option}" if value is True else f"--{option} {value}" for option, value in values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything a user can choose about a training run; args.json and the training state hold it.

    Options left at None depend on the device or on other options; the help says how.
    """

    with_discriminator: bool  # train.py trains both networks, train_unet.py the generator alone

    data_root: str = _option(
        dataclasses.MISSING, group="data", help="folder written by preprocess.py (its --final_data_root)"
    )
    filelists: str = _option("filelists/", group="data", help="folder of train.txt and val.txt")
    leave_out: str | None = _option(
        group="data", help="file that lists clips to exclude, such as leave_out.txt of tools.dataset_report"
    )
    balance: bool = _option(
        False, bool, group="data", help="sample rare speakers more often: weight by the square root of the frame count"
    )
    augment: bool = _option(
        False, bool, group="data", help="augment: mirror and shift faces slightly, change colours and voices"
    )
    workers: int = _option(2, positive_int, group="data", restored=False, help="data loading threads")
    val_samples: int = _option(480, positive_int, group="data", help="validation samples, drawn from val.txt")

    model: str = _option("residual", group="networks", choices=KINDS, help="generator architecture")
    width: float = _option(1.0, positive_float, group="networks", help="multiplier of all filter counts")
    img_size: int = _option(
        96, int, group="networks", choices=IMG_SIZES, metavar="PIXELS", help="side of the face crops: 96, 128, ... 256"
    )
    resume_gen: str | None = _option(
        group="networks",
        restored=False,
        gan_only=True,
        help="initial generator: .weights.h5, training state or legacy .h5",
    )
    resume_disc: str | None = _option(
        group="networks", restored=False, gan_only=True, help="initial discriminator: .weights.h5 or legacy .h5"
    )

    logdir: str = _option("logs/", group="run", help="run folder; gets a number appended if it holds a run already")
    recipe: str = _option(
        "reference",
        group="run",
        choices=RECIPES,
        help=f"defaults of other options: the paper's ('reference'), or those of 'warp': {_describe_recipe('warp')}",
    )
    resume: str | None = _option(
        group="run",
        restored=False,
        help="training state to continue, or weights (.weights.h5, legacy .h5) to start from",
    )
    checkpoint_name: str = _option("lipgan", group="run", help="stem of the weight files")
    checkpoint_freq: int = _option(1000, positive_int, group="run", help="batches between checkpoints")
    epochs: int | None = _option(
        None, positive_int, group="run", help="total epochs (default: 100, or as many as --steps needs)"
    )
    steps: int | None = _option(None, positive_int, group="run", help="total batches (default: set by --epochs)")
    steps_per_epoch: int | None = _option(
        None, positive_int, group="run", help="maximum batches per epoch (default: every target frame once)"
    )
    seed: int = _option(
        0, non_negative_int, group="run", help="random seed of weights, sample order and mismatched audio"
    )

    batch_size: int | None = _option(
        None,
        positive_int,
        group="optimisation",
        help="samples per batch, all devices together (default: GPU 96, CPU 16)",
    )
    lr: float = _option(1e-4, positive_float, group="optimisation", help="Adam learning rate")
    lr_decay_steps: int | None = _option(
        None,
        positive_int,
        group="optimisation",
        help="batch at which the learning rate reaches 0 by cosine decay (default: constant)",
    )
    warmup_steps: int | None = _option(
        None, positive_int, group="optimisation", help="batches of linear learning-rate warm-up (default: none)"
    )
    precision: str | None = _option(
        group="optimisation",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        help="dtype policy (default: mixed_bfloat16 if the device supports bfloat16, else float32)",
    )
    accumulate: int = _option(
        1,
        positive_int,
        group="optimisation",
        help="gradient accumulation: batches per update; epochs, steps and the log count batches",
    )
    ema: float | None = _option(
        None,
        share,
        group="optimisation",
        nargs="?",
        const=0.999,
        help="export an exponential moving average of the weights, with this momentum per update "
        "(default: none; 0.999 if given without a number)",
    )

    mouth_weight: float = _option(
        0.0, non_negative_float, group="losses", help="weight of the L1 loss of the mouth region"
    )
    landmark_weight: float = _option(
        0.0, non_negative_float, group="losses", help="weight of the lip landmark loss, measured by a frozen network"
    )
    audio_steps: int = _option(
        400,
        positive_int,
        group="losses",
        help="batches of 32 sequences on which audio_to_lips of --model warp is trained",
    )
    pretrain_audio: int = _option(
        0, non_negative_int, group="losses", help="batches of pre-training of the audio encoder on lip landmarks"
    )

    backend: str | None = _option(
        group="devices", choices=("tensorflow", "jax"), help="Keras backend (default: KERAS_BACKEND, or tensorflow)"
    )
    n_gpu: int = _option(
        1, positive_int, group="devices", restored=False, help="GPUs per process that share each batch"
    )
    coordinator: str | None = _option(
        group="devices",
        restored=False,
        metavar="HOST:PORT",
        help="address of process 0 in a multi-process run (default: from SLURM)",
    )
    num_processes: int | None = _option(
        None, positive_int, group="devices", restored=False, help="processes of the run (default: from SLURM, or 1)"
    )
    process_id: int | None = _option(
        None,
        non_negative_int,
        group="devices",
        restored=False,
        help="index of this process, from 0 (default: from SLURM)",
    )

    @property
    def architecture(self):
        """The Architecture of the networks to train."""
        return Architecture(self.model, self.img_size, self.width, self.with_discriminator)

    @property
    def starts_fresh(self):
        """True if the generator starts from random weights."""
        return not (self.resume or self.resume_gen)

    def as_dict(self):
        """Return every value by name, as args.json and the training state record it."""
        return dataclasses.asdict(self)


def _options(with_discriminator):
    """Return the fields of TrainConfig that are options of train.py (with_discriminator) or train_unet.py."""
    fields = [field for field in dataclasses.fields(TrainConfig) if field.metadata]
    return [field for field in fields if with_discriminator or not field.metadata["gan_only"]]


class _Ignored(argparse.Action):
    """An option of the original implementation that is accepted without effect."""

    def __call__(self, parser, namespace, values, option_string=None):
        print(f"{option_string} is ignored: preprocessed folders are indexed automatically")


def _build_parser(description, options, defaults):
    """Build the parser of these options. Its namespace holds only what the user gave; `defaults` are for the help."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    groups = {}
    for option in options:
        name = option.metadata["group"]
        groups[name] = groups.get(name) or parser.add_argument_group(name)
        keywords, default = dict(option.metadata["argparse"]), defaults.get(option.name, option.default)
        if not any(default is value for value in (None, False, dataclasses.MISSING)):
            keywords["help"] += f" (default: {default})"
        required = option.default is dataclasses.MISSING
        groups[name].add_argument(f"--{option.name}", required=required, **keywords)
    parser.add_argument("--all_images", action=_Ignored, help=argparse.SUPPRESS)
    return parser


def parse_config(argv, *, description, with_discriminator, **script_defaults):
    """Parse the command line of train.py or train_unet.py into a TrainConfig.

    Precedence: command line, then the run that --resume continues, then the --recipe, then `script_defaults`.
    """
    options = _options(with_discriminator)
    given = vars(_build_parser(description, options, script_defaults).parse_args(argv))
    state = read_state(given["resume"]) if given.get("resume") else None
    recorded = state.get("options", {}) if state else {}
    restored = {
        option.name: recorded[option.name]
        for option in options
        if option.metadata["restored"] and option.name in recorded
    }
    recipe = RECIPES[given.get("recipe", "reference")]
    return TrainConfig(with_discriminator=with_discriminator, **(script_defaults | recipe | restored | given))


STATE_NAME = "state.weights.h5"
STATS_NAME = "stats.jsonl"
STATE_ATTRIBUTE = "lipgan_state"  # HDF5 attribute: JSON with position, options and architecture


def read_state(path):
    """Read the description of a training state: its attribute as a dict, plus its "path".

    path: a state file or the run folder that holds one. Returns None for other HDF5 files, such as exported weights.
    Raises UserError if there is no such file, or a damaged one.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path /= STATE_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a {STATE_NAME}, a .weights.h5 or a legacy .h5 file")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path} is not an HDF5 file; give a {STATE_NAME}, a .weights.h5 or a legacy .h5 file")
    with readable(path):
        check_attributes(path, [STATE_ATTRIBUTE])
        with h5py.File(path) as file:
            state = file.attrs.get(STATE_ATTRIBUTE)
        return json.loads(state) | {"path": path} if state else None


def state_architecture(state):
    """Return the Architecture of the networks in a training state."""
    with readable(state["path"]):
        return Architecture(**{field.name: state[field.name] for field in dataclasses.fields(Architecture)})


def read_stats(path):
    """Read the rows of a run's stats.jsonl: [{name: value}, ...]."""
    # The last line is incomplete while a run writes it, or after it was killed.
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
