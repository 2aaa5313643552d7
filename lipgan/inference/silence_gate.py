"""Silence gate: finds pauses and fades the mouth to rest, whatever a generator makes of noise."""

import numpy as np
from scipy.ndimage import uniform_filter1d

from audio_hparams import hparams

# A recording's loud level is what 95 % of its mel frames stay under, its noise what 5 % (of means of 9) stay under.
BELOW_LOUD_DB = 40.0  # a frame is silent that is so far under the loud level,
ABOVE_NOISE_DB = 8.0  # or less than this above the noise,
SURELY_SPEECH_DB = 20.0  # unless it is nearer than this to the loud level;
FLOOR_DB = -95.0  # and always below this: the mel scale's lower end, but for rounding
SHORTEST_S = 0.3  # shorter pauses are part of speech
EASE_S = 0.16  # of the fade to rest, and of that back, inside the silence
BLOCK = 8192  # mel frames at a time


def loudness_db(mel):
    """Return the mean power of each mel frame's bands, in dB of the mel's own scale: (80, T) in [-4, 4] -> (T,)."""
    span = -hparams.min_level_db
    blocks = [mel[:, i : i + BLOCK].astype("float64") for i in range(0, mel.shape[1], BLOCK)]
    decibels = ((b / hparams.max_abs_value - 1) * span / 2 for b in blocks)
    return np.concatenate([10 * np.log10(np.mean(10 ** (db / 10), axis=0)) for db in decibels])


def silent_runs(mel):
    """Find the stretches of silence of at least SHORTEST_S, as (first, end) mel frames."""
    level = loudness_db(mel)
    loud, noise = np.percentile(level, 95), np.percentile(uniform_filter1d(level, 9), 5)
    in_noise = min(noise + ABOVE_NOISE_DB, loud - SURELY_SPEECH_DB)
    silent = level < max(loud - BELOW_LOUD_DB, in_noise, FLOOR_DB)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], silent.astype("int8"), [0]])))
    return [(a, b) for a, b in edges.reshape(-1, 2).tolist() if b - a >= SHORTEST_S * hparams.mels_per_second]


def silence_weights(mel, num_frames, fps, offset_frames=0):
    """Return how much the mouth is at rest in each video frame: 0 speaks, 1 rests, with fades inside the silence.

    mel: (80, T) of the whole audio. offset_frames: frames by which the audio window of a frame lies after the frame.
    Returns (num_frames,) float32. Before the audio begins and after it has ended it stays as it is there.
    """
    weights, fade = np.zeros(mel.shape[1]), EASE_S * hparams.mels_per_second
    for first, end in silent_runs(mel):
        since = np.inf if first == 0 else np.arange(end - first) + 0.5
        until = np.inf if end == mel.shape[1] else np.arange(end - first, 0, -1) - 0.5
        share = np.clip(np.minimum(since, until) / fade, 0, 1)
        weights[first:end] = share * share * (3 - 2 * share)
    middles = (np.arange(num_frames) + 0.5 + float(offset_frames)) / float(fps) * hparams.mels_per_second
    return np.interp(middles, np.arange(mel.shape[1]), weights).astype("float32")
