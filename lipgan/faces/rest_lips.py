"""Rest shape of a person's lips: closed and neutral. From one image by a small network, from a shot by its statistics.

`rest_lips.npz` holds the network's constants. They were learned from the landmarks of GRID's talking people and from
synthetic smiles; `tools/train_rest_lips.py` trains others.
"""

import dataclasses
import functools
import pathlib

import numpy as np

from lipgan.faces.landmarks import EYES, LIPS, NOSE_BASE, RIGID, closing_matrices, opening

REST_SHARE = 0.1  # so many of the mouths of a shot, the least open ones, are at rest
MIN_SHOT = 25  # frames of which a shot's statistics can be taken
SHUT = 0.005  # of the side: between dlib's inner landmarks of people who rest (GRID)
SPEECH_SHARE = 0.3  # of its own expression, lips shut, a face has while it speaks
SMILE_GAP, OPEN_GAP = 0.06, 0.1  # of the side: between the lips of a broad smile, and of a mouth that says something


@dataclasses.dataclass(frozen=True)
class RestModel:
    """The constants of a small network from lips (40 numbers, about the nose's base, upright) to their expression."""

    mean: np.ndarray  # (40,) of the inputs, in parts of the crop's side
    scale: np.ndarray  # (40,)
    hidden: tuple  # pairs of weights (in, out) and bias (out,), ReLU after each
    out: tuple  # weights (64, 40), bias (40,): expression, in parts of the crop's side

    def expression(self, lips: np.ndarray) -> np.ndarray:
        """Return what the expression adds to the rest shape: (N, 40) -> (N, 40)."""
        x = (lips - self.mean) / self.scale
        for weights, bias in self.hidden:
            x = np.maximum(x @ weights + bias, 0)
        return x @ self.out[0] + self.out[1]


@functools.cache
def load_model() -> RestModel:
    """Load the constants that lie beside this file."""
    with np.load(pathlib.Path(__file__).with_suffix(".npz"), allow_pickle=False) as data:
        pairs = [(data[f"weights{n}"], data[f"bias{n}"]) for n in range(3)]
        return RestModel(data["mean"], data["scale"], tuple(pairs[:2]), pairs[2])


def save_model(model: RestModel, path) -> None:
    """Write the constants of a model as `load_model` reads them."""
    constants = {"mean": model.mean, "scale": model.scale}
    for number, (weights, bias) in enumerate([*model.hidden, model.out]):
        constants |= {f"weights{number}": weights, f"bias{number}": bias}
    with pathlib.Path(path).open("wb") as file:
        np.savez(file, **constants)


def rest_lips(points: np.ndarray) -> np.ndarray:
    """Estimate the lips of one face at rest, closed and neutral, whatever the expression in the image is.

    points: (68, 2), dlib's landmarks in parts of the crop's side. Returns (20, 2) in the same coordinates.
    """
    rotation, origin = _upright(points)
    lips = about_nose(points)
    rest = lips - load_model().expression(lips.reshape(1, 40)).reshape(20, 2)
    return (rest @ rotation + origin).astype(np.float32)


def about_nose(points: np.ndarray) -> np.ndarray:
    """Return the lips of a face with landmarks (68, 2), upright, as offsets from the base of the nose: (20, 2)."""
    rotation, origin = _upright(points)
    return (points[LIPS] - origin) @ rotation.T


def _upright(points):
    """Return the rotation (2, 2) that levels the eyes, and the middle of the nose's base (2,)."""
    across = points[EYES[1]].mean(0) - points[EYES[0]].mean(0)
    cos, sin = across / np.linalg.norm(across)
    return np.array([[cos, sin], [-sin, cos]]), points[NOSE_BASE].mean(0)


@dataclasses.dataclass(frozen=True)
class RestShape:
    """The lips of a person at rest, and the rigid landmarks beside which they are."""

    lips: np.ndarray  # (20, 2), in parts of a crop's side
    rigid: np.ndarray  # (31, 2), in the same coordinates

    def place(self, points: np.ndarray) -> np.ndarray:
        """Move the lips to another crop of the face with landmarks (68, 2), by its rigid landmarks: (20, 2) float32."""
        to, scale_rotate, start = _similarity(_complex(self.rigid), _complex(points[RIGID]))
        lips = (_complex(self.lips) - start) * scale_rotate + to
        return np.stack([lips.real, lips.imag], axis=-1).astype(np.float32)


def rest_shape(points: np.ndarray) -> RestShape:
    """Estimate the rest shape of the person in a shot: the mean of its tenth of least open mouths, shut.

    Who talks without a pause for a few seconds has the lips apart in most of that tenth.

    points: (N, 68, 2), dlib's landmarks of the shot's frames in parts of each crop's side. From few frames, as from a
    still image, `rest_lips` estimates it.
    """
    if len(points) < MIN_SHOT:
        return RestShape(rest_lips(points[0]), points[0][RIGID])
    lips, mean = upright_lips(points), points[:, RIGID].mean(axis=0)
    return RestShape(_shut(closed_lips(lips)).reshape(-1, 2), mean)


def with_expression(rest: np.ndarray, own: np.ndarray, strength: float, pause: float) -> np.ndarray:
    """Add a share of a face's own expression to its lips at rest: all of it in a pause, with shut lips in speech.

    rest, own: (40,). strength, pause: in [0, 1]. Returns (40,) float32; at strength 0 the rest.
    """
    offset, (gaps, shifts) = own - rest, closing_matrices()
    shut = offset + offset @ gaps @ shifts
    return (rest + strength * (pause * offset + SPEECH_SHARE * (1 - pause) * shut)).astype(np.float32)


def natural_expression(own: np.ndarray) -> float:
    """Return the strength at which an image's own expression (40,) is kept: 1, and 0 for a mouth that is wide open."""
    return float(np.clip((OPEN_GAP - opening(own.reshape(-1, 2))) / (OPEN_GAP - SMILE_GAP), 0, 1))


def upright_lips(points: np.ndarray) -> np.ndarray:
    """Move lips to where the head is on average, by its rigid landmarks: (N, 68, 2) -> (N, 40) float32."""
    points = np.asarray(points, np.float64)
    rigid = _complex(points[:, RIGID])
    to, scale_rotate, start = _similarity(rigid, rigid.mean(axis=0))
    moved = (_complex(points[:, LIPS]) - start) * scale_rotate + to
    return np.stack([moved.real, moved.imag], axis=-1).reshape(len(points), -1).astype(np.float32)


def closed_lips(lips: np.ndarray) -> np.ndarray:
    """Average the tenth of the lips (N, 40) that are least open: (40,)."""
    gaps = opening(lips.reshape(len(lips), -1, 2))
    return lips[gaps <= np.quantile(gaps, REST_SHARE)].mean(axis=0)


def _shut(lips):
    """Let the lips (40,) meet as dlib's landmarks do where lips touch, both alike."""
    gaps, shifts = closing_matrices()
    return lips + np.maximum(lips @ gaps - SHUT, 0) @ shifts


def _complex(points):
    return points[..., 0] + 1j * points[..., 1]


def _similarity(source, target):
    """Fit similarity transforms between complex points (..., K): (target's middle, factor, source's middle).

    Each is (..., 1).
    """
    start, to = source.mean(axis=-1, keepdims=True), target.mean(axis=-1, keepdims=True)
    centred = source - start
    factor = (centred.conj() * (target - to)).sum(-1, keepdims=True) / (np.abs(centred) ** 2).sum(-1, keepdims=True)
    return to, factor, start
