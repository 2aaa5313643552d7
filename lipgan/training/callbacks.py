"""What the main loop does between batches and epochs: checkpoints, loss watch, validation report, progress bar."""

import collections
import ctypes
import dataclasses
import json
import os
import platform
import sys
import time

import cv2
import h5py
import keras
import numpy as np
import tqdm
from keras import ops
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from lipgan.evaluation.metrics import area_under_curve
from lipgan.inference.runner import GeneratorRunner
from lipgan.models.checkpoint import ENDING, save_discriminator, save_generator
from lipgan.training.config import STATE_ATTRIBUTE, STATE_NAME, STATS_NAME
from lipgan.training.distributed import single_device
from lipgan.training.loader import as_inputs
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write

SAMPLES_SHOWN = 8
CHART_EVERY = 50  # batches between two points of TensorBoard's loss curves
LINE_S = 30  # between two progress lines in a log file
EXPLODED = 10  # times the lowest mean loss of WINDOW batches
WINDOW = 100
IN_A_ROW = 5  # exploded batches that end the run


@dataclasses.dataclass
class Progress:
    """How far a run is. The main loop advances it; checkpoints, charts and the progress bar read it."""

    total: int  # batches at which the run ends
    epoch: int = 0  # complete epochs
    batch: int = 0  # batches of the current epoch
    batches: int = 0  # of all epochs
    metric_sums: list | None = None  # of the losses of the current epoch, where a state was saved inside it

    @classmethod
    def resume(cls, total, state):
        """Return the progress that a training state holds (None: a new run)."""
        state = state or {}
        return cls(total, *(state.get(name, 0) for name in ("epoch", "batch", "batches")), state.get("sums"))

    def advance(self):
        """Count a batch."""
        self.batch += 1
        self.batches += 1

    def end_epoch(self):
        """Count an epoch."""
        self.epoch, self.batch = self.epoch + 1, 0

    def position(self):
        """Return the counts as a training state holds them."""
        return {"epoch": self.epoch, "batch": self.batch, "batches": self.batches}


class ProgressBar:
    """A bar over all batches of the run with the remaining time; a line every half minute if stdout is no terminal."""

    def __init__(self, progress):
        self._progress, self._first = progress, progress.batches
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm.tqdm(
            total=progress.total, initial=self._first, unit="batch", file=sys.stdout, disable=None, smoothing=0.05
        )

    def update(self, logs):
        """Show the losses by name after a batch."""
        done, now = self._progress.batches, time.monotonic()
        if self._bar.disable and now - self._last_line < LINE_S:
            return
        losses = ", ".join(f"{name} {float(value):.4f}" for name, value in logs.items())
        if not self._bar.disable:
            self._bar.set_postfix_str(losses, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        self._last_line = now
        line = tqdm.tqdm.format_meter(
            done, self._progress.total, now - self._start, ncols=0, unit="batch", initial=self._first, postfix=losses
        )
        print(line, flush=True)

    def close(self):
        """End the bar's line."""
        self._bar.close()


class TensorBoardLog:
    """An event file for TensorBoard, written by tensorboardX.

    Its SummaryWriter is not used: that writes in another thread, which dies on a full disk, and then the run hangs.
    """

    def __init__(self, folder, step=0):
        """step: batch from which on earlier files of this folder are void."""
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{step}")
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=step, session_log=start))
        self._writer.flush()

    def add(self, step, *summaries):
        """Write summaries of tensorboardX.summary."""
        for value in summaries:
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=value))
        self._writer.flush()

    def add_scalars(self, step, values):
        """Write numbers by name."""
        self.add(step, *(summary.scalar(name, float(value)) for name, value in values.items()))


