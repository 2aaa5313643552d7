"""Build the LipGAN generators (K R et al., ACM MM 2019): a face and 337.5 ms of audio -> that face saying it.

`residual` and `basic` are the paper's U-Nets, which synthesise every pixel. The flagship, which moves the reference's
own pixels, is in `lipgan.models.warp`.
"""

import functools

import keras
from keras import layers

from audio_hparams import hparams
from lipgan.utils.cli import UserError

IMG_SIZES = range(96, 257, 32)
PAPER_KINDS = ("residual", "basic")
FUSION = "face_and_audio"  # the layer that concatenates the face's and the audio's embedding, in this order
CHANNEL_AXES = {"channels_last": 3, "channels_first": 1}

# The form for OpenVINO computes the lower half of the face only.
ROWS_ABOVE = 2  # rows above the middle that it computes too: the blend interpolates from them
DECODER_ROWS = (4, 3)  # rows above the middle of the (24, 24) and (48, 48) maps: the receptive field of what follows


def check_size(img_size: int, width: float) -> None:
    """Raise UserError unless img_size is a multiple of 32 from 96 to 256 and 0 < width <= 4."""
    if img_size not in IMG_SIZES:
        raise UserError(
            f"--img_size {img_size}: the networks are built for {', '.join(map(str, IMG_SIZES))}; choose one"
        )
    if not 0 < width <= 4:
        raise UserError(f"--width {width}: the multiplier of all filter counts must be over 0 and at most 4")


def scaled(filters: int, width: float) -> int:
    """Return filters * width rounded to the nearest multiple of 8 (halves round up), at least 8."""
    return max(8, int(filters * width / 8 + 0.5) * 8)


# Convolution, normalisation and activation stay separate layers: Keras sorts layers by their distance from the output,
# and legacy files store their weights in that order.


def _conv(x, filters, kernel=3, strides=1, padding="same", *, width, order, synchronized, name=None):
    x = layers.Conv2D(scaled(filters, width), kernel, strides, padding, order, name=name)(x)
    return layers.ReLU()(_batch_norm(x, order, synchronized))


def _up(x, filters, kernel=3, strides=2, *, width, order, synchronized):
    x = layers.Conv2DTranspose(scaled(filters, width), kernel, strides, "same", data_format=order)(x)
    return layers.ReLU()(_batch_norm(x, order, synchronized))


def _batch_norm(x, order, synchronized):
    return layers.BatchNormalization(axis=CHANNEL_AXES[order], momentum=0.8, synchronized=synchronized)(x)


def _crop_top(x, rows, *, order):
    """Crop rows at the top that later layers do not need."""
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
    lower_half_nchw: bool = False,
) -> keras.Model:
    """Build the untrained network [face, mel] -> face. Shapes in the comments are those of img_size 96 and width 1.

    Inputs: "face" (img_size, img_size, 6) float32 in [0, 1] from `lipgan.faces.crop.generator_input`; "mel" (80, 27, 1)
    float32 in [-4, 4]. Output: (img_size, img_size, 3) BGR in [0, 1], float32 under every dtype policy.
    width: multiplies every filter count but the output's. synchronized: batch norm statistics over all devices.
    lower_half_nchw: the form that OpenVINO runs fastest, with the same weights. Inputs and output
    are channels first, and the output starts at row `img_size // 2 - ROWS_ABOVE`.
    Raises UserError for an unknown kind, img_size or width.
    """
    if kind not in PAPER_KINDS:
        raise UserError(f"--model {kind}: choose one of {', '.join(PAPER_KINDS)}")
    check_size(img_size, width)
    # On JAX the statistics are global anyway, and the argument raises an error.
    synchronized = synchronized and keras.backend.backend() == "tensorflow"
    order = "channels_first" if lower_half_nchw else "channels_last"
    conv = functools.partial(_conv, width=width, order=order, synchronized=synchronized)
    up = functools.partial(_up, width=width, order=order, synchronized=synchronized)
    join = functools.partial(layers.Concatenate, axis=CHANNEL_AXES[order])
    crop_top = functools.partial(_crop_top, order=order) if lower_half_nchw else (lambda x, _: x)
    res = functools.partial(_res, conv=conv)

    def image_input(name, rows, columns, channels):
        return keras.Input((channels, rows, columns) if lower_half_nchw else (rows, columns, channels), name=name)

    face = image_input("face", img_size, img_size, 6)
    mel = image_input("mel", hparams.num_mels, hparams.mel_window, 1)
    basic = kind == "basic"
    encode_face, encode_mel = (_basic_face, _basic_mel) if basic else (_residual_face, _residual_mel)
    smallest = img_size // 32  # side of the last map before the embedding: 3
    skips, face_embedding = encode_face(face, smallest, conv, res)
    mel_embedding = encode_mel(mel, conv, res)  # (1, 1, 512)
    x = join(name=FUSION)([face_embedding, mel_embedding])  # (1, 1, 1024), basic 768
    refine = (lambda x, *_: x) if basic else res
    x = _decoder(x, skips, smallest, up, refine, join, crop_top)  # (96, 96, 64)
    x = conv(conv(x, 16), 16)  # (96, 96, 16)
    x = layers.Conv2D(3, 1, data_format=order, dtype="float32")(x)  # (96, 96, 3)
    x = crop_top(x, 2 * DECODER_ROWS[1] - ROWS_ABOVE)
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


def _decoder(x, skips, smallest, up, res, join, crop_top):
    f0, f1, f2, f3, f4, f5 = skips
    first, second = (
        4 * smallest - DECODER_ROWS[0],
        8 * smallest - DECODER_ROWS[1],
    )  # rows cropped from (24, 24), (48, 48)
    x = join()([f5, up(x, 512, smallest, smallest)])  # (3, 3, 1024)
    x = join()([f4, res(up(x, 512), 512, 2)])  # (6, 6, 1024)
    x = join()([f3, res(up(x, 256), 256, 2)])  # (12, 12, 512)
    x = crop_top(join()([f2, res(up(x, 128), 128, 2)]), first)  # (24, 24, 256)
    x = crop_top(join()([crop_top(f1, 2 * first), res(up(x, 64), 64, 2)]), second - 2 * first)  # (48, 48, 128)
    return join()([crop_top(f0, 2 * second), up(x, 32)])
