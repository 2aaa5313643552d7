"""A training run's folder: never overwritten, documents how it was made, and holds the state to resume it.

args.json                    every option, versions, git commit and command
stats.jsonl                  one row per epoch
tensorboard/                 the same, losses between epochs, sample images and histograms, for TensorBoard
samples/epoch_0001.png       reference | input | result | truth
NAME.weights.h5, NAME.json   the generator for users (and NAME_disc.* the discriminator)
state.weights.h5             everything needed to resume: networks, optimizer, options, position
"""

import json
import pathlib
import platform
import shutil
import subprocess
import sys

import keras

from audio_hparams import hparams
from lipgan.training.config import STATS_NAME, read_stats
from lipgan.utils.files import atomic_write, versions

PACKAGES = ("numpy", "h5py", "opencv-python-headless", "simplejpeg", "librosa", "scipy", "dlib-bin", "tensorboardX")


def open_folder(logdir, state):
    """Return the run's folder: the resumed one, or a new one that no other run can take.

    state: from `read_state`, or None. A folder that holds a run already gets a number appended.
    """
    if state:
        folder = state["path"].parent
        for leftover in list(folder.rglob(".tmp_*")):  # of a process that was killed while writing
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return folder
    folder, number = pathlib.Path(logdir), 1
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            (folder / "args.json").touch(exist_ok=False)
            return folder
        except FileExistsError:
            number += 1
            folder = pathlib.Path(f"{str(logdir).rstrip('/')}-{number}")


def write_record(folder, options, state):
    """Write args.json, and cut stats.jsonl to the epochs before the state that is resumed.

    options: values by name, from `TrainConfig.as_dict`.
    """
    record = {"command": sys.argv, "options": options, "hparams": hparams.as_dict(), "git": _commit()}
    backend = keras.backend.backend()
    used = versions(PACKAGES) | {"keras": keras.__version__, backend: sys.modules[backend].__version__}
    record |= {"versions": used, "backend": backend, "machine": platform.platform()}
    name = "args.json" if not state else f"args_from_epoch_{state['epoch'] + 1}_batch_{state['batch']}.json"
    with atomic_write(folder / name) as temporary:
        temporary.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    stats = folder / STATS_NAME
    if state and stats.exists():
        rows = [row for row in read_stats(stats) if row["epoch"] <= state["epoch"]]  # later ones are written again
        with atomic_write(stats) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _commit():
    """Return this code's git commit, with "-dirty" if files were changed; "" without git or its folder."""
    here = pathlib.Path(__file__).parent
    outputs = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return ""
        outputs.append(done.stdout.strip())
    commit, changes = outputs
    return commit + ("-dirty" if commit and changes else "")
