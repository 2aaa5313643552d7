"""Lip-synced videos before encoding, and their faces as crops and dlib's landmarks."""

import typing

import numpy as np

from lipgan.evaluation import metrics
from lipgan.faces import crop as face_crop
from lipgan.faces.detector import LipLandmarks
from lipgan.faces.landmarks import MOUTH
from lipgan.inference.pipeline import generate_frames
from lipgan.inference.preparation import load_audio, prepare
from lipgan.inference.source import open_source


class Measured(typing.NamedTuple):
    """Those frames of a video that have a face."""

    times_s: np.ndarray  # (N,) when each is shown, in the result
    crops: np.ndarray  # (N, S, S, 3) uint8 BGR, all in the boxes of the source's face
    points: np.ndarray  # (N, 68, 2) dlib's landmarks in units of S


def open_clip(face, audio, options, cache_dir=None):
    """Prepare the lip-sync of a video, as of `preparation.prepare`."""
    return prepare(open_source(face, options), load_audio(audio, options, face), options, cache_dir=cache_dir)


def lipsynced(clip, runner, options):
    """Yield the lip-synced frames of a clip of `open_clip`, (H, W, 3) uint8 BGR."""
    for frame, _ in generate_frames(clip, runner.reset(), options):
        yield frame


def measure(clip, frames=None, img_size=96):
    """Measure a clip's source, or other frames in its place from the first one on."""
    find, track, found = LipLandmarks(), clip.track, []
    for index, frame in enumerate(clip.source.frames(len(track.found)) if frames is None else frames):
        if index == len(track.found):
            break
        if track.found[index]:
            found.append((index, face_crop.crop(frame, track.boxes[index], img_size)))
    crops = np.stack([crop for _, crop in found])
    times_s = np.array([index for index, _ in found]) / float(clip.source.fps)
    return Measured(times_s, crops, np.stack([find.face(crop) for crop in crops]))


def opening_at(measured, times_s):
    """Return the mouth opening at these times, interpolated between frames, (N,); nan past their end."""
    opening = metrics.mouth_opening(measured.points)
    return np.interp(times_s, measured.times_s, opening, left=np.nan, right=np.nan)


def motion(crops):
    """Return how much the lower half outside the mouth region changes between frames: (N - 1,) grey levels."""
    size = crops.shape[1]
    top, bottom, left, right = (round(edge * size) for edge in MOUTH)
    outside = np.zeros(crops.shape[1:3], bool)
    outside[size // 2 :] = True
    outside[top:bottom, left:right] = False
    return np.abs(np.diff(crops.astype("float32"), axis=0))[:, outside].mean((1, 2))


def mouth_psnr(crops, truth):
    """Return the PSNR of the mouth region, dB, of as many frames as both have."""
    count = min(len(crops), len(truth))
    return metrics.psnr(*(metrics.mouth_region(images[:count]) for images in (crops, truth)))
