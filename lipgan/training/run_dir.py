"""A training run's folder: never overwritten, says how it was made, and holds the state from which it can go on.

args.json                    every option, versions, the commit and the command
stats.jsonl                  a line at every epoch
tensorboard/                 the same, losses in between, pictures and histograms, for TensorBoard
samples/epoch_0001.png       reference | input | result | truth
NAME.weights.h5, NAME.json   the generator for users (and NAME_disc.* the discriminator)
state.weights.h5             everything needed to go on: both networks, the optimizer, the options, how far it is
"""

import collections
import json
import pathlib
import platform
import shutil
import subprocess
import sys

import h5py
import keras
import numpy as np
from keras import ops

from audio_hparams import hparams
from lipgan.models.checkpoint import ENDING, save_discriminator, save_generator
from lipgan.preprocessing.run_log import versions
from lipgan.training.devices import alone
from lipgan.training.state import STATE_ATTRIBUTE, STATE_NAME, STATS_NAME, read_stats
from lipgan.utils.errors import UserError, whole_file

EXPLODED = 10  # times the lowest loss that there was over so many batches:
WINDOW = 100
IN_A_ROW = 5  # batches that must have exploded
PACKAGES = ("numpy", "h5py", "opencv-python-headless", "simplejpeg", "librosa", "scipy", "dlib-bin", "tensorboard")


class Stopped(Exception):
    """Training was asked to end, and its state is saved."""


class Checkpoints(keras.callbacks.Callback):
    """Saves the state and the users' weights every `freq` batches, and before the process is ended by a signal.

    What is saved is finite: a loss or a weight that is not, and a loss that explodes, end the run with a UserError.
    Of several processes, process 0 writes, and all stop after the same batch.
    """

    def __init__(self, folder, name, described, freq, users, state, placement):
        """users: (epoch) -> networks to save for users. state: what `read_state` gave, or None for a new run."""
        super().__init__()
        self.folder, self.name, self.described, self.freq, self.users = folder, name, described, freq, users
        self.placement = placement
        # How far training is: batches of this epoch that are done, and of all epochs.
        self.position = {name: (state or {}).get(name, 0) for name in ("epoch", "batch", "batches")}
        self.sums = (state or {}).get("sums")  # of the losses, for this epoch's means
        self.signal, self.due, self.watch = None, False, LossWatch()

    def on_epoch_begin(self, epoch, logs=None):
        self.watch.begin(self.position["batch"] if self.sums else 0)
        for variable, value in zip(self.model.metrics_variables, self.sums or (), strict=False):
            variable.assign(value)
        self.sums = None

    def on_train_batch_end(self, batch, logs=None):
        self.position["batch"] += 1
        self.position["batches"] += 1
        if told := self.watch.look(logs):
            raise UserError(self._broken(told))
        if batch + 1 == self.params["steps"]:
            return  # the epoch's end is saved, and stopped at, when the epoch has been reported
        self.stop_if_asked()
        self.due = self.due or self.position["batches"] % self.freq == 0
        if self.due and not self.watch.uneasy():
            self.save()

    def stop_if_asked(self):
        """Save, and raise Stopped, where a signal has come; several processes must call this at the same batch."""
        if self.placement.stops(self.signal is not None):
            self.save()
            name = self.signal or "to another process"
            raise Stopped(f"stopped by signal {name}; go on with --resume {self.folder / STATE_NAME}")

    def _broken(self, told):
        path = self.folder / STATE_NAME
        return (
            f"{told} at epoch {self.position['epoch'] + 1}, batch {self.position['batch']} "
            f"({self.position['batches']} in all); the last good checkpoint is {path}: --resume it "
            "with a smaller --lr, with --warmup_steps in a new run, or with --precision float32"
        )

    def save(self):
        """Write the state of training, and the weights of each network for users."""
        self.due = False
        if self.placement.leads:
            with alone():  # nothing in here is for the other processes
                self.save_state()
                self.save_for_users(self.users(self.position["epoch"]))

    def save_state(self):
        """Write the state of training, unless it holds what is not finite: then raise UserError."""
        step = self.model
        for variable in (*step.variables, *step.optimizer.variables):
            if not np.isfinite(ops.convert_to_numpy(variable)).all():  # a loss can be finite where its gradient is not
                raise UserError(self._broken(f"{variable.path} is not finite"))
        sums = [float(ops.convert_to_numpy(v)) for v in step.metrics_variables] if self.position["batch"] else None
        with whole_file(self.folder / STATE_NAME) as temporary:
            step.save_weights(temporary, overwrite=True)
            with h5py.File(temporary, "a") as file:
                file.attrs[STATE_ATTRIBUTE] = json.dumps(self.described | self.position | {"sums": sums}, default=str)

    def save_for_users(self, networks):
        """Write the weights of (generator, discriminator or None) for users."""
        described = {k: v for k, v in self.described.items() if k != "options"} | {"step": self.position["batches"]}
        for network, name, save in zip(networks, ("", "_disc"), (save_generator, save_discriminator), strict=True):
            if network:
                kind = {"model": "discriminator"} if name else {}
                save(self.folder / f"{self.name}{name}{ENDING}", network, described | kind)


class LossWatch:
    """Notices a loss that is no number, or that explodes, from the means since the epoch's begin that `fit()` gives."""

    def __init__(self):
        self.recent, self.window, self.lowest = collections.deque(maxlen=IN_A_ROW), [], None
        self.begin(0)

    def begin(self, counted):
        """A new epoch, of which `counted` batches are in the means already."""
        self.counted, self.sums = counted, None

    def look(self, logs):
        """The logs of one more batch. Returns what is wrong, in words, or None."""
        self.counted += 1
        sums = {name: float(logs[name]) * self.counted for name in ("loss", "mae")}
        if not np.isfinite(sums["loss"]):
            return f"the loss is {sums['loss']}"
        if self.sums or self.counted == 1:
            loss = {name: value - (self.sums or {}).get(name, 0.0) for name, value in sums.items()}
            self.recent.append(loss)
            self.window.append(loss)
        self.sums = sums
        if len(self.window) == WINDOW:
            mean = {name: sum(loss[name] for loss in self.window) / WINDOW for name in sums}
            self.lowest = {name: min(mean[name], (self.lowest or mean)[name]) for name in sums}
            self.window = []
        for name in sums if self.lowest and len(self.recent) == IN_A_ROW else ():
            if all(loss[name] > EXPLODED * self.lowest[name] for loss in self.recent):
                return f"{name} explodes ({self.recent[-1][name]:.3g}; it was {self.lowest[name]:.3g})"
        return None

    def uneasy(self):
        """Whether the last batch's loss was so large that its weights had better not replace good ones."""
        if not self.lowest or not self.recent:
            return False
        return any(value > EXPLODED * self.lowest[name] for name, value in self.recent[-1].items())


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
    with whole_file(folder / name) as temporary:
        temporary.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
    stats = folder / STATS_NAME
    if state and stats.exists():
        rows = [row for row in read_stats(stats) if row["epoch"] <= state["epoch"]]  # what follows is written again
        with whole_file(stats) as temporary:
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
