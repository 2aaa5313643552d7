"""How far the sound and the lips of a clip are apart, as a trained discriminator sees it."""

import typing

import keras
import numpy as np

from discriminator import embeddings
from lipgan.evaluation.scoring import predicted, windows

MAX_LAG = 15  # frames to either side in which the best agreement is looked for
MAX_FACES = 150  # of a clip that are looked at
MIN_PAIRS = 5  # of face and sound, without which nothing is said of a lag


class Offset(typing.NamedTuple):
    """Where a clip's lips and sound agree best."""

    lag: int  # frames by which the sound is late (negative: early)
    confidence: float  # how far the distance there lies under the median over all lags; near 0 where all are alike
    distance: float  # there: 0 is in sync, at most 2


def joint_embedding(discriminator):
    """[face, mel] -> both embeddings one after the other, (batch, 2 n): what `clip_offset` takes."""
    both = embeddings(discriminator)
    return keras.Model(both.inputs, keras.layers.Concatenate(dtype="float32")(both.outputs))


def clip_offset(dataset, number, joint, batch_size=64):
    """The Offset of a clip of a `dataset.FaceDataset`, or None where it is too short.

    joint: from `joint_embedding`. The distance at a lag is the mean, over the clip's faces, of that between the face
    and the sound so many frames later.
    """
    clip = dataset.clips[number]
    skipped = max(0, len(clip.targets) - MAX_FACES) // 2
    faces = clip.targets[skipped : skipped + MAX_FACES].astype(int)
    frames = range(max(faces[0] - MAX_LAG, clip.inside.start), min(faces[-1] + MAX_LAG + 1, clip.inside.stop))
    # Both networks run at once: frames without a face get a black one, which is not looked at.
    crops = np.zeros((len(frames), dataset.img_size, dataset.img_size, 3), "float32")
    for frame in faces:
        crops[frame - frames.start] = dataset.read_crop(number, int(frame)).astype("float32") / 255
    seen, heard = np.split(predicted(joint, batch_size, crops, windows(dataset, number, frames)), 2, axis=1)
    lags, distances = np.arange(-MAX_LAG, MAX_LAG + 1), []
    for lag in lags:
        paired = faces[(faces + lag >= frames.start) & (faces + lag < frames.stop)] - frames.start
        apart = np.linalg.norm(seen[paired] - heard[paired + lag], axis=1)
        distances.append(apart.mean() if len(paired) >= MIN_PAIRS else np.nan)
    if np.isnan(distances).all():
        return None
    best = int(np.nanargmin(distances))
    return Offset(int(lags[best]), float(np.nanmedian(distances) - distances[best]), float(distances[best]))
