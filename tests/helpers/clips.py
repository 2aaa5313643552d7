"""Small preprocessed clips in which every crop and mel frame encodes its clip and frame."""

import numpy as np

from audio_hparams import hparams
from lipgan.data import clip_folder

SIZE = 32  # side of the crops, small for speed


def numbered_crop(clip, frame):
    """Return a crop of one colour, to survive JPEG: red encodes the clip, blue the frame."""
    crop = np.zeros((SIZE, SIZE, 3), "uint8")
    crop[...] = (4 * frame, 128, 20 * clip)
    return crop


def numbered_mel(clip, num_frames):
    """Return the mel of `num_frames` frames; the first band holds the clip, the others the mel frame's index."""
    time_steps = round(num_frames / hparams.fps * hparams.mels_per_second) + 1
    mel = np.arange(time_steps, dtype="float32")[None].repeat(hparams.num_mels, axis=0)
    mel[0] = clip
    return mel


def write(root, name, clip=0, num_frames=40, frames=None):
    """Write a small clip; returns its folder."""
    frames = list(range(num_frames)) if frames is None else list(frames)
    crops = (numbered_crop(clip, frame) for frame in frames)
    boxes = np.array([(frame, frame + 9, 2, 11) for frame in frames]).reshape(-1, 4)
    wav = np.sin(np.arange(num_frames * 640) / 9).astype("float32") / 2
    clip_folder.write_clip(root / name, crops, frames, boxes, numbered_mel(clip, num_frames), wav)
    return root / name
