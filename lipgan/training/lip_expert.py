"""The mouth expert: a small network from a face crop to the lips' landmarks, and the losses built on it.

With the plain L1 loss a generator paints an average mouth for a long time: lips are a few per cent of the image. Two
more losses make it use the audio: the L1 error of the mouth region, and the distance between the lip landmarks that a
frozen expert finds in the generated crop and in the true one. (Wav2Lip, Prajwal et al. 2020, freezes a judge
of sync for the same reason.)
"""

import collections
import math

import cv2
import keras
import numpy as np
from keras import layers

from generator import FUSION
from lipgan.data.augment import draw_deformation
from lipgan.data.lip_landmarks import LipLandmarks
from lipgan.faces.landmarks import NUM_LIPS, opening
from lipgan.models.warp import LIPS_UNIT, float32
from lipgan.training.callbacks import KeepFreedMemory
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_write

NUM_CROPS = 8_000  # crops with dlib's landmarks that the expert learns from
BATCH_SIZE = 64
STEPS = 2_000
EXPERT = "mouth_expert"  # the network's name
INPUT_ROWS = 24  # to which the expert's lower half is averaged: at full size single pixels could fool it


def build_expert(img_size: int) -> keras.Model:
    """Build the network from a crop (img_size, img_size, 3) BGR in [0, 1] to its lips, (40,): x and y of 20 points.

    The points are dlib's 48 to 67, in parts of the crop's side.
    """
    crop = keras.Input((img_size, img_size, 3), name="crop", **float32)
    x = layers.Cropping2D(((img_size // 2, 0), (0, 0)), **float32)(crop)  # (48, 96, 3)
    x = layers.AveragePooling2D(img_size // 2 // INPUT_ROWS, **float32)(x)  # (24, 48, 3)
    for filters, strides in ((32, 1), (32, 2), (64, 2), (128, 2)):  # (3, 6, 128) at last
        x = layers.Conv2D(filters, 3, strides, "same", **float32)(x)
        x = layers.BatchNormalization(momentum=0.9, **float32)(x)
        x = layers.ReLU(**float32)(x)
    x = layers.Dense(128, activation="relu", **float32)(layers.Flatten(**float32)(x))
    return keras.Model(crop, layers.Dense(2 * NUM_LIPS, name="points", **float32)(x), name=EXPERT)


def prepare_expert(dataset, path, seed=0):
    """Load the expert of this data from `path`, or train it (minutes) and save it there.

    dataset: a `dataset.FaceDataset`. Raises UserError if the expert fails on the mouths of held-out clips.
    """
    expert = build_expert(dataset.img_size)
    if path.exists():
        expert.load_weights(path)
        return expert
    rng = np.random.default_rng(seed)
    print(f"training the mouth expert, once for this data: {path}", flush=True)
    clips = rng.permutation(len(dataset.clips))
    held_out = set(clips[: max(1, len(clips) // 10)].tolist()) if len(clips) > 1 else set()
    crops, lips, shown = _labelled(dataset, clips, rng, held_out)
    mean, deviation = lips[shown].mean(0), lips[shown].std(0) + 1e-6
    expert.compile(optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, STEPS)), loss="mae")
    batches = _Augmented(crops[shown], lips[shown], (mean, deviation), seed)
    expert.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=[KeepFreedMemory()])
    last = expert.get_layer("points")  # it learned standardised points
    last.set_weights([last.get_weights()[0] * deviation, last.get_weights()[1] * deviation + mean])
    rest = ~shown if held_out else shown
    predicted = expert.predict(crops[rest].astype("float32") / 255, batch_size=BATCH_SIZE, verbose=0)
    pair = [opening(points.reshape(-1, 20, 2)) for points in (predicted, lips[rest])]
    agreement = np.corrcoef(*pair)[0, 1]
    print(f"mouth expert: correlation of mouth opening with dlib's on clips held out: {agreement:.3f}", flush=True)
    if not agreement > 0.5:
        raise UserError(
            f"the mouth expert cannot read the mouths in these crops (correlation {agreement:.2f}); "
            "look at the crops, or train with --landmark_weight 0"
        )
    with atomic_write(path) as temporary:
        expert.save_weights(temporary, overwrite=True)
    return expert


def _labelled(dataset, clips, rng, held_out):
    """Sample crops of all clips: (N, S, S, 3) uint8, their lips (N, 40), and whether they are for training (N,).

    A speaker (the folder of the clip) is weighted by the square root of their number of clips: rare lip shapes count
    more.
    """
    landmarks, crops, lips, shown = None if dataset.has_landmarks else LipLandmarks(), [], [], []
    speakers = [dataset.clips[clip].folder.parent for clip in clips]
    clips_of = collections.Counter(speakers)
    weights = np.array([clips_of[speaker] ** -0.5 for speaker in speakers])
    for clip, share in zip(clips, weights / weights.sum(), strict=True):
        frames = dataset.clips[clip].frame_ids
        for frame in rng.choice(frames, min(math.ceil(NUM_CROPS * share), len(frames)), replace=False):
            crop = dataset.read_crop(int(clip), int(frame))
            crops.append(crop)
            lips.append(landmarks(crop).ravel() if landmarks else dataset.lips(int(clip), int(frame)))
            shown.append(int(clip) not in held_out)
    return np.stack(crops), np.stack(lips), np.array(shown)


def pretrain_audio_encoder(generator, dataset, val_set, steps, seed=0):
    """Pre-train the generator's audio encoder, in place, to predict lip landmarks from audio alone.

    Targets are dlib's lip landmarks minus the mean of their clip, since audio does not tell what a face looks like.
    dataset, val_set: `dataset.FaceDataset`s with lips (val_set may be None). Prints the correlation of mouth opening on
    the clips of val_set, and returns it by clip. Trained on face and audio at once, a network ignores the audio for
    long.
    """
    embedding = layers.Flatten()(generator.get_layer(FUSION).input[1])
    motion = layers.Dense(2 * NUM_LIPS, dtype="float32")(embedding)
    predictor = keras.Model(generator.inputs[1], motion)
    predictor.compile(optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, steps)), loss="mae")
    batches = _AudioAndLips(dataset, _lips_of_clips(dataset), steps, seed)
    predictor.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=[KeepFreedMemory()])
    if val_set is None:
        return []
    scores = []
    for number, truth in enumerate(_lips_of_clips(val_set)):
        frames = [int(frame) for frame in val_set.clips[number].targets]
        mels = np.stack([val_set.mel_window(number, frame) for frame in frames])[..., None]
        predicted = predictor.predict(mels, batch_size=BATCH_SIZE, verbose=0)
        pair = [opening(np.reshape(points, (-1, 20, 2))) for points in (predicted, [truth[frame] for frame in frames])]
        scores.append(np.corrcoef(*pair)[0, 1])
    print(f"audio encoder alone: correlation of mouth opening on val.txt {np.nanmean(scores):.3f}", flush=True)
    return scores


def _lips_of_clips(dataset):
    """Return for each clip {frame: lips (40,) float32 minus the clip's mean, in LIPS_UNIT}."""
    lips = []
    for number, clip in enumerate(dataset.clips):
        points = np.stack([dataset.lips(number, int(frame)) for frame in clip.frame_ids])
        lips.append(dict(zip(clip.frame_ids.tolist(), (points - points.mean(0)) / LIPS_UNIT, strict=True)))
    return lips


class _AudioAndLips(keras.utils.PyDataset):
    """Batches of audio and the lips that go with them."""

    def __init__(self, dataset, lips, steps, seed):
        super().__init__(workers=1)
        self.dataset, self.lips, self.steps, self.seed = dataset, lips, steps, seed

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        clips, frames, mels = self.dataset.mel_batch((self.seed, 0, index), BATCH_SIZE)
        return mels, np.stack(
            [self.lips[clip][frame] for clip, frame in zip(clips.tolist(), frames.tolist(), strict=True)]
        )


class _Augmented(keras.utils.PyDataset):
    """Crops deformed, with colours, sharpness and noise changed (generated crops are softer), and standardised lips."""

    def __init__(self, crops, lips, standard, seed):
        super().__init__(workers=1)
        self.crops, self.lips, (self.mean, self.deviation), self.seed = crops, lips, standard, seed

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, index))
        picks = rng.integers(len(self.crops), size=BATCH_SIZE)
        batch, size = np.zeros((BATCH_SIZE, *self.crops.shape[1:]), "float32"), self.crops.shape[1]
        lower = batch[:, size // 2 :]  # all that the expert looks at
        lips = np.empty((BATCH_SIZE, 2 * NUM_LIPS))
        for row, pick in enumerate(picks):
            blur, deformation = int(rng.integers(1, 6)), draw_deformation(size, rng)
            lower[row] = cv2.blur(deformation.apply(self.crops[pick])[size // 2 :], (blur, blur))
            lips[row] = deformation.landmarks(self.lips[pick], size)
        lower *= rng.uniform(0.7, 1.3, (BATCH_SIZE, 1, 1, 3)).astype("float32") / 255
        lower += rng.uniform(-0.1, 0.1, (BATCH_SIZE, 1, 1, 3)).astype("float32")
        lower += 0.03 * rng.standard_normal(lower.shape, "float32")
        return batch, ((lips - self.mean) / self.deviation).astype("float32")
