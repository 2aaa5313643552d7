"""Batches of samples as `fit()` and the training step take them."""

import typing

import keras
import numpy as np

from faces import generator_bytes, generator_input


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
        return Batches(self.dataset, self.batch_size, self.seed, epoch, begin, end, self.workers, self.rows)

    def few(self, epoch, count):
        """Yield the first `count` batches of an epoch (at most all of them), whole."""
        batches = self._replace(rows=slice(None)).part(epoch, 0, min(count, self.per_epoch))
        yield from (batches[number] for number in range(len(batches)))


class Batches(keras.utils.PyDataset):
    """One epoch of batches for `fit()`, from `first` on: as from `as_bytes`.

    The batch is a pure function of (seed, epoch, number), so an epoch can be taken up anywhere.
    """

    def __init__(self, dataset, size, seed, epoch, first, last, workers=2, rows=slice(None)):
        """rows: those of each batch that are read: of several processes, each takes its own."""
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=8)
        self.dataset, self.size, self.key, self.first, self.last = dataset, size, (seed, epoch), first, last
        self.rows = rows

    def __len__(self):
        return self.last - self.first

    def __getitem__(self, index):
        return as_bytes(self.dataset.batch((*self.key, self.first + index), self.size, self.rows))


def as_inputs(batch):
    """A batch of `FaceDataset` as the step takes it: ({face, mel, wrong_mel}, target), float32, pictures in [0, 1]."""
    face = generator_input(batch["reference"], batch["target"])
    target = batch["target"].astype("float32") / np.float32(255)
    return {"face": face, "mel": batch["mel"], "wrong_mel": batch["wrong_mel"]}, target


def as_bytes(batch):
    """As `as_inputs`, but face and target are uint8: a quarter of what must be copied. TrainingStep scales them."""
    face = generator_bytes(batch["reference"], batch["target"])
    return {"face": face, "mel": batch["mel"], "wrong_mel": batch["wrong_mel"]}, batch["target"]
