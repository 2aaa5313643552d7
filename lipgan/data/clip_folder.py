"""The preprocessed clip folder: file names, settings, and atomic writing of a clip.

    final_data_root/
      preprocess.json                 settings that the data were made with, and the counts of skipped clips by reason
      main/ | pretrain/ <speaker>/<clip>/
        0.jpg 1.jpg ...               BGR face crops; N.jpg is frame N of the clip at hparams.fps
        mels.npz                      spec (80, T) float32; fps; and for each of the N crops: frame_ids (N,) int32,
                                      boxes (N, 4) int32 in pixels of the video, and landmarks (N, 68, 2) float32:
                                      dlib's, x and y as fractions of the crop's side, all but the lips smoothed
        audio.wav                     16 kHz mono PCM16, the whole clip

Older folders have no landmarks: see `lip_landmarks.py`.
"""

import json
import pathlib
import wave

import numpy as np
import simplejpeg

from audio_hparams import hparams
from lipgan.faces.landmarks import NUM_LANDMARKS
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_dir, atomic_write

SETTINGS_NAME, MELS_NAME, AUDIO_NAME = "preprocess.json", "mels.npz", "audio.wav"
SUBSETS = ("main", "pretrain")
JPEG_QUALITY = 95


def is_clip(folder) -> bool:
    """Return whether `folder` is a preprocessed clip (folders appear complete or not at all)."""
    return (pathlib.Path(folder) / MELS_NAME).is_file()


def read_settings(data_root) -> dict:
    """Read preprocess.json of a preprocessed folder; {} where there is none. Raises UserError when unreadable."""
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
    """Write preprocess.json atomically."""
    with atomic_write(pathlib.Path(data_root) / SETTINGS_NAME) as temporary:
        temporary.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def setting_differences(settings: dict, **ours) -> list[str]:
    """Compare the settings of preprocessed data (from `read_settings`) with `ours` and with `hparams`.

    ours: values by name, such as img_size=96. Returns a line "name: here x, there y" for each difference; settings that
    preprocess.json does not have are not compared.
    """
    lines = [f"{k}: here {v}, there {settings[k]}" for k, v in ours.items() if k in settings and settings[k] != v]
    return lines + hparams.differences(settings.get("hparams", {}))


def write_clip(folder, crops, frame_ids, boxes, mel, wav, fps=hparams.fps, landmarks=None) -> None:
    """Write one preprocessed clip atomically.

    crops: iterable of (S, S, 3) uint8 BGR, read once, so that a long video never lies in memory. frame_ids: (N,) frame
    numbers at `fps`, one for each crop, as are boxes (N, 4) and landmarks (N, 68, 2), fractions of the crop's side.
    mel: (80, T) float32. wav: (n,) float32 at 16 kHz, in [-1, 1]. Raises ValueError when the numbers of crops,
    frame_ids, boxes and landmarks differ, or are 0.
    """
    arrays = {"frame_ids": np.asarray(frame_ids, "int32"), "boxes": np.asarray(boxes, "int32")}
    if landmarks is not None:
        arrays["landmarks"] = np.asarray(landmarks, "float32")
    count = len(frame_ids)
    expected = {"frame_ids": (count,), "boxes": (count, 4), "landmarks": (count, NUM_LANDMARKS, 2)}
    if not count or any(array.shape != expected[name] for name, array in arrays.items()):
        raise ValueError(f"arrays of a clip differ in length: { {name: a.shape for name, a in arrays.items()} }")
    with atomic_dir(folder) as temporary:
        for crop, frame in zip(crops, arrays["frame_ids"], strict=True):
            # 4:4:4: at 96 pixels, subsampled colour would smear the lips into the skin.
            jpeg = simplejpeg.encode_jpeg(
                np.ascontiguousarray(crop), quality=JPEG_QUALITY, colorspace="BGR", colorsubsampling="444"
            )
            (temporary / f"{frame}.jpg").write_bytes(jpeg)
        np.savez(temporary / MELS_NAME, spec=np.asarray(mel, "float32"), fps=fps, **arrays)
        write_audio(temporary / AUDIO_NAME, wav)


def write_audio(path, wav) -> None:
    """Write (n,) float32 in [-1, 1] at hparams.sample_rate as mono PCM16."""
    samples = np.round(np.clip(wav, -1, 1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(hparams.sample_rate)
        file.writeframes(samples.tobytes())


def read_audio(file) -> np.ndarray:
    """Read a clip's audio.wav, a path or an open file, as (n,) float32. Raises OSError, EOFError or wave.Error."""
    with wave.open(str(file) if isinstance(file, pathlib.Path) else file) as audio:
        samples = np.frombuffer(audio.readframes(audio.getnframes()), "<i2")
    return samples.astype("float32") / np.float32(32768)
