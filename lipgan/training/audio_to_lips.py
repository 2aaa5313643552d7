"""Training of `audio_to_lips`: speech features of many people's clips against the motion of their lips.

The lips of a frame are the person's rest shape plus this motion, in parts of the crop's side. Vectors are 50 a second.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from audio_hparams import hparams
from lipgan.faces.landmarks import NUM_LIPS, mean_opening
from lipgan.faces.rest_lips import closed_lips, upright_lips
from lipgan.models import speech
from lipgan.models.warp import AUDIO_TO_LIPS, LIPS_UNIT, MOTION, lip_members

STRIDE = 2  # feature vectors between two outputs: one output for a frame of 25 fps
OUTPUTS = 24  # consecutive outputs of a training sample: 0.96 s
SPAN = STRIDE * (OUTPUTS - 1) + 1  # feature vectors from the first output to the last
RIGHT_CORNER, LEFT_CORNER = 0, 6
# Rendered lips vary less than predicted ones, and the predicted width of strangers less than the true one.
OPENING_GAIN, WIDTH_GAIN = 1.2, 1.25


@dataclasses.dataclass(frozen=True)
class Voice:
    """One version (voice) of one clip to learn from."""

    speaker: str
    features: np.ndarray  # (T, 335) float16 or float32
    motion: np.ndarray  # (T, 40) float32: lips less the person's rest shape, at the features' times
    valid: np.ndarray  # (T,) bool: where there are landmarks
    closure: np.ndarray  # (T,) float32, 0 to 1: see `closure_weight`


@dataclasses.dataclass(frozen=True)
class LipMotionConfig:
    """Options of the training of `audio_to_lips`."""

    steps: int = 300
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    balance: float = 0.5  # a speaker with n clips weighs n ** (1 - balance)
    original: float = 0.25  # share of samples from the unchanged voice
    joined: float = 0.7  # share of samples made of two, so that what is around a sound is not learned by heart
    function_weight: float = 1.0  # of the errors of opening and width
    velocity_weight: float = 0.5
    deviation_weight: float = 1.0  # of the errors of how much a sample's opening and width vary
    closure_weight: float = 1.0
    opening_gain: float = OPENING_GAIN
    width_gain: float = WIDTH_GAIN
    seed: int = 0


def mouth_width(lips):
    """Measure the distance of the mouth's corners along x: (..., 40) -> (...)."""
    return lips[..., 2 * LEFT_CORNER] - lips[..., 2 * RIGHT_CORNER]


def closure_weight(closure_probability):
    """Mark where the lips are closed for /p b m/: (T,) -> (T,) float32, a bump of 70 ms (2 sigma) at each closure."""
    middles = speech.closure_vectors(closure_probability)
    distance = np.arange(len(closure_probability))[:, None] - middles[None]
    return np.exp(-0.5 * (distance / 1.7) ** 2).max(axis=1, initial=0).astype(np.float32)


def lip_loss(config):
    """Make the loss of a sample: L1 of points, opening and width, of velocities and deviations; open lips at closures.

    y_true: (B, OUTPUTS, 42): motion (40), valid, closure. y_pred: (B, members, OUTPUTS, 40).
    """

    def errors(difference):
        functions = ops.mean(ops.abs(mean_opening(difference))) + ops.mean(ops.abs(mouth_width(difference)))
        return ops.mean(ops.abs(difference)) + config.function_weight * functions

    def deviation(values, valid):  # (B, members, OUTPUTS) -> (B, members): without it, lips hardly move where unsure
        count = ops.sum(valid, axis=-1, keepdims=True) + 1e-3
        apart = valid * (values - ops.sum(valid * values, axis=-1, keepdims=True) / count)
        return ops.sqrt(ops.sum(ops.square(apart), axis=-1) / count[..., 0] + 1e-3)

    def loss(y_true, y_pred):
        y_true = y_true[:, None]
        truth, valid, closure = y_true[..., :40] / LIPS_UNIT, y_true[..., 40:41], y_true[..., 41]
        predicted = y_pred / LIPS_UNIT
        difference = (predicted - truth) * valid
        total = errors(difference)
        if config.velocity_weight:
            total += config.velocity_weight * errors(difference[..., 1:, :] - difference[..., :-1, :])
        if config.deviation_weight:
            for function in (mean_opening, mouth_width):
                own, true = (deviation(function(lips), valid[..., 0]) for lips in (predicted, truth))
                total += config.deviation_weight * ops.mean(ops.abs(own - true))
        if config.closure_weight:
            too_open = (
                ops.relu(mean_opening(predicted) - ops.maximum(mean_opening(truth), -0.3)) * closure * valid[..., 0]
            )
            total += config.closure_weight * ops.mean(too_open) / ops.maximum(ops.mean(closure * valid[..., 0]), 0.02)
        return total

    return loss


