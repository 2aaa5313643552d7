"""The inside of a mouth whose lips move: teeth stay where skull and jaw hold them, lips cover and uncover them.

Lips stretch and squeeze with the flow; teeth must not. So the lips' pixels are never taken from between the
reference's lips, and what is between the new ones is the reference's own there, as far as it shows its inside: the
upper teeth unmoved, the lower ones as much lower as the lower lip, with dark between them, or with less of it. Past
that the mouth is dark. Coordinates are parts of the crop's side, in the crop as the network saw it.
"""

import dataclasses
import functools

import cv2
import numpy as np

from lipgan.faces.landmarks import FACING
from lipgan.models.lip_flow import LOWER_INNER, UPPER_INNER, touching

CURVE_POINTS = 12  # of an edge's curve, between two landmarks
EDGE = 0.01  # of the side: width of the border between lips and what is behind them
LIP_MARGIN = 0.004  # how far from the reference's teeth the lips' pixels are taken: dlib's landmarks are no nearer
FULL_GAP = 0.016  # from this gap on the inside shows fully; it begins where lips part
STILL = 0.01  # lips that have moved less than this, as at rest, are rendered partly without layers
BEHIND = 0.02  # width of the change from what the reference shows of its inside to what it does not
CAVITY = np.array([0.20, 0.19, 0.28], np.float32)  # of the lower lip's colour, BGR: what is behind the teeth
TONGUE = np.array([0.24, 0.22, 0.36], np.float32)  # as well, near the lower lip
TOOTH_EDGE = 0.006  # width of the change from teeth to the dark beside them
UNDER_LIP = 0.006  # how far below the upper lip's edge its shadow on the teeth has ended
COLOURED = 24.0  # levels between the channels of a lip in colour, at least
STEPS = np.linspace(-0.1, 0.5, 25)  # from an inner landmark to the outer one: where the edge of a lip is searched
LIP = 0.55  # as well: where a lip has its own colour
INSIDE_STEPS, LIP_STEPS = 4, 6  # how many of these are inside in any case, and must have the lip's colour past the edge
DISTINCT = 30.0  # levels between lip and inside, at which the edge between them can be found
FAR = 0.03  # of the side: farthest that the edge is from dlib's landmark
PROFILE = np.linspace(0.05, 0.85, 17)  # heights between the lips at which an open mouth's brightness is read
CONTRAST, CONTRAST_SHARE = 12.0, 0.25  # levels, and share of the profile's range, by which lower teeth are brighter
DARK = 0.8  # of the lower lip's brightness: what is between teeth is darker


INNER_UPPER, INNER_LOWER = map(list, FACING)  # of the 20 lip landmarks, from left to right
OUTER_UPPER, OUTER_LOWER = [2, 3, 4], [10, 9, 8]


@dataclasses.dataclass(frozen=True)
class Edges:
    """The edges of the inner lips, as curves through their landmarks; they meet in the corners."""

    x: np.ndarray  # (K,) float32, increasing, from the left corner to the right one
    upper: np.ndarray  # (K,) float32
    lower: np.ndarray  # (K,) float32, not above the upper one

    @property
    def is_open(self):
        """Whether the lips are parted anywhere."""
        return bool((self.lower > self.upper).any())

    @property
    def floor(self):
        """The height of the lower lip's middle third."""
        third = len(self.x) // 3
        return float(self.lower[third:-third].mean())

    def at(self, x):
        """Return the edges' heights at columns x, any shape, and how open the mouth is there, in [0, 1]."""
        shape, x = x.shape, x.ravel()
        upper, lower = (np.interp(x, self.x, y).astype(np.float32) for y in (self.upper, self.lower))
        opened = np.clip((lower - upper) / FULL_GAP, 0, 1)
        opened[(x < self.x[0]) | (x > self.x[-1])] = 0
        return upper.reshape(shape), lower.reshape(shape), opened.reshape(shape)

    def inside(self, x, y):
        """Return how much points (x, y) lie between the lips, in [0, 1]."""
        upper, lower, opened = self.at(x)
        return np.clip((y - upper) / EDGE + 0.5, 0, 1) * np.clip((lower - y) / EDGE + 0.5, 0, 1) * opened