class EpochReport:
    """Validation after every epoch, with matching and mismatched audio: stats.jsonl, TensorBoard, a sample image."""

    def __init__(self, folder, batches, exported, progress, rate):
        """batches: of `FaceDataset.validation_batches`, the same in every epoch. exported: an ExportedNetworks.

        rate: the learning-rate schedule.
        """
        self._folder, self._batches, self._rate = folder, batches, rate
        self._exported, self._progress = exported, progress
        self._runner = None
        self._events = TensorBoardLog(folder / "tensorboard", progress.batches)
        self._start = time.monotonic()

    def begin_epoch(self):
        """Start the epoch's clock."""
        self._start = time.monotonic()

    def add_batch(self, logs):
        """Chart the losses of every CHART_EVERYth batch."""
        if self._progress.batches % CHART_EVERY == 0:
            values = {f"train/{name}": value for name, value in logs.items()} | {"learning_rate": self._learning_rate()}
            self._events.add_scalars(self._progress.batches, values)

    def _learning_rate(self):
        with single_device():
            return float(ops.convert_to_numpy(self._rate(self._progress.batches)))

    def add_epoch(self, epoch, logs):
        """Validate and write the epoch's row."""
        row = {"epoch": epoch + 1, "batches": self._progress.batches, "learning_rate": self._learning_rate()}
        row |= {name: float(value) for name, value in logs.items()}
        with single_device():
            row |= self._validate(epoch)
        row |= {"epoch_s": round(time.monotonic() - self._start, 1)}
        with (self._folder / STATS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        values = {f"epoch/{name}": value for name, value in row.items() if name not in ("epoch", "batches")}
        self._events.add_scalars(self._progress.batches, values)
        shown = [f"{name} {row[name]:.4f}" for name in row if name in logs or name.startswith("val_")]
        tqdm.tqdm.write(f"epoch {epoch + 1}: {', '.join(shown)}")
        sys.stdout.flush()

    def _validate(self, epoch):
        """Return errors with matching and mismatched audio, and how well the discriminator separates these."""
        if not self._batches:
            return {}
        generator, discriminator = self._exported.update(epoch)
        runner = self._runner = self._runner or GeneratorRunner(generator, len(self._batches[0]["target"]))
        errors, other_errors, distances, other_distances = [], [], [], []
        for number, batch in enumerate(self._batches):
            x, y = as_inputs(batch)
            result, other = (
                runner.predict(x["face"], x[name], x.get("reference_lips"), x.get("rest_lips"))
                for name in (runner.audio_kind, f"wrong_{runner.audio_kind}")
            )
            errors.append(_errors(result, y))
            other_errors.append(_errors(other, y))
            if discriminator:
                distances.append(discriminator.predict_on_batch([y, x["mel"]])[:, 0])
                other_distances.append(discriminator.predict_on_batch([y, x["wrong_mel"]])[:, 0])
            if number == 0:
                self._write_samples(epoch, x["face"], result, y)
        (mae, lower), (other_mae, other_lower) = np.mean(errors, axis=0), np.mean(other_errors, axis=0)
        row = {"val_mae": mae, "val_mae_other_sound": other_mae, "val_gap": other_mae - mae}
        row |= {"val_lower_mae": lower, "val_lower_gap": other_lower - lower}
        if distances:
            both = {"own_sound": np.concatenate(distances), "other_sound": np.concatenate(other_distances)}
            row["val_auc"] = area_under_curve(*both.values())
            for name, values in both.items():
                histogram = summary.histogram(f"val_distance/{name}", values, bins="auto")
                self._events.add(self._progress.batches, histogram)
        return {name: float(value) for name, value in row.items()}

    def _write_samples(self, epoch, face, result, truth):
        image = sample_grid(face, result, truth)
        with atomic_write(self._folder / "samples" / f"epoch_{epoch + 1:04d}.png") as temporary:
            temporary.write_bytes(cv2.imencode(".png", image)[1].tobytes())  # cv2.imwrite ignores a full disk
        shown = summary.image("samples", image[..., ::-1], dataformats="HWC")
        self._events.add(self._progress.batches, shown)


def _errors(result, y):
    """Compute the mean absolute error of the whole crop, and of the generated lower half."""
    error = np.abs(result - y)
    return error.mean(), error[:, error.shape[1] // 2 :].mean()


def sample_grid(face, result, truth):
    """Return an image of up to 8 columns with rows reference | input | result | truth, (H, W, 3) uint8 BGR.

    All are (B, S, S, ...) float32 in [0, 1].
    """
    picks = np.linspace(0, len(face) - 1, min(SAMPLES_SHOWN, len(face))).astype(int)
    rows = [face[picks, ..., :3], face[picks, ..., 3:], result[picks], truth[picks]]
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    return np.round(np.clip(grid, 0, 1) * 255).astype("uint8")


class Checkpoints:
    """Writes the training state and the exported weights, both atomically, in the main process only.

    Values that are not finite raise UserError, and the last good checkpoint stays.
    """

    def __init__(self, folder, name, description, exported, progress):
        """name: stem of the weight files. description: of the run, for the JSON in state and weights."""
        self.folder, self._name, self._description = folder, name, description
        self.exported, self._progress = exported, progress
        self.state_path = folder / STATE_NAME
        self.weights_path = folder / f"{name}{ENDING}"

    def save(self, step):
        """Write the training state of a TrainingStep, and the weights of each network for users."""
        with single_device():  # the other processes take no part in this
            self.save_state(step)
            self.export(self.exported.update(self._progress.epoch))

    def save_state(self, step):
        """Write the training state."""
        for variable in (*step.variables, *step.optimizer.variables):
            if not np.isfinite(ops.convert_to_numpy(variable)).all():  # the loss is finite where its gradient is not
                raise self.failure(f"{variable.path} is not finite")
        sums = [float(ops.convert_to_numpy(v)) for v in step.metrics_variables] if self._progress.batch else None
        with atomic_write(self.state_path) as temporary:
            step.save_weights(temporary, overwrite=True)
            with h5py.File(temporary, "a") as file:
                record = self._description | self._progress.position() | {"sums": sums}
                file.attrs[STATE_ATTRIBUTE] = json.dumps(record, default=str)

    def export(self, networks):
        """Write the weights of (generator, discriminator or None) for users."""
        description = {name: value for name, value in self._description.items() if name != "options"}
        description["step"] = self._progress.batches
        generator, discriminator = networks
        save_generator(self.weights_path, generator, description)
        if discriminator:
            path = self.folder / f"{self._name}_disc{ENDING}"
            save_discriminator(path, discriminator, description | {"model": "discriminator"})

    def failure(self, problem):
        """Return the UserError of a run that diverged."""
        progress = self._progress
        return UserError(
            f"{problem} at epoch {progress.epoch + 1}, batch {progress.batch} ({progress.batches} in all); the last "
            f"good checkpoint is {self.state_path}: --resume it with a smaller --lr, with --warmup_steps in a new run, "
            "or with --precision float32"
        )


class LossWatch:
    """Detects a loss that is not a number or explodes, from the running means of an epoch that `fit()` logs."""

    def __init__(self):
        self._recent, self._window, self._lowest = collections.deque(maxlen=IN_A_ROW), [], None
        self.begin_epoch(0)

    def begin_epoch(self, num_batches):
        """Start an epoch of which `num_batches` are in the running means already."""
        self._num_batches, self._sums = num_batches, None

    def check(self, logs):
        """Add the logs of one more batch. Returns a description of the problem, or None."""
        self._num_batches += 1
        sums = {name: float(logs[name]) * self._num_batches for name in ("loss", "mae")}
        if not np.isfinite(sums["loss"]):
            return f"the loss is {sums['loss']}"
        if self._sums or self._num_batches == 1:
            loss = {name: value - (self._sums or {}).get(name, 0.0) for name, value in sums.items()}
            self._recent.append(loss)
            self._window.append(loss)
        self._sums = sums
        if len(self._window) == WINDOW:
            mean = {name: sum(loss[name] for loss in self._window) / WINDOW for name in sums}
            self._lowest = {name: min(mean[name], (self._lowest or mean)[name]) for name in sums}
            self._window = []
        for name in sums if self._lowest and len(self._recent) == IN_A_ROW else ():
            if all(loss[name] > EXPLODED * self._lowest[name] for loss in self._recent):
                return f"{name} explodes ({self._recent[-1][name]:.3g}; it was {self._lowest[name]:.3g})"
        return None

    def is_spike(self):
        """Return whether the last batch's loss is so large that its weights should not replace good ones."""
        if not self._lowest or not self._recent:
            return False
        return any(value > EXPLODED * self._lowest[name] for name, value in self._recent[-1].items())


TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt() in glibc's malloc.h


class KeepFreedMemory(keras.callbacks.Callback):
    """Makes malloc keep freed memory for the next batch.

    When `fit()` reads a PyDataset, TensorFlow makes malloc return freed memory to the system at once ("Memory patch
    applied: M_TRIM_THRESHOLD=128 kb"), and every batch asks for it again, page by page. At width 0.25 on two cores that
    is half of the time: 1.25 s a step against 0.69 s, 385,000 page faults against 2,000.
    """

    def on_train_batch_end(self, batch, logs=None):
        """Undo TensorFlow's setting, which it makes before the first batch."""
        if not batch:
            keep_freed_memory()


def keep_freed_memory():
    """Make glibc's malloc keep freed memory; does nothing with other C libraries."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    libc.mallopt(TOP_PAD, 2**28)
    libc.mallopt(MMAP_THRESHOLD, 2**25)  # the largest value it accepts
