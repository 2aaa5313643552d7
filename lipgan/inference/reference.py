"""References: whose lips, teeth and skin the generator uses for each frame of a video.

The networks learned with another frame of the clip as reference. A frame that is its own reference shows the lips that
were there, and they leak into the result; a fixed frame does not fit where the head turns. So the mouth of one frame of
the shot, nearly closed, is fitted into each frame's own crop (`experiments/compare_references.py` compares the modes).
References are searched in the first 10 s of each shot.
"""

import contextlib
import dataclasses

import cv2
import numpy as np

from lipgan.faces import crop as face_crop
from lipgan.faces.crop import to_crop_coords
from lipgan.faces.landmarks import EYES, LIPS
from lipgan.inference.frame_cache import FrameStore

# fitted: the frame itself with the mouth of the shot's reference frame fitted in. same: the frame itself.
REFERENCE_MODES = ("fitted", "same")
STILL_POINTS = [0, 1, 2, *range(14, 48)]  # of dlib's 68 landmarks: the ears' side of the jaw, brows, nose, eyes
CROP_PX = 256  # side of the crops that are stored, one a shot
SEARCH_S = 10  # seconds of a shot in which its reference is searched
USUAL_OPENING, USUAL_WIDTH = 0.25, 0.6  # so many of the mouths in a shot are less open, and less wide
REACH = (0.62, 0.5)  # half width and height of what is fitted, about the lips' middle, in parts of the eyes' distance
FEATHER = 0.35  # of that reach, from its edge inwards


@dataclasses.dataclass
class References:
    """The reference frames of a video. Not to be shared between threads."""

    crops: FrameStore  # of K, each (CROP_PX, CROP_PX, 3) BGR uint8
    points: np.ndarray  # (K, 68, 2) float32: landmarks in parts of the crop's side
    number: np.ndarray  # (N,) int: which of the K each frame refers to; -1 where there is no face
    _last: tuple = (None, None)  # (number, side) of the crop that was read last, and that crop: often the next one too

    def fit(self, index, own, points):
        """Return the reference of frame `index`, whose own crop (S, S, 3) has landmarks `points` (68, 2).

        Returns its crop (S, S, 3) uint8 and its landmarks (68, 2) in parts of S.
        """
        number, size = self.number[index], own.shape[1::-1]
        if self._last[0] != (number, size):
            self._last = (number, size), cv2.resize(self.crops.get(number), size, interpolation=cv2.INTER_AREA)
        return fit_mouth(self._last[1], self.points[number], own, points)


def read_references(mode, source, track):
    """Choose the reference frames by the face track, and read them. None where each frame is its own reference.

    mode: of REFERENCE_MODES. source: a `source.Source` of a video. track: its `tracker.Track`; without landmarks
    nothing can be chosen.
    """
    if mode == "same" or track.points is None:
        return None
    of_frame = choose_references(track, float(source.fps))
    wanted, number = np.unique(of_frame, return_inverse=True)
    wanted, number = (wanted[1:], number - 1) if wanted[0] < 0 else (wanted, number)
    crops, row = FrameStore(), 0
    with contextlib.closing(source.frames(wanted[-1] + 1)) as frames:
        for index, frame in enumerate(frames):
            if index == wanted[row]:
                crops.put(row, face_crop.crop(frame, track.boxes[index], CROP_PX))
                row += 1
    return References(crops, to_crop_coords(track.points[wanted], track.boxes[wanted]), number)


def choose_references(track, fps):
    """Return, for each frame of a `tracker.Track`, the index of its reference frame: (N,) int, -1 without a face."""
    of_frame = np.full(len(track.found), -1)
    for shot in np.unique(track.shots):
        own = np.flatnonzero((track.shots == shot) & track.found)
        if len(own):
            first = own[track.seen[own]][: max(1, round(SEARCH_S * fps))]
            of_frame[own] = first[usual_frame(track.points[first])]
    return of_frame


def usual_frame(points, share=USUAL_OPENING):
    """Return the index of the frame, of those with landmarks (N, 68, 2), with the most usual mouth and pose.

    share: share of the mouths that are less open than the one that is looked for (0: none).
    """
    left, right = (points[:, eye].mean(1) for eye in EYES)
    unit = np.linalg.norm(right - left, axis=1).clip(1e-6)
    opening = np.linalg.norm(points[:, 66] - points[:, 62], axis=1) / unit
    width = np.linalg.norm(points[:, 54] - points[:, 48], axis=1) / unit
    yaw = (points[:, 30] - (left + right) / 2)[:, 0] / unit  # of the tip of the nose
    pitch = (points[:, 30] - (left + right) / 2)[:, 1] / unit
    targets = (opening, np.quantile(opening, share)), (width, np.quantile(width, USUAL_WIDTH))
    targets += tuple((value, np.median(value)) for value in (yaw, pitch))
    distance = sum(np.abs(value - target) / max(value.std(), 1e-3) for value, target in targets)
    return int(np.argmin(distance))


def fit_mouth(reference, reference_points, own, own_points):
    """Blend the mouth of the crop `reference` into the crop `own`, both (S, S, 3) uint8.

    points: (68, 2) landmarks in parts of S. The mouth is moved by the affine map of the parts of the face that do not
    speak, and takes on the brightness and colour around it. Returns the crop (S, S, 3) uint8, and its landmarks
    (68, 2), those of the lips as they were fitted in.
    """
    size = own.shape[0]
    here, there = own_points * size - 0.5, reference_points * size - 0.5
    known = np.column_stack([there[STILL_POINTS], np.ones(len(STILL_POINTS))])
    to = np.linalg.lstsq(known, here[STILL_POINTS], rcond=None)[0].T
    moved = cv2.warpAffine(reference, to, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    fitted = np.array(own_points)
    fitted[LIPS] = (there[LIPS] @ to[:, :2].T + to[:, 2] + 0.5) / size
    lips = fitted[LIPS].mean(0) * size - 0.5
    unit = np.linalg.norm(here[EYES[1]].mean(0) - here[EYES[0]].mean(0))
    x, y = (np.arange(size) - middle for middle in lips)
    distance = np.hypot(x[None] / (REACH[0] * unit), y[:, None] / (REACH[1] * unit))
    mask = np.clip((1 - distance) / FEATHER, 0, 1)
    mask = (mask * mask * (3 - 2 * mask))[..., None].astype(np.float32)
    edge = mask * (1 - mask)
    difference = own.astype(np.float32) - moved
    colour = (edge * difference).sum((0, 1)) / max(edge.sum(), 1e-6)
    return np.clip(own - mask * (difference - colour) + 0.5, 0, 255).astype(np.uint8), fitted
