"""The LipGAN generators (K R et al., ACM MM 2019): a face and 337.5 ms of sound become that face saying that sound.

`residual` and `basic` are the paper's, and paint every pixel. `warp` and `warp_tdnn` move the reference's own pixels:
see warp.py. They differ in how they listen.
"""

import functools

import keras
from keras import layers

from audio_hparams import hparams
from lipgan.faces.landmarks import NUM_LIPS
from lipgan.models.metadata import KINDS
from lipgan.models.warp import build_warp
from lipgan.utils.cli import UserError

IMG_SIZES = range(96, 257, 32)
MEETING = "face_and_sound"  # the layer at which what comes of the face and of the sound, in this order, are joined
HEARD = "heard"  # the last layer but one of `_tdnn`
AXES = {"channels_last": 3, "channels_first": 1}  # where a map's channels are
PAINTING = ("residual", "basic")  # kinds that paint, layer by layer, and have a lean form
WARPING = ("warp", "warp_tdnn")  # kinds that go through lips
ABOVE = 2  # rows above the middle that the lean form makes too: what is pasted is interpolated from them
MARGINS = (4, 3)  # rows that the decoder keeps above the middle of its last maps but one: so far its convolutions see


def check_size(img_size: int, width: float) -> None:
    """Raise UserError unless img_size is a multiple of 32 from 96 to 256 and 0 < width <= 4."""
    if img_size not in IMG_SIZES:
        raise UserError(
            f"--img_size {img_size}: the networks are built for {', '.join(map(str, IMG_SIZES))}; choose one"
        )
    if not 0 < width <= 4:
        raise UserError(f"--width {width}: the multiplier of all filter counts must be over 0 and at most 4")


def scaled(filters: int, width: float) -> int:
    """The number of filters at this width: a multiple of 8, the nearest (halves go up), at least 8."""
    return max(8, int(filters * width / 8 + 0.5) * 8)


# Convolution, normalisation and activation stay layers of their own: Keras sorts layers by their distance from the
# output, and legacy files hold their weights in that order.


def _conv(x, filters, kernel=3, strides=1, padding="same", *, width, order, synchronized, name=None):
    x = layers.Conv2D(scaled(filters, width), kernel, strides, padding, order, name=name)(x)
    return layers.ReLU()(_normalised(x, order, synchronized))


def _up(x, filters, kernel=3, strides=2, *, width, order, synchronized):
    x = layers.Conv2DTranspose(scaled(filters, width), kernel, strides, "same", data_format=order)(x)
    return layers.ReLU()(_normalised(x, order, synchronized))


def _normalised(x, order, synchronized):
    return layers.BatchNormalization(axis=AXES[order], momentum=0.8, synchronized=synchronized)(x)


def _below(x, rows, *, order):
    """Without the uppermost rows, and all that they cost."""
    return layers.Cropping2D(((rows, 0), (0, 0)), data_format=order)(x)


def _res(x, filters, blocks, *, conv):
    for _ in range(blocks):
        x = layers.ReLU()(layers.Add()([conv(conv(x, filters), filters), x]))
    return x


def build_generator(
    kind: str = "residual",
    img_size: int = 96,
    width: float = 1.0,
    synchronized: bool = False,
    lean: bool = False,
) -> keras.Model:
    """Build the network [face, mel] -> face, untrained (sizes in the comments are those of img_size 96).

    Inputs: "face" (img_size, img_size, 6) as `faces.generator_input` makes it, "mel" (80, 27, 1) in [-4, 4].
    Output: (img_size, img_size, 3) BGR in [0, 1], float32 under every dtype policy.
    width: multiplies every filter count but the output's. synchronized: batch statistics over all of several devices.
    lean (of PAINTING only): the form in which OpenVINO is fastest, with the same weights. Channels come before rows and
    columns in both inputs and in the output, of which only the rows from `img_size // 2 - ABOVE` on are made.
    """
    if kind not in KINDS:
        raise UserError(f"--model {kind}: there are {' and '.join(KINDS)}; choose one")
    check_size(img_size, width)
    if lean and kind not in PAINTING:
        raise ValueError(f"{kind} has no lean form; {' and '.join(PAINTING)} have")
    # On JAX the statistics are global by themselves, and the option raises.
    synchronized = synchronized and keras.backend.backend() == "tensorflow"
    order = "channels_first" if lean else "channels_last"
    conv = functools.partial(_conv, width=width, order=order, synchronized=synchronized)
    up = functools.partial(_up, width=width, order=order, synchronized=synchronized)
    join = functools.partial(layers.Concatenate, axis=AXES[order])
    below = functools.partial(_below, order=order) if lean else (lambda x, _: x)
    res = functools.partial(_res, conv=conv)

    def entry(name, rows, columns, channels):
        return keras.Input((channels, rows, columns) if lean else (rows, columns, channels), name=name)

    face = entry("face", img_size, img_size, 6)
    mel = entry("mel", hparams.num_mels, hparams.mel_window, 1)
    if kind in WARPING:
        apart = kind == "warp_tdnn"
        heard = _tdnn(mel, width, synchronized) if apart else _residual_mel(mel, conv, res)
        output = build_warp(face, heard, functools.partial(scaled, width=width), MEETING, apart)
        return keras.Model([face, mel], output, name=f"{kind}_generator")
    basic = kind == "basic"
    encode_face, encode_mel = (_basic_face, _basic_mel) if basic else (_residual_face, _residual_mel)
    smallest = img_size // 32  # side of the last map before the embedding
    skips, face_embedding = encode_face(face, smallest, conv, res)
    mel_embedding = encode_mel(mel, conv, res)  # (1, 1, 512)
    x = join(name=MEETING)([face_embedding, mel_embedding])  # (1, 1, 1024), basic 768
    more = (lambda x, *_: x) if basic else res
    x = _decoder(x, skips, smallest, up, more, join, below)  # (96, 96, 64)
    x = conv(conv(x, 16), 16)  # (96, 96, 16)
    x = layers.Conv2D(3, 1, data_format=order, dtype="float32")(x)  # (96, 96, 3)
    x = below(x, 2 * MARGINS[1] - ABOVE)
    output = layers.Activation("sigmoid", dtype="float32", name="prediction")(x)
    return keras.Model([face, mel], output, name=f"{kind}_generator")


