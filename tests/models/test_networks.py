"""The networks: their sizes, their outputs, their kinds of numbers."""

import keras
import numpy as np
import pytest

from discriminator import SampleNormalization, UnitLength, build_discriminator, embeddings
from generator import FUSION, IMG_SIZES, build_generator, scaled
from lipgan.utils.cli import UserError

WIDTH = 1 / 8


def inputs(img_size, channels, batch=2):
    rng = np.random.default_rng(0)
    face = rng.random((batch, img_size, img_size, channels), dtype="float32")
    return [face, rng.uniform(-4, 4, (batch, 80, 27, 1)).astype("float32")]


def output(model, channels):
    return keras.ops.convert_to_numpy(model(inputs(model.input_shape[0][1], channels)))


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.mark.slow
def test_parameter_counts_equal_the_papers():
    assert build_generator("basic").count_params() == 21_482_387
    assert build_discriminator().count_params() == 8_240_022
    assert build_generator("residual").count_params() == 49_573_971


@pytest.mark.parametrize("build", [build_generator, build_discriminator])
def test_inputs_are_named_face_and_mel_in_this_order(build):
    model = build(width=WIDTH)
    assert [i.name for i in model.inputs] == ["face", "mel"]
    assert model.input_shape == [(None, 96, 96, 6 if build is build_generator else 3), (None, 80, 27, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("img_size", [IMG_SIZES[0], 128, IMG_SIZES[-1]])
def test_output_shapes_of_every_img_size(img_size):
    face = output(build_generator("basic", img_size, WIDTH), 6)
    assert face.shape == (2, img_size, img_size, 3)
    assert face.min() >= 0 and face.max() <= 1
    assert output(build_discriminator(img_size, WIDTH), 3).shape == (2, 1)


@pytest.mark.slow
def test_residual_generator_at_another_img_size():
    assert output(build_generator("residual", 160, WIDTH), 6).shape == (2, 160, 160, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_outputs_are_float32_under_every_policy(name, policy):
    policy(name)
    generator, discriminator = build_generator("basic", width=WIDTH), build_discriminator(width=WIDTH)
    assert generator.get_layer("face_to_vector").compute_dtype == name.removeprefix("mixed_")
    assert output(generator, 6).dtype == np.float32
    assert output(discriminator, 3).dtype == np.float32
    assert {keras.backend.standardize_dtype(o.dtype) for o in embeddings(discriminator).outputs} == {"float32"}


def test_filter_counts_are_multiples_of_8_and_at_least_8():
    assert [scaled(512, w) for w in (1, 0.5, 0.33, 0.001)] == [512, 256, 168, 8]
    assert [scaled(16, w) for w in (1, 0.5, 0.75, 1.5)] == [16, 8, 16, 24]  # halves go up


def test_distance_is_that_of_unit_length_embeddings():
    discriminator = build_discriminator(width=WIDTH)
    shared = embeddings(discriminator)
    assert {id(w) for w in shared.weights} == {id(w) for w in discriminator.weights}
    face, audio = (keras.ops.convert_to_numpy(e) for e in shared(inputs(96, 3)))
    np.testing.assert_allclose(np.linalg.norm([face, audio], axis=2), 1, atol=1e-5)
    expected = np.sqrt(np.sum((face - audio) ** 2, axis=1, keepdims=True) + 1e-12)
    np.testing.assert_allclose(output(discriminator, 3), expected, atol=1e-5)


def test_sample_normalization_uses_one_gain_and_one_bias_for_all_of_a_sample():
    layer = SampleNormalization()
    x = np.random.default_rng(0).normal(3, 5, (2, 4, 5, 6)).astype("float32")
    layer.build(x.shape)
    layer.set_weights([np.float32([2]), np.float32([0.5])])
    mean, std = x.mean((1, 2, 3), keepdims=True), x.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)), 2 * (x - mean) / (std + 1e-3) + 0.5, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses TensorFlow's tape")
@pytest.mark.parametrize(("layer", "shape"), [(SampleNormalization(), (2, 3, 3, 8)), (UnitLength(), (2, 8))])
def test_gradients_are_finite_for_a_black_face(layer, shape):
    import tensorflow as tf

    @tf.function(jit_compile=True)  # without it TensorFlow takes 0 for the gradient of a root at 0; JAX never does
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(layer(x) * tf.range(8.0))
        return tape.gradient(total, x)

    assert np.isfinite(gradient(tf.zeros(shape)).numpy()).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "unet"}, "--model unet"),
        ({"img_size": 100}, "--img_size 100"),
        ({"img_size": 64}, "96, 128, 160, 192, 224, 256"),
        ({"width": 0}, "--width 0"),
        ({"width": float("nan")}, "--width nan"),
    ],
)
def test_invalid_arguments_are_refused_with_the_option_to_change(arguments, message):
    with pytest.raises(UserError, match=message):
        build_generator(**arguments)


@pytest.mark.parametrize("kind", [pytest.param("residual", marks=pytest.mark.slow), "basic"])
def test_face_and_audio_are_fused_in_one_layer(kind):
    generator = build_generator(kind, width=WIDTH)
    embeddings = keras.Model(generator.inputs, generator.get_layer(FUSION).input)
    a, b = inputs(96, 6), inputs(96, 6)
    b[1] = -b[1]
    (face, audio), (same_face, other_audio) = (map(keras.ops.convert_to_numpy, embeddings(pair)) for pair in (a, b))
    np.testing.assert_array_equal(face, same_face)
    assert not np.array_equal(audio, other_audio)


def test_synchronized_applies_to_batch_norm():
    norms = [layer for layer in build_generator("basic", width=WIDTH, synchronized=True).layers if "norm" in layer.name]
    assert norms and all(n.synchronized == (keras.backend.backend() == "tensorflow") for n in norms)
