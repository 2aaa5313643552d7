"""Batches of samples as the training step takes them, read in threads for `fit()`."""

import dataclasses

import keras
import numpy as np

from lipgan.data.augment import LIPS_NAMES
from lipgan.data.dataset import FaceDataset
from lipgan.faces.crop import generator_input, generator_input_uint8
from lipgan.faces.rest_lips import rest_lips


@dataclasses.dataclass(frozen=True)
class BatchLoader:
    """The source of a run's batches. A batch is a pure function of (seed, epoch, number)."""

    dataset: FaceDataset
    batch_size: int
    seed: int
    workers: int  # reading threads
    per_epoch: int  # batches
    rows: slice = dataclasses.field(default_factory=lambda: slice(None))  # of a batch, that this process reads

    def batches(self, epoch, begin, end):
        """Return batches `begin` to before `end` of an epoch, for `fit()`."""
        return Batches(self, epoch, begin, end)

    def first_batches(self, epoch, count):
        """Yield the first `count` batches of an epoch (at most all), with all their rows."""
        batches = dataclasses.replace(self, rows=slice(None)).batches(epoch, 0, min(count, self.per_epoch))
        yield from (batches[number] for number in range(len(batches)))


class Batches(keras.utils.PyDataset):
    """Consecutive batches of an epoch for `fit()`, in the form of `as_bytes`."""

    def __init__(self, loader, epoch, begin, end):
        super().__init__(workers=loader.workers, use_multiprocessing=False, max_queue_size=8)
        self._loader, self._epoch, self._begin, self._end = loader, epoch, begin, end

    def __len__(self):
        return self._end - self._begin

    def __getitem__(self, index):
        key = (self._loader.seed, self._epoch, self._begin + index)
        return as_bytes(self._loader.dataset.batch(key, self._loader.batch_size, self._loader.rows))


def as_inputs(batch):
    """Return a batch of `FaceDataset` for the step: ({face, mel, wrong_mel}, target), float32, images in [0, 1].

    A dataset with landmarks adds reference_lips and target_lips (B, 40); with speech features, also speech,
    wrong_speech (B, 23, 335) and rest_lips (B, 40).
    """
    face = generator_input(batch["reference"], batch["target"])
    target = batch["target"].astype("float32") / np.float32(255)
    return _inputs(batch, face), target


def as_bytes(batch):
    """Return the same as `as_inputs` with images in uint8, a quarter of the bytes; TrainingStep scales them."""
    face = generator_input_uint8(batch["reference"], batch["target"])
    return _inputs(batch, face), batch["target"]


def _inputs(batch, face):
    names = ("mel", "wrong_mel", "speech", "wrong_speech", *LIPS_NAMES)
    inputs = {"face": face} | {name: batch[name] for name in names if name in batch}
    if "speech" in inputs:
        points = batch["reference_landmarks"].reshape(len(face), -1, 2)
        inputs["rest_lips"] = np.stack([rest_lips(p).ravel() for p in points])
    return inputs
