"""The generators that move the reference's own pixels: sound -> lips -> picture.

Between the sound and the picture stand 20 landmarks of the lips. The listener says where those of the reference are
when this sound is said; the painter moves the reference's pixels there (an appearance flow: Zhou et al., View Synthesis
by Appearance Flow, ECCV 2016), and paints what they do not show, such as the inside of a mouth that was shut. So the
painter can learn from true landmarks, and never learns to ignore the sound.

Where the reference's lips are is told by dlib (`informed`); where nobody tells, a small frozen expert reads them, which
has only seen the faces that were trained on, and misreads others.
"""

import functools

import keras
import numpy as np
from keras import layers, ops

from lipgan.faces.landmarks import NUM_LIPS

EXPERT, LIPS = "mouth_expert", "lips"  # layers of the generator
SEEN_HEIGHT = 24  # rows of the lower half that the expert sees: finer ones would let it be fooled by single pixels
UPPER_INNER, LOWER_INNER = (12, 13, 14, 15, 16), (12, 19, 18, 17, 16)  # from the left corner to the right one
LIPS_CENTRE = (0.5, 0.73)  # (x, y) of an average mouth in the crop, as hparams place it
LIPS_UNIT = 0.02  # of the crop's side: by about so much lips move when they speak
PULL_RADIUS, INNER_RADIUS = 0.045, 0.03  # of the side: how far a landmark pulls the pixels about it
PULL_FLOOR = 0.05  # how much nothing pulls
SOFTNESS = 0.01  # of the side: of the inner mouth's border
FARTHEST = 0.06  # of the side: by how much the painter can correct the landmarks' pull
PATCH = 4  # pixels of a cell of the painter's finest maps
float32 = {"dtype": "float32"}


