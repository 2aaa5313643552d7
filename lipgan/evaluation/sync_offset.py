"""Estimate how far the audio and the lips of a clip are apart: by a listener, or by a trained discriminator."""

import typing

import numpy as np

from audio_hparams import hparams
from lipgan.evaluation import metrics
from lipgan.faces.detector import LipLandmarks
from lipgan.faces.landmarks import NUM_LIPS, opening
from lipgan.media.audio import load_wav
from lipgan.utils.cli import UserError

MAX_LAG = 15  # frames to either side in which the best agreement is searched
AUDIO_TO_LIPS = "audio_to_lips"  # the layer of a flagship generator
LISTENER_BATCH = 64  # frames
MAX_FACES = 150  # of a clip that a discriminator sees
MIN_PAIRS = 5  # of face and audio that a discriminator must see at a lag
MIN_FRAMES = 25  # that a listener's curve and the true one must have in common at a lag


class Offset(typing.NamedTuple):
    """Where the lips and the audio of a clip agree best."""

    lag: float  # frames by which the audio is late (negative: early)
    confidence: float  # how far the agreement there stands out from the median over all lags; near 0: not at all
    agreement: float  # there: a correlation (listener), or minus the distance, from -2 to 0 (discriminator)


def listener_offset(expected, true_opening):
    """Estimate the Offset of a clip from the mouth opening that its audio asks for; None where it is too short.

    expected: curve of the opening to expect from the audio, frame by frame. true_opening: the true curve, nan where
    there is no face. A correlation counts by the share of the clip that is left at its lag, as few frames agree by
    chance. The lag is refined to fractions of a frame by a parabola through the three best.
    """
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    left = np.array([_common_frames(expected, true_opening, int(lag)) for lag in lags])
    agreement = np.array([metrics.correlation(expected, true_opening, int(lag)) for lag in lags]) * left / left.max()
    agreement[left < MIN_FRAMES] = np.nan
    if np.isnan(agreement).all():
        return None
    best = int(np.nanargmax(agreement))
    lag = float(lags[best])
    if 0 < best < len(lags) - 1:
        before, peak, after = agreement[best - 1 : best + 2]
        if (bend := before - 2 * peak + after) < 0:  # also false for nan
            lag += float(0.5 * (before - after) / bend)
    return Offset(lag, float(agreement[best] - np.nanmedian(agreement)), float(agreement[best]))


def _common_frames(expected, true_opening, lag):
    """Count the frames t at which true_opening(t) and expected(t + lag) are known; 1 at least."""
    inside = true_opening[max(0, -lag) : max(0, len(expected) - lag)]
    return max(1, np.count_nonzero(~np.isnan(inside)))


def load_listener(checkpoint_path):
    """Load the part of a flagship generator that predicts lips from speech, as a listener. Raises UserError.

    Returns a function of 16 kHz audio (N,) that gives the mouth opening to expect beyond that at rest, one value per
    frame at hparams.fps.
    """
    from lipgan.evaluation.scoring import predict_batches
    from lipgan.models import speech
    from lipgan.models.checkpoint import load_generator

    generator, info = load_generator(checkpoint_path)
    network = next((layer for layer in generator.layers if layer.name == AUDIO_TO_LIPS), None)
    if network is None:
        raise UserError(f"{checkpoint_path} does not predict lips from speech; give a generator of --model warp")

    def listener(wav):
        frames = np.arange(round(len(wav) / hparams.sample_rate * hparams.fps))
        windows = speech.feature_windows(speech.encode(wav), frames, hparams.fps, info["sync_offset_ms"])
        motion = predict_batches(network, LISTENER_BATCH, windows).reshape(-1, NUM_LIPS, 2)
        return opening(motion)

    return listener


class ListenerEstimator:
    """Estimates the Offset of a clip of a FaceDataset, called with the dataset and the number of the clip.

    listener: function of 16 kHz audio (N,) that gives the mouth opening to expect, one value per frame at hparams.fps.
    """

    def __init__(self, listener):
        self._listener, self._landmarks = listener, LipLandmarks()

    def __call__(self, dataset, number):
        clip = dataset.clips[number]
        path = clip.folder / "audio.wav"
        if not path.is_file():
            return None
        points = np.stack([self._landmarks.face(dataset.read_crop(number, int(frame))) for frame in clip.frame_ids])
        true_opening = metrics.on_time_axis(metrics.mouth_opening(points), clip.frame_ids)
        return listener_offset(self._listener(load_wav(path)), true_opening)


def joint_embedding(discriminator):
    """Join both embeddings of a discriminator to one keras.Model: [face, mel] -> (batch, 2 n), for `clip_offset`."""
    import keras

    from discriminator import embeddings

    both = embeddings(discriminator)
    return keras.Model(both.inputs, keras.layers.Concatenate(dtype="float32")(both.outputs))


def clip_offset(dataset, number, joint, batch_size=64):
    """Estimate the Offset of a clip of a FaceDataset by a discriminator; None where it is too short.

    joint: from `joint_embedding`. The distance at a lag is the mean, over the clip's faces, of that between the face
    and the audio so many frames later.
    """
    from lipgan.evaluation.scoring import mel_windows, predict_batches

    clip = dataset.clips[number]
    skipped = max(0, len(clip.targets) - MAX_FACES) // 2
    faces = clip.targets[skipped : skipped + MAX_FACES].astype(int)
    frames = range(max(faces[0] - MAX_LAG, clip.inside.start), min(faces[-1] + MAX_LAG + 1, clip.inside.stop))
    # Both networks run at once, so frames without a face get a black one, whose embedding is not used.
    crops = np.zeros((len(frames), dataset.img_size, dataset.img_size, 3), "float32")
    for frame in faces:
        crops[frame - frames.start] = dataset.read_crop(number, int(frame)).astype("float32") / 255
    mels = mel_windows(dataset, number, frames)
    face_vectors, audio_vectors = np.split(predict_batches(joint, batch_size, crops, mels), 2, axis=1)
    lags, distances = np.arange(-MAX_LAG, MAX_LAG + 1), []
    for lag in lags:
        paired = faces[(faces + lag >= frames.start) & (faces + lag < frames.stop)] - frames.start
        apart = np.linalg.norm(face_vectors[paired] - audio_vectors[paired + lag], axis=1)
        distances.append(apart.mean() if len(paired) >= MIN_PAIRS else np.nan)
    if np.isnan(distances).all():
        return None
    best = int(np.nanargmin(distances))
    return Offset(float(lags[best]), float(np.nanmedian(distances) - distances[best]), -float(distances[best]))
