"""Speech encoder: 16 kHz speech to 50 phonetic feature vectors a second, which hardly depend on who speaks.

The network is the acoustic model of the package hama (Apache-2.0): a log-mel front end, a strided convolution and four
Conformer blocks (Gulati et al. 2020) under a CTC phoneme classifier. A feature vector is block 2's output, which says
most about the lips, and the phonemes' probabilities, which carry what is learned of a few people over to others.

Clock: feature vector k is centred on sample 320 k, that is on k * 20 ms.
"""

import functools
import hashlib
import importlib.util
import math
import pathlib
import struct
import typing
from fractions import Fraction

import numpy as np

from lipgan.models import compiled
from lipgan.models.backend import current_backend, import_keras
from lipgan.utils.cli import UserError

SAMPLE_RATE = 16_000  # Hz
VECTORS_PER_SECOND = 50
CHANNELS, SYMBOLS = 144, 191  # width of the network; size of its phoneme inventory, blank last
FEATURES = CHANNELS + SYMBOLS  # numbers in a vector: block 2, and the square roots of the phonemes' probabilities
WINDOW = 23  # vectors that belong to one video frame: 460 ms; odd, so that one of them is the middle

N_FFT, HOP, MELS = 400, 160, 80  # 25 ms windows every 10 ms; the network's first layer keeps every other one
STRIDE = 2 * HOP  # samples between vectors
BLOCKS, HEADS, KERNEL = 4, 4, 31
FEATURE_BLOCK = 2  # whose output is part of the features
EPSILON = 1e-5  # of layer normalisation

CHUNK, CONTEXT = 20 * SAMPLE_RATE, 2 * SAMPLE_RATE  # samples encoded at a time, and those heard before and after them
LONG = (
    8 * SAMPLE_RATE
)  # samples from which on the encoder's memory is freed: it grows to 100 MB, attention's quadratically

ACTIVE_LEVEL_DB = -14.0  # level of the loud parts of speech, in dB of full scale, that the network hears
SILENCE_DB = -75.0  # what is never louder holds no speech
MAX_GAIN_DB = 45.0
STEADY_DB, LIVELY_DB = 6.0, 12.0  # from noise, which is not amplified, to speech, by how much the level varies

PACKAGE, VERSION, MODEL_FILE = "hama", "1.7.0", "assets/asr_waveform.hama"
MODEL_SHA256 = "a9fcfe73e179ca48e399cd76a90a6b3e1887bf5037ecc52b778d13a149563328"
CLOSURES = {"b": 10, "m": 31, "p": 35, "pʰ": 36, "p͈": 37, "ɓ": 82}  # symbols said with closed lips, and their numbers
CLOSURE_THRESHOLD = 0.3  # of their probability, above which a peak counts
CLOSURE_DELAY = 3  # vectors by which that peak comes after the lips meet: measured on 546 /p b m/ of GRID


def num_vectors(num_samples: int) -> int:
    """Return how many feature vectors a recording of so many samples has; 0 for an empty one."""
    return num_samples // STRIDE + 1 if num_samples else 0


def encode(wav: np.ndarray, gain: float | None = None) -> np.ndarray:
    """Encode speech as phonetic features, (T, 335) float32, 50 vectors a second.

    wav: (N,) float, 16 kHz mono, any level, any length. gain: its factor (default: its `speech_gain`). Long recordings
    are encoded in chunks of 20 s: memory beyond the result does not grow with the length. Raises UserError where the
    package hama is missing or of another version.
    """
    wav = np.asarray(wav)
    if wav.ndim != 1:
        raise ValueError(f"speech has the shape {wav.shape}, not (samples,)")
    gain = np.float32(speech_gain(wav) if gain is None else gain)
    features = np.zeros((num_vectors(len(wav)), FEATURES), np.float32)
    for chunk in _chunks(len(wav)) if len(wav) else ():
        mel = log_mel(_clean(wav[chunk.samples]) * gain)
        features[chunk.vectors] = _encoder()(mel)[chunk.within]
    if len(wav) > LONG and current_backend() == "openvino":
        _compiled_encoder().release_memory()
    return features


class _Chunk(typing.NamedTuple):
    """A part of a recording that the network hears at once."""

    samples: slice
    vectors: slice  # its feature vectors among those of the whole recording
    within: slice  # the same vectors among those of the chunk


