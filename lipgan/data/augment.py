"""Data augmentation: random shapes and colours of faces, random voices and recording conditions of audio.

Without the shifts and stretches a network learns from few people that a mouth is always at the same place, and paints
it there in every face. The voice of mel windows is changed as they are read; for the speech encoder waveforms are
changed before they are encoded.
"""

import typing

import cv2
import numpy as np
import scipy.signal

from audio_hparams import hparams
from lipgan.data.expression import change_expression, draw_expression
from lipgan.faces.landmarks import MIRRORED, MIRRORED_FACE, NUM_LANDMARKS

LIPS_NAMES = ("reference_lips", "target_lips")  # in a batch with landmarks
LANDMARKS_NAMES = ("reference_landmarks", "target_landmarks")
EXPRESSION_SHARE = 0.6  # of the references get another expression
NUM_BUMPS = 3  # local displacements of a crop


class Deformation(typing.NamedTuple):
    """A smooth change of a crop's geometry: pixel q of the result shows the crop at linear @ q + shift + bumps(q).

    Points are (..., 2), x and y in pixels.
    """

    linear: np.ndarray  # (2, 2)
    shift: np.ndarray  # (2,)
    centres: np.ndarray  # (K, 2): the bumps are Gaussians
    radii: np.ndarray  # (K,)
    moves: np.ndarray  # (K, 2)

    @property
    def mirrored(self) -> bool:
        """True if left and right are exchanged."""
        return np.linalg.det(self.linear) < 0

    def source(self, points):
        """Map points of the result to points of the original."""
        return points @ self.linear.T + self.shift + self._bumps(points)

    def target(self, points):
        """Map points of the original to points of the result, to a hundredth of a pixel or so."""
        inverse, result = np.linalg.inv(self.linear).T, points
        for _ in range(8):
            result = (points - self.shift - self._bumps(result)) @ inverse
        return result

    def apply(self, crop):
        """Deform a crop (S, S, 3) uint8; past its borders they are repeated."""
        pixels = np.arange(crop.shape[0])
        # As `source` of every pixel. A Gaussian has one factor for columns and one for rows.
        near = np.exp(-np.square(pixels - self.centres[..., None]) / (2 * self.radii[:, None, None] ** 2))  # (K, 2, S)
        x, y = (
            (row[0] * pixels + row[1] * pixels[:, None] + shift + near[:, 1].T @ (near[:, 0] * move[:, None])).astype(
                "float32"
            )
            for row, shift, move in zip(self.linear, self.shift, self.moves.T, strict=True)
        )
        return cv2.remap(crop, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def landmarks(self, values, size):
        """Move the landmarks of a crop of `size` pixels: (40,) of the lips or (136,) of all, fractions of its side."""
        points = (self.target(values.reshape(-1, 2) * size - 0.5) + 0.5) / size
        mirrored = MIRRORED_FACE if len(points) == NUM_LANDMARKS else MIRRORED
        return (points[mirrored] if self.mirrored else points).ravel()

    def _bumps(self, points):
        distance = np.square(points[..., None, :] - self.centres).sum(-1)
        return np.exp(-distance / (2 * self.radii**2)) @ self.moves


def draw_deformation(size, rng) -> Deformation:
    """Draw a small rotation, scaling and shift of a crop of `size` pixels, mirrored half of the time, and a few bumps
    around the mouth, as of other lips, chins and smiles."""
    turn, middle = rng.normal(0, 0.04), (size - 1) / 2
    stretch = np.exp(rng.normal(0, 0.04, 2)) * (rng.choice((-1, 1)), 1)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * stretch
    shift = rng.normal(0, 0.02 * size, 2) + middle - linear @ (middle, middle)
    centres = rng.uniform((0.2, 0.5), (0.8, 1.0), (NUM_BUMPS, 2)) * size
    radii = rng.uniform(0.08, 0.2, NUM_BUMPS) * size
    return Deformation(linear, shift, centres, radii, rng.normal(0, 0.025 * size, (NUM_BUMPS, 2)))


def augment_batch(batch, rngs):
    """Mirror, deform and recolour the faces of a `FaceDataset` batch and change its voices, in place; returns it.

    rngs: a numpy.random.Generator for each sample. Its reference and its target (and their landmarks) are changed
    alike, and so are its own and its wrong audio.
    """
    levels, size = np.arange(256, dtype="float32") / 255, batch["target"].shape[1]
    for sample, (reference, target, rng) in enumerate(zip(batch["reference"], batch["target"], rngs, strict=True)):
        mels = np.stack([batch["mel"][sample, ..., 0], batch["wrong_mel"][sample, ..., 0]])
        batch["mel"][sample, ..., 0], batch["wrong_mel"][sample, ..., 0] = other_voice(mels, rng)
        gains, gammas = rng.uniform(0.75, 1.25, 3), np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.06, 3))
        table = np.stack([255 * np.clip(g * levels**y, 0, 1) for g, y in zip(gains, gammas, strict=True)], axis=-1)
        table = table[None].round().astype("uint8")
        deformation = draw_deformation(size, rng)
        for crop in (reference, target):
            crop[...] = cv2.LUT(deformation.apply(crop), table)
        for name in LANDMARKS_NAMES:
            if name in batch:
                batch[name][sample] = deformation.landmarks(batch[name][sample], size)
        if LIPS_NAMES[0] in batch and rng.random() < EXPRESSION_SHARE:
            lips = batch[LIPS_NAMES[0]][sample]  # a view of the landmarks
            other = draw_expression(lips, rng)
            reference[...] = change_expression(reference, lips, other)
            lips[...] = other
    return batch