@dataclasses.dataclass(frozen=True)
class Inside:
    """An image of an open mouth, whose inside is shown."""

    crop: np.ndarray  # (H, W, 3) uint8 BGR, of the face at the same place as the one whose lips are used
    lips: np.ndarray  # (40,) float32
    split: float = 1.0  # of `jaw_split`


def jaw_split(crop, lips):
    """Return at which height, from 0 at the upper lip to 1, the inside of an open mouth begins to move with the jaw.

    It is the darkest height, if what is below is brighter: lower teeth, or the tongue. Otherwise 1, as in a smile that
    shows upper teeth alone. crop: (H, W, 3) uint8. lips: (20, 2) in parts of its side.
    """
    above, below = np.array(lips)[INNER_UPPER], np.array(lips)[INNER_LOWER]
    if np.linalg.norm(below - above, axis=1).mean() < FULL_GAP:
        return 1.0
    profile = _colours(crop, above + PROFILE[:, None, None] * (below - above)).mean(axis=(1, 2))
    darkest = int(profile.argmin())
    brighter = profile[darkest:].max() - profile[darkest]
    lip = _colours(crop, (below + np.array(lips)[OUTER_LOWER])[None] / 2).mean()
    is_dark = profile[darkest] < DARK * lip  # else it is the edge of a lip
    return float(PROFILE[darkest]) if is_dark and brighter >= max(CONTRAST, CONTRAST_SHARE * np.ptp(profile)) else 1.0


def visible_edges(crop, lips):
    """Return lips (20, 2) whose inner landmarks lie where the colour changes from the inside of the mouth to the lip.

    Where teeth show, dlib's lie on them. Only outward, by at most FAR, and where inside and lip differ in colour.
    crop: (H, W, 3) uint8. lips: in parts of its side.
    """
    result = np.array(lips, np.float32)
    for inner, outer in (INNER_UPPER, OUTER_UPPER), (INNER_LOWER, OUTER_LOWER):
        start, along = result[inner], result[outer] - result[inner]
        colours = _colours(crop, start + np.append(STEPS, LIP)[:, None, None] * along).mean(axis=1)  # (steps, 3)
        distance = np.linalg.norm(colours[:-1] - colours[-1], axis=1)  # to the lip's colour
        inside = distance[:INSIDE_STEPS].max()
        lip = np.convolve(distance < inside / 2, np.ones(LIP_STEPS), "valid") == LIP_STEPS
        if inside < DISTINCT or not lip.any():
            continue
        step = max(0.0, STEPS[lip.argmax()])
        length = np.linalg.norm(along, axis=1, keepdims=True)
        result[inner] += along * np.minimum(step, FAR / np.maximum(length, 1e-6))
    return result


def _colours(crop, places):
    """Sample a crop (H, W, 3) at places (N, M, 2) in parts of its side: (N, M, 3) float32."""
    x, y = (np.float32(places[..., i] * crop.shape[1 - i] - 0.5) for i in (0, 1))
    return cv2.remap(crop, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)


def edges(lips):
    """Return the Edges of lips (40,); they meet where dlib's landmarks say that the mouth is shut."""
    return _edges(np.asarray(lips, np.float32).tobytes())


@functools.lru_cache(maxsize=4096)  # of 1 kB; those of a reference come again, with its frame
def _edges(lips):
    lips = touching(np.frombuffer(lips, np.float32))
    x, upper = _curve(lips[list(UPPER_INNER)])
    lower = np.interp(x, *_curve(lips[list(LOWER_INNER)]))
    middle, half = (upper + lower) / 2, np.maximum(lower - upper, 0) / 2
    return Edges(x.astype(np.float32), (middle - half).astype(np.float32), (middle + half).astype(np.float32))


