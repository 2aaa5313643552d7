"""Training samples of preprocessed clips: crops, mel windows, landmarks and speech features, read batch by batch.

A batch is a pure function of (seed, epoch, batch number): the same for any number of workers, resumable anywhere.
"""

import collections
import collections.abc
import functools
import pathlib
import typing

import cv2
import numpy as np
import simplejpeg

from audio_hparams import hparams
from lipgan.data.augment import LANDMARKS_NAMES, LIPS_NAMES, augment_batch, other_voice
from lipgan.data.clip_folder import MELS_NAME
from lipgan.data.index import index_of
from lipgan.faces.landmarks import LIPS, NUM_LANDMARKS
from lipgan.utils.cli import UserError

LIPS_COLUMNS = slice(2 * LIPS.start, 2 * LIPS.stop)  # of a row of landmarks


class Clip(typing.NamedTuple):
    """One clip of a dataset."""

    folder: pathlib.Path  # where it is, or would be if it were not packed
    frame_ids: np.ndarray  # (N,) int32, ascending: the frames that have a crop
    inside: range  # the frames whose whole mel window lies inside the audio
    targets: np.ndarray  # (M,) int32: the frames of both that have a reference far enough away


class Clips(collections.abc.Sequence):
    """The clips of some rows of an index. Each Clip is made on access, so only the index's arrays stay in memory."""

    def __init__(self, index, rows):
        self._index, self._rows = index, rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, number):
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        index, row = self._index, int(self._rows[number])
        crops = slice(index.first_crop[row], index.first_crop[row + 1])
        frame_ids = index.frame_ids[crops]
        inside = range(*index.inside[row].tolist())
        return Clip(index.root / index.names[row], frame_ids, inside, frame_ids[index.is_target[crops]])


