"""The speech encoder's features of all clips of a preprocessed folder, in several augmented voices each.

They are encoded on first use, with a bar, and kept beside the data (see clip_arrays.py): preprocessing itself loads no
deep-learning framework, which the encoder needs. Version 0 of a clip is its audio as it is, the others are augmented.
"""

import contextlib
import dataclasses
import functools
import math
import wave
import zlib

import numpy as np

from audio_hparams import hparams
from lipgan.data import tar_shards
from lipgan.data.augment import augment_waveform
from lipgan.data.clip_arrays import ArrayKind, ClipArray, ClipArrays, open_arrays
from lipgan.data.clip_folder import AUDIO_NAME, read_audio
from lipgan.data.index import ClipIndex
from lipgan.models import speech
from lipgan.utils.cli import UserError
from lipgan.utils.progress import tracked

AUGMENTATION = 1  # to be raised when `augment_waveform` changes


@dataclasses.dataclass(frozen=True)
class SpeechFeatures:
    """The features of all clips of an index, 50 vectors a second of a version's own time."""

    arrays: ClipArrays
    silence: np.ndarray  # (335,) float16: the vector of digital silence

    @property
    def num_versions(self) -> int:
        """Number of voices of each clip, its own included."""
        return self.arrays.count.shape[1]

    @property
    def window_shape(self) -> tuple[int, int]:
        """The shape of a window of the usual size."""
        return speech.WINDOW, speech.FEATURES

    def window(self, row: int, frame: int, version: int = 0, size: int | None = None) -> np.ndarray:
        """Read the vectors around the middle of a video frame at hparams.fps: (size, 335) float16.

        row: of the index. size: speech.WINDOW by default. What lies before and after the recording is silence.
        """
        size = size or speech.WINDOW
        middle = _middle_vector(frame)
        if (speed := float(self.arrays.speed[row, version])) != 1:
            middle = math.floor((frame + 0.5) / hparams.fps / speed * speech.VECTORS_PER_SECOND + 0.5)
        return self.vectors(row, middle - size // 2, size, version)

    def vectors(self, row: int, first: int, count: int, version: int = 0) -> np.ndarray:
        """Read `count` vectors of a clip from number `first` on, which may be negative: (count, 335) float16."""
        total = int(self.arrays.count[row, version])
        start, stop = min(max(first, 0), total), min(max(first + count, 0), total)
        inside = self.arrays.read(row, start, stop, version)
        if stop - start == count:
            return inside
        whole = np.tile(self.silence, (count, 1))
        whole[start - first : stop - first] = inside
        return whole


_middle_vector = functools.lru_cache(maxsize=None)(functools.partial(speech.middle_vector, fps=hparams.fps))


def read_features(index: ClipIndex, versions: int = 1) -> SpeechFeatures:
    """Open the speech features of all clips of an index, and encode those that are missing.

    versions: voices of each clip, its own included. On two cores each takes some 1/50 of the playing time to encode.
    Raises UserError where the encoder's package or a clip's audio is missing.
    """
    recipe = f"{speech.MODEL_SHA256[:16]} block {speech.FEATURE_BLOCK}, phonemes, augmentation {AUGMENTATION}"
    kind = ArrayKind("speech", speech.FEATURES, recipe, versions)

    def compute(missing):
        for row, version, wav, speed in _voices(index, missing, "speech features, once"):
            yield ClipArray(row, version, speech.encode(wav), speed)

    return SpeechFeatures(open_arrays(index, kind, compute), speech.silence().astype("float16"))


def _voices(index, missing, title):
    """Yield (row, version, waveform, its speed) for the missing (row, version) pairs, with a bar."""
    versions = {}
    for row, version in missing:
        versions.setdefault(row, []).append(version)
    for row, wav in tracked(_recordings(index, versions), title, len(versions)):
        for version in versions[row]:
            rng = np.random.default_rng((zlib.crc32(index.names[row].encode()), version))
            yield row, version, *(augment_waveform(wav, rng) if version else (wav, 1.0))


def _recordings(index, rows):
    """Yield (row, its audio, (n,) float32) for the given rows. Raises UserError where one cannot be read."""
    if index.places is None:
        for row in rows:
            path = index.root / index.names[row] / AUDIO_NAME
            with _named(path):
                wav = read_audio(path)
            yield row, wav
        return
    row_of = {index.names[row]: row for row in rows}
    for name, _, file, _ in tar_shards.read_member(tar_shards.shard_files(index.root), AUDIO_NAME):
        if name in row_of:
            with _named(f"{name}/{AUDIO_NAME} in {index.root}"):
                wav = read_audio(file)
            yield row_of[name], wav


@contextlib.contextmanager
def _named(where):
    """Turn errors of a damaged or missing audio file into a UserError."""
    try:
        yield
    except (OSError, EOFError, wave.Error) as e:
        raise UserError(f"{where} cannot be read ({e}); remove the clip's folder and preprocess again") from None
