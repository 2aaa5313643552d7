"""What a training run tells: how far it is, and at every epoch validation, a line of stats.jsonl, a picture."""

import collections
import ctypes
import json
import platform
import sys
import time

import cv2
import h5py
import keras
import numpy as np
import tqdm
from keras import ops

from lipgan.evaluation.metrics import area_under_curve
from lipgan.models.checkpoint import ENDING, save_discriminator, save_generator
from lipgan.training.config import STATE_ATTRIBUTE, STATE_NAME, STATS_NAME
from lipgan.training.devices import alone
from lipgan.training.event_log import EventLog
from lipgan.training.loader import as_inputs
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write

SAMPLES_SHOWN = 8
CHARTED = 50  # batches between two points of TensorBoard's curves of losses
LINE_S = 60  # between two lines of a log that is no terminal


class Progress(keras.callbacks.Callback):
    """A bar over all batches of the run, with the time that is left; where stdout is no terminal, a line a minute."""

    def __init__(self, position, total):
        """position: {"batches": how many are done, ...}, which another callback counts. total: batches in all."""
        super().__init__()
        self.position, self.total, self.first = position, total, position["batches"]
        self.began = self.told = time.monotonic()
        self.bar = tqdm.tqdm(
            total=total, initial=self.first, unit="batch", file=sys.stdout, disable=None, smoothing=0.05
        )

    def on_train_batch_end(self, batch, logs=None):
        losses = ", ".join(f"{name} {float(value):.4f}" for name, value in logs.items())
        if not self.bar.disable:
            self.bar.set_postfix_str(losses, refresh=False)
            self.bar.update(self.position["batches"] - self.bar.n)
        elif time.monotonic() - self.told > LINE_S:
            self.told = time.monotonic()
            elapsed, done = self.told - self.began, self.position["batches"]
            meter = tqdm.tqdm.format_meter(
                done, self.total, elapsed, ncols=0, unit="batch", initial=self.first, postfix=losses
            )
            print(meter, flush=True)

    def on_epoch_end(self, epoch, logs=None):
        if self.position["batches"] >= self.total:
            self.bar.close()