def build_expert(img_size: int) -> keras.Model:
    """Build the network from a crop (img_size, img_size, 3) BGR in [0, 1] to its lips, (40,): x and y of 20 points.

    The points are dlib's 48 to 67, in parts of the crop's side.
    """
    crop = keras.Input((img_size, img_size, 3), name="crop", **float32)
    x = layers.Cropping2D(((img_size // 2, 0), (0, 0)), **float32)(crop)  # (48, 96, 3)
    x = layers.AveragePooling2D(img_size // 2 // SEEN_HEIGHT, **float32)(x)  # (24, 48, 3)
    for filters, strides in ((32, 1), (32, 2), (64, 2), (128, 2)):  # (3, 6, 128) at last
        x = layers.Conv2D(filters, 3, strides, "same", **float32)(x)
        x = layers.BatchNormalization(momentum=0.9, **float32)(x)
        x = layers.ReLU(**float32)(x)
    x = layers.Dense(128, activation="relu", **float32)(layers.Flatten(**float32)(x))
    return keras.Model(crop, layers.Dense(2 * NUM_LIPS, name="points", **float32)(x), name=EXPERT)


def build_warp(face, mel_embedding, scale, meeting, apart=False):
    """Build the network's end, from the tensors face (S, S, 6) and mel_embedding to a face (S, S, 3).

    mel_embedding: (1, 1, C); apart: (40,), by how much the sound moves the lips, in LIPS_UNIT.
    scale: gives a filter count at the width wanted. meeting: name of the layer at which face and sound are joined.
    apart: what the sound does to the lips does not depend on the face (of `warp_tdnn`).
    Its layer LIPS is where listener and painter meet. Sizes in the comments are those of S = 96 and width 1.
    """
    img_size, half = face.shape[1], face.shape[1] // 2
    reference, pose = face[..., :3], face[..., 3:]
    expert = build_expert(img_size)
    expert.trainable = False  # it learns before it comes here, and never again
    seen = expert(reference, training=False)  # (40,)
    listen = _listen_apart if apart else _listen
    lips = listen(seen, mel_embedding, scale, meeting)

    picture = ops.concatenate([reference, InnerMouth(img_size, **float32)(seen)], axis=-1)  # (96, 96, 4)
    pull = LipFlow(img_size, **float32)([seen, lips])  # (48, 96, 2)
    move = functools.partial(Move, cubic=apart, **float32)
    moved = move()([picture, pull])  # (48, 96, 4)
    inner = InnerMouth(img_size, **float32)(lips)  # (96, 96, 1)
    nothing = ops.zeros_like(inner[:, :half])
    upper = [reference[:, :half], pose[:, :half], nothing, inner[:, :half]]
    lower = [reference[:, half:], moved, inner[:, half:]]
    x = ops.concatenate([ops.concatenate(part, axis=-1) for part in (upper, lower)], axis=1)  # (96, 96, 8)
    maps = _look(x, _code(seen, lips, scale), scale)[:, half // PATCH :]  # (12, 24, 64)

    # At first nothing but the landmarks' pull moves, and little is painted.
    correction = layers.Conv2D(
        2, 3, padding="same", activation="tanh", kernel_initializer="zeros", name="correction", **float32
    )(maps)
    correction = layers.UpSampling2D(PATCH, interpolation="bilinear", **float32)(correction)  # (48, 96, 2)
    moved = move()([picture, pull + FARTHEST * correction])  # (48, 96, 4)
    fine = layers.UpSampling2D(PATCH, interpolation="bilinear")(layers.Conv2D(scale(32), 1)(maps))  # (48, 96, 32)
    fine = layers.Concatenate()([fine, moved, inner[:, half:]])
    fine = layers.ReLU()(layers.Conv2D(scale(32), 3, padding="same")(fine))
    fine = layers.ReLU()(layers.Conv2D(scale(32), 3, padding="same")(fine))
    paint = layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="paint", **float32)(fine)  # (48, 96, 3)
    share = layers.Conv2D(
        1, 3, padding="same", activation="sigmoid", bias_initializer=keras.initializers.Constant(-2.0), name="share",
        **float32,
    )(fine)  # (48, 96, 1) of paint  # fmt: skip
    made = moved[..., :3] + share * (paint - moved[..., :3])
    return ops.concatenate([pose[:, :half], made], axis=1)


def listener(generator: keras.Model) -> keras.Model:
    """The part [mel, lips of the reference (40,)] -> lips (40,); its layers are the generator's own.

    Lips are x and y of 20 points (dlib's 48 to 67) in parts of the crop's side.
    """
    return keras.Model([generator.inputs[1], seen_lips(generator)], generator.get_layer(LIPS).output, name="listener")


def painter(generator: keras.Model) -> keras.Model:
    """The part [face, lips of the reference (40,), lips (40,)] -> face; its layers are the generator's own."""
    lips = seen_lips(generator), generator.get_layer(LIPS).output
    return keras.Model([generator.inputs[0], *lips], generator.output, name="painter")


def informed(generator: keras.Model) -> keras.Model:
    """The generator with the reference's lips as a third input: [face, mel, lips (40,)] -> face, its own layers."""
    return keras.Model([*generator.inputs, seen_lips(generator)], generator.output, name=f"{generator.name}_informed")


def has_lips(generator: keras.Model) -> bool:
    """Whether this generator goes through lips, and can be `informed`."""
    return any(layer.name == LIPS for layer in generator.layers)


def seen_lips(generator):
    """The tensor of the reference's lips."""
    return generator.get_layer(LIPS).input[0]


def _listen(seen, mel_embedding, scale, meeting):
    """Where the lips are when this sound is said: those of the reference, moved."""
    face_code = layers.Dense(scale(64), activation="relu")(_standard(seen))
    x = layers.Concatenate(name=meeting)([face_code, layers.Flatten()(mel_embedding)])
    for _ in range(2):
        x = layers.Dense(scale(512), activation="relu")(x)
    movement = layers.Dense(2 * NUM_LIPS, kernel_initializer="zeros", name="movement", **float32)(x)
    return layers.Add(name=LIPS, **float32)([seen, LIPS_UNIT * movement])


def _listen_apart(seen, said, scale, meeting):
    """As `_listen`, but the sound says by how much lips are off their middle, and the face how far off they were."""
    shown = layers.Dense(scale(64), activation="relu")(_standard(seen))
    shown = layers.Dense(2 * NUM_LIPS, kernel_initializer="zeros", **float32)(shown)
    movement = layers.Add(name=meeting, **float32)([shown, layers.Flatten(**float32)(said)])
    return layers.Add(name=LIPS, **float32)([seen, LIPS_UNIT * movement])


def _standard(lips):
    """Lips (40,) as numbers of about the size of 1."""
    return (lips - np.tile(np.float32(LIPS_CENTRE), NUM_LIPS)) / (5 * LIPS_UNIT)


def _code(seen, lips, scale):
    both = layers.Concatenate(**float32)([_standard(lips), (lips - seen) / LIPS_UNIT])
    return layers.Dense(scale(128), activation="relu")(both)


def _look(x, code, scale):
    """A U-net over cells of PATCH pixels, whose every block is scaled and shifted by the code of the lips.

    (Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer, AAAI 2018.) Returns (24, 24, 64).
    """

    def block(x):
        channels = x.shape[-1]
        y = layers.Conv2D(channels, 3, padding="same")(layers.ReLU()(x))
        change = layers.Reshape((1, 1, 2 * channels))(layers.Dense(2 * channels)(code))
        y = layers.ReLU()(y * (1 + change[..., :channels]) + change[..., channels:])
        return x + layers.Conv2D(channels, 3, padding="same", kernel_initializer="zeros")(y)

    def narrowed(x, filters):
        return layers.Conv2D(scale(filters), 3, 2, padding="same")(x)

    def widened(x, skip):
        return skip + layers.Conv2D(skip.shape[-1], 3, padding="same")(layers.UpSampling2D(2)(x))

    a = block(block(layers.Conv2D(scale(64), PATCH, PATCH, name="cells")(x)))  # (24, 24, 64)
    b = block(block(narrowed(a, 128)))  # (12, 12, 128)
    c = block(block(narrowed(b, 256)))  # (6, 6, 256)
    return block(widened(block(widened(c, b)), a))


# Geometry -------------------------------------------------------------------------------------------------------------


class InnerMouth(layers.Layer):
    """A soft mask of the inside of the mouth: lips (B, 40) -> (B, S, S, 1) in [0, 1], 0.25 where lips touch."""

    def __init__(self, img_size, **kwargs):
        super().__init__(**kwargs)
        self.img_size = img_size

    def call(self, lips):
        points, pixels = ops.reshape(lips, (-1, NUM_LIPS, 2)), _pixels(self.img_size)
        upper, lower = (
            self._curve(ops.stack([points[:, k] for k in of], axis=1), pixels) for of in (UPPER_INNER, LOWER_INNER)
        )
        rows = pixels[None, :, None]
        return (ops.sigmoid((rows - upper) / SOFTNESS) * ops.sigmoid((lower - rows) / SOFTNESS))[..., None]

    def _curve(self, points, columns):
        """The height of the curve through points (B, 5, 2) at each column: (B, 1, S)."""
        near = ops.exp(-ops.square(columns - points[..., :1]) / (2 * INNER_RADIUS**2)) + 1e-6  # (B, 5, S)
        return ops.sum(near * points[..., 1:], axis=1, keepdims=True) / ops.sum(near, axis=1, keepdims=True)


class LipFlow(layers.Layer):
    """From where in the reference the pixels of the lower half come, if lips move and draw along what is near.

    call: [lips of the reference (B, 40), lips wanted (B, 40)] -> (B, S/2, S, 2), as (y, x) in parts of S.
    """

    def __init__(self, img_size, **kwargs):
        super().__init__(**kwargs)
        self.img_size = img_size

    def call(self, inputs):
        seen, wanted = (ops.reshape(lips, (-1, NUM_LIPS, 2)) for lips in inputs)
        pixels = _pixels(self.img_size)
        # A Gaussian about each point wanted; it has one factor for rows and one for columns.
        x, y = (ops.exp(-ops.square(pixels - wanted[..., i : i + 1]) / (2 * PULL_RADIUS**2)) for i in (0, 1))
        y = ops.transpose(y[..., self.img_size // 2 :], (0, 2, 1))  # (B, S/2, 20)
        pull = seen - wanted  # (B, 20, 2)
        sums = [ops.matmul(y, x * pull[..., i : i + 1]) for i in (1, 0)]  # (B, S/2, S)
        return ops.stack(sums, axis=-1) / (ops.matmul(y, x) + PULL_FLOOR)[..., None]


class Move(layers.Layer):
    """The lower half of a picture, each pixel fetched from where the flow says.

    call: [picture (B, S, S, C) in [0, 1], flow (B, S/2, S, 2) as (y, x) in parts of S] -> (B, S/2, S, C).
    cubic: sample as `warp_cubic` does, which keeps it sharper.
    """

    def __init__(self, cubic=False, **kwargs):
        super().__init__(**kwargs)
        self.cubic = cubic

    def call(self, inputs):
        picture, flow = inputs
        sample = warp_cubic if self.cubic else warp
        return sample(picture, picture.shape[1] * flow, top=picture.shape[1] // 2)


def _places(flow, top, height, width, rows):
    """Where the flow fetches from: the pixel above and to the left, and how far below and to the right of it.

    flow, top: as of `warp`. rows: of each picture, height or more, in an array of all pixels of the batch, in which the
    pixel's place is (B, h, W) int32. How far: (B, h, W, 1) each, in [0, 1), through which the gradient goes.
    """
    y = ops.arange(top, top + flow.shape[1], dtype="float32")[None, :, None]
    y = ops.clip(y + flow[..., 0], 0.0, height - 1.001)
    x = ops.clip(ops.arange(width, dtype="float32")[None, None] + flow[..., 1], 0.0, width - 1.001)
    above, left = ops.floor(ops.stop_gradient(y)), ops.floor(ops.stop_gradient(x))  # (B, h, W)
    first = ops.reshape(ops.arange(ops.shape(flow)[0], dtype="int32") * rows * width, (-1, 1, 1))
    corner = first + ops.cast(above, "int32") * width + ops.cast(left, "int32")
    return corner, (y - above)[..., None], (x - left)[..., None]


def warp_cubic(picture, flow, top=0):
    """As `warp`, but with the cubic convolution of Keys (IEEE TASSP 1981, a = -1/2), clipped to [0, 1]."""
    height, width, channels = picture.shape[1:]
    corner, down, right = _places(flow, top, height, width, rows=height + 3)
    padded = ops.pad(ops.stop_gradient(picture), ((0, 0), (1, 2), (1, 2), (0, 0)), mode="symmetric")
    four = ops.concatenate([padded[:, :, k : k + width] for k in range(4)], axis=-1)  # columns x - 1 to x + 2
    pixels = ops.reshape(four, (-1, 4 * channels))
    column = sum(share * ops.take(pixels, corner + k * width, 0) for k, share in enumerate(_keys(down)))
    column = ops.split(column, 4, axis=-1)  # (B, h, W, C) each
    return ops.clip(sum(share * part for share, part in zip(_keys(right), column, strict=True)), 0.0, 1.0)


def _keys(t):
    """The shares of four neighbours, the second and the third t and 1 - t away: each of t's shape."""
    square, cube = t * t, t * t * t
    return (
        (-cube + 2 * square - t) / 2,
        (3 * cube - 5 * square + 2) / 2,
        (-3 * cube + 4 * square + t) / 2,
        (cube - square) / 2,
    )


def _pixels(img_size):
    """The pixels' centres in parts of the side, as landmarks count: (S,) float32."""
    return (ops.arange(img_size, dtype="float32") + 0.5) / img_size


def warp(picture, flow, top=0):
    """The picture (B, H, W, C) sampled bilinearly at each pixel's place plus flow (B, h, W, 2), in pixels (y, x).

    The flow is that of the h rows from `top` on. Past the edges the edge is repeated. The gradient reaches the flow,
    not the picture's pixels.
    """
    height, width, channels = picture.shape[1:]
    corner, down, right = _places(flow, top, height, width, rows=height)
    pixels = ops.reshape(ops.stop_gradient(picture), (-1, channels))
    upper = (1 - right) * ops.take(pixels, corner, 0) + right * ops.take(pixels, corner + 1, 0)
    lower = (1 - right) * ops.take(pixels, corner + width, 0) + right * ops.take(pixels, corner + width + 1, 0)
    return (1 - down) * upper + down * lower
