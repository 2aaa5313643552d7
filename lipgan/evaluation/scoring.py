"""Score the crops that a generator makes of preprocessed clips, beside the rows that any generator must beat."""

import collections
import dataclasses
import pathlib
from fractions import Fraction

import numpy as np

from audio_hparams import hparams
from lipgan.evaluation import metrics
from lipgan.evaluation.free_speech import NO_LAG, SHARED_CLOCK, Timing
from lipgan.evaluation.results import (
    COPIED_REFERENCE,
    GENERATED,
    MEAN_FACE,
    OTHER_AUDIO,
    OTHER_MOUTH,
    TARGET_REFERENCE,
    TRUTH,
    Evaluation,
    ImageScores,
    LipScores,
    Row,
    SkippedClip,
)
from lipgan.faces.crop import generator_input
from lipgan.faces.detector import LipLandmarks
from lipgan.faces.landmarks import LIPS
from lipgan.faces.rest_lips import rest_lips
from lipgan.media.audio import load_wav
from lipgan.utils.cli import UserError
from lipgan.utils.progress import tracked


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """Everything a user can choose about the evaluation of a generator. `evaluate.py` builds it from its options."""

    checkpoint_path: pathlib.Path
    data_root: pathlib.Path
    model: str | None = None  # kind of generator; None: as the checkpoint says
    disc_checkpoint_path: pathlib.Path | None = None
    filelists: pathlib.Path = pathlib.Path("filelists")
    split: str = "test"
    leave_out: pathlib.Path | None = None  # list of clips that are not used
    max_clips: int | None = None  # evenly spaced; None: all
    batch_size: int = 16
    sync_offset_ms: float | None = None  # None: as the checkpoint says


@dataclasses.dataclass(frozen=True)
class ScoredClip:
    """One clip with its rows, and the crops for its figures."""

    name: str  # speaker/clip
    rows: tuple[Row, ...]
    frames: list[int]  # (N,) frame numbers at hparams.fps
    truth: np.ndarray  # (N, S, S, 3) uint8 BGR
    landmarks: np.ndarray  # (N, 68, 2) of the truth, in units of S
    results: dict[str, np.ndarray]  # by row: (N, S, S, 3) uint8


def collect(outcomes, total, sync_offset_ms=None, on_clip=None) -> Evaluation:
    """Gather ScoredClips and SkippedClips into an Evaluation, with a progress bar.

    total: number of outcomes. on_clip: called with the number of each ScoredClip and the clip, which is not kept.
    """
    rows, skipped, count = [], collections.Counter(), 0
    for outcome in tracked(outcomes, "clips", total):
        if isinstance(outcome, SkippedClip):
            skipped[outcome.reason] += 1
            continue
        rows += outcome.rows
        if on_clip:
            on_clip(count, outcome)
        count += 1
    return Evaluation(tuple(rows), dict(skipped), sync_offset_ms)


def evaluate_generator(options: EvaluationOptions, timer=SHARED_CLOCK, on_clip=None) -> Evaluation:
    """Score a generator on the clips of a list. Raises UserError where another clip's audio cannot be had."""
    from lipgan.data.dataset import FaceDataset
    from lipgan.data.filelists import evenly_spaced, find_clips
    from lipgan.data.index import open_index
    from lipgan.data.speech_features import read_features
    from lipgan.inference.runner import load_runner
    from lipgan.models.checkpoint import load_discriminator

    runner = load_runner(options.checkpoint_path, options.model, options.batch_size, precision="float32")
    index = open_index(options.data_root)
    clips, notes = find_clips(options.data_root, options.split, options.filelists, index, options.leave_out)
    print("\n".join(notes), end="\n" if notes else "", flush=True)
    features = read_features(index) if runner.audio_kind == "speech" else None
    dataset = FaceDataset(evenly_spaced(clips, options.max_clips), runner.img_size, index=index, speech=features)
    if len(dataset.clips) < 2:
        raise UserError(f"{options.split}.txt has {len(dataset.clips)} clip to score: another clip's audio needs two")
    offset_ms = runner.info["sync_offset_ms"] if options.sync_offset_ms is None else options.sync_offset_ms
    scorer = ClipScorer(dataset, runner.reset().predict, offset_ms, timer, runner.audio_kind)
    notes = ()
    if options.disc_checkpoint_path:
        discriminator, _ = load_discriminator(options.disc_checkpoint_path)
        scorer.distance = distance_by(discriminator, options.batch_size)
        notes = (discriminator_summary(dataset, discriminator, options.batch_size),)
    evaluation = collect(scorer, len(dataset.clips), offset_ms, on_clip)
    skipped = collections.Counter(dataset.skipped) + collections.Counter(evaluation.skipped)
    return dataclasses.replace(evaluation, skipped=dict(skipped), notes=notes)


