"""The flagship generator: its parts, the flow of the lips in NumPy and in the network, and sampling."""

import cv2
import keras
import numpy as np
import pytest

from lipgan.faces.landmarks import closing_matrices
from lipgan.models import lip_flow, speech, warp
from lipgan.models.checkpoint import load_generator, save_generator
from lipgan.utils.cli import UserError

pytestmark = pytest.mark.usefixtures("eager_steps")
WIDTH = 1 / 16
PIXELS = lip_flow.pixel_centres(96)


def lips(opening=0.03, width=0.26):
    """Lips (20, 2) float32 of a mouth at its usual place."""
    angles = np.arange(12) / 12 * 2 * np.pi + np.pi
    outer = np.stack([np.cos(angles) * width / 2, np.sin(angles) * (0.035 + opening / 2)], axis=1)
    angles = np.arange(8) / 8 * 2 * np.pi + np.pi
    inner = np.stack([np.cos(angles) * width / 2.4, np.sin(angles) * opening / 2], axis=1)
    return np.add(np.concatenate([outer, inner]), (0.5, 0.75)).astype("float32")


def inputs(size=2):
    rng = np.random.default_rng(0)
    faces = rng.random((size, 96, 96, 6), dtype="float32")
    features = rng.normal(size=(size, 23, 335)).astype("float32")
    shown, rest = lips(0.05).ravel(), lips(0.0).ravel()
    return [faces, features, np.tile(shown, (size, 1)), np.tile(rest, (size, 1))]


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.fixture(scope="module")
def generator():
    keras.utils.set_random_seed(0)
    network = warp.build_warp_generator(width=WIDTH)
    for member in warp.lip_members(network.get_layer(warp.AUDIO_TO_LIPS)):
        motion = member.get_layer(warp.MOTION)  # zero when untrained
        motion.set_weights([np.random.default_rng(1).normal(0, 0.1, w.shape) for w in motion.get_weights()])
    return network


def test_generator_is_audio_to_lips_then_renderer(generator):
    faces, features, shown, rest = given = inputs()
    motion = generator.get_layer(warp.AUDIO_TO_LIPS).predict_on_batch(features)[:, 0]
    face, _, _ = generator.get_layer(warp.RENDERER).predict_on_batch([faces, shown, rest + motion])
    result = generator.predict_on_batch(given)
    np.testing.assert_allclose(result, face, atol=1e-5)
    np.testing.assert_array_equal(result[:, :48], faces[:, :48, :, 3:])  # the upper half is the frame's own
    assert np.abs(motion).max() > 0.001


def test_maps_do_not_change_the_face(generator):
    given = inputs()
    network, ones = warp.with_maps(generator), np.ones((2, 1), "float32")
    face, moved, correction = network.predict_on_batch([*given, ones])
    np.testing.assert_allclose(face, generator.predict_on_batch(given), atol=1e-5)
    assert (moved.shape, correction.shape) == ((2, 40), (2, 48, 96, 2))
    further = network.predict_on_batch([*given, 1.5 * ones])[1]
    np.testing.assert_allclose(further - given[3], 1.5 * (moved - given[3]), atol=1e-6)


def test_openings_of_the_members_along_the_speech(generator):
    speech = np.random.default_rng(1).normal(size=(1, 29, 335)).astype("float32")
    openings = warp.member_openings(generator, 4).predict_on_batch(speech)
    motions = [member.predict_on_batch(speech) for member in warp.lip_members(generator.get_layer(warp.AUDIO_TO_LIPS))]
    gaps = closing_matrices()[0]
    np.testing.assert_allclose(openings[0].T, [(motion[0] @ gaps).mean(axis=1) for motion in motions], atol=1e-6)


def test_sequences_give_a_row_for_every_second_vector(generator):
    network, speech = generator.get_layer(warp.AUDIO_TO_LIPS), np.random.default_rng(0).normal(size=(1, 23 + 6, 335))
    speech = speech.astype("float32")
    whole = network.predict_on_batch(speech)
    assert whole.shape == (1, 4, 40)
    np.testing.assert_allclose(whole[:, 2], network.predict_on_batch(speech[:, 4:27])[:, 0], atol=1e-5)


