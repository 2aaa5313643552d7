"""The preprocessed folder: written clip by clip, listed, indexed once, and read as batches of samples.

    final_data_root/
      preprocess.json                            options and numbers the data were made with, and what was skipped
      main/ | pretrain/ <speaker>/<clip>/
        0.jpg 1.jpg ...                          BGR face crops; N.jpg is frame N of the clip at hparams.fps
        mels.npz                                 spec (80, T) float32, fps, frame_ids (N,) int32, boxes (N, 4) int32
        audio.wav                                16 kHz mono PCM16, the whole clip

A batch is a pure function of (seed, epoch, batch number): the same for any number of workers, resumable anywhere.
"""

import bisect
import collections
import functools
import json
import pathlib
import typing
import wave
import zipfile
import zlib

import cv2
import numpy as np
import simplejpeg

import audio
from audio_hparams import hparams
from augment import augmented, other_voice
from errors import UserError, whole_file, whole_folder

SPLITS = ("train", "pretrain", "val", "test")
SETTINGS_NAME = "preprocess.json"
MELS_NAME = "mels.npz"
JPEG_QUALITY = 95


def read_filelist(path) -> list[str]:
    """The clips of one file list as `<speaker>/<clip>`, in order, each once: first column, blank lines skipped.

    Raises UserError for a missing file and for a line that is not such a name.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no file list {path}; give its folder with --filelists")
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file of one <speaker>/<clip> a line") from None
    names = list(dict.fromkeys(line[0] for line in lines if line))
    for name in names:
        parts = name.split("/")
        if len(parts) != 2 or not all(parts) or set(parts) & {".", ".."}:
            raise UserError(f"{path}: {name!r} is not <speaker>/<clip>; one clip a line, such as speaker/00001")
    return names


def is_clip(folder) -> bool:
    """Whether `folder` is a preprocessed clip (folders appear whole or not at all)."""
    return (pathlib.Path(folder) / MELS_NAME).is_file()


def find_clips(data_root, split: str, filelists) -> tuple[list[pathlib.Path], list[str]]:
    """The folders of a split's preprocessed clips, and lines to print about lists and clips that are missing.

    train, val and test live in main/ and are told apart by <filelists>/<split>.txt only; pretrain lives in pretrain/,
    and train has its clips too. Where a list is missing, all clips of its folder are taken, and a line says so.
    Raises UserError when `data_root` holds no clip at all.
    """
    data_root, filelists = pathlib.Path(data_root), pathlib.Path(filelists)
    folders = {"train": ["main", "pretrain"], "pretrain": ["pretrain"]}.get(split, ["main"])
    if not any(data_root.glob(f"*/*/*/{MELS_NAME}")):
        raise UserError(
            f"no preprocessed clips in {data_root}; make them with preprocess.py --final_data_root {data_root}"
        )
    clips, notes = [], []
    for subset in folders:
        filelist = filelists / f"{'pretrain' if subset == 'pretrain' else split}.txt"
        if subset == "pretrain" and split == "train" and not (data_root / subset).is_dir():
            continue
        if not filelist.is_file():
            found = sorted(path.parent for path in (data_root / subset).glob(f"*/*/{MELS_NAME}"))
            clips += found
            notes.append(f"WARNING: no {filelist}: ALL {len(found)} clips of {data_root / subset} are used for {split}")
            continue
        names = read_filelist(filelist)
        found = [data_root / subset / name for name in names if is_clip(data_root / subset / name)]
        clips += found
        if len(found) < len(names):
            first = next(name for name in names if not is_clip(data_root / subset / name))
            notes.append(
                f"{len(names) - len(found)} of the {len(names)} clips of {filelist} are not in {data_root / subset} "
                f"(the first: {first}); they are left out"
            )
    return clips, notes


def read_settings(data_root) -> dict:
    """What preprocess.json of a preprocessed folder says; {} where there is none. Raises UserError when unreadable."""
    path = pathlib.Path(data_root) / SETTINGS_NAME
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise UserError(f"{path} is not JSON ({e}); remove it and preprocess into an empty folder") from None
    if not isinstance(settings, dict):
        raise UserError(f"{path} does not hold an object; remove it and preprocess into an empty folder")
    return settings


def write_settings(data_root, settings: dict) -> None:
    """Write preprocess.json, whole or not at all."""
    with whole_file(pathlib.Path(data_root) / SETTINGS_NAME) as temporary:
        temporary.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def setting_differences(settings: dict, **ours) -> list[str]:
    """What the data of `settings` (from `read_settings`) were made with otherwise than `ours` and `hparams`.

    ours: values by name, such as img_size=96. Returns "name: here x, there y" lines; only what is written is compared.
    """
    lines = [f"{k}: here {v}, there {settings[k]}" for k, v in ours.items() if k in settings and settings[k] != v]
    return lines + hparams.differences(settings.get("hparams", {}))


def write_clip(folder, crops, frame_ids, boxes, mel, wav, fps=hparams.fps) -> None:
    """Write one preprocessed clip, whole or not at all.

    crops: iterable of (S, S, 3) uint8 BGR, read once, so that a long video never lies in memory. frame_ids: (N,) frame
    numbers at `fps`, one for each crop, as are boxes (N, 4). mel: (80, T) float32. wav: (n,) float32 at 16 kHz, in
    [-1, 1]. Raises ValueError when the numbers of crops, frame_ids and boxes differ, or are 0.
    """
    frame_ids, boxes = np.asarray(frame_ids, "int32"), np.asarray(boxes, "int32")
    if not len(frame_ids) or boxes.shape != (len(frame_ids), 4):
        raise ValueError(f"{len(frame_ids)} frame numbers and boxes of shape {boxes.shape}")
    with whole_folder(folder) as temporary:
        for crop, frame in zip(crops, frame_ids, strict=True):
            # 4:4:4: at 96 pixels, halved colour would smear the lips into the skin.
            jpeg = simplejpeg.encode_jpeg(
                np.ascontiguousarray(crop), quality=JPEG_QUALITY, colorspace="BGR", colorsubsampling="444"
            )
            (temporary / f"{frame}.jpg").write_bytes(jpeg)
        np.savez(temporary / MELS_NAME, spec=np.asarray(mel, "float32"), fps=fps, frame_ids=frame_ids, boxes=boxes)
        samples = np.round(np.clip(wav, -1, 1) * 32767).astype("<i2")
        with wave.open(str(temporary / "audio.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(hparams.sample_rate)
            file.writeframes(samples.tobytes())


class Clip(typing.NamedTuple):
    """One indexed clip: all that is kept in memory of it."""

    folder: pathlib.Path
    mel: np.ndarray  # (80, T)
    frame_ids: np.ndarray  # (N,) int32, ascending: the frames that have a crop
    inside: range  # the frames whose whole mel window lies inside the sound
    targets: np.ndarray  # (M,) int32: the frames of both that have a reference far enough away


class SkippedClip(Exception):
    """A clip that cannot be trained on; the message is the reason by which it is counted."""


def read_clip(folder, mel_dtype="float16") -> Clip:
    """Index one preprocessed clip. Raises SkippedClip with the reason when it cannot be trained on."""
    folder = pathlib.Path(folder)
    try:
        with np.load(folder / MELS_NAME, allow_pickle=False) as arrays:
            mel, frame_ids, fps = arrays["spec"], arrays["frame_ids"], float(arrays["fps"])
    except FileNotFoundError:
        raise SkippedClip(f"no {MELS_NAME}") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise SkippedClip(f"unreadable {MELS_NAME}") from None
    if mel.ndim != 2 or mel.shape[0] != hparams.num_mels or frame_ids.ndim != 1:
        raise SkippedClip(f"unreadable {MELS_NAME}")
    if fps != hparams.fps:
        raise SkippedClip(f"not at {hparams.fps} frames a second")
    if len(frame_ids) < hparams.min_crops:
        raise SkippedClip(f"fewer than {hparams.min_crops} crops")
    if not {f"{frame}.jpg" for frame in frame_ids} <= {path.name for path in folder.iterdir()}:
        raise SkippedClip("missing crops")
    frame_ids = np.sort(frame_ids.astype("int32"))
    inside = inside_frames(mel.shape[1])
    if len(inside) < 2 * hparams.min_wrong_gap:  # with so many, every frame has a wrong window in its own clip
        raise SkippedClip("sound too short")
    far = np.maximum(frame_ids - frame_ids[0], frame_ids[-1] - frame_ids) >= hparams.min_reference_gap
    targets = frame_ids[far & (frame_ids >= inside.start) & (frame_ids < inside.stop)]
    if not len(targets):
        raise SkippedClip("no target with a reference and its whole sound")
    return Clip(folder, mel.astype(mel_dtype), frame_ids, inside, targets)


def inside_frames(num_mels: int, fps=hparams.fps) -> range:
    """The frames whose whole mel window lies inside a sound of `num_mels` mel frames."""
    start = functools.partial(hparams.mel_start, fps=fps)  # grows with the frame
    frames = range(num_mels)
    first = bisect.bisect_left(frames, 0, key=start)
    return range(first, max(first, bisect.bisect_right(frames, num_mels - hparams.mel_window, key=start)))


class FaceDataset:
    """Samples of preprocessed clips: target crop, reference crop of the same clip, the target's sound, a wrong sound.

    Everything but the pictures is read once and kept in memory. `len()` is the number of targets, which is the number
    of samples of an epoch; `clips` are the indexed Clips; `skipped` counts the clips left out, by reason.
    """

    def __init__(self, clips, img_size=96, mel_dtype="float16", balance=False, augment=False):
        """clips: folders, as from `find_clips`. mel_dtype: float16 holds mels to 0.001 of [-4, 4] in half the memory.

        balance: draw targets so that a speaker (the folder of the clip) weighs as the root of what there is of them.
        augment: change faces and sounds as `augmented` does.
        Raises UserError when no clip can be used, or when the crops are not of `img_size`.
        """
        self.img_size, self.clips, self.skipped = img_size, [], collections.Counter()
        for folder in clips:
            try:
                self.clips.append(read_clip(folder, mel_dtype))
            except SkippedClip as e:
                self.skipped[str(e)] += 1
        if not self.clips:
            reasons = "; ".join(f"{count} with {reason}" for reason, count in self.skipped.items())
            raise UserError(
                f"none of the {self.skipped.total()} clips can be used ({reasons or 'the list is empty'}); "
                "see what preprocess.py says of them"
            )
        self.read_crop(0, int(self.clips[0].frame_ids[0]))  # a wrong img_size is known here, not in the first batch
        sizes = [len(clip.targets) for clip in self.clips]
        self._clip_of = np.repeat(np.arange(len(self.clips), dtype="int32"), sizes)
        self._frame_of = np.concatenate([clip.targets for clip in self.clips])
        self._augment, self._chances = augment, None
        if balance:
            speakers = [clip.folder.parent for clip in self.clips]
            totals = collections.Counter()
            for speaker, size in zip(speakers, sizes, strict=True):
                totals[speaker] += size
            chances = np.repeat([totals[speaker] ** -0.5 for speaker in speakers], sizes)
            self._chances = chances / chances.sum()
        self._last_order = (None, None)

    def __len__(self):
        return len(self._frame_of)

    def num_batches(self, size: int) -> int:
        """Batches of an epoch: every target once, and the last batch filled up with the epoch's first ones."""
        return -(-len(self) // size)

    def read_crop(self, clip: int, frame: int) -> np.ndarray:
        """The face of one frame, (S, S, 3) uint8 BGR. Raises UserError when missing, damaged or of another size."""
        path = self.clips[clip].folder / f"{frame}.jpg"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path} is missing; remove its folder and preprocess again") from None
        try:
            picture = simplejpeg.decode_jpeg(data, colorspace="BGR")
        except ValueError:  # not quite a JPEG: OpenCV forgives more
            picture = cv2.imdecode(np.frombuffer(data, "uint8"), cv2.IMREAD_COLOR) if data else None
        if picture is None:
            raise UserError(f"{path} is not a picture; remove its folder and preprocess again")
        if picture.shape != (self.img_size, self.img_size, 3):
            height, width = picture.shape[:2]
            raise UserError(
                f"{path} is {width}x{height}, not {self.img_size}x{self.img_size}; "
                f"use --img_size {width}, or preprocess again with --img_size {self.img_size}"
            )
        return picture

    def mel_window(self, clip: int, frame: int) -> np.ndarray:
        """The mel window of one frame, (80, 27) float32."""
        return audio.mel_window(self.clips[clip].mel, frame, hparams.fps).astype("float32")

    def batch(self, key, size: int) -> dict[str, np.ndarray]:
        """A batch of samples: reference and target (B, S, S, 3) uint8 BGR, mel and wrong_mel (B, 80, 27, 1) float32.

        key: (seed, epoch, number), of which the batch is a pure function and by which an epoch visits every target; or
        a numpy.random.Generator, which draws targets at random.
        """
        rng, targets = self._drawn(key, size)
        batch = self._read(targets, rng, only_other_clips=False)
        return augmented(batch, rng) if self._augment else batch

    def sounds(self, key, size: int):
        """The sounds of the batch of the same key: clips (B,) and frames (B,) int32, mels (B, 80, 27, 1) float32."""
        rng, targets = self._drawn(key, size)
        clips, frames = self._clip_of[targets], self._frame_of[targets]
        mels = np.stack([self.mel_window(int(clip), int(frame)) for clip, frame in zip(clips, frames, strict=True)])
        if self._augment:
            mels = np.stack([other_voice(mel, rng) for mel in mels])
        return clips, frames, mels[..., None]

    def _drawn(self, key, size):
        if isinstance(key, np.random.Generator):
            return key, key.integers(len(self), size=size)
        seed, epoch, number = key
        targets = self._order(seed, epoch)[np.arange(number * size, (number + 1) * size) % len(self)]
        return np.random.default_rng((seed, epoch, number)), targets

    def validation_batches(self, size: int, num_samples: int):
        """Yield the same whole batches every time: about `num_samples`, evenly spaced over all clips.

        As from `batch`, but each wrong_mel is of another clip (where there is one): `mel` is the own sound, `wrong_mel`
        the other one, for the gap between them.
        """
        batches = self.num_batches(size) if num_samples >= len(self) else -(-num_samples // size)
        spaced = np.linspace(0, len(self), batches * size, endpoint=False).astype("int64")
        for number in range(batches):
            rng = np.random.default_rng((0, 0, number))
            yield self._read(spaced[number * size : (number + 1) * size], rng, only_other_clips=True)

    def _order(self, seed, epoch):
        """The targets of an epoch, shuffled."""
        kept, order = self._last_order
        if kept != (seed, epoch):
            # Not default_rng((seed, epoch)): numpy fills up with zeros, so that would be the stream of batch 0.
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
            order = rng.permutation(len(self))
            if self._chances is not None:
                order = rng.choice(len(self), size=len(self), p=self._chances)
            self._last_order = ((seed, epoch), order)
        return order

    def _read(self, targets, rng, only_other_clips):
        shape = (len(targets), self.img_size, self.img_size, 3)
        mel_shape = (len(targets), hparams.num_mels, hparams.mel_window, 1)
        batch = {name: np.empty(shape, "uint8") for name in ("reference", "target")}
        batch |= {name: np.empty(mel_shape, "float32") for name in ("mel", "wrong_mel")}
        for i, target in enumerate(targets):
            clip, frame = int(self._clip_of[target]), int(self._frame_of[target])
            batch["target"][i] = self.read_crop(clip, frame)
            batch["reference"][i] = self.read_crop(clip, self._reference(clip, frame, rng))
            batch["mel"][i, ..., 0] = self.mel_window(clip, frame)
            batch["wrong_mel"][i, ..., 0] = self.mel_window(*self._wrong(clip, frame, rng, only_other_clips))
        return batch

    def _reference(self, clip, frame, rng):
        """A frame of the clip with a crop, at least hparams.min_reference_gap frames away."""
        frames, gap = self.clips[clip].frame_ids, hparams.min_reference_gap
        before, after = np.searchsorted(frames, (frame - gap + 1, frame + gap))
        choice = int(rng.integers(before + len(frames) - after))
        return int(frames[choice if choice < before else choice - before + after])

    def _wrong(self, clip, frame, rng, only_other_clips):
        """(clip, frame) of a window that is not the frame's: half the time of the same clip, half of another."""
        if len(self.clips) > 1 and (only_other_clips or rng.random() < 0.5):
            other = int(rng.integers(len(self.clips) - 1))
            other += other >= clip
            inside = self.clips[other].inside
            return other, inside[int(rng.integers(len(inside)))]
        inside, gap = self.clips[clip].inside, hparams.min_wrong_gap
        before, after = max(0, frame - gap + 1 - inside.start), max(0, inside.stop - frame - gap)
        choice = int(rng.integers(before + after))
        return clip, inside[choice] if choice < before else inside[choice - before - after]
