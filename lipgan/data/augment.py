"""Samples changed at random, so that few people and few recordings stand for many: shapes, colours and voices.

Without the shifts and stretches a network learns from few people that a mouth is always at the same place, and paints
it there in every face.
"""

import typing

import cv2
import numpy as np

from audio_hparams import hparams
from lipgan.faces.landmarks import MIRRORED, MIRRORED_FACE, NUM_LANDMARKS

LIPS_NAMES = ("reference_lips", "target_lips")  # in a batch with landmarks
LANDMARKS_NAMES = ("reference_landmarks", "target_landmarks")
NUM_BUMPS = 3  # places of a crop that are pulled about


class Deformation(typing.NamedTuple):
    """A smooth change of a crop's geometry: pixel q of the result shows what was at linear @ q + shift + bumps(q).

    Points are (..., 2), x and y in pixels.
    """

    linear: np.ndarray  # (2, 2)
    shift: np.ndarray  # (2,)
    centres: np.ndarray  # (K, 2): the bumps are Gaussians
    radii: np.ndarray  # (K,)
    moves: np.ndarray  # (K, 2)

    @property
    def mirrored(self) -> bool:
        """Whether left and right are exchanged."""
        return np.linalg.det(self.linear) < 0

    def source(self, points):
        """Where the result's points were before."""
        return points @ self.linear.T + self.shift + self._bumps(points)

    def target(self, points):
        """Where points of the original are in the result (to a hundredth of a pixel or so)."""
        back, found = np.linalg.inv(self.linear).T, points
        for _ in range(8):
            found = (points - self.shift - self._bumps(found)) @ back
        return found

    def apply(self, crop):
        """The crop (S, S, 3) uint8 deformed; past its borders they are repeated."""
        pixels = np.arange(crop.shape[0])
        # As `source` of every pixel. A Gaussian has one factor for columns and one for rows.
        near = np.exp(-np.square(pixels - self.centres[..., None]) / (2 * self.radii[:, None, None] ** 2))  # (K, 2, S)
        x, y = (
            (row[0] * pixels + row[1] * pixels[:, None] + shift + near[:, 1].T @ (near[:, 0] * move[:, None])).astype(
                "float32"
            )
            for row, shift, move in zip(self.linear, self.shift, self.moves.T, strict=True)
        )
        return cv2.remap(crop, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def landmarks(self, values, size):
        """Move the landmarks of a crop of `size` pixels: (40,) of the lips or (136,) of all, fractions of its side."""
        points = (self.target(values.reshape(-1, 2) * size - 0.5) + 0.5) / size
        mirrored = MIRRORED_FACE if len(points) == NUM_LANDMARKS else MIRRORED
        return (points[mirrored] if self.mirrored else points).ravel()

    def _bumps(self, points):
        distance = np.square(points[..., None, :] - self.centres).sum(-1)
        return np.exp(-distance / (2 * self.radii**2)) @ self.moves


def draw_deformation(size, rng) -> Deformation:
    """A small turn, stretch and shift of a crop of `size` pixels, half of the time a mirrored one, and a few bumps
    round the mouth, as of other lips, chins and smiles."""
    turn, middle = rng.normal(0, 0.04), (size - 1) / 2
    stretch = np.exp(rng.normal(0, 0.04, 2)) * (rng.choice((-1, 1)), 1)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * stretch
    shift = rng.normal(0, 0.02 * size, 2) + middle - linear @ (middle, middle)
    centres = rng.uniform((0.2, 0.5), (0.8, 1.0), (NUM_BUMPS, 2)) * size
    radii = rng.uniform(0.08, 0.2, NUM_BUMPS) * size
    return Deformation(linear, shift, centres, radii, rng.normal(0, 0.025 * size, (NUM_BUMPS, 2)))


def augment_batch(batch, rngs):
    """Mirror, deform and recolour the faces of a `FaceDataset` batch and change its voices, in place; returns it.

    rngs: a numpy.random.Generator for each sample. Its reference and its target (and their landmarks) are changed
    alike, and so are its own and its wrong audio.
    """
    levels, size = np.arange(256, dtype="float32") / 255, batch["target"].shape[1]
    for sample, (reference, target, rng) in enumerate(zip(batch["reference"], batch["target"], rngs, strict=True)):
        mels = np.stack([batch["mel"][sample, ..., 0], batch["wrong_mel"][sample, ..., 0]])
        batch["mel"][sample, ..., 0], batch["wrong_mel"][sample, ..., 0] = other_voice(mels, rng)
        gains, gammas = rng.uniform(0.75, 1.25, 3), np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.06, 3))
        table = np.stack([255 * np.clip(g * levels**y, 0, 1) for g, y in zip(gains, gammas, strict=True)], axis=-1)
        table = table[None].round().astype("uint8")
        deformation = draw_deformation(size, rng)
        for crop in (reference, target):
            crop[...] = cv2.LUT(deformation.apply(crop), table)
        for name in LANDMARKS_NAMES:
            if name in batch:
                batch[name][sample] = deformation.landmarks(batch[name][sample], size)
    return batch


def other_voice(mels, rng):
    """Mel windows (..., 80, W) as of another speaker and microphone: formants moved, louder or softer, over noise.

    The bands are moved by some two of them (Jaitly and Hinton 2013 perturb the length of the vocal tract so).
    """
    source = np.clip(np.arange(hparams.num_mels) + rng.normal(0, 2), 0, hparams.num_mels - 1)
    below = np.minimum(source.astype(int), hparams.num_mels - 2)
    share = (source - below)[:, None]
    moved = (1 - share) * mels[..., below, :] + share * mels[..., below + 1, :]
    noise = rng.uniform(-5, -1) + rng.normal(0, 0.2, mels.shape)  # often under the scale's lower end, that is, none
    return np.clip(np.maximum(moved + rng.normal(0, 0.4), noise), -4, 4).astype("float32")
