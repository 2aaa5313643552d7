"""Crops to numbers: what a generator makes of whole clips, what it is compared with, and tables over clips."""

import dataclasses
from fractions import Fraction

import numpy as np

from audio_hparams import hparams
from lipgan.data.lip_landmarks import LipLandmarks
from lipgan.evaluation import metrics
from lipgan.faces.crop import generator_input
from lipgan.faces.landmarks import LIPS

OWN, OTHER, LEAK = "own sound", "another clip's sound", "target as reference"
COPIED, MEAN, OTHER_MOUTH = "copied reference", "mean face of the clip", "another clip's mouth"
TRUTH = "truth"  # only where there is a discriminator
GENERATED = (OWN, OTHER, LEAK)
ROWS = (*GENERATED, COPIED, MEAN, OTHER_MOUTH)


@dataclasses.dataclass(frozen=True)
class ScoredClip:
    """One clip, as its numbers and its pictures need it."""

    name: str  # speaker/clip
    frames: list  # (N,) frame numbers at hparams.fps
    truth: np.ndarray  # (N, S, S, 3) uint8 BGR
    landmarks: np.ndarray  # (N, 68, 2) of the truth, in parts of S
    results: dict  # by row: (N, S, S, 3) uint8
    scores: dict  # by row: numbers by name


def score_clips(dataset, generator, batch_size=16, discriminator=None, sync_offset_ms=0):
    """Yield a ScoredClip for each clip of a `dataset.FaceDataset` (of two or more clips).

    generator, discriminator: `keras.Model`s. Rows: the generator with the clip's own sound, with the next clip's
    sound in its place, and with the target itself as reference (a bound: the answer lies in the input); one far
    frame copied; the clip's mean face; and, as lips alone, the true mouth of the clip whose sound `another clip's
    sound` has. That last one is how well a perfect network would do there: clips that pause at the same times agree
    a little. sync_offset_ms: the generator hears the sound of so much later than a frame; a clip without a frame that
    has such a sound is left out, and counted in `dataset.skipped`. The discriminator hears the frame's own sound.
    """
    late = Fraction(sync_offset_ms) / 1000 * hparams.fps  # in frames
    landmarks, lips_of = LipLandmarks(), {}

    def true_landmarks(number):
        if number not in lips_of:
            clip = dataset.clips[number]
            points = {int(f): landmarks.face(dataset.read_crop(number, int(f))) for f in clip.frame_ids}
            lips_of[number] = points
        return lips_of[number]

    for number, clip in enumerate(dataset.clips):
        frames = with_sound(clip.inside, [int(frame) for frame in clip.targets], late)
        if not frames:
            dataset.skipped["no frame has its whole sound, so much later, in the clip"] += 1
            continue
        truth = np.stack([dataset.read_crop(number, frame) for frame in frames])
        points = np.stack([true_landmarks(number)[frame] for frame in frames])
        other, other_frames = other_clip(dataset, number, frames, late)
        own_mels, other_mels = windows(dataset, number, frames, late), windows(dataset, other, other_frames, late)
        far_ids = far_frames(dataset, number, frames)
        ends = {frame: dataset.read_crop(number, frame) for frame in set(far_ids)}
        far = np.stack([ends[frame] for frame in far_ids])
        far_lips = np.stack([true_landmarks(number)[frame] for frame in far_ids])[:, LIPS]
        inputs = {OWN: (far, own_mels, far_lips), OTHER: (far, other_mels, far_lips)}
        inputs |= {LEAK: (truth, own_mels, points[:, LIPS])}
        results = {
            row: generated(generator, generator_input(reference, truth), mels, batch_size, lips)
            for row, (reference, mels, lips) in inputs.items()
        }
        results[COPIED] = far
        results[MEAN] = np.broadcast_to(truth.mean(0).round().astype("uint8"), truth.shape)
        scores = {row: score(crops, truth, points, landmarks) for row, crops in results.items()}
        nowhere = np.full((68, 2), np.nan)
        theirs = np.stack([true_landmarks(other).get(frame, nowhere) for frame in other_frames])
        scores[OTHER_MOUTH] = lip_scores(theirs, points)
        if discriminator is not None:
            scores[TRUTH] = {}
            in_sync = windows(dataset, number, frames)
            for row, crops in (results | {TRUTH: truth}).items():
                scores[row]["disc distance"] = _distance(discriminator, crops, in_sync, batch_size)
        lips_of.pop(number - 1, None)  # the last clip is compared with the first: that one is read again
        yield ScoredClip("/".join(clip.folder.parts[-2:]), frames, truth, points, results, scores)


