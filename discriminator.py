"""The LipGAN discriminator (K R et al., ACM MM 2019): the distance between a face and 337.5 ms of audio."""

import functools

import keras
from keras import layers, ops

from audio_hparams import hparams
from generator import check_size, scaled


class SampleNormalization(layers.Layer):
    """Normalise each sample over height, width and channels: gain * (x - mean) / (std + 1e-3) + bias.

    gain and bias are scalars. Per-channel normalisation would set a 1x1 map to zero. Statistics are float32 under every
    dtype policy.
    """

    def build(self, input_shape):
        self.gain = self.add_weight(shape=(1,), initializer="ones", name="gain")
        self.bias = self.add_weight(shape=(1,), initializer="zeros", name="bias")

    def call(self, x):
        precise = ops.cast(x, "float32")
        centred = precise - ops.mean(precise, axis=(1, 2, 3), keepdims=True)
        variance = ops.mean(ops.square(centred), axis=(1, 2, 3), keepdims=True)
        std = ops.sqrt(ops.maximum(variance, 1e-12))  # the square root has no finite gradient at 0 (a black face)
        gain, bias = ops.cast(self.gain, "float32"), ops.cast(self.bias, "float32")
        return ops.cast(gain * centred / (std + 1e-3) + bias, x.dtype)


class UnitLength(layers.Layer):
    """Scale each embedding to length 1: (batch, n) -> (batch, n). Zeros stay zeros and have a finite gradient."""

    def call(self, x):
        return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=1, keepdims=True), 1e-12))


class Distance(layers.Layer):
    """Compute d = sqrt(|f - a|^2 + 1e-12) of two batches of embeddings: (batch, n), (batch, n) -> (batch, 1)."""

    def call(self, embeddings):
        face, audio = embeddings
        return ops.sqrt(ops.sum(ops.square(face - audio), axis=1, keepdims=True) + 1e-12)


def _dconv(x, filters, kernel=3, strides=1, padding="same", *, width, dtype=None):
    # One layer per operation, as in the generator: legacy files store their weights in that order.
    x = layers.Conv2D(scaled(filters, width), kernel, strides, padding, dtype=dtype)(x)
    return layers.LeakyReLU(0.2, dtype=dtype)(SampleNormalization(dtype=dtype)(x))


def build_discriminator(img_size: int = 96, width: float = 1.0) -> keras.Model:
    """Build the untrained network [face, mel] -> distance. Shapes in the comments are those of img_size 96 and width 1.

    Inputs: "face" (img_size, img_size, 3) BGR in [0, 1], "mel" (80, 27, 1) in [-4, 4].
    Output: (1,), from 0 (in sync) to 2. Embeddings and distance are float32 under every dtype policy.
    """
    check_size(img_size, width)
    dconv = functools.partial(_dconv, width=width)

    face = keras.Input((img_size, img_size, 3), name="face")
    x = dconv(face, 64, 7, 2)  # (48, 48, 64)
    x = dconv(x, 128, 5, 2)  # (24, 24, 128)
    x = dconv(x, 256, 3, 2)  # (12, 12, 256)
    x = dconv(x, 512, 3, 2)  # (6, 6, 512)
    x = dconv(x, 512, 3, 2)  # (3, 3, 512)
    x = layers.Conv2D(scaled(512, width), img_size // 32, dtype="float32", name="face_to_vector")(x)  # (1, 1, 512)
    face_embedding = _unit(x, "face_embedding")  # (512,)

    mel = keras.Input((hparams.num_mels, hparams.mel_window, 1), name="mel")
    x = dconv(mel, 32)  # (80, 27, 32)
    x = dconv(x, 64, strides=3)  # (27, 9, 64)
    x = dconv(x, 128, strides=(3, 1))  # (9, 9, 128)
    x = dconv(x, 256, strides=3)  # (3, 3, 256)
    x = dconv(x, 512, padding="valid")  # (1, 1, 512)
    x = dconv(x, 512, 1, dtype="float32")  # (1, 1, 512)
    audio_embedding = _unit(x, "audio_embedding")  # (512,)

    distance = Distance(dtype="float32", name="distance")([face_embedding, audio_embedding])  # (1,)
    return keras.Model([face, mel], distance, name="discriminator")


def _unit(x, name):
    return UnitLength(dtype="float32", name=name)(layers.Flatten(dtype="float32")(x))


def embeddings(discriminator: keras.Model) -> keras.Model:
    """Return a model of the [face, audio] embeddings, with shared weights: (batch, 512) float32 each, of length 1."""
    outputs = [discriminator.get_layer(name).output for name in ("face_embedding", "audio_embedding")]
    return keras.Model(discriminator.inputs, outputs, name="embeddings")
