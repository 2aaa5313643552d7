"""What a training run tells at every epoch: validation, a line of stats.jsonl, a picture."""

import json
import time

import cv2
import keras
import numpy as np
from keras import ops

from batches import as_inputs
from devices import alone
from errors import whole_file
from metrics import area_under_curve

SAMPLES_SHOWN = 8


class EpochReport(keras.callbacks.Callback):
    """At every epoch: validation with own and with another clip's sound, a line of stats.jsonl, a picture."""

    def __init__(self, folder, dataset, batch_size, num_samples, placement, networks):
        """networks: generator and discriminator (or None) on one device, in which it validates."""
        super().__init__()
        self.folder, self.placement, self.networks = folder, placement, networks
        # The same samples every time; they are small enough to keep.
        self.batches = list(dataset.validation_batches(batch_size, num_samples)) if dataset else []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        if not self.placement.leads:
            return
        row = {"epoch": epoch + 1, "batches": int(ops.convert_to_numpy(self.model.optimizer.iterations))}
        row |= {"learning_rate": float(ops.convert_to_numpy(self.model.optimizer.learning_rate))}
        row |= {name: float(value) for name, value in logs.items()}
        with alone():
            self.placement.gather(self.networks, (self.model.generator, self.model.discriminator))
            row |= self.validate(epoch)
        row |= {"epoch_s": round(time.monotonic() - self.began, 1)}
        with (self.folder / "stats.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        told = [f"{name} {value:.4f}" for name, value in row.items() if name.startswith("val_")]
        print(f"epoch {epoch + 1}: {', '.join(told)}", flush=True)

    def validate(self, epoch):
        """Errors with own and other sound, and how well the discriminator tells them apart. Returns values by name."""
        if not self.batches:
            return {}
        generator, discriminator = self.networks
        errors, other_errors, distances, other_distances = [], [], [], []
        for number, batch in enumerate(self.batches):
            x, y = as_inputs(batch)
            result = generator.predict_on_batch([x["face"], x["mel"]])
            other = generator.predict_on_batch([x["face"], x["wrong_mel"]])
            errors.append(_errors(result, y))
            other_errors.append(_errors(other, y))
            if discriminator:
                distances.append(discriminator.predict_on_batch([y, x["mel"]])[:, 0])
                other_distances.append(discriminator.predict_on_batch([y, x["wrong_mel"]])[:, 0])
            if number == 0:
                write_samples(self.folder / "samples" / f"epoch_{epoch + 1:04d}.png", x["face"], result, y)
        (mae, lower), (other_mae, other_lower) = np.mean(errors, axis=0), np.mean(other_errors, axis=0)
        row = {"val_mae": mae, "val_mae_other_sound": other_mae, "val_gap": other_mae - mae}
        row |= {"val_lower_mae": lower, "val_lower_gap": other_lower - lower}
        if distances:
            row["val_auc"] = area_under_curve(np.concatenate(distances), np.concatenate(other_distances))
        return {name: float(value) for name, value in row.items()}


def _errors(result, y):
    """Mean absolute error of the whole crop, and of the half that had to be made."""
    error = np.abs(result - y)
    return error.mean(), error[:, error.shape[1] // 2 :].mean()


def write_samples(path, face, result, truth):
    """A picture of up to 8 columns, rows reference | input | result | truth. All (B, S, S, ...) float32 in [0, 1]."""
    picks = np.linspace(0, len(face) - 1, min(SAMPLES_SHOWN, len(face))).astype(int)
    rows = [face[picks, ..., :3], face[picks, ..., 3:], result[picks], truth[picks]]
    picture = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    with whole_file(path) as temporary:
        cv2.imwrite(str(temporary), np.round(np.clip(picture, 0, 1) * 255).astype("uint8"))