def _curve(points):
    """Return x, increasing, and y of a smooth curve (Catmull-Rom) through points (5, 2)."""
    place = np.linspace(0, len(points) - 1, (len(points) - 1) * CURVE_POINTS + 1)
    k = np.minimum(place.astype(int), len(points) - 2)
    t, slopes = (place - k)[:, None], np.gradient(points, axis=0)
    curve = (2 * t**3 - 3 * t**2 + 1) * points[k] + (t**3 - 2 * t**2 + t) * slopes[k]
    curve += (3 * t**2 - 2 * t**3) * points[k + 1] + (t**3 - t**2) * slopes[k + 1]
    return np.maximum.accumulate(curve[:, 0]), curve[:, 1]


def moved_share(reference_lips, lips):
    """Return how much lips have moved, in [0, 1]: what is at rest stays as it is, to the pixel."""
    return float(np.clip(np.abs(lips - reference_lips).max() / STILL, 0, 1))


def off_teeth(reference, target, source, place):
    """Return by how much lower the lips' pixels must be taken so that no teeth of the reference are among them.

    reference, target: Edges. source, place: (x, y), arrays of one shape: where pixels come from, and where they go.
    """
    upper, lower, opened = reference.at(source[0])
    own_upper, own_lower, _ = target.at(place[0])
    above = place[1] < (own_upper + own_lower) / 2
    highest = np.minimum(upper - LIP_MARGIN - source[1], 0)
    lowest = np.maximum(lower + LIP_MARGIN - source[1], 0)
    return opened * np.where(above, highest, lowest)


def teeth(reference, target, place, split=1.0):
    """Return by how much lower the inside is taken at points (x, y), and how much the reference shows of it, in [0, 1].

    reference, target: Edges. split: of `jaw_split`; what is above it stays, what is below moves with the lower lip.
    Upper teeth go on upwards under the upper lip: where that rises, their upper end is drawn out. Without a split the
    inside ends at the reference's lower lip.
    """
    upper, lower, opened = reference.at(place[0])
    y, middle = place[1], (upper + lower) / 2
    highest = np.minimum(upper + UNDER_LIP, middle)
    if split == 1:
        return np.maximum(highest - y, 0), opened * np.clip((lower - y) / BEHIND + 0.5, 0, 1)
    drop = target.floor - reference.floor
    own_upper, own_lower, _ = target.at(place[0])
    if drop > 0:
        seam = upper + split * (lower - upper)
        source = np.where(y < seam + drop / 2, np.minimum(y, seam), np.maximum(y - drop, seam))
        hidden = np.clip((drop / 2 - np.abs(y - seam - drop / 2)) / TOOTH_EDGE, 0, 1)  # between the rows of teeth
    else:
        source = y - drop * np.clip((y - own_upper - split * (own_lower - own_upper)) / EDGE + 0.5, 0, 1)
        hidden = 0.0
    hidden = np.maximum(hidden, np.clip((source - lower) / TOOTH_EDGE, 0, 1))  # below the lower ones
    return np.clip(source, highest, np.maximum(lower - UNDER_LIP, middle)) - y, opened * (1 - hidden)


def dark_inside(target, place, lip_colour):
    """Return what is behind the lips where the reference does not show it: (R, C, 3) float32 in [0, 255].

    lip_colour: (3,) BGR of the lower lip; where it is grey, as in a black-and-white photo, the inside is grey as well.
    """
    upper, lower, _ = target.at(place[0])
    depth = np.clip((place[1] - upper) / np.maximum(lower - upper, 1e-3), 0, 1)[..., None]
    shade = CAVITY + depth * depth * (TONGUE - CAVITY)
    inside = shade * lip_colour
    grey = inside.mean(axis=-1, keepdims=True)
    return grey + min(1.0, float(np.ptp(lip_colour)) / COLOURED) * (inside - grey)
