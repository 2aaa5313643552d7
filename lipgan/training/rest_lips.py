"""Training of the small network of `faces.rest_lips`: from the lips of one image to what its expression adds to rest.

It learns from people who talk, whose rest shape their clips show, and from smiles drawn onto their lips: GRID's people
never smile. All lips are upright, about the nose's base, in parts of the crop's side.
"""

import keras
import numpy as np

from lipgan.faces.landmarks import FACING, MOVES_WITH, NUM_LIPS
from lipgan.faces.rest_lips import RestModel, about_nose, closed_lips

WIDTH = 64  # of both hidden layers
BATCH_SIZE, LEARNING_RATE = 256, 2e-3
SMILING = 0.5  # share of samples onto which a smile is drawn
WIDER, RAISED = (0.0, 0.35), (-0.01, 0.05)  # of the half width, and of the side: what a smile does to the corners
PARTED = (0.0, 0.07)  # of the side: by how much it opens the lips
SCALED, MOVED = 0.08, 0.006  # deviations of the size and the place of another face's lips


def person_samples(landmarks):
    """Return the lips of a person's frames and their rest shape: (N, 68, 2) of all clips -> (N, 40), (40,)."""
    lips = np.stack([about_nose(points) for points in landmarks]).reshape(len(landmarks), -1)
    return lips, closed_lips(lips)


def draw_smile(lips, rng):
    """Draw smiles onto lips (N, 40): corners further apart and raised, lips thinner and parted. Returns (N, 40)."""
    points = lips.reshape(-1, NUM_LIPS, 2).copy()
    count = (len(points), 1)
    centre, half = (points[:, 0] + points[:, 6]) / 2, (points[:, 6:7, 0] - points[:, 0:1, 0]) / 2
    across = (points[..., 0] - centre[:, :1]) / half  # -1 and 1 at the corners
    wider, raised, parted = (rng.uniform(*limits, count) for limits in (WIDER, RAISED, PARTED))
    points[..., 0] += wider * half * across
    points[..., 1] -= raised * (across**2 - 0.3)
    for up, low in zip(*FACING, strict=True):
        shift = parted * np.clip(1 - across[:, [up]] ** 2, 0, 1)
        points[:, MOVES_WITH[up], 1] -= 0.3 * shift
        points[:, MOVES_WITH[low], 1] += 0.7 * shift
    return points.reshape(len(points), -1)


def draw_samples(people, count, rng):
    """Draw inputs and targets, (count, 40) float32 each: lips, and what their expression adds to rest.

    people: for each a pair (lips (N, 40), rest (40,)) of `person_samples`.
    """
    chosen = rng.integers(len(people), size=count)
    lips = np.stack([people[k][0][rng.integers(len(people[k][0]))] for k in chosen])
    rest = np.stack([people[k][1] for k in chosen])
    smiling = rng.random((count, 1)) < SMILING
    lips = np.where(smiling, draw_smile(lips, rng), lips)
    size = np.exp(rng.normal(0, SCALED, (count, 1)))  # another face
    offset = np.tile(rng.normal(0, MOVED, (count, 2)), NUM_LIPS)
    return np.float32(lips * size + offset), np.float32((lips - rest) * size)


def fit_rest_model(people, steps, seed=0) -> RestModel:
    """Train the constants of a RestModel on people, as of `draw_samples`."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    known, _ = draw_samples(people, 4096, rng)
    mean, scale = known.mean(axis=0), known.std(axis=0)
    network = keras.Sequential(
        [
            keras.Input((2 * NUM_LIPS,)),
            keras.layers.Dense(WIDTH, "relu"),
            keras.layers.Dense(WIDTH, "relu"),
            keras.layers.Dense(2 * NUM_LIPS),
        ]
    )
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    network.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-3), "mae")
    lips, target = draw_samples(people, steps * BATCH_SIZE, rng)
    network.fit((lips - mean) / scale, target / scale, BATCH_SIZE, epochs=1, verbose=0)
    *hidden, (weights, bias) = (layer.get_weights() for layer in network.layers)
    return RestModel(mean, scale, tuple(map(tuple, hidden)), (weights * scale, bias * scale))


def rest_error(model, people, rng, count=2000):
    """Measure how far the landmarks of the rest shape are from the true ones: the mean for talking and smiling lips.

    model: a RestModel; None: the lips as they are. people: as of `draw_samples`. Every person counts alike.
    """
    errors = []
    for smile in (False, True):
        lips, rest = (np.concatenate(parts) for parts in zip(*_drawn(people, count, rng), strict=True))
        lips = draw_smile(lips, rng) if smile else lips
        apart = (lips - (model.expression(lips) if model else 0) - rest).reshape(-1, NUM_LIPS, 2)
        errors.append(float(np.linalg.norm(apart, axis=-1).mean()))
    return errors


def _drawn(people, count, rng):
    share = -(-count // len(people))
    return [(lips[rng.integers(len(lips), size=share)], np.tile(rest, (share, 1))) for lips, rest in people]
