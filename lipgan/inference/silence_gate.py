"""Silence gate: finds pauses and fades the mouth to rest, whatever a generator makes of noise."""

import numpy as np

from audio_hparams import hparams
from lipgan.utils.smoothstep import smoothstep

# A recording's loud level is what 95 % of its frames stay under, its noise what 5 % (of means of 9) stay under.
BELOW_LOUD_DB = 40.0  # a frame is silent that is so far under the loud level,
ABOVE_NOISE_DB = 8.0  # or less than this above the noise,
SURELY_SPEECH_DB = 20.0  # unless it is nearer than this to the loud level;
FLOOR_DB = -90.0  # and always below this
SHORTEST_S = 0.3  # shorter pauses are part of speech
EASE_S = 0.16  # of the fade to rest, and of that back, inside the silence
FRAMES_PER_SECOND = hparams.sample_rate // hparams.hop_size  # 80
# Pre-emphasis, then a mean of 3 samples: speech below 2 kHz counts, hum, rumble and hiss do not.
SPEECH_FILTER = np.convolve([1, -hparams.preemphasis], np.ones(3) / 3)
SPREAD = (0.03, 0.16, 0.31, 0.31, 0.16, 0.03)  # weights of pieces of half a hop around a frame: a squared Hann window


def loudness_db(wav):
    """Return the power of 16 kHz audio (n,) after SPEECH_FILTER, in dB of full scale: (1 + n // 200,) float64.

    Frame k is centred on sample 200 k.
    """
    piece, num_frames, before = hparams.hop_size // 2, 1 + len(wav) // hparams.hop_size, len(SPEECH_FILTER) - 1
    power = np.zeros(2 * num_frames + 6)  # of pieces of half a hop each, the first three before sample 0
    block = piece * 16_384
    for first in range(0, len(wav), block):
        samples = wav[max(0, first - before) : first + block].astype(np.float64)
        samples = np.pad(samples, (max(0, before - first), 0), mode="edge")
        filtered = np.convolve(samples, SPEECH_FILTER, "valid")
        pieces = np.add.reduceat(filtered**2, np.arange(0, len(filtered), piece))
        power[3 + first // piece :][: len(pieces)] = pieces / piece
    frames = sum(weight * power[n : n + 2 * num_frames : 2] for n, weight in enumerate(SPREAD))
    return 10 * np.log10(np.maximum(frames, 1e-12))


def silent_runs(wav):
    """Find the stretches of silence of at least SHORTEST_S, as (first, end) frames of `loudness_db`."""
    level = loudness_db(wav)
    loud, noise = np.percentile(level, 95), np.percentile(_mean_of_9(level), 5)
    in_noise = min(noise + ABOVE_NOISE_DB, loud - SURELY_SPEECH_DB)
    silent = level < max(loud - BELOW_LOUD_DB, in_noise, FLOOR_DB)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], silent.astype("int8"), [0]])))
    return [(a, b) for a, b in edges.reshape(-1, 2).tolist() if b - a >= SHORTEST_S * FRAMES_PER_SECOND]


def _mean_of_9(level):
    """Average each value with four on either side. (SciPy's uniform_filter1d takes half a second to import.)"""
    return np.convolve(np.pad(level, 4, mode="symmetric"), np.full(9, 1 / 9), mode="valid")


def silence_weights(wav, num_frames, fps, offset_frames=0):
    """Return how much the mouth is at rest in each video frame: 0 speaks, 1 rests, with fades inside the silence.

    wav: (n,) float32, the whole audio, 16 kHz. offset_frames: frames by which the audio window of a frame lies after
    the frame. Returns (num_frames,) float32. Before the audio begins and after it has ended it stays as it is there.
    """
    count = 1 + len(wav) // hparams.hop_size
    weights, fade = np.zeros(count), EASE_S * FRAMES_PER_SECOND
    for first, end in silent_runs(wav):
        since = np.inf if first == 0 else np.arange(end - first) + 0.5
        until = np.inf if end == count else np.arange(end - first, 0, -1) - 0.5
        weights[first:end] = smoothstep(np.minimum(since, until) / fade)
    middles = (np.arange(num_frames) + 0.5 + float(offset_frames)) / float(fps) * FRAMES_PER_SECOND
    return np.interp(middles, np.arange(count), weights).astype("float32")