def distance_by(discriminator, batch_size):
    """Make a function (crops (N, S, S, 3) uint8, mels) -> mean distance of faces and audio by a discriminator."""

    def distance(crops, mels):
        faces = crops.astype("float32") / np.float32(255)
        return float(predict_batches(discriminator, batch_size, faces, mels).mean())

    return distance


class ClipScorer:
    """Iterates over the ScoredClips and SkippedClips of a FaceDataset of two or more clips.

    generate: `GeneratorRunner.predict`, or a function like it. sync_offset_ms: the generator hears audio so much later
    than a frame; clips without a frame that has such audio are skipped. timer: a `free_speech.Timer`. distance, from
    `distance_by` or None, is given the frame's own audio.

    Rows: the generator with the clip's own audio, with the next clip's, and with the target itself as reference (a
    bound: the answer lies in the input); one far frame copied; the clip's mean face; and, as lips alone, the true mouth
    of the clip whose audio `other_audio` has: clips that pause at the same times agree a little.
    """

    def __init__(self, dataset, generate, sync_offset_ms=0, timer=SHARED_CLOCK, audio_kind="mel"):
        self.dataset, self.generate, self.timer, self.distance = dataset, generate, timer, None
        self.audio_kind = audio_kind
        self.offset_frames = Fraction(sync_offset_ms) / 1000 * hparams.fps
        self._landmarks, self._true_points = LipLandmarks(), {}

    def __iter__(self):
        for number in range(len(self.dataset.clips)):
            yield self.score(number)
            self._true_points.pop(number - 1, None)  # the last clip is compared with the first: that is read again

    def score(self, number):
        """Score one clip by its number: a ScoredClip or a SkippedClip."""
        dataset, clip = self.dataset, self.dataset.clips[number]
        name = "/".join(clip.folder.parts[-2:])
        frames = frames_with_audio(clip.inside, [int(frame) for frame in clip.targets], self.offset_frames)
        if not frames:
            return SkippedClip(name, "no frame's whole audio window, at this offset, lies in the clip")
        truth = np.stack([dataset.read_crop(number, frame) for frame in frames])
        points = self._points(number, frames)
        other, other_frames = other_clip(dataset, number, frames, self.offset_frames)
        far_ids = far_frames(dataset, number, frames)
        results = self._generated(number, frames, truth, far_ids, (other, other_frames))
        results[MEAN_FACE] = np.broadcast_to(truth.mean(0).round().astype("uint8"), truth.shape)
        timing = self._timing(number, name)
        person = name.split("/")[0]
        rows = [
            Row(
                clip=name, person=person, row=row, own_lag=timing.lag,
                **vars(image_scores(crops, truth)),
                **vars(lip_scores(landmarks_of(crops, self._landmarks), points, frames, timing)),
            )
            for row, crops in results.items()
        ]  # fmt: skip
        their_lips = lip_scores(self._points(other, other_frames), points, frames, timing)
        rows.append(Row(clip=name, person=person, row=OTHER_MOUTH, own_lag=timing.lag, **vars(their_lips)))
        if self.distance is not None:
            own_audio = mel_windows(dataset, number, frames)
            rows = [
                dataclasses.replace(row, disc_distance=self.distance(results[row.row], own_audio))
                if row.row in results
                else row
                for row in rows
            ]
            rows.append(Row(clip=name, person=person, row=TRUTH, disc_distance=self.distance(truth, own_audio)))
        return ScoredClip(name, tuple(rows), frames, truth, points, results)

    def _generated(self, number, frames, truth, far_ids, other):
        """Generate the crops of each row; the far reference frames are a row too."""
        ends = {frame: self.dataset.read_crop(number, frame) for frame in set(far_ids)}
        far = np.stack([ends[frame] for frame in far_ids])
        far_points = self._points(number, far_ids)
        windows = speech_windows if self.audio_kind == "speech" else mel_windows
        own_audio = windows(self.dataset, number, frames, self.offset_frames)
        other_audio = windows(self.dataset, *other, self.offset_frames)
        inputs = {
            GENERATED: (far, own_audio, far_points),
            OTHER_AUDIO: (far, other_audio, far_points),
            TARGET_REFERENCE: (truth, own_audio, self._points(number, frames)),
        }
        results = {}
        for row, (reference, audio, points) in inputs.items():
            lips = points[:, LIPS].reshape(len(points), -1).astype("float32")
            rest = np.stack([rest_lips(face).ravel() for face in points])
            faces = self.generate(generator_input(reference, truth), audio, lips, rest)
            results[row] = np.round(faces * 255).clip(0, 255).astype("uint8")
        return results | {COPIED_REFERENCE: far}

    def _points(self, number, frames):
        """Find the true landmarks of these frames: (N, 68, 2) in units of the crop's side; nan without a crop."""
        if number not in self._true_points:
            self._true_points[number] = {
                int(frame): self._landmarks.face(self.dataset.read_crop(number, int(frame)))
                for frame in self.dataset.clips[number].frame_ids
            }
        missing = np.full((68, 2), np.nan)
        return np.stack([self._true_points[number].get(frame, missing) for frame in frames])

    def _timing(self, number, name) -> Timing:
        clip = self.dataset.clips[number]
        path = clip.folder / "audio.wav"  # not there where the folder is packed
        opening = metrics.mouth_opening(self._points(number, clip.frame_ids.tolist()))
        return self.timer(
            name, load_wav(path) if path.is_file() else None, metrics.on_time_axis(opening, clip.frame_ids)
        )


