"""The flagship generator, `--model warp`: speech -> lip landmarks -> an image that moves the reference's own pixels.

Between audio and image stand 20 landmarks of the lips. `audio_to_lips` predicts their motion from the speech encoder's
features, in a space that does not depend on the face; it is added to where this person's lips are at rest. The
`renderer` then moves the reference's pixels there (an appearance flow: Zhou et al., ECCV 2016) and paints only what the
reference does not show, the inside of the mouth. It learns from true landmarks, and never learns to ignore the audio.

Lips are (40,): x and y of dlib's landmarks 48 to 67 in parts of the crop's side.
"""

import functools
import math

import keras
import numpy as np
from keras import layers, ops

from generator import check_size, scaled
from lipgan.faces.landmarks import FACING, NUM_LIPS, closing_matrices, mean_opening
from lipgan.models import lip_flow, speech

AUDIO_TO_LIPS, RENDERER = "audio_to_lips", "renderer"  # layers of the generator, each a model of its own
MOTION = "motion"  # the last layer of each member of audio_to_lips
# Deviation of the noise on the standardised features that each member of audio_to_lips is trained on. Without noise it
# learns by heart the few words of its training data, with it it learns less of people like those.
MEMBER_NOISE = (0.0, 0.0, 1.5, 1.5)
CLOSURE_FLOOR = 0.15  # a probability of /p b m/ of this closes no lips, of twice as much all of them
# Feature vectors: by which the lips meet before that, and the bump in time with which they close. (Measured on GRID and
# news: wider and earlier ones cost correlation.)
CLOSURE_LEAD, CLOSURE_DEVIATION, CLOSURE_REACH = 2, 1.2, 4
LIPS_CENTRE = (0.5, 0.73)  # (x, y) of an average mouth in the crop, as hparams place it
LIPS_UNIT = 0.02  # of the crop's side: about by how much lips move in speech
MAX_CORRECTION = 0.06  # of the side: by how much the renderer can correct the lips' flow

MAX_LOGIT = 4.0  # of the overlay's opacity, either way
CELL = 4  # pixels of a cell of the renderer's finest maps

INNER = (lip_flow.UPPER_INNER, lip_flow.LOWER_INNER)

float32 = {"dtype": "float32"}


def build_warp_generator(img_size: int = 96, width: float = 1.0) -> keras.Model:
    """Build the flagship generator, untrained: [face, speech, reference_lips, rest_lips] -> face.

    face: (S, S, 6) as `faces.crop.generator_input` makes it. speech: (23, 335), the speech encoder's feature window.
    reference_lips: (40,), the lips in the reference crop. rest_lips: (40,), this person's lips when nothing is said.
    Output: (S, S, 3) BGR in [0, 1], float32. width multiplies the renderer's filter counts. Raises UserError.
    """
    check_size(img_size, width)
    face = keras.Input((img_size, img_size, 6), name="face")
    features = keras.Input((speech.WINDOW, speech.FEATURES), name="speech")
    reference_lips = keras.Input((2 * NUM_LIPS,), name="reference_lips")
    rest_lips = keras.Input((2 * NUM_LIPS,), name="rest_lips")
    motion = layers.Reshape((2 * NUM_LIPS,), **float32)(build_audio_to_lips()(features))
    lips = rest_lips + motion  # (40,)
    output, _, _ = build_renderer(img_size, width)([face, reference_lips, lips])
    return keras.Model([face, features, reference_lips, rest_lips], output, name="warp_generator")


def renderer_of(generator: keras.Model):
    """Return the renderer inside a flagship generator; None for other kinds."""
    return next((layer for layer in generator.layers if layer.name == RENDERER), None)


def with_maps(generator: keras.Model) -> keras.Model:
    """Return a flagship generator, with its own layers, that also gives what `inference.render` needs.

    Inputs: those of the generator, and motion_gain (1,), by which the lips' motion is multiplied. Outputs: face
    (S, S, 3), lips (40,), correction (S/2, S, 2).
    """
    face, features, reference_lips, rest_lips = generator.inputs
    motion_gain = keras.Input((1,), name="motion_gain")
    motion = layers.Reshape((2 * NUM_LIPS,), **float32)(generator.get_layer(AUDIO_TO_LIPS)(features))
    lips = rest_lips + motion_gain * motion
    output, correction, _ = generator.get_layer(RENDERER)([face, reference_lips, lips])
    return keras.Model([*generator.inputs, motion_gain], [output, lips, correction], name="warp_with_maps")