class LipMotionBatches(keras.utils.PyDataset):
    """Batches of feature sequences and lip motions, each a pure function of (seed, step)."""

    def __init__(self, clips, config, silence, mean, deviation):
        """Prepare to draw samples, each speaker with its weight.

        clips: for each clip a list of its voices (`Voice`), the unchanged one first. silence: (335,) features, those
        before and after a clip. mean, deviation: (335,), to standardise features.
        """
        super().__init__(workers=1)
        self.clips, self.config, self.silence, self.mean, self.deviation = clips, config, silence, mean, deviation
        speakers = [voices[0].speaker for voices in clips]
        counts = {speaker: speakers.count(speaker) for speaker in set(speakers)}
        weights = np.array([counts[speaker] ** -config.balance for speaker in speakers])
        self.probabilities = weights / weights.sum()

    def __len__(self):
        return self.config.steps

    def __getitem__(self, step):
        rng, size = np.random.default_rng((self.config.seed, step)), self.config.batch_size
        features = np.empty((size, SPAN + speech.WINDOW - 1, speech.FEATURES), np.float32)
        lips = np.zeros((size, OUTPUTS, 42), np.float32)
        for row in range(size):
            self._draw(rng, features[row], lips[row])
            if rng.random() < self.config.joined:
                self._join_another(rng, features[row], lips[row])
        return (features - self.mean) / self.deviation, lips

    def _draw(self, rng, features, lips):
        """Fill in one sample: features (SPAN + 22, 335) and lips (OUTPUTS, 42), which are zeros."""
        voices = self.clips[rng.choice(len(self.clips), p=self.probabilities)]
        voice = voices[0 if rng.random() < self.config.original else rng.integers(len(voices))]
        start = int(rng.integers(max(1, len(voice.motion) - SPAN + 1)))
        index = np.arange(start - speech.WINDOW // 2, start + SPAN + speech.WINDOW // 2)
        inside = (index >= 0) & (index < len(voice.features))
        near = voice.features[np.clip(index, 0, len(voice.features) - 1)]
        features[...] = np.where(inside[:, None], near, self.silence)
        outputs = np.arange(start, min(start + SPAN, len(voice.motion)), STRIDE)
        lips[: len(outputs), :40] = voice.motion[outputs]
        lips[: len(outputs), 40], lips[: len(outputs), 41] = voice.valid[outputs], voice.closure[outputs]

    def _join_another(self, rng, features, lips):
        """Replace a sample from some moment on by another one. No output near that moment is learned from."""
        other, other_lips = np.empty_like(features), np.zeros_like(lips)
        self._draw(rng, other, other_lips)
        moment = int(rng.integers(speech.WINDOW // 2, SPAN + speech.WINDOW // 2))
        output = -((speech.WINDOW // 2 - moment) // STRIDE)  # the first one of the other sample
        features[moment:], lips[output:] = other[moment:], other_lips[output:]
        lips[max(0, output - 1) : output + 1, 40] = 0


def fit_audio_to_lips(network, clips, config, silence, callbacks=()):
    """Train a network of `build_audio_to_lips` in place. clips, silence: see `LipMotionBatches`. Returns the losses.

    Its members learn side by side, from standardised features; in the end their mean and deviation are folded into the
    first layers, so that the network takes features as the speech encoder gives them.
    """
    known = np.concatenate([voices[0].features for voices in clips]).astype(np.float32)
    mean, deviation = known.mean(axis=0), known.std(axis=0) + 0.1
    schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay)
    members, features = lip_members(network), network.inputs[0]
    # A model of its own: the network itself would save its optimizer in every state.
    trainer = keras.Model(features, ops.stack([member(features) for member in members], axis=1))
    trainer.compile(optimizer=optimizer, loss=lip_loss(config))
    batches = LipMotionBatches(clips, config, silence, mean, deviation)
    history = trainer.fit(batches, epochs=1, shuffle=False, verbose=0, callbacks=callbacks).history["loss"]
    for first in (member.get_layer("conv0") for member in members):
        kernel, bias = first.get_weights()  # (5, 335, width), (width,)
        kernel = kernel / deviation[:, None]
        first.set_weights([kernel, bias - np.einsum("kfw,f->w", kernel, mean)])
    return history


def scale_motion(network, opening_gain, width_gain):
    """Multiply what the network says about opening and width, in place: folded into its last layers.

    Vertical motion of all points is scaled as the opening, horizontal motion as the width.
    """
    gains = np.tile(np.array([width_gain, opening_gain], np.float32), NUM_LIPS)
    for last in (member.get_layer(MOTION) for member in lip_members(network)):
        last.set_weights([weights * gains for weights in last.get_weights()])


def lip_motion(network, windows):
    """Predict the lip motion of frames: windows (N, 23, 335) -> (N, 40) float32."""
    return network.predict(windows, batch_size=256, verbose=0)[:, 0]


# The stage of a training run ------------------------------------------------------------------------------------------


def train_audio_to_lips(generator, dataset, val_set, config, callbacks=()):
    """Train a flagship generator's `audio_to_lips` on a FaceDataset with landmarks, speech and closures, in place.

    val_set: another FaceDataset, or None. Prints, and returns by clip, the correlation of mouth opening on it.
    """
    network = generator.get_layer(AUDIO_TO_LIPS)
    fit_audio_to_lips(network, clip_voices(dataset), config, speech.silence(), callbacks)
    scale_motion(network, config.opening_gain, config.width_gain)
    if val_set is None:
        return []
    scores = []
    for clip in range(len(val_set.clips)):
        frames = val_set.clips[clip].frame_ids
        windows = speech.feature_windows(val_set.speech_sequence(clip)[0].astype("float32"), frames, hparams.fps)
        lips = upright_lips(val_set.clip_landmarks(clip))
        scores.append(np.corrcoef(mean_opening(lip_motion(network, windows)), mean_opening(lips))[0, 1])
    print(f"audio_to_lips: correlation of mouth opening on val.txt {np.nanmean(scores):.3f}", flush=True)
    return scores


def clip_voices(dataset):
    """Make the Voices of all clips of a FaceDataset: for each clip a list, its own voice first."""
    lips, rests = [], {}
    for clip in range(len(dataset.clips)):
        lips.append(upright_lips(dataset.clip_landmarks(clip)))
        rests.setdefault(_speaker(dataset, clip), []).append(closed_lips(lips[-1]))
    rests = {speaker: np.median(shapes, axis=0) for speaker, shapes in rests.items()}
    voices = []
    for clip, clip_lips in enumerate(lips):
        speaker, frames = _speaker(dataset, clip), dataset.clips[clip].frame_ids
        versions = [dataset.speech_sequence(clip, version) for version in range(dataset.num_voices)]
        closure = closure_weight(speech.closure_probability(versions[0][0]))
        motion = clip_lips - rests[speaker]
        voices.append([_voice(speaker, frames, motion, closure, *version) for version in versions])
    return voices


def _voice(speaker, frames, motion, closure, features, speed):
    """Make a Voice: the motion (N, 40) of frames (N,) and the closures (T0,) at the times of its features (T, 335)."""
    own = np.arange(len(features)) * speed  # in vectors of the clip's own voice
    frame = own / speech.VECTORS_PER_SECOND * hparams.fps - 0.5
    at = np.stack([np.interp(frame, frames, column) for column in motion.T], axis=1).astype("float32")
    nearest = np.abs(frame[:, None] - frames[None]).min(axis=1)  # frames without a face are not learned from
    closure = np.interp(own, np.arange(len(closure)), closure).astype("float32")
    return Voice(speaker, features, at, nearest <= 1, closure)


def _speaker(dataset, clip):
    return dataset.clips[clip].folder.parent.name
