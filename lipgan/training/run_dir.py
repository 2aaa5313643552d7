"""A training run's folder: never overwritten, says how it was made, and holds the state from which it can go on.

args.json                    every option, versions, the commit and the command
stats.jsonl                  a line at every epoch
tensorboard/                 the same, losses in between, pictures and histograms, for TensorBoard
samples/epoch_0001.png       reference | input | result | truth
NAME.weights.h5, NAME.json   the generator for users (and NAME_disc.* the discriminator)
state.weights.h5             everything needed to go on: both networks, the optimizer, the options, how far it is
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

PACKAGES = ("numpy", "h5py", "opencv-python-headless", "simplejpeg", "librosa", "scipy", "dlib-bin", "tensorboard")


def open_folder(logdir, state):
    """The run's folder: the one that is resumed, or a new one that holds no run yet, and that no other run can take."""
    if state:
        folder = state["path"].parent
        for leftover in list(folder.rglob(".tmp_*")):  # of a process that was killed while it wrote
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


def write_record(folder, values, state):
    """Write args.json; of stats.jsonl keep only what came before the state that is resumed."""
    record = {"command": sys.argv, "options": values, "hparams": hparams.as_dict(), "git": _commit()}
    backend = keras.backend.backend()
    used = versions(PACKAGES) | {"keras": keras.__version__, backend: sys.modules[backend].__version__}
    record |= {"versions": used, "backend": backend, "machine": platform.platform()}
    name = "args.json" if not state else f"args_from_epoch_{state['epoch'] + 1}_batch_{state['batch']}.json"
    with atomic_write(folder / name) as temporary:
        temporary.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    stats = folder / STATS_NAME
    if state and stats.exists():
        rows = [row for row in read_stats(stats) if row["epoch"] <= state["epoch"]]  # what follows is written again
        with atomic_write(stats) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _commit():
    """The commit of this code, with "-dirty" when it was changed since; "" where git or its folder is not there."""
    here = pathlib.Path(__file__).parent
    told = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=False)
        except FileNotFoundError:  # no git on this machine
            return ""
        told.append(done.stdout.strip())
    return told[0] + ("-dirty" if told[0] and told[1] else "")