def member_openings(generator: keras.Model, outputs: int) -> keras.Model:
    """Return a flagship generator's `lip_members` as a model of speech features (T, 335), T = 23 + 2 (outputs - 1).

    Its output is (outputs, M): how far each member opens the mouth beyond rest, in parts of the crop's side.
    """
    features = keras.Input((speech.WINDOW + 2 * (outputs - 1), speech.FEATURES), name="speech")
    members = lip_members(generator.get_layer(AUDIO_TO_LIPS))
    openings = [mean_opening(member(features)) for member in members]
    return keras.Model(features, ops.stack(openings, axis=-1), name="member_openings")


def freeze_audio_to_lips(generator: keras.Model) -> None:
    """Make the flagship's `audio_to_lips` constant: it is trained alone, on audio and landmarks."""
    generator.get_layer(AUDIO_TO_LIPS).trainable = False


def build_audio_to_lips(width: int = 128, dropout: float = 0.4) -> keras.Model:
    """Build the network from speech features (T, 335), T = 23 + 2 k, to the lips' motion away from rest (k + 1, 40).

    The feature window of one video frame, T = 23, gives one row; longer sequences, one for every other vector, serve
    training. The mean of several time-delay neural networks (Waibel et al., IEEE TASSP 1989), its `lip_members`, which
    learn with different noise on their features: together they know strangers' lips better than each of them. At
    /p b m/ the lips meet, whatever these say.
    """
    features = keras.Input((None, speech.FEATURES), name="speech")
    motions = []
    for number, noise in enumerate(MEMBER_NOISE):
        x = inputs = keras.Input((None, speech.FEATURES))
        x = FeatureNoise(noise, **float32)(x)
        for layer, (kernel, dilation, strides) in enumerate(((5, 1, 2), (4, 1, 1), (4, 2, 1))):  # T = 23: 10, 7, 1
            x = layers.Conv1D(width, kernel, strides, dilation_rate=dilation, name=f"conv{layer}", **float32)(x)
            x = layers.Activation("gelu", **float32)(layers.LayerNormalization(**float32)(x))
            x = layers.Dropout(dropout, **float32)(x)
        motion = layers.Dense(2 * NUM_LIPS, kernel_initializer="zeros", name=MOTION, **float32)(x)
        motion = layers.Rescaling(LIPS_UNIT, **float32)(motion)  # (k + 1, 40)
        motions.append(keras.Model(inputs, motion, name=f"member{number}")(features))
    motion = Closures(**float32)([features, layers.Average(**float32)(motions)])
    return keras.Model(features, motion, name=AUDIO_TO_LIPS)


def lip_members(audio_to_lips: keras.Model) -> list[keras.Model]:
    """Return the networks whose mean an `audio_to_lips` is, each (T, 335) -> (k + 1, 40)."""
    return [audio_to_lips.get_layer(f"member{number}") for number in range(len(MEMBER_NOISE))]


class Closures(layers.Layer):
    """Let the lips meet where the speech encoder finds /p b m/.

    [features (B, T, 335), motion (B, k + 1, 40)] -> motion. What a gap has opened beyond rest, both lips close alike.
    """

    def call(self, inputs):
        features, motion = inputs
        symbols = np.array(list(speech.CLOSURES.values())) + speech.CHANNELS
        probability = ops.sum(ops.square(ops.take(features, symbols, axis=-1)), axis=-1)  # (B, T): a row of peaks
        certain = ops.clip((probability - CLOSURE_FLOOR) / CLOSURE_FLOOR, 0.0, 1.0)
        first = speech.WINDOW // 2 + CLOSURE_LEAD  # the peak that belongs to the first output
        bumps = []
        for apart in range(-CLOSURE_REACH, CLOSURE_REACH + 1):
            near = certain[:, first + apart : first + apart + 1 - speech.WINDOW : 2]  # (B, k + 1)
            bumps.append(near * math.exp(-0.5 * (apart / CLOSURE_DEVIATION) ** 2))
        closed = ops.max(ops.stack(bumps), axis=0)[..., None]  # (B, k + 1, 1)
        gaps, shifts = closing_matrices()
        return motion + closed * ops.matmul(ops.relu(ops.matmul(motion, gaps)), shifts)


class FeatureNoise(layers.Layer):
    """Add noise to features (B, T, C) in training: of each number, and a third as much of all times alike.

    The latter is as another voice or another room changes features.
    """

    def __init__(self, deviation, **kwargs):
        super().__init__(**kwargs)
        self.deviation = deviation
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, features, training=False):
        if not training or not self.deviation:
            return features
        batch, times, channels = ops.shape(features)
        noise = keras.random.normal((batch, times, channels), seed=self.seed_generator)
        offset = keras.random.normal((batch, 1, channels), seed=self.seed_generator)
        return features + self.deviation * (noise + offset / 3)


