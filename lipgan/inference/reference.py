"""What a video's generator looks at: whose lips, teeth and skin it is to use for a frame.

The networks learned with another frame of the clip as reference. A frame that is its own reference shows the answer to
another question, the lips that were there, and they leak into the result; a fixed frame does not fit where the head
turns. So the mouth of one frame of the shot, hardly open, is fitted into each frame's own crop
(`experiments/compare_references.py` compares the ways). References are looked for in the first 10 s of each shot.
"""

import contextlib
import dataclasses

import cv2
import numpy as np

from audio_hparams import hparams
from lipgan.faces import crop as face_crop
from lipgan.faces.crop import to_crop_coords
from lipgan.faces.landmarks import EYES, LIPS
from lipgan.inference.frame_cache import FrameStore

# fitted: the frame itself with the mouth of the shot's usual frame fitted in. same: the frame itself. closed: the
# shot's frame whose mouth is least open. far: the shot's first frame, but the last one for those nearest to the first.
WAYS = ("fitted", "same", "closed", "far")
STILL_POINTS = [0, 1, 2, *range(14, 48)]  # of dlib's 68 landmarks: the ears' side of the jaw, brows, nose, eyes
KEPT_PX = 256  # side of the crops that are kept, one or two a shot
SEARCH_S = 10  # seconds of a shot in which its reference is looked for
USUAL_OPENING, USUAL_WIDTH = 0.25, 0.6  # so many of the mouths in a shot are less open, and less wide
REACH = (0.62, 0.5)  # half width and height of what is fitted, about the lips' middle, in parts of the eyes' distance
FEATHER = 0.35  # of that reach, from its edge inwards


@dataclasses.dataclass
class References:
    """The frames that a video's frames refer to. Not to be shared between threads."""

    crops: FrameStore  # of K, each (KEPT_PX, KEPT_PX, 3) BGR uint8
    points: np.ndarray  # (K, 68, 2) float32: landmarks in parts of the crop's side
    of: np.ndarray  # (N,) int: which of the K each frame refers to; -1 where there is no face
    fitted: bool  # only the mouth is used
    _last: tuple = (None, None)  # (number, side) of the crop that was asked for, and that crop: often the next one too

    def crop(self, index, own, points):
        """The reference of frame `index`, whose own crop (S, S, 3) has landmarks `points` (68, 2).

        Returns its crop (S, S, 3) uint8 and its landmarks (68, 2) in parts of S.
        """
        number, size = self.of[index], own.shape[1::-1]
        tilt = 0.0 if self.fitted else face_crop.excess_roll(self.points[number])
        if self._last[0] != (number, size):
            crop = cv2.resize(self.crops.get(number), size, interpolation=cv2.INTER_AREA)
            self._last = (number, size), face_crop.rotate(crop, tilt)
        crop, seen = self._last[1], face_crop.rotate_points(self.points[number], tilt)
        return fit_mouth(crop, seen, own, points) if self.fitted else (crop, seen)


def read_references(way, footage, track):
    """Choose the frames by the track of faces, and read them. None where each frame is its own reference.

    way: of WAYS. footage: a `footage.Footage`. track: its `tracking.Track`; without landmarks nothing can be chosen.
    """
    if way == "same" or track.points is None:
        return None
    of_frame = chosen_frames(way, track, float(footage.info.fps))
    wanted, of = np.unique(of_frame, return_inverse=True)
    wanted, of = (wanted[1:], of - 1) if wanted[0] < 0 else (wanted, of)
    crops, row = FrameStore(), 0
    with contextlib.closing(footage.frames(wanted[-1] + 1)) as frames:
        for index, frame in enumerate(frames):
            if index == wanted[row]:
                crops.put(row, face_crop.crop(frame, track.boxes[index], KEPT_PX))
                row += 1
    return References(crops, to_crop_coords(track.points[wanted], track.boxes[wanted]), of, way == "fitted")


def chosen_frames(way, track, fps):
    """For each frame of a `tracking.Track`, the index of the frame that it refers to: (N,) int, -1 without a face."""
    of_frame = np.full(len(track.found), -1)
    for shot in np.unique(track.shots):
        own = np.flatnonzero((track.shots == shot) & track.found)
        seen = own[track.seen[own]]
        if not len(own):
            continue
        if way == "far":
            of_frame[own] = np.where(own - seen[0] < hparams.min_reference_gap, seen[-1], seen[0])
            continue
        first = seen[: max(1, round(SEARCH_S * fps))]
        of_frame[own] = first[usual_frame(track.points[first], 0.0 if way == "closed" else USUAL_OPENING)]
    return of_frame


def usual_frame(points, share):
    """Which of the frames with landmarks (N, 68, 2) shows a usual mouth and pose: its index.

    share: so many of the mouths are less open than the one that is looked for (0: none).
    """
    left, right = (points[:, eye].mean(1) for eye in EYES)
    unit = np.linalg.norm(right - left, axis=1).clip(1e-6)
    opening = np.linalg.norm(points[:, 66] - points[:, 62], axis=1) / unit
    width = np.linalg.norm(points[:, 54] - points[:, 48], axis=1) / unit
    turn = (points[:, 30] - (left + right) / 2)[:, 0] / unit  # of the nose's tip: the head's, to the side
    nod = (points[:, 30] - (left + right) / 2)[:, 1] / unit
    wanted = (opening, np.quantile(opening, share)), (width, np.quantile(width, USUAL_WIDTH))
    wanted += tuple((value, np.median(value)) for value in (turn, nod))
    far = sum(np.abs(value - usual) / max(value.std(), 1e-3) for value, usual in wanted)
    return int(np.argmin(far))


def fit_mouth(reference, reference_points, own, own_points):
    """The crop `own` with the mouth of the crop `reference`, both (S, S, 3) uint8, in its place.

    points: (68, 2) landmarks in parts of S. The mouth is moved as the parts of the face are that do not speak (an
    affine map), and takes on the brightness and colour around it. Returns the crop (S, S, 3) uint8, and its landmarks
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
