"""A training run's folder: never overwritten, says how it was made, and holds the state from which it can go on.

args.json                    every option, versions and the command
stats.jsonl                  a line at every epoch
samples/epoch_0001.png       reference | input | result | truth
NAME.weights.h5, NAME.json   the generator for users (and NAME_disc.* the discriminator)
state.weights.h5             everything needed to go on: both networks, the optimizer, the epoch and the batch
"""

import json
import pathlib
import platform
import subprocess
import sys

import h5py
import keras
import numpy as np
from keras import ops

from audio_hparams import hparams
from checkpoint import ENDING, save_discriminator, save_generator
from devices import alone
from errors import UserError, whole_file

STATE_NAME = "state.weights.h5"
STATE_ATTRIBUTE = "lipgan_state"  # of the HDF5 file: JSON with epoch, batch and what the networks are


class Checkpoints(keras.callbacks.Callback):
    """Saves the state and the users' weights every `freq` batches, and before the process is ended by a signal.

    Of several processes, process 0 writes, and all stop after the same batch.
    """

    def __init__(self, folder, name, described, freq, placement):
        super().__init__()
        self.folder, self.name, self.described, self.freq = folder, name, described, freq
        self.placement = placement
        self.position, self.signal = {"epoch": 0, "batch": 0}, None

    def on_train_batch_end(self, batch, logs=None):
        self.position["batch"] += 1
        loss = float(logs["loss"])
        if not np.isfinite(loss):
            raise UserError(
                f"the loss is {loss} at epoch {self.position['epoch'] + 1}, batch {self.position['batch']}; "
                f"the last good checkpoint is {self.folder / STATE_NAME}: "
                "resume from it with a smaller --lr, or with --precision float32"
            )
        if self.placement.stops(self.signal is not None):
            self.save()
            signal = self.signal or "to another process"
            raise Stopped(f"stopped by signal {signal}; go on with --resume {self.folder / STATE_NAME}")
        if self.position["batch"] % self.freq == 0:
            self.save()

    def save(self):
        """Write the weights of each network for users, and the state of training."""
        if self.placement.leads:
            with alone():  # nothing in here is for the other processes
                self._save()

    def _save(self):
        step, described = self.model, self.save_generator()
        if step.discriminator:
            described_disc = described | {"model": "discriminator"}
            save_discriminator(self.folder / f"{self.name}_disc{ENDING}", step.discriminator, described_disc)
        with whole_file(self.folder / STATE_NAME) as temporary:
            step.save_weights(temporary, overwrite=True)
            with h5py.File(temporary, "a") as file:
                file.attrs[STATE_ATTRIBUTE] = json.dumps(described | self.position)

    def save_generator(self, generator=None):
        """Write the generator (default: the one in training) for users. Returns what its JSON says."""
        described = self.described | {"step": int(ops.convert_to_numpy(self.model.optimizer.iterations))}
        save_generator(self.folder / f"{self.name}{ENDING}", generator or self.model.generator, described)
        return described


class Stopped(Exception):
    """Training was asked to end, and its state is saved."""


def read_state(path):
    """What a training state says of itself, or None where the file is not one. Raises UserError where there is none."""
    path = pathlib.Path(path)
    if path.is_dir():
        path /= STATE_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a {STATE_NAME}, a {ENDING} or a legacy .h5 file")
    if not h5py.is_hdf5(path):
        raise UserError(f"{path} is no HDF5 file; give a {STATE_NAME}, a {ENDING} or a legacy .h5 file")
    with h5py.File(path) as file:
        state = file.attrs.get(STATE_ATTRIBUTE)
    return json.loads(state) | {"path": path} if state else None


def open_folder(logdir, state):
    """The run's folder: the one that is resumed, or a new one that holds no run yet."""
    if state:
        return state["path"].parent
    folder, number = pathlib.Path(logdir), 1
    while (folder / "args.json").exists():
        number += 1
        folder = pathlib.Path(f"{str(logdir).rstrip('/')}-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_record(folder, values, state):
    """Write args.json; of stats.jsonl keep only what came before the state that is resumed."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
    except FileNotFoundError:  # no git on this machine
        commit = ""
    record = {"command": sys.argv, "options": values, "hparams": hparams.as_dict(), "git": commit}
    record |= {"versions": {"python": platform.python_version(), "keras": keras.__version__}}
    record |= {"backend": keras.backend.backend()}
    name = "args.json" if not state else f"args_from_epoch_{state['epoch'] + 1}_batch_{state['batch']}.json"
    with whole_file(folder / name) as temporary:
        temporary.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    stats = folder / "stats.jsonl"
    if state and stats.exists():
        lines = [line for line in stats.read_text().splitlines() if json.loads(line)["epoch"] <= state["epoch"]]
        with whole_file(stats) as temporary:
            temporary.write_text("".join(line + "\n" for line in lines))