def build_renderer(img_size: int = 96, width: float = 1.0) -> keras.Model:
    """Build the network [face (S, S, 6), reference_lips (40,), lips (40,)] -> [face, correction, overlay].

    face: (S, S, 3), the reference with these lips. The other two are of the lower half: correction (S/2, S, 2), to be
    added to `lip_flow`'s, in parts of the side, which `inference.render` uses; overlay (S/2, S, 4), BGR paint in [0, 1]
    and its opacity inside the mouth.
    """
    half, scale = img_size // 2, functools.partial(scaled, width=width)
    face = keras.Input((img_size, img_size, 6), name="face")
    reference_lips = keras.Input((2 * NUM_LIPS,), name="reference_lips")
    lips = keras.Input((2 * NUM_LIPS,), name="lips")
    reference, pose = face[..., :3], face[..., 3:]
    mouth = InnerMouth(img_size, **float32)
    image = ops.concatenate([reference, mouth(reference_lips)], axis=-1)  # (96, 96, 4)
    flow = LipFlow(img_size, **float32)([reference_lips, lips])  # (48, 96, 2)
    moved = Warp(**float32)([image, flow])  # (48, 96, 4)
    inner = mouth(lips)  # (96, 96, 1)
    upper = [reference[:, :half], pose[:, :half], ops.zeros_like(inner[:, :half]), inner[:, :half]]
    lower = [reference[:, half:], moved, inner[:, half:]]
    x = ops.concatenate([ops.concatenate(part, axis=-1) for part in (upper, lower)], axis=1)  # (96, 96, 8)
    maps = _unet(x, _lip_code(reference_lips, lips, scale), scale)[:, half // CELL :]  # (12, 24, 64)

    # At first only the lips' flow moves pixels, and little is painted.
    correction = layers.Conv2D(
        2, 3, padding="same", activation="tanh", kernel_initializer="zeros", name="correction_cells", **float32
    )(maps)
    correction = MAX_CORRECTION * layers.UpSampling2D(CELL, interpolation="bilinear", **float32)(correction)
    moved = Warp(**float32)([image, flow + correction])  # (48, 96, 4)
    fine = layers.UpSampling2D(CELL, interpolation="bilinear")(layers.Conv2D(scale(32), 1)(maps))  # (48, 96, 32)
    fine = layers.Concatenate()([fine, moved, inner[:, half:]])
    fine = layers.ReLU()(layers.Conv2D(scale(48), 3, padding="same")(fine))
    fine = layers.ReLU()(layers.Conv2D(scale(48), 3, padding="same")(fine))
    paint = layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="paint", **float32)(fine)  # (48, 96, 3)
    opacity = layers.Conv2D(1, 3, padding="same", activation="tanh", name="opacity", **float32)(fine)
    opacity = ops.sigmoid(MAX_LOGIT * opacity)  # bounded, so that it always learns
    inside = InnerMouth(img_size, overlay=True, **float32)(lips)[:, half:]  # lips and skin stay the reference's
    inside *= 1 - lip_flow.OVERLAY_KEEP * moved[..., 3:]  # the reference's own teeth are better than painted ones
    lower = moved[..., :3] + inside * opacity * (paint - moved[..., :3])
    output = ops.concatenate([pose[:, :half], lower], axis=1)
    overlay = ops.concatenate([paint, opacity], axis=-1)
    return keras.Model([face, reference_lips, lips], [output, correction, overlay], name=RENDERER)


def _standard(lips):
    """Standardise lips (40,) to numbers of about unit size."""
    return (lips - np.tile(np.float32(LIPS_CENTRE), NUM_LIPS)) / (5 * LIPS_UNIT)


def _lip_code(reference_lips, lips, scale):
    both = layers.Concatenate(**float32)([_standard(lips), (lips - reference_lips) / LIPS_UNIT])
    return layers.Dense(scale(128), activation="relu")(both)


