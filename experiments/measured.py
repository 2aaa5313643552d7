"""Faces of whole videos as numbers: their crops and dlib's landmarks, of sources and of results before encoding."""

import typing

import numpy as np

from lipgan.data.lip_landmarks import LipLandmarks
from lipgan.evaluation import metrics
from lipgan.faces import crop as face_crop
from lipgan.faces.landmarks import MOUTH


class Measured(typing.NamedTuple):
    """Those frames of a video that have a face."""

    times_s: np.ndarray  # (N,) when each is shown, of the result
    crops: np.ndarray  # (N, S, S, 3) uint8 BGR, all in the boxes of the source's face
    points: np.ndarray  # (N, 68, 2) dlib's landmarks in parts of S


def measure(clip, frames=None, img_size=96):
    """The Measured of a `clip.Clip`'s source, or of other frames in its place, from the first one on."""
    find, kept = LipLandmarks(), []
    for index, frame in enumerate(clip.footage.frames(len(clip.found)) if frames is None else frames):
        if index == len(clip.found):
            break
        if clip.found[index]:
            kept.append((index, face_crop.crop(frame, clip.boxes[index], img_size)))
    crops = np.stack([crop for _, crop in kept])
    times_s = np.array([index for index, _ in kept]) / float(clip.fps)
    return Measured(times_s, crops, np.stack([find.face(crop) for crop in crops]))


def opening_at(measured, times_s):
    """Return the mouth opening at these times, interpolated between frames, (N,); nan past their end."""
    opening = metrics.mouth_opening(measured.points)
    return np.interp(times_s, measured.times_s, opening, left=np.nan, right=np.nan)


def change(crops):
    """How much the lower half outside of the mouth's part changes from frame to frame: (N - 1,) grey levels."""
    size = crops.shape[1]
    top, bottom, left, right = (round(edge * size) for edge in MOUTH)
    outside = np.zeros(crops.shape[1:3], bool)
    outside[size // 2 :] = True
    outside[top:bottom, left:right] = False
    return np.abs(np.diff(crops.astype("float32"), axis=0))[:, outside].mean((1, 2))


def mouth_psnr(crops, truth):
    """PSNR of the mouth, dB, of as many frames as both have."""
    count = min(len(crops), len(truth))
    return metrics.psnr(*(metrics.mouth_region(pictures[:count]) for pictures in (crops, truth)))