def _residual_face(face, smallest, conv, res):
    f0 = conv(face, 32, 7)  # (96, 96, 32)
    f1 = res(conv(f0, 64, 5, 2), 64, 2)  # (48, 48, 64)
    f2 = res(conv(f1, 128, 3, 2), 128, 3)  # (24, 24, 128)
    f3 = res(conv(f2, 256, 3, 2), 256, 2)  # (12, 12, 256)
    f4 = res(conv(f3, 512, 3, 2), 512, 2)  # (6, 6, 512)
    f5 = conv(f4, 512, 3, 2)  # (3, 3, 512)
    f6 = conv(f5, 512, smallest, 1, "valid", name="face_to_vector")  # (1, 1, 512)
    return [f0, f1, f2, f3, f4, f5], conv(f6, 512, 1)


def _basic_face(face, smallest, conv, res):
    f0 = conv(face, 32, 11)  # (96, 96, 32)
    f1 = conv(f0, 64, 7, 2)  # (48, 48, 64)
    f2 = conv(f1, 128, 5, 2)  # (24, 24, 128)
    f3 = conv(f2, 256, 3, 2)  # (12, 12, 256)
    f4 = conv(f3, 512, 3, 2)  # (6, 6, 512)
    f5 = conv(f4, 512, 3, 2)  # (3, 3, 512)
    f6 = conv(f5, 512, smallest, 1, "valid", name="face_to_vector")  # (1, 1, 512)
    return [f0, f1, f2, f3, f4, f5], conv(f6, 256, 1)


def _residual_mel(mel, conv, res):
    x = res(conv(mel, 32), 32, 2)  # (80, 27, 32)
    x = res(conv(x, 64, strides=3), 64, 2)  # (27, 9, 64)
    x = res(conv(x, 128, strides=(3, 1)), 128, 2)  # (9, 9, 128)
    x = res(conv(x, 256, strides=3), 256, 2)  # (3, 3, 256)
    return conv(conv(x, 512, padding="valid"), 512, 1)


def _basic_mel(mel, conv, res):
    x = conv(conv(conv(mel, 32), 32), 32)  # (80, 27, 32)
    x = conv(conv(conv(x, 64, strides=3), 64), 64)  # (27, 9, 64)
    x = conv(conv(conv(x, 128, strides=(3, 1)), 128), 128)  # (9, 9, 128)
    x = conv(conv(conv(x, 256, strides=3), 256), 256)  # (3, 3, 256)
    return conv(conv(x, 512, padding="valid"), 512, 1)


def _tdnn(mel, width, synchronized):
    """What is said, as a movement of 20 lips: (40,). Convolutions over time alone, the bands as channels.

    (A time-delay neural network: Waibel et al., IEEE TASSP 1989.)
    """
    x = layers.Permute((2, 1))(layers.Reshape(mel.shape[1:3])(mel))  # (27, 80)
    for filters, strides in ((256, 1), (256, 1), (384, 2), (384, 2), (512, 2)):  # (4, 512) at last
        x = layers.Conv1D(scaled(filters, width), 3, strides, "same")(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, synchronized=synchronized)(x))
    x = layers.Dense(scaled(512, width), activation="relu", name=HEARD)(layers.Flatten()(x))
    return layers.Dense(2 * NUM_LIPS, dtype="float32")(x)


def _decoder(x, skips, smallest, up, res, join, below):
    f0, f1, f2, f3, f4, f5 = skips
    first, second = 4 * smallest - MARGINS[0], 8 * smallest - MARGINS[1]  # rows of (24, 24) and (48, 48) left out
    x = join()([f5, up(x, 512, smallest, smallest)])  # (3, 3, 1024)
    x = join()([f4, res(up(x, 512), 512, 2)])  # (6, 6, 1024)
    x = join()([f3, res(up(x, 256), 256, 2)])  # (12, 12, 512)
    x = below(join()([f2, res(up(x, 128), 128, 2)]), first)  # (24, 24, 256)
    x = below(join()([below(f1, 2 * first), res(up(x, 64), 64, 2)]), second - 2 * first)  # (48, 48, 128)
    return join()([below(f0, 2 * second), up(x, 32)])