# Which audio and which reference belong to a frame --------------------------------------------------------------------


def frames_with_audio(inside, frames, offset_frames):
    """Keep the frames whose whole audio window, `offset_frames` later, lies in the clip. inside: those at offset 0."""
    return [frame for frame in frames if inside.start <= frame + offset_frames <= inside.stop - 1]


def other_clip(dataset, number, frames, offset_frames=0):
    """Choose the clip whose audio replaces this one's, and as many of its frames: (number, frames)."""
    other = (number + 1) % len(dataset.clips)
    inside = dataset.clips[other].inside
    inside = frames_with_audio(inside, inside, offset_frames) or inside  # too short a clip: silence at one end
    return other, [inside[i % len(inside)] for i in range(len(frames))]


def speech_windows(dataset, number, frames, offset_frames=0):
    """Read the speech windows of frames that lie offset_frames earlier than their audio: (N, 23, 335) float32."""
    return np.stack([dataset.speech_window(number, frame + offset_frames) for frame in frames]).astype("float32")


def mel_windows(dataset, number, frames, offset_frames=0):
    """Stack the mel windows of a clip's frames, `offset_frames` later: (N, 80, 27, 1) float32."""
    return np.stack([dataset.mel_window(number, frame + offset_frames) for frame in frames])[..., None]