def other_voice(mels, rng):
    """Change mel windows (..., 80, W) to another speaker and microphone: formants moved, louder or softer, with noise.

    The bands are moved by some two of them (Jaitly and Hinton 2013 perturb the length of the vocal tract so).
    """
    source = np.clip(np.arange(hparams.num_mels) + rng.normal(0, 2), 0, hparams.num_mels - 1)
    below = np.minimum(source.astype(int), hparams.num_mels - 2)
    share = (source - below)[:, None]
    moved = (1 - share) * mels[..., below, :] + share * mels[..., below + 1, :]
    noise = rng.uniform(-5, -1) + rng.normal(0, 0.2, mels.shape)  # often under the scale's lower end, that is, none
    return np.clip(np.maximum(moved + rng.normal(0, 0.4), noise), -4, 4).astype("float32")


def augment_waveform(wav, rng):
    """Change a recording's voice, spectrum, room, noise and level at random. Returns (waveform, speed).

    wav: (n,) float32 at hparams.sample_rate. Only the tempo moves what is said in time: what was said at t seconds is
    said at t / speed.
    """
    wav, speed = np.asarray(wav, "float32"), 1.0
    if rng.random() < 0.8:
        speed = np.exp(rng.uniform(-0.12, 0.12)) if rng.random() < 0.5 else 1.0
        wav = change_voice(wav, np.exp(rng.uniform(-0.22, 0.22)), speed)
    if rng.random() < 0.5:
        wav = _colour_spectrum(wav, rng)
    if rng.random() < 0.5:
        wav = _add_room(wav, rng)
    if rng.random() < 0.6:
        wav = _add_noise(wav, rng)
    wav = wav * np.float32(10 ** (rng.uniform(-30, 6) / 20))
    return np.clip(wav, -1, 1).astype("float32"), float(speed)


def change_voice(wav, pitch, speed):
    """Multiply pitch and formants by `pitch` and the tempo by `speed`: (n,) -> about (n / speed,) float32."""
    steps = 200, max(1, round(200 * pitch))
    wav = scipy.signal.resample_poly(wav, *steps)  # changes pitch and tempo alike
    return _stretch(wav, speed * steps[0] / steps[1])


def _stretch(wav, rate):
    """Change the tempo by `rate` and keep the pitch, by waveform-similarity overlap-add (Verhelst and Roelands 1993).

    It keeps transients, which tell closed lips, sharper than librosa's phase vocoder, whose first call takes 4 s.
    """
    size, hop, search = 640, 320, 160  # segments of 40 ms every 20 ms, moved by up to 10 ms
    window, expected = np.hanning(size + 1)[:size], np.zeros(size)
    count = round(len(wav) / rate / hop) + 2
    padded, result = np.pad(wav, (search + size // 2, 5 * size)), np.zeros((count + 2) * hop)
    for number in range(count):
        start = min(round(number * hop * rate), len(wav)) + search
        if expected.any():  # the segment that continues the one before best
            region = padded[start - search : start + search + size]
            start += int(np.correlate(region, expected, "valid").argmax()) - search
        result[number * hop : number * hop + size] += window * padded[start : start + size]
        expected = padded[start + hop : start + hop + size]
    return result[size // 2 : size // 2 + max(1, round(len(wav) / rate))].astype("float32")


def _colour_spectrum(wav, rng):
    """Apply random gains per octave, and often a narrow band, as of a microphone or a telephone; without delay."""
    spectrum, hz = np.fft.rfft(wav), np.fft.rfftfreq(len(wav), 1 / hparams.sample_rate)
    gain_db = np.interp(hz, (0, 200, 500, 1000, 2000, 4000, 8000), np.cumsum(rng.normal(0, 3, 7)))
    if rng.random() < 0.4:
        gain_db[hz > rng.uniform(3000, 6500)] -= 40
    if rng.random() < 0.3:
        gain_db[hz < rng.uniform(100, 350)] -= 30
    return np.fft.irfft(spectrum * 10 ** (gain_db / 20), len(wav)).astype("float32")


def _add_room(wav, rng):
    """Add the reverberation of a random room: decaying noise after the direct sound, which is not delayed."""
    decay_s = rng.uniform(0.1, 0.7)  # to -60 dB
    size = round(decay_s * hparams.sample_rate)
    response = rng.normal(size=size) * 10 ** (-3 * np.arange(size) / size)
    response[: round(0.002 * hparams.sample_rate)] = 0
    response *= 10 ** (-rng.uniform(2, 14) / 20) / np.sqrt(np.square(response).sum())
    response[0] = 1
    return scipy.signal.fftconvolve(wav, response)[: len(wav)].astype("float32")


def _add_noise(wav, rng):
    """Add noise 5 to 35 dB below the loud parts: of a random colour, or babble of the recording played backwards."""
    if rng.random() < 0.3:
        noise = sum(np.roll(wav[::-1], shift) for shift in rng.integers(len(wav), size=4))
    else:
        hz = np.maximum(np.fft.rfftfreq(len(wav), 1 / hparams.sample_rate), 50)
        noise = np.fft.irfft(np.fft.rfft(rng.normal(size=len(wav))) * hz ** -rng.uniform(0, 1), len(wav))
    loud = np.sqrt(np.sort(np.square(wav))[-max(1, len(wav) // 10) :].mean())
    scale = loud * 10 ** (-rng.uniform(5, 35) / 20) / max(float(np.sqrt(np.square(noise).mean())), 1e-9)
    return (wav + scale * noise).astype("float32")
