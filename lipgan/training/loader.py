"""Batches of samples as `fit()` and the training step take them."""

import typing

import keras
import numpy as np

from lipgan.data.augment import LIPS_NAMES
from lipgan.faces.crop import generator_input, generator_input_uint8
from lipgan.faces.rest_lips import rest_lips


class Feed(typing.NamedTuple):
    """Where the batches of a run come from."""

    dataset: typing.Any  # a `dataset.FaceDataset`
    batch_size: int
    seed: int
    workers: int  # threads that read
    per_epoch: int  # batches
    rows: slice = slice(None)  # of each batch, that this process reads for `fit()`

    def part(self, epoch, begin, end):
        """The batches from `begin` to `end` of an epoch, for `fit()`."""
        return Batches(self, epoch, begin, end)

    def few(self, epoch, count):
        """Yield the first `count` batches of an epoch (at most all of them), whole."""
        batches = self._replace(rows=slice(None)).part(epoch, 0, min(count, self.per_epoch))
        yield from (batches[number] for number in range(len(batches)))


class Batches(keras.utils.PyDataset):
    """The batches of an epoch for `fit()`, from `first` to before `last`: as from `as_bytes`.

    The batch is a pure function of (seed, epoch, number), so an epoch can be taken up anywhere.
    """

    def __init__(self, feed, epoch, first, last):
        super().__init__(workers=feed.workers, use_multiprocessing=False, max_queue_size=8)
        self.feed, self.epoch, self.first, self.last = feed, epoch, first, last

    def __len__(self):
        return self.last - self.first

    def __getitem__(self, index):
        key = (self.feed.seed, self.epoch, self.first + index)
        return as_bytes(self.feed.dataset.batch(key, self.feed.batch_size, self.feed.rows))


def as_inputs(batch):
    """A batch of `FaceDataset` as the step takes it: ({face, mel, wrong_mel}, target), float32, pictures in [0, 1].

    With landmarks, the first also has reference_lips and target_lips (B, 40); with speech features, also speech,
    wrong_speech (B, 23, 144) and rest_lips (B, 40).
    """
    face = generator_input(batch["reference"], batch["target"])
    target = batch["target"].astype("float32") / np.float32(255)
    return _inputs(batch, face), target


def as_bytes(batch):
    """As `as_inputs`, but face and target are uint8: a quarter of what must be copied. TrainingStep scales them."""
    face = generator_input_uint8(batch["reference"], batch["target"])
    return _inputs(batch, face), batch["target"]


def _inputs(batch, face):
    names = ("mel", "wrong_mel", "speech", "wrong_speech", *LIPS_NAMES)
    inputs = {"face": face} | {name: batch[name] for name in names if name in batch}
    if "speech" in inputs:
        points = batch["reference_landmarks"].reshape(len(face), -1, 2)
        inputs["rest_lips"] = np.stack([rest_lips(p).ravel() for p in points])
    return inputs
