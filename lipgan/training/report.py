"""What a training run tells: how far it is, and at every epoch validation, a line of stats.jsonl, a picture."""

import json
import sys
import time

import cv2
import keras
import numpy as np
import tqdm
from keras import ops

from lipgan.evaluation.metrics import area_under_curve
from lipgan.models.warp import has_lips, informed
from lipgan.training.devices import alone
from lipgan.training.event_log import EventLog
from lipgan.training.loader import as_inputs
from lipgan.training.state import STATS_NAME
from lipgan.utils.errors import whole_file

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
        self._informed = None, None
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
        by_lips = has_lips(generator)
        if by_lips:
            if self._informed[0] is not generator:  # it is compiled once
                self._informed = generator, informed(generator)
            generator = self._informed[1]
        errors, other_errors, distances, other_distances = [], [], [], []
        for number, batch in enumerate(self.batches):
            x, y = as_inputs(batch)
            seen = [x["reference_lips"]] if by_lips else []
            result = generator.predict_on_batch([x["face"], x["mel"], *seen])
            other = generator.predict_on_batch([x["face"], x["wrong_mel"], *seen])
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
    with whole_file(path) as temporary:
        temporary.write_bytes(png)  # cv2.imwrite says nothing of a full disk
    return png, picture.shape