def _unet(x, code, scale):
    """Build a U-Net over cells of CELL pixels, whose every block is scaled and shifted by the lips' code: (24, 24, 64).

    (Perez et al., FiLM: Visual Reasoning with a General Conditioning Layer, AAAI 2018.)
    """

    def block(x):
        channels = x.shape[-1]
        y = layers.Conv2D(channels, 3, padding="same")(layers.ReLU()(x))
        change = layers.Reshape((1, 1, 2 * channels))(layers.Dense(2 * channels)(code))
        y = layers.ReLU()(y * (1 + change[..., :channels]) + change[..., channels:])
        return x + layers.Conv2D(channels, 3, padding="same", kernel_initializer="zeros")(y)

    def down(x, filters):
        return layers.Conv2D(scale(filters), 3, 2, padding="same")(x)

    def up(x, skip):
        return skip + layers.Conv2D(skip.shape[-1], 3, padding="same")(layers.UpSampling2D(2)(x))

    a = block(block(layers.Conv2D(scale(64), CELL, CELL, name="cells")(x)))  # (24, 24, 64)
    b = block(block(down(a, 128)))  # (12, 12, 128)
    c = block(block(down(b, 256)))  # (6, 6, 256)
    return block(up(block(up(c, b)), a))


# Geometry: `lip_flow`'s formulas as layers, and sampling --------------------------------------------------------------


class InnerMouth(layers.Layer):
    """`lip_flow.inner_mouth` of a whole crop, or its `overlay_mask`: lips (B, 40) -> (B, S, S, 1) in [0, 1]."""

    def __init__(self, img_size, overlay=False, **kwargs):
        super().__init__(**kwargs)
        self.img_size, self.overlay = img_size, overlay

    def call(self, lips):
        points, pixels = ops.reshape(lips, (-1, NUM_LIPS, 2)), _pixels(self.img_size)
        upper, lower = (
            _curve(_points(points, inner), pixels) for inner in (lip_flow.UPPER_INNER, lip_flow.LOWER_INNER)
        )
        rows = pixels[None, :, None]
        margin = lip_flow.OVERLAY_MARGIN if self.overlay else 0.0
        below_upper = ops.sigmoid((rows - upper + margin) / lip_flow.EDGE_SOFTNESS)
        mask = below_upper * ops.sigmoid((lower - rows + margin) / lip_flow.EDGE_SOFTNESS)
        if self.overlay:
            mask *= ops.clip((lower - upper) / lip_flow.OVERLAY_GAP, 0.0, 1.0)
        return mask[..., None]


