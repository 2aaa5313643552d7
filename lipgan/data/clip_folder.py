"""The preprocessed clip folder: file names, settings, and writing a clip whole or not at all."""

import json
import pathlib
import wave

import numpy as np
import simplejpeg

from audio_hparams import hparams
from lipgan.utils.cli import UserError
from lipgan.utils.files import atomic_dir, atomic_write

JPEG_QUALITY = 95


def is_clip(folder) -> bool:
    """Whether `folder` is a preprocessed clip (folders appear whole or not at all)."""
    return (pathlib.Path(folder) / MELS_NAME).is_file()


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
    with atomic_write(pathlib.Path(data_root) / SETTINGS_NAME) as temporary:
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
    with atomic_dir(folder) as temporary:
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


SETTINGS_NAME, MELS_NAME = "preprocess.json", "mels.npz"  # of a tree
SUBSETS = ("main", "pretrain")