def far_frames(dataset, number, frames):
    """Choose a reference for each frame, by frame number: the clip's first, and the last for those near the first."""
    ids = dataset.clips[number].frame_ids.tolist()
    return [ids[-1] if frame - ids[0] < hparams.min_reference_gap else ids[0] for frame in frames]


def predict_batches(network, batch_size, *inputs):
    """Run a keras.Model on all inputs in batches of one size, for which it is compiled; the last one is padded."""
    count = len(inputs[0])
    inputs = [np.concatenate([a, np.repeat(a[-1:], -count % batch_size, axis=0)]) for a in inputs]
    starts = range(0, len(inputs[0]), batch_size)
    parts = [network.predict_on_batch([a[i : i + batch_size] for a in inputs]) for i in starts]
    return np.concatenate([np.asarray(part) for part in parts])[:count]


# Crops and landmarks to numbers ---------------------------------------------------------------------------------------


def landmarks_of(crops, landmarks):
    """Find the landmarks of crops (N, S, S, 3), only once where all are the same: (N, 68, 2) in units of S."""
    still = bool((crops == crops[:1]).all())
    points = np.stack([landmarks.face(crop) for crop in (crops[:1] if still else crops)])
    return np.broadcast_to(points, (len(crops), 68, 2))


def image_scores(crops, truth) -> ImageScores:
    """Compare crops (N, S, S, 3) uint8 with the true ones."""
    mouth, true_mouth = metrics.mouth_region(crops), metrics.mouth_region(truth)
    return ImageScores(
        l1=metrics.mean_absolute_error(crops, truth),
        psnr=metrics.psnr(crops, truth),
        ssim=metrics.ssim(crops, truth),
        mouth_l1=metrics.mean_absolute_error(mouth, true_mouth),
        mouth_psnr=metrics.psnr(mouth, true_mouth),
        mouth_ssim=metrics.ssim(mouth, true_mouth),
        sharpness=metrics.sharpness(mouth, true_mouth),
        spectrum=metrics.spectrum_distance(mouth, true_mouth),
        colour_step=metrics.colour_step(crops, truth),
    )


def lip_scores(points, truth, frames, timing=NO_LAG) -> LipScores:
    """Compare landmarks (N, 68, 2) of frames (N,) with the true ones, at the clip's own lag."""
    ours, theirs = (metrics.on_time_axis(metrics.mouth_opening(p), frames) for p in (points, truth))
    our_width, true_width = (metrics.on_time_axis(metrics.mouth_width(p), frames) for p in (points, truth))
    lag = metrics.best_lag(ours, theirs, timing.lag)
    return LipScores(
        lmd=metrics.landmark_distance(points, truth),
        opening=metrics.correlation(ours, theirs, timing.lag),
        width=metrics.correlation(our_width, true_width, timing.lag),
        opening_range=metrics.range_ratio(ours, theirs),
        width_range=metrics.range_ratio(our_width, true_width),
        lag=lag,
        in_time=float("nan") if np.isnan(lag) else float(abs(lag) <= 1),
        closure=metrics.closure_share(ours, theirs, timing.closures, timing.lag),
    )


def discriminator_summary(dataset, discriminator, batch_size):
    """Describe how often real faces are nearer to their own audio than to another clip's, at the same frames."""
    areas = []
    for number, clip in enumerate(dataset.clips):
        frames = [int(frame) for frame in clip.targets]
        crops = np.stack([dataset.read_crop(number, frame) for frame in frames]).astype("float32") / 255
        other, other_frames = other_clip(dataset, number, frames)
        windows = mel_windows(dataset, number, frames), mel_windows(dataset, other, other_frames)
        own, wrong = (predict_batches(discriminator, batch_size, crops, mels)[:, 0] for mels in windows)
        areas.append(metrics.area_under_curve(own, wrong))
    mean, low, high = metrics.interval(areas)
    what = f"area under the curve, own audio against another clip's, {len(areas)} clips"
    return f"{what}: {mean:.3f} ({low:.3f} to {high:.3f})"