class LipFlow(layers.Layer):
    """`lip_flow.lip_flow` of the lower half: [reference lips (B, 40), lips (B, 40)] -> (B, S/2, S, 2), (y, x)."""

    def __init__(self, img_size, **kwargs):
        super().__init__(**kwargs)
        self.img_size = img_size

    def call(self, inputs):
        reference, target = (ops.reshape(lips, (-1, NUM_LIPS, 2)) for lips in inputs)
        reference = self._sealed(reference, target)
        columns = _pixels(self.img_size)
        rows = columns[self.img_size // 2 :]
        upper, lower = (
            self._pull(_points(reference, lip), _points(target, lip), rows, columns)
            for lip in (lip_flow.UPPER_LIP, lip_flow.LOWER_LIP)
        )
        middle = sum(_curve(_points(target, inner), columns) for inner in INNER) / 2  # (B, 1, S)
        above = ops.sigmoid((middle - rows[None, :, None]) / lip_flow.SEAM_SOFTNESS)[..., None]
        return lower + above * (upper - lower)

    @staticmethod
    def _sealed(reference, target):
        up, low = FACING
        gap, new_gap = (_points(p, low)[..., 1] - _points(p, up)[..., 1] for p in (reference, target))  # (B, 3)
        shift = lip_flow.SEAL * ops.clip((gap - new_gap) / ops.maximum(gap, lip_flow.SEAL_GAP), 0.0, 1.0)
        signs = np.zeros((2, 3, NUM_LIPS), np.float32)  # which landmark each shift moves, up or down
        for n, (upper, lower) in enumerate(zip(up, low, strict=True)):
            signs[0, n, upper], signs[1, n, lower] = -1, 1
        return reference + ops.stack([ops.zeros_like(reference[..., 0]), ops.matmul(shift, signs.sum(0))], axis=-1)

    @staticmethod
    def _pull(reference, target, rows, columns):
        x = ops.exp(-ops.square(columns - target[..., :1]) / (2 * lip_flow.PULL_RADIUS**2))  # (B, K, S)
        y = ops.exp(-ops.square(rows - target[..., 1:]) / (2 * lip_flow.PULL_RADIUS**2))  # (B, K, S/2)
        y, pulls = ops.transpose(y, (0, 2, 1)), LipFlow._pulling(reference - target, target)
        sums = [ops.matmul(y, x * pulls[..., i : i + 1]) for i in (1, 0)]  # (B, S/2, S)
        return ops.stack(sums, axis=-1) / (ops.matmul(y, x) + lip_flow.PULL_FLOOR)[..., None]

    @staticmethod
    def _pulling(offsets, points):
        """Return what landmarks (B, K, 2) must pull, as in `lip_flow`: (B, K, 2)."""
        apart = ops.square(points[:, :, None] - points[:, None])  # (B, K, K, 2)
        near = ops.exp(-ops.sum(apart, axis=-1) / (2 * lip_flow.PULL_RADIUS**2))
        mean = near / (ops.sum(near, axis=-1, keepdims=True) + lip_flow.PULL_FLOOR)
        pulls = offsets
        for _ in range(lip_flow.PULL_STEPS):
            pulls += offsets - ops.matmul(mean, pulls)
        return pulls


class Warp(layers.Layer):
    """Sample the lower half of an image where a flow points: [(B, S, S, C), (B, S/2, S, 2)] -> (B, S/2, S, C)."""

    def call(self, inputs):
        image, flow = inputs
        return warp_cubic(image, image.shape[1] * flow, top=image.shape[1] // 2)


def warp_cubic(image, flow, top=0):
    """Sample an image at each pixel's place plus a flow, by cubic convolution (Keys, IEEE TASSP 1981, a = -1/2).

    image: (B, H, W, C) in [0, 1]. flow: (B, h, W, 2), in pixels (y, x), of the h rows from `top` on. Past its edges the
    image is mirrored. Returns (B, h, W, C), clipped to [0, 1]. The gradient reaches the flow, not the image.
    """
    height, width, channels = image.shape[1:]
    y = ops.arange(top, top + flow.shape[1], dtype="float32")[None, :, None]
    y = ops.clip(y + flow[..., 0], 0.0, height - 1.001)
    x = ops.clip(ops.arange(width, dtype="float32")[None, None] + flow[..., 1], 0.0, width - 1.001)
    above, left = ops.floor(ops.stop_gradient(y)), ops.floor(ops.stop_gradient(x))  # (B, h, W)
    # In memory, the pixels x - 1 to x + 2 of a row lie side by side: a table of all such fours, first those that begin
    # at multiples of four, then those one further, is made of four plain copies, and looked up once for a row.
    row = -(-(width + 3) // 4) * 4
    padding = (0, 0), (1, 2), (1, row - width - 1), (0, 0)
    pixels = ops.reshape(ops.pad(ops.stop_gradient(image), padding, mode="symmetric"), (-1, channels))
    fours = ops.concatenate([ops.reshape(pixels[k : k - 4], (-1, 4 * channels)) for k in range(4)], axis=0)
    quarter = ops.floor(left / 4)
    phase = ops.cast(left - 4 * quarter, "int32") * (ops.shape(fours)[0] // 4)
    first = ops.reshape(ops.arange(ops.shape(flow)[0], dtype="int32") * ((height + 3) * row // 4), (-1, 1, 1))
    corner = first + phase + ops.cast(above * (row // 4) + quarter, "int32")
    down, right = (_keys(offset[..., None]) for offset in (y - above, x - left))
    column = sum(weight * ops.take(fours, corner + k * (row // 4), 0) for k, weight in enumerate(down))
    column = ops.split(column, 4, axis=-1)  # (B, h, W, C) each
    return ops.clip(sum(weight * part for weight, part in zip(right, column, strict=True)), 0.0, 1.0)


def _keys(t):
    """Return the weights of four neighbours, the second t and the third 1 - t away; each of t's shape."""
    square, cube = t * t, t * t * t
    return (
        (-cube + 2 * square - t) / 2,
        (3 * cube - 5 * square + 2) / 2,
        (-3 * cube + 4 * square + t) / 2,
        (cube - square) / 2,
    )


def _points(points, indices):
    return ops.take(points, np.array(indices), axis=1)  # one operation: a stack of slices takes long to compile


def _curve(points, columns):
    """Interpolate the height of the curve through points (B, 5, 2) at each column: (B, 1, S)."""
    near = ops.exp(-ops.square(columns - points[..., :1]) / (2 * lip_flow.INNER_RADIUS**2)) + 1e-6  # (B, 5, S)
    return ops.sum(near * points[..., 1:], axis=1, keepdims=True) / ops.sum(near, axis=1, keepdims=True)


def _pixels(size):
    """Return the pixels' centres in parts of the side, as landmarks count: (S,) float32."""
    return (ops.arange(size, dtype="float32") + 0.5) / size