class FaceDataset:
    """Samples of preprocessed clips: target crop, reference crop of the same clip, the target's audio, wrong audio.

    Only numbers of clips and frames are in memory. `len()` is the number of targets, which is the number of samples of
    an epoch; `clips` are Clips; `skipped` counts the unusable clips by reason.
    """

    def __init__(
        self,
        clips,
        img_size=96,
        mel_dtype="float16",
        balance=False,
        augment=False,
        index=None,
        landmarks=None,
        speech=None,
    ):
        """clips: folders, as from `find_clips`. index: of the folder they are in, from `open_index`; without it these
        clips are indexed for this object alone, with mels of mel_dtype (float16 is good to 0.001 of [-4, 4]).

        balance: draw targets so that a speaker (the folder of the clip) weighs as the root of their number of targets.
        augment: change faces and voices as `augment_batch` does. landmarks: of all crops of the index, from
        `read_landmarks`; samples then have lips. speech: SpeechFeatures of the index, from `read_features`; samples
        then have windows of them, with `augment` of a random version. Raises UserError when no clip can be used, or
        when the crops are not of `img_size`.
        """
        self.img_size, self.skipped = img_size, collections.Counter()
        self._index, self._augment, self._last_order = index or index_of(clips, mel_dtype), augment, (None, None)
        self._landmarks, self._speech = landmarks, speech
        row_of = {str(self._index.root / name): row for row, name in enumerate(self._index.names)}
        rows = []
        for folder in map(pathlib.Path, clips):
            row = row_of.get(str(folder if index else folder.absolute()))
            reason = f"no {MELS_NAME}" if row is None else self._index.reasons[row]
            if reason:
                self.skipped[reason] += 1
            else:
                rows.append(row)
        if not rows:
            reasons = "; ".join(f"{count} with {reason}" for reason, count in self.skipped.items())
            raise UserError(
                f"none of the {self.skipped.total()} clips can be used ({reasons or 'the list is empty'}); "
                "see the summary of preprocess.py"
            )
        self._rows = np.array(rows, "int32")
        self.clips = Clips(self._index, self._rows)
        self.read_crop(0, int(self.clips[0].frame_ids[0]))  # a wrong img_size fails here, not in the first batch
        counts, positions = self._targets()
        self._clip_of = np.repeat(np.arange(len(rows), dtype="int32"), counts)
        self._frame_of = self._index.frame_ids[positions]
        self._chances = _root_chances([clip.folder.parent for clip in self.clips], counts) if balance else None

    def _targets(self):
        """Count the targets of each clip, and list the positions of all among the index's crops, clip by clip."""
        first, last = self._index.first_crop[self._rows], self._index.first_crop[self._rows + 1]
        crops = last - first
        skipped = np.cumsum(crops) - crops  # crops of the clips before
        positions = np.arange(crops.sum()) + np.repeat(first - skipped, crops)
        chosen = self._index.is_target[positions]
        return np.add.reduceat(chosen, skipped, dtype="int64"), positions[chosen]

    def __len__(self):
        return len(self._frame_of)

    def num_batches(self, size: int) -> int:
        """Number of batches of an epoch: every target once, and the last batch filled up with the first ones."""
        return -(-len(self) // size)

    def read_crop(self, clip: int, frame: int, out=None) -> np.ndarray:
        """Read the face crop of one frame, (S, S, 3) uint8 BGR, into `out` where that is given.

        Raises UserError when missing, damaged or of another size.
        """
        image = None
        try:
            data = self._index.jpeg(self._rows[clip], frame)
            image = simplejpeg.decode_jpeg(data, colorspace="BGR", buffer=out)
        except FileNotFoundError:
            raise UserError(f"{self._path(clip, frame)} is missing; remove its folder and preprocess again") from None
        except ValueError:  # not quite a JPEG (OpenCV forgives more), or larger than `out`
            image = cv2.imdecode(np.frombuffer(data, "uint8"), cv2.IMREAD_COLOR) if data else None
            if image is not None and out is not None and image.shape == out.shape:
                out[...] = image
        if image is None:
            raise UserError(f"{self._path(clip, frame)} is not an image; remove its folder and preprocess again")
        if image.shape != (self.img_size, self.img_size, 3):
            height, width = image.shape[:2]
            raise UserError(
                f"{self._path(clip, frame)} is {width}x{height}, not {self.img_size}x{self.img_size}; "
                f"use --img_size {width}, or preprocess again with --img_size {self.img_size}"
            )
        return image

    def _path(self, clip, frame):
        return self.clips[clip].folder / f"{frame}.jpg"

    def mel_window(self, clip: int, frame: int) -> np.ndarray:
        """Read the mel window of one frame, (80, 27) float32."""
        return self._stored_window(clip, frame).astype("float32")

    def speech_window(self, clip: int, frame: int, version: int = 0, num_vectors: int | None = None) -> np.ndarray:
        """Read the speech vectors around the middle of one frame, (num_vectors, 335) float16.

        version: 0 is the clip's own voice, the others are augmented. num_vectors: default: the encoder's usual.
        """
        return self._speech.window(self._rows[clip], frame, version, num_vectors)

    @property
    def has_landmarks(self) -> bool:
        """True if samples have landmarks."""
        return self._landmarks is not None

    def landmarks(self, clip: int, frame: int) -> np.ndarray:
        """Read the landmarks in the crop of one frame, (68, 2) float32: x and y as fractions of the crop's side."""
        return self._landmark_row(clip, frame).astype("float32").reshape(NUM_LANDMARKS, 2)

    def lips(self, clip: int, frame: int) -> np.ndarray:
        """Read the lips' landmarks in the crop of one frame, (40,) float32: x and y of 20 points."""
        return self._landmark_row(clip, frame)[LIPS_COLUMNS].astype("float32")

    def clip_landmarks(self, clip: int) -> np.ndarray:
        """Read the landmarks in all crops of a clip, (N, 68, 2) float32; NaN where a crop is not an image."""
        return self._landmarks.read(self._rows[clip]).astype("float32").reshape(-1, NUM_LANDMARKS, 2)

    def speech_sequence(self, clip: int, version: int = 0):
        """Read all speech vectors of one version of a clip, (T, 335) float16, and by how much faster it speaks."""
        row = self._rows[clip]
        return self._speech.arrays.read(row, version=version), float(self._speech.arrays.speed[row, version])

    @property
    def num_voices(self) -> int:
        """Number of versions of each clip's speech, its own voice included."""
        return self._speech.num_versions

    def _landmark_row(self, clip, frame):
        """Read the landmarks of one frame, (136,) float16. Raises UserError if its crop is not an image."""
        row = self._rows[clip]
        position = int(np.searchsorted(self._index.frames(row), frame))
        values = self._landmarks.read(row, position, position + 1)[0]
        if np.isnan(values[0]):
            raise UserError(f"{self._path(clip, frame)} is not an image; remove its folder and preprocess again")
        return values

    def _stored_window(self, clip, frame):
        start = _mel_start(frame)
        return self._index.mel(self._rows[clip], start, start + hparams.mel_window)

    def batch(self, key, size: int, rows=slice(None)) -> dict[str, np.ndarray]:
        """Read a batch: reference and target (B, S, S, 3) uint8 BGR, mel and wrong_mel (B, 80, 27, 1) float32.

        With landmarks, also reference_landmarks and target_landmarks (B, 136) float32, and as views of them
        reference_lips and target_lips (B, 40). With speech, also speech and wrong_speech (B, vectors, 335) float32.

        key: (seed, epoch, number), of which the batch is a pure function and by which an epoch visits every target; or
        a numpy.random.Generator, which draws targets at random. rows: those samples of the whole batch to read.
        """
        rng, targets = self._drawn(key, size)
        batch = self._read(targets, rng, only_other_clips=False, rows=rows)
        return augment_batch(batch, rng.spawn(len(targets))[rows]) if self._augment else batch

    def mel_batch(self, key, size: int):
        """Read only the audio of the batch of this key: clips (B,), frames (B,) int32, mels (B, 80, 27, 1) float32."""
        rng, targets = self._drawn(key, size)
        clips, frames = self._clip_of[targets], self._frame_of[targets]
        mels = np.stack([self.mel_window(*pair) for pair in zip(clips.tolist(), frames.tolist(), strict=True)])
        if self._augment:
            mels = np.stack([other_voice(mel, rng) for mel in mels])
        return clips, frames, mels[..., None]

    def speech_batch(self, key, size: int, num_vectors: int | None = None):
        """Read only the speech of the batch of this key: clips (B,), frames (B,) int32, (B, vectors, 335) float32.

        num_vectors: in a window; the encoder's usual number by default.
        """
        rng, targets = self._drawn(key, size)
        clips, frames = self._clip_of[targets], self._frame_of[targets]
        versions = self._draw_versions(rng, len(targets))
        pairs = zip(clips.tolist(), frames.tolist(), versions.tolist(), strict=True)
        windows = [self.speech_window(*pair, num_vectors) for pair in pairs]
        return clips, frames, np.stack(windows).astype("float32")

    def _draw_versions(self, rng, size):
        """Draw a speech version for each sample: (size,) int, all 0 without augmentation."""
        return rng.integers(self._speech.num_versions if self._augment else 1, size=size)

    def _drawn(self, key, size):
        if isinstance(key, np.random.Generator):
            return key, key.integers(len(self), size=size)
        seed, epoch, number = key
        targets = self._order(seed, epoch)[np.arange(number * size, (number + 1) * size) % len(self)]
        return np.random.default_rng((seed, epoch, number)), targets

    def validation_batches(self, size: int, num_samples: int):
        """Yield the same full batches every time: about `num_samples`, evenly spaced over all clips.

        As from `batch`, but each wrong_mel is of another clip (where there is one), so that the gap between own and
        other audio can be measured.
        """
        batches = self.num_batches(size) if num_samples >= len(self) else -(-num_samples // size)
        spaced = np.linspace(0, len(self), batches * size, endpoint=False).astype("int64")
        for number in range(batches):
            rng = np.random.default_rng((0, 0, number))
            yield self._read(spaced[number * size : (number + 1) * size], rng, only_other_clips=True)

    def _order(self, seed, epoch):
        """Return the shuffled targets of an epoch."""
        key, order = self._last_order
        if key != (seed, epoch):
            # Not default_rng((seed, epoch)): numpy fills up with zeros, so that would be the stream of batch 0.
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
            order = rng.permutation(len(self))
            if self._chances is not None:
                order = rng.choice(len(self), size=len(self), p=self._chances)
            self._last_order = ((seed, epoch), order)
        return order

    def _read(self, targets, rng, only_other_clips, rows=slice(None)):
        chances = rng.random((len(targets), 4))[rows]  # of reference, whose wrong window, which clip, which frame
        versions = None
        if self._speech:
            versions = self._draw_versions(rng, len(targets))[rows] * (not only_other_clips)
        targets = targets[rows]
        batch = self._empty_batch(len(targets))
        clips, frames = self._clip_of[targets].tolist(), self._frame_of[targets].tolist()
        for i, (clip, frame, chance) in enumerate(zip(clips, frames, chances.tolist(), strict=True)):
            self.read_crop(clip, frame, batch["target"][i])
            reference = self._reference(clip, frame, chance[0])
            self.read_crop(clip, reference, batch["reference"][i])
            wrong = self._wrong(clip, frame, chance[1:], only_other_clips)
            batch["mel"][i, ..., 0] = self._stored_window(clip, frame)
            batch["wrong_mel"][i, ..., 0] = self._stored_window(*wrong)
            if self.has_landmarks:
                batch["reference_landmarks"][i] = self._landmark_row(clip, reference)
                batch["target_landmarks"][i] = self._landmark_row(clip, frame)
            if self._speech:
                batch["speech"][i] = self.speech_window(clip, frame, versions[i])
                batch["wrong_speech"][i] = self.speech_window(*wrong, versions[i])
        return batch

    def _empty_batch(self, size):
        """Allocate the arrays of a batch of `size` samples."""
        shapes = {name: (self.img_size, self.img_size, 3) for name in ("reference", "target")}
        batch = {name: np.empty((size, *shape), "uint8") for name, shape in shapes.items()}
        shapes = {name: (hparams.num_mels, hparams.mel_window, 1) for name in ("mel", "wrong_mel")}
        if self.has_landmarks:
            shapes |= {name: (2 * NUM_LANDMARKS,) for name in LANDMARKS_NAMES}
        if self._speech:
            shapes |= dict.fromkeys(("speech", "wrong_speech"), self._speech.window_shape)
        batch |= {name: np.empty((size, *shape), "float32") for name, shape in shapes.items()}
        if self.has_landmarks:
            views = zip(LIPS_NAMES, LANDMARKS_NAMES, strict=True)
            batch |= {lips: batch[landmarks][:, LIPS_COLUMNS] for lips, landmarks in views}
        return batch

    def _reference(self, clip, frame, chance):
        """Choose a frame with a crop at least hparams.min_reference_gap frames away. chance: in [0, 1)."""
        frames, gap = self._index.frames(self._rows[clip]), hparams.min_reference_gap
        before, after = np.searchsorted(frames, (frame - gap + 1, frame + gap)).tolist()
        choice = int(chance * (before + len(frames) - after))
        return int(frames[choice if choice < before else choice - before + after])

    def _wrong(self, clip, frame, chances, only_other_clips):
        """Choose (clip, frame) of a wrong window: half of the time of the same clip, else of another.

        chances: three numbers in [0, 1).
        """
        if len(self._rows) > 1 and (only_other_clips or chances[0] < 0.5):
            other = int(chances[1] * (len(self._rows) - 1))
            other += other >= clip
            start, stop = self._index.inside[self._rows[other]].tolist()
            return other, start + int(chances[2] * (stop - start))
        (start, stop), gap = self._index.inside[self._rows[clip]].tolist(), hparams.min_wrong_gap
        before, after = max(0, frame - gap + 1 - start), max(0, stop - frame - gap)
        choice = int(chances[2] * (before + after))
        return clip, start + choice if choice < before else stop - after + choice - before


_mel_start = functools.lru_cache(maxsize=None)(functools.partial(hparams.mel_start, fps=hparams.fps))


def _root_chances(speakers, counts):
    """Return the probability of each target; a speaker's weight is the square root of their number of targets.

    speakers, counts: by clip.
    """
    totals = collections.Counter()
    for speaker, count in zip(speakers, counts.tolist(), strict=True):
        totals[speaker] += count
    chances = np.repeat([totals[speaker] ** -0.5 for speaker in speakers], counts)
    return chances / chances.sum()
