"""Training of audio_to_lips: its batches, its closures, and the gain of its motion."""

import dataclasses
import itertools

import numpy as np
import pytest

from lipgan.faces.landmarks import mean_opening
from lipgan.models import speech

audio_to_lips = pytest.importorskip("lipgan.training.audio_to_lips")
warp = pytest.importorskip("lipgan.models.warp")

CONFIG = audio_to_lips.LipMotionConfig(steps=3, batch_size=4)


def voice(seconds=2.0, seed=0):
    """A recording of random features and lips."""
    rng, count = np.random.default_rng(seed), round(seconds * speech.VECTORS_PER_SECOND)
    features = rng.normal(size=(count, speech.FEATURES)).astype("float32")
    motion = rng.normal(0, 0.02, (count, 40)).astype("float32")
    return audio_to_lips.Voice("speaker", features, motion, np.ones(count, bool), np.zeros(count, "float32"))


def batches(config, voices=1):
    clips = [[voice(seed=10 * clip + version) for version in range(voices)] for clip in range(3)]
    silence, ones = np.zeros(speech.FEATURES, "float32"), np.ones(speech.FEATURES, "float32")
    return audio_to_lips.LipMotionBatches(clips, config, silence, silence, ones)


def test_a_batch_is_a_pure_function_of_seed_and_step():
    first, again = batches(CONFIG), batches(CONFIG)
    for one, other in zip(first[1], again[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0][0], first[1][0])
    assert not np.array_equal(first[1][0], batches(dataclasses.replace(CONFIG, seed=1))[1][0])


def place(row, clips):
    """The clip and moment that a row of features is from."""
    matches = [(clip, t) for clip, own in enumerate(clips) for t in np.flatnonzero((own.features == row).all(axis=1))]
    return matches[0] if matches else None


def test_joined_samples_have_no_loss_at_their_joint():
    apart, joined = (batches(dataclasses.replace(CONFIG, joined=share))[0] for share in (0.0, 1.0))
    assert (apart[1][..., 40] == 1).all()
    clips, num_jumps = [voice(seed=10 * clip) for clip in range(3)], 0
    for features, lips in zip(*joined, strict=True):
        places = [place(row, clips) for row in features]
        for output in np.flatnonzero(lips[:, 40]):
            clip, moment = places[output * 2 + speech.WINDOW // 2]
            np.testing.assert_array_equal(lips[output, :40], clips[clip].motion[moment])
        known = [p for p in places if p]
        jumps = sum((b[0], b[1] - 1) != a for a, b in itertools.pairwise(known))
        assert jumps <= 1 and (lips[:, 40] == 0).sum() <= 2
        num_jumps += jumps
    assert num_jumps >= 3


def test_loss_of_deviation_is_of_how_much_lips_move_not_of_when():
    motion = np.repeat(voice().motion[None, :24], 2, axis=0)
    truth = np.concatenate([motion, np.ones((2, 24, 1)), np.zeros((2, 24, 1))], axis=-1).astype("float32")
    truth[1, 20:, 40] = 0  # frames without a face

    def added(predicted):
        on, off = (dataclasses.replace(CONFIG, deviation_weight=weight) for weight in (1.0, 0.0))
        on, off = (audio_to_lips.lip_loss(config)(truth, predicted[:, None].astype("float32")) for config in (on, off))
        return float(on) - float(off)

    deviation = sum(
        np.mean([measure(motion[0])[:count].std() for count in (24, 20)]) / warp.LIPS_UNIT
        for measure in (mean_opening, audio_to_lips.mouth_width)
    )
    assert added(motion) == pytest.approx(0, abs=1e-5) and added(-motion) == pytest.approx(0, abs=1e-5)
    assert added(0 * motion) == pytest.approx(deviation, rel=0.05)
    assert added(1.5 * motion) == pytest.approx(deviation / 2, rel=0.05)


def test_noise_is_only_added_in_training():
    noise, features = warp.FeatureNoise(1.5), np.zeros((8, 50, 40), "float32")
    np.testing.assert_array_equal(noise(features, training=False), features)
    noisy = np.asarray(noise(features, training=True))
    assert 1.4 < noisy.std() < 1.8
    assert 0.3 < noisy.mean(axis=1).std() < 0.8  # a part of it is the same all the time
    np.testing.assert_array_equal(warp.FeatureNoise(0.0)(features, training=True), features)


@pytest.mark.slow
def test_gain_multiplies_motion_down_and_across():
    network = warp.build_audio_to_lips()
    for last in (member.get_layer(warp.MOTION) for member in warp.lip_members(network)):
        last.set_weights([np.random.default_rng(0).normal(size=weights.shape) for weights in last.get_weights()])
    windows = np.random.default_rng(1).normal(size=(2, speech.WINDOW, speech.FEATURES)).astype("float32")
    before = audio_to_lips.lip_motion(network, windows)
    audio_to_lips.scale_motion(network, opening_gain=1.5, width_gain=0.5)
    after = audio_to_lips.lip_motion(network, windows)
    np.testing.assert_allclose(mean_opening(after), 1.5 * mean_opening(before), rtol=1e-4)
    np.testing.assert_allclose(audio_to_lips.mouth_width(after), 0.5 * audio_to_lips.mouth_width(before), rtol=1e-4)


def test_closures_weigh_most_before_the_phoneme_is_recognised():
    probability = np.zeros(60, "float32")
    probability[30] = 0.9
    weight = audio_to_lips.closure_weight(probability)
    assert weight.argmax() == 30 - speech.CLOSURE_DELAY and weight.max() == 1 and weight[:15].max() < 1e-3
    assert not audio_to_lips.closure_weight(np.full(60, 0.2, "float32")).any()