class EpochReport(keras.callbacks.Callback):
    """At every epoch: validation with own and with another clip's sound, a line of stats.jsonl, a picture."""

    def __init__(self, folder, dataset, batch_size, num_samples, users, position, rate, leads):
        """users: (epoch) -> (generator, discriminator or None), which are validated. position: as of `Progress`.

        rate: the learning rate's schedule. leads: whether this is the process that reports.
        """
        super().__init__()
        self.folder, self.users, self.position, self.rate, self.leads = folder, users, position, rate, leads
        self.events = EventLog(folder / "tensorboard", position["batches"]) if leads else None
        # The same samples every time; they are small enough to keep.
        self.batches = list(dataset.validation_batches(batch_size, num_samples)) if dataset else []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        if self.leads and self.position["batches"] % CHARTED == 0:
            numbers = {f"train/{name}": value for name, value in logs.items()} | {"learning_rate": self._rate()}
            self.events.scalars(self.position["batches"], numbers)

    def _rate(self):
        with alone():
            return float(ops.convert_to_numpy(self.rate(self.position["batches"])))

    def on_epoch_end(self, epoch, logs=None):
        if not self.leads:
            return
        row = {"epoch": epoch + 1, "batches": self.position["batches"], "learning_rate": self._rate()}
        row |= {name: float(value) for name, value in logs.items()}
        with alone():
            row |= self.validate(epoch)
        row |= {"epoch_s": round(time.monotonic() - self.began, 1)}
        with (self.folder / STATS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        numbers = {name: value for name, value in row.items() if name not in ("epoch", "batches")}
        self.events.scalars(self.position["batches"], {f"epoch/{name}": value for name, value in numbers.items()})
        told = [f"{name} {row[name]:.4f}" for name in row if name in logs or name.startswith("val_")]
        tqdm.tqdm.write(f"epoch {epoch + 1}: {', '.join(told)}")
        sys.stdout.flush()

    def validate(self, epoch):
        """Errors with own and other sound, and how well the discriminator tells them apart. Returns values by name."""
        if not self.batches:
            return {}
        generator, discriminator = self.users(epoch)
        errors, other_errors, distances, other_distances = [], [], [], []
        for number, batch in enumerate(self.batches):
            x, y = as_inputs(batch)
            wrong = x | {name: x[f"wrong_{name}"] for name in ("mel", "speech") if name in x}
            result, other = (
                generator.predict_on_batch([inputs[tensor.name] for tensor in generator.inputs])
                for inputs in (x, wrong)
            )
            errors.append(_errors(result, y))
            other_errors.append(_errors(other, y))
            if discriminator:
                distances.append(discriminator.predict_on_batch([y, x["mel"]])[:, 0])
                other_distances.append(discriminator.predict_on_batch([y, x["wrong_mel"]])[:, 0])
            if number == 0:
                path = self.folder / "samples" / f"epoch_{epoch + 1:04d}.png"
                self.events.picture(self.position["batches"], "samples", *write_samples(path, x["face"], result, y))
        (mae, lower), (other_mae, other_lower) = np.mean(errors, axis=0), np.mean(other_errors, axis=0)
        row = {"val_mae": mae, "val_mae_other_sound": other_mae, "val_gap": other_mae - mae}
        row |= {"val_lower_mae": lower, "val_lower_gap": other_lower - lower}
        if distances:
            both = {"own_sound": np.concatenate(distances), "other_sound": np.concatenate(other_distances)}
            row["val_auc"] = area_under_curve(*both.values())
            for name, values in both.items():
                self.events.histogram(self.position["batches"], f"val_distance/{name}", values)
        return {name: float(value) for name, value in row.items()}


def _errors(result, y):
    """Mean absolute error of the whole crop, and of the half that had to be made."""
    error = np.abs(result - y)
    return error.mean(), error[:, error.shape[1] // 2 :].mean()


def write_samples(path, face, result, truth):
    """A PNG of up to 8 columns, rows reference | input | result | truth. Returns its bytes and shape.

    All are (B, S, S, ...) float32 in [0, 1].
    """
    picks = np.linspace(0, len(face) - 1, min(SAMPLES_SHOWN, len(face))).astype(int)
    rows = [face[picks, ..., :3], face[picks, ..., 3:], result[picks], truth[picks]]
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    png = cv2.imencode(".png", np.round(np.clip(picture, 0, 1) * 255).astype("uint8"))[1].tobytes()
    with atomic_write(path) as temporary:
        temporary.write_bytes(png)  # cv2.imwrite says nothing of a full disk
    return png, picture.shape


EXPLODED = 10  # times the lowest loss that there was over so many batches:
WINDOW = 100
IN_A_ROW = 5  # batches that must have exploded


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
        with atomic_write(self.folder / STATE_NAME) as temporary:
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


TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # mallopt's names for them, in glibc's malloc.h


class KeepsMemory(keras.callbacks.Callback):
    """Keeps freed memory for the next batch.

    TensorFlow tells malloc to give back all that is freed ("Memory patch applied: M_TRIM_THRESHOLD=128 kb") as soon as
    `fit()` reads a PyDataset, so every batch asks the system for its memory anew, page by page. At width 0.25 on two
    cores that is half of the time: 1.25 s a step against 0.69 s, 385,000 page faults against 2,000.
    """

    def on_train_batch_end(self, batch, logs=None):
        if not batch:  # TensorFlow does it before the first batch
            keep_memory()


def keep_memory():
    """On glibc, keep what is freed for what is allocated next; elsewhere do nothing."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(TOP_PAD, 2**28)
    libc.mallopt(MMAP_THRESHOLD, 2**25)  # the most that it takes