def _chunks(num_samples):
    """Divide a recording into _Chunks, of one length if there are several: each new length is compiled."""
    total, length, step = num_vectors(num_samples), CHUNK + 2 * CONTEXT, CHUNK // STRIDE
    if num_samples <= length:
        return [_Chunk(slice(0, num_samples), slice(0, total), slice(0, total))]
    chunks, done = [], 0
    while done < total:
        last = max(0, math.ceil((num_samples - length) / STRIDE))  # where the last chunk may begin, in vectors
        first = min(max(0, done - CONTEXT // STRIDE), last)
        end = total if first == last else done + step
        samples = slice(first * STRIDE, min(first * STRIDE + length, num_samples))
        chunks.append(_Chunk(samples, slice(done, end), slice(done - first, end - first)))
        done = end
    return chunks


def feature_window(features: np.ndarray, frame: int, fps, offset_ms: float = 0) -> np.ndarray:
    """Return the WINDOW feature vectors whose middle one is nearest to the middle of one video frame.

    features: (T, 335). frame: 0-based index. fps: int, float or Fraction. offset_ms: positive values use later audio.
    Returns (23, 335), a copy. What lies before and after the recording is silence, as the encoder hears it.
    """
    return feature_windows(features, np.array([frame]), fps, offset_ms)[0]


def feature_windows(features: np.ndarray, frames: np.ndarray, fps, offset_ms: float = 0) -> np.ndarray:
    """Return the feature windows of several video frames, (frames, 23, 335); see `feature_window`."""
    middles = np.array([middle_vector(int(frame), fps, offset_ms) for frame in frames], np.int64)
    index = middles[:, None] + np.arange(WINDOW) - WINDOW // 2
    outside = (index < 0) | (index >= len(features))
    windows = np.empty((*index.shape, FEATURES), features.dtype)
    windows[~outside] = features[index[~outside]]
    if outside.any():
        windows[outside] = silence().astype(features.dtype)
    return windows


def middle_vector(frame: int, fps, offset_ms: float = 0) -> int:
    """Return the number of the feature vector nearest to the middle of a video frame; negative before the audio."""
    middle = (Fraction(frame) + Fraction(1, 2)) / Fraction(fps) + Fraction(offset_ms) / 1000
    return math.floor(middle * VECTORS_PER_SECOND + Fraction(1, 2))


@functools.cache
def silence() -> np.ndarray:
    """Return the feature vector of digital silence, (335,) float32."""
    return encode(np.zeros(SAMPLE_RATE, np.float32))[VECTORS_PER_SECOND // 2]


def phoneme_probabilities(features: np.ndarray) -> np.ndarray:
    """Return the probability of each symbol, blank last, at each feature vector: (T, 335) -> (T, 191) float32."""
    return np.square(features[:, CHANNELS:], dtype=np.float32)


def closure_probability(features: np.ndarray) -> np.ndarray:
    """Return how likely each vector lies at a /p/, /b/ or /m/, at which the lips close: (T, 335) -> (T,) float32.

    A CTC classifier spends one or two vectors on a phoneme, so this is a row of peaks, not of plateaus.
    """
    return phoneme_probabilities(features)[:, list(CLOSURES.values())].sum(axis=1)


def closure_vectors(probability: np.ndarray) -> np.ndarray:
    """Find the middles of the closures, as numbers of vectors, (N,) int, from a `closure_probability` (T,).

    They lie CLOSURE_DELAY before the peaks over CLOSURE_THRESHOLD, and can be negative.
    """
    before, after = np.pad(probability, 1)[:-2], np.pad(probability, 1)[2:]
    peaks = (probability > CLOSURE_THRESHOLD) & (probability >= before) & (probability > after)
    return np.flatnonzero(peaks) - CLOSURE_DELAY


def speech_gain(wav: np.ndarray) -> float:
    """Return the factor that brings speech to the level that the encoder hears best; 1 for silence and empty audio.

    The level is that of the loud tenth of what is active (within 40 dB of the loudest): pauses do not count. Steady
    noise, whose level hardly varies, is not amplified.
    """
    levels = _levels_db(wav)
    if not len(levels) or (peak := np.percentile(levels, 99)) < SILENCE_DB:
        return 1.0
    active = levels[levels > peak - 40]
    loud, quiet = np.percentile(active, (90, 10))
    gain_db = min(ACTIVE_LEVEL_DB - loud, MAX_GAIN_DB)
    if gain_db > 0:
        spread = loud - quiet if len(active) > len(levels) / 2 else LIVELY_DB
        gain_db *= float(np.clip((spread - STEADY_DB) / (LIVELY_DB - STEADY_DB), 0, 1))
    return float(10 ** (gain_db / 20))


def _levels_db(wav, step=512):
    """Return the RMS level of every 32 ms (or of shorter audio as a whole) in dB of full scale: (frames,) float64."""
    if not len(wav):
        return np.zeros(0)
    step = min(step, len(wav))
    blocks = (wav[i : i + 60 * SAMPLE_RATE // step * step] for i in range(0, len(wav), 60 * SAMPLE_RATE // step * step))
    powers = [(_clean(b[: len(b) // step * step]).reshape(-1, step).astype(np.float64) ** 2).mean(1) for b in blocks]
    return 10 * np.log10(np.maximum(np.concatenate(powers), 1e-20))


def _clean(wav):
    """Return the samples as finite float32."""
    wav = wav.astype(np.float32)
    return wav if np.isfinite(wav).all() else np.nan_to_num(wav, nan=0.0, posinf=0.0, neginf=0.0)


def log_mel(wav: np.ndarray) -> np.ndarray:
    """Compute the encoder's log-mel spectrogram: (N,) float32, N >= 1 -> (N // 160 + 1, 80) float32, natural log.

    With the model's own kernels, which differ from an exact Fourier transform, and rounded as in hama's engine.
    """
    padded = np.pad(wav, N_FFT // 2, mode="reflect" if len(wav) > 1 else "edge")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    # No matrix products: beside other threads OpenBLAS can hang in large ones (see media.audio.melspectrogram).
    real, imaginary = (
        np.einsum("tk,fk->tf", frames, _tensors()[f"stft_{part}_kernel"][:, 0]) for part in ("real", "imag")
    )
    power = real**2 + imaginary**2  # (frames, 201)
    mel = np.maximum(np.einsum("tf,fm->tm", power, _tensors()["mel_fb"]), 1e-10)
    return np.log(mel).astype(np.float16).astype(np.float32)


@functools.cache
def _tensors():
    """Load the tensors of the acoustic model by name, float32. Raises UserError."""
    spec = importlib.util.find_spec(PACKAGE)
    folder = pathlib.Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    if folder is None or not (folder / MODEL_FILE).is_file():
        raise UserError(
            f"the package {PACKAGE} (the speech encoder's weights) is missing; pip install -r requirements.txt"
        )
    data = (folder / MODEL_FILE).read_bytes()
    if hashlib.sha256(data).hexdigest() != MODEL_SHA256:
        raise UserError(
            f"the speech encoder's weights are not those of {PACKAGE} {VERSION}; pip install {PACKAGE}=={VERSION}"
        )
    return read_tensors(data)


def read_tensors(data: bytes) -> dict[str, np.ndarray]:
    """Read a HAMAPK file: after 8 bytes, a count, and for each tensor its name, type, dimensions, offset and size.

    Returns the tensors by name as float32. Offsets count from where the data begin; the last tensor ends the file.
    """
    entries, place = [], 12
    for _ in range(struct.unpack_from("<I", data, 8)[0]):
        (length,) = struct.unpack_from("<H", data, place)
        name = data[place + 2 : place + 2 + length].decode()
        place += 2 + length
        is_half, dimensions = data[place : place + 2]
        *shape, offset, size = struct.unpack_from(f"<{dimensions}IQQ", data, place + 2)
        place += 2 + 4 * dimensions + 16
        entries.append((name, np.float16 if is_half else np.float32, shape, offset, size))
    start = len(data) - max(offset + size for *_, offset, size in entries)
    return {
        name: np.frombuffer(data[start + offset : start + offset + size], dtype).reshape(shape).astype(np.float32)
        for name, dtype, shape, offset, size in entries
    }


@functools.cache
def _encoder():
    """Return a function from a log-mel spectrogram (frames, 80) to its features (frames / 2 rounded up, 335)."""
    if current_backend() == "openvino":
        run = _compiled_encoder()
        return lambda mel: run([mel[None]])[0][0]
    network = encoder_network()
    return lambda mel: network.predict_on_batch(mel[None])[0]


@functools.cache
def _compiled_encoder():
    """Return the encoder as a `compiled.Network`: compiled once for all lengths, and kept on disk."""

    def build():
        import_keras()
        return compiled.openvino_model(encoder_network(), [[1, -1, MELS]])

    return compiled.compile_network(build, key=compiled.cache_key(speech_encoder=MODEL_SHA256))


@functools.cache
def encoder_network():
    """Build the encoder with hama's weights as a functional Keras model. Raises UserError.

    Input: log-mel, (frames, 80). Output: features, (frames / 2 rounded up, 335).
    """
    import keras
    from keras import layers, ops

    mel = keras.Input((None, MELS), name="log_mel")
    x = layers.ZeroPadding1D(1)(mel)
    x = layers.Conv1D(CHANNELS, 3, strides=2, activation="gelu", name="subsample")(x)  # (frames / 2, 144)
    blocks = []
    for number in range(1, BLOCKS + 1):
        x = _conformer_block(x, f"block{number}")
        blocks.append(x)
    probabilities = ops.softmax(layers.Dense(SYMBOLS, name="classifier")(x))  # (frames / 2, 191)
    features = layers.Concatenate(name="features")([blocks[FEATURE_BLOCK - 1], ops.sqrt(probabilities)])
    network = keras.Model(mel, features, name="speech_encoder")
    for layer, weights in _weights(_tensors()).items():
        network.get_layer(layer).set_weights(weights)
    network.trainable = False
    return network


def _conformer_block(x, name):
    """Apply a Conformer block (half feed-forward, self-attention, convolution, half feed-forward): (T, 144) -> same."""
    from keras import layers

    x = x + 0.5 * _feed_forward(x, f"{name}_ffn1")
    x = x + _self_attention(x, f"{name}_attention")
    x = x + _convolution(x, f"{name}_conv")
    x = x + 0.5 * _feed_forward(x, f"{name}_ffn2")
    return layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_norm")(x)


def _feed_forward(x, name):
    from keras import layers

    x = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_norm")(x)
    x = layers.Dense(4 * CHANNELS, activation="silu", name=f"{name}_wide")(x)  # (T, 576)
    return layers.Dense(CHANNELS, name=f"{name}_narrow")(x)


def _self_attention(x, name):
    """Apply self-attention without positions: 4 heads of 36 channels."""
    from keras import layers, ops

    x = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_norm")(x)
    x = layers.Dense(3 * CHANNELS, name=f"{name}_qkv")(x)
    x = layers.Reshape((-1, 3, HEADS, CHANNELS // HEADS))(x)  # (T, 3, 4, 36)
    query, key, value = (ops.transpose(x[:, :, part], (0, 2, 1, 3)) for part in range(3))  # (4, T, 36)
    scores = ops.matmul(query * (CHANNELS // HEADS) ** -0.5, ops.transpose(key, (0, 1, 3, 2)))  # (4, T, T)
    x = ops.transpose(ops.matmul(ops.softmax(scores), value), (0, 2, 1, 3))  # (T, 4, 36)
    return layers.Dense(CHANNELS, name=f"{name}_out")(layers.Reshape((-1, CHANNELS))(x))


def _convolution(x, name):
    """Apply gated pointwise, depthwise (620 ms, batch norm folded in) and pointwise convolutions."""
    from keras import layers, ops

    x = layers.LayerNormalization(epsilon=EPSILON, name=f"{name}_norm")(x)
    x = layers.Dense(2 * CHANNELS, name=f"{name}_gated")(x)
    x = x[:, :, :CHANNELS] * ops.sigmoid(x[:, :, CHANNELS:])  # (T, 144)
    x = layers.DepthwiseConv1D(KERNEL, padding="same", activation="silu", name=f"{name}_depthwise")(x)
    return layers.Dense(CHANNELS, name=f"{name}_pointwise")(x)


def _weights(tensors):
    """Return the weights of `encoder_network`'s layers by layer name, from hama's tensors.

    The exported file names only some tensors; the others are numbered in the order in which the network uses them.
    """
    numbered = {kind: sorted(name for name in tensors if f"::{kind}_" in name) for kind in ("Conv", "MatMul")}
    convs, matmuls = ([tensors[name] for name in numbered[kind]] for kind in ("Conv", "MatMul"))
    weights = {"subsample": [convs[0].transpose(2, 1, 0), convs[1]]}
    for block in range(BLOCKS):
        prefix, mine = f"acoustic_model.model.blocks.{block}.", f"block{block + 1}_"
        get = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        m = matmuls[6 * block : 6 * block + 6]

        def pair(name, get=get):
            return [get[f"{name}.weight"], get[f"{name}.bias"]]

        def pointwise(name, get=get):
            return [get[f"{name}.weight"][:, :, 0].T, get[f"{name}.bias"]]

        for ffn, first in (("ffn1", 0), ("ffn2", 4)):
            weights[f"{mine}{ffn}_norm"] = pair(f"{ffn}.norm")
            weights[f"{mine}{ffn}_wide"] = [m[first], get[f"{ffn}.fc1.bias"]]
            weights[f"{mine}{ffn}_narrow"] = [m[first + 1], get[f"{ffn}.fc2.bias"]]
        weights[f"{mine}attention_norm"] = pair("attn_norm")
        weights[f"{mine}attention_qkv"] = [m[2], get["attn.in_proj_bias"]]
        weights[f"{mine}attention_out"] = [m[3], get["attn.out_proj.bias"]]
        weights[f"{mine}conv_norm"] = pair("conv.norm")
        weights[f"{mine}conv_gated"] = pointwise("conv.pointwise1")
        depthwise = convs[2 + 2 * block]  # (144, 1, 31)
        weights[f"{mine}conv_depthwise"] = [depthwise.transpose(2, 0, 1), convs[3 + 2 * block]]
        weights[f"{mine}conv_pointwise"] = pointwise("conv.pointwise2")
        weights[f"{mine}norm"] = pair("norm")
    weights["classifier"] = [
        tensors["acoustic_model.model.proj.weight"][:, :, 0].T,
        tensors["acoustic_model.model.proj.bias"],
    ]
    return weights