def with_sound(inside, frames, late):
    """Those frames whose whole sound, `late` frames after them, lies in the clip. inside: those where it does at 0."""
    return [frame for frame in frames if inside.start <= frame + late <= inside.stop - 1]


def other_clip(dataset, number, frames, late=0):
    """The clip whose sound is put in place of this one's, and as many of its frames: (clip, frames)."""
    other = (number + 1) % len(dataset.clips)
    inside = dataset.clips[other].inside
    inside = with_sound(inside, inside, late) or inside  # a clip too short for that is heard with silence at an end
    return other, [inside[i % len(inside)] for i in range(len(frames))]


def windows(dataset, number, frames, late=0):
    """A clip's mel windows of `late` frames after these frames, (N, 80, 27, 1) float32."""
    return np.stack([dataset.mel_window(number, frame + late) for frame in frames])[..., None]


def far_frames(dataset, number, frames):
    """One far frame for all, by number: the clip's first, and for the frames near that one the last."""
    ids = dataset.clips[number].frame_ids.tolist()
    return [ids[-1] if frame - ids[0] < hparams.min_reference_gap else ids[0] for frame in frames]


def generated(generator, faces, mels, batch_size, lips=None):
    """The pictures that a generator makes of all, (N, S, S, 3) uint8. lips: (N, 20, 2), those of the references.

    Only an `informed` generator (see warp.py) is told them.
    """
    more = [lips.reshape(len(lips), -1).astype("float32")] if len(getattr(generator, "inputs", ())) > 2 else []
    return np.round(predicted(generator, batch_size, faces, mels, *more) * 255).clip(0, 255).astype("uint8")


def _distance(discriminator, crops, mels, batch_size):
    return float(predicted(discriminator, batch_size, crops.astype("float32") / np.float32(255), mels).mean())


def predicted(network, batch_size, *inputs):
    """The network's output for all, in whole batches: compiled networks are made for one size."""
    count = len(inputs[0])
    inputs = [np.concatenate([a, np.repeat(a[-1:], -count % batch_size, axis=0)]) for a in inputs]
    starts = range(0, len(inputs[0]), batch_size)
    parts = [network.predict_on_batch([a[i : i + batch_size] for a in inputs]) for i in starts]
    return np.concatenate([np.asarray(part) for part in parts])[:count]


def score(crops, truth, points, landmarks):
    """All numbers of one clip's crops (N, S, S, 3) uint8 by name. points: the truth's landmarks (N, 68, 2)."""
    still = bool((crops == crops[:1]).all())
    ours = np.stack([landmarks.face(crop) for crop in (crops[:1] if still else crops)])
    mouth, true_mouth = metrics.mouth_region(crops), metrics.mouth_region(truth)
    return {
        "L1": metrics.mean_absolute_error(crops, truth),
        "PSNR": metrics.psnr(crops, truth),
        "SSIM": metrics.ssim(crops, truth),
        "mouth L1": metrics.mean_absolute_error(mouth, true_mouth),
        "mouth PSNR": metrics.psnr(mouth, true_mouth),
        "mouth SSIM": metrics.ssim(mouth, true_mouth),
        "sharpness": metrics.sharpness(mouth, true_mouth),
        "spectrum": metrics.spectrum_distance(mouth, true_mouth),
        "colour step": metrics.colour_step(crops, truth),
        **lip_scores(np.broadcast_to(ours, points.shape), points),
    }


def lip_scores(points, truth):
    """The numbers that landmarks (N, 68, 2) alone give."""
    ours, theirs = points[:, LIPS], truth[:, LIPS]
    lag = metrics.best_lag(ours, theirs)
    return {
        "LMD": metrics.landmark_distance(points, truth),
        "correlation": metrics.opening_correlation(ours, theirs),
        "lag": lag,
        "in time": float("nan") if np.isnan(lag) else float(abs(lag) <= 1),
        "opening": metrics.opening_range(ours, theirs),
    }