def test_lips_meet_at_p_b_m_and_only_there():
    features, motion = np.zeros((1, 63, 335), "float32"), np.zeros((1, 21, 20, 2), "float32")
    features[0, 31 + warp.CLOSURE_LEAD, speech.CHANNELS + speech.CLOSURES["m"]] = 0.8  # of output 10
    features[0, 51 + warp.CLOSURE_LEAD, speech.CHANNELS + speech.CLOSURES["p"]] = 0.3  # hardly likely: 0.09
    motion[:, :, [9, 17, 18, 19], 1], motion[:, :, [3, 13, 14, 15], 1] = 0.03, -0.01
    closed = to_numpy(warp.Closures()([features, motion.reshape(1, 21, 40)])).reshape(21, 20, 2)
    gap = closed[:, 18, 1] - closed[:, 14, 1]
    assert gap.argmin() == 10 and abs(gap[10]) < 1e-6 and abs(closed[10, 18, 1] - 0.01) < 1e-6  # halfway
    assert (
        0.025 < gap[9] < 0.035
        and gap[11] == pytest.approx(gap[9])
        and (gap[[*range(7), *range(14, 21)]] > 0.0399).all()
    )
    np.testing.assert_allclose(closed[10, [3, 9], 1], [0.01, 0.01], atol=1e-6)  # the outer lips follow
    shut = -0.1 * motion.reshape(1, 21, 40)
    np.testing.assert_array_equal(to_numpy(warp.Closures()([features, shut])), shut)


def test_layers_equal_the_numpy_formulas():
    shown, target = lips(0.06).ravel()[None], lips(0.01, 0.22).ravel()[None]
    flow = to_numpy(warp.LipFlow(96)([shown, target]))[0]
    np.testing.assert_allclose(flow, lip_flow.lip_flow(shown[0], target[0], PIXELS[48:], PIXELS), atol=1e-5)
    for overlay, formula in ((False, lip_flow.inner_mouth), (True, lip_flow.overlay_mask)):
        mask = to_numpy(warp.InnerMouth(96, overlay=overlay)(target))[0, ..., 0]
        np.testing.assert_allclose(mask, formula(target[0], PIXELS, PIXELS), atol=1e-4)


def test_unmoved_lips_move_no_pixel():
    assert np.abs(lip_flow.lip_flow(lips(), lips(), PIXELS, PIXELS)).max() < 1e-6


def test_the_flow_passes_through_the_landmarks():
    """Where a corner of the mouth moves more than its neighbours, too."""
    shown, target = lips(0.02), lips(0.02, 0.22)
    corners = target[[0, 6]]
    flow = lip_flow.lip_flow(shown, target, corners[:1, 1], corners[:, 0])[0, :, 1]
    np.testing.assert_allclose(flow, (shown - target)[[0, 6], 0], rtol=0.12)


def test_closing_lips_move_lip_pixels_and_not_the_inside():
    shown, closed = lips(0.08), lips(0.0)
    flow = lip_flow.lip_flow(shown, closed, PIXELS, PIXELS)
    seam, column = round(0.75 * 96), 48
    above, below = PIXELS[seam - 2] + flow[seam - 2, column, 0], PIXELS[seam + 1] + flow[seam + 1, column, 0]
    assert above < 0.75 - 0.03 and below > 0.75 + 0.03  # the inside of the mouth lies between


def test_nothing_is_painted_where_lips_touch():
    assert lip_flow.overlay_mask(lips(0.0), PIXELS, PIXELS).max() < 0.02
    assert lip_flow.overlay_mask(lips(0.08), PIXELS, PIXELS).max() > 0.9


def test_cubic_sampling_equals_opencv():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.random((24, 32, 3), dtype="float32"), (0, 0), 2)[None]
    flow = rng.uniform(-3, 3, (1, 24, 32, 2)).astype("float32")
    y, x = np.mgrid[:24, :32].astype("float32")
    expected = cv2.remap(image[0], x + flow[0, ..., 1], y + flow[0, ..., 0], cv2.INTER_CUBIC)
    result = to_numpy(warp.warp_cubic(image, flow))[0]
    np.testing.assert_allclose(result[5:19, 5:27], expected[5:19, 5:27], atol=0.02)  # cv2: a = -3/4, 1/32 of a pixel


@pytest.mark.slow
def test_checkpoint_round_trip(generator, tmp_path):
    save_generator(tmp_path / "w.weights.h5", generator, {"width": WIDTH}, half=True)
    loaded, info = load_generator(tmp_path / "w.weights.h5")
    assert info["model"] == "warp"
    np.testing.assert_allclose(loaded.predict_on_batch(inputs()), generator.predict_on_batch(inputs()), atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["warp", "warp_tdnn"])
def test_checkpoints_of_earlier_kinds_are_refused_in_one_line(tmp_path, generator, kind):
    path = tmp_path / "w.weights.h5"
    save_generator(path, generator, {"width": WIDTH, "model": kind})
    if kind == "warp":  # as it was: other arrays
        keras.Model(inp := keras.Input((80,)), keras.layers.Dense(3)(inp)).save_weights(path, overwrite=True)
    with pytest.raises(UserError, match="earlier version") as error:
        load_generator(path)
    assert "\n" not in str(error.value)
