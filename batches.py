"""Batches of samples as `fit()` and the training step take them."""

import keras
import numpy as np

from faces import generator_bytes, generator_input


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
