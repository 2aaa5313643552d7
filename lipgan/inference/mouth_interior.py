"""The inside of a mouth whose lips move: teeth stay where the skull holds them, lips cover and uncover them.

Lips stretch and squeeze with the flow; teeth must not. So the lips' pixels are never taken from between the
reference's lips, and what is between the new ones is the reference's own there, unmoved, as far as it shows its inside.
Past that the mouth is dark. Coordinates are parts of the crop's side, in the crop as the network saw it.
"""

import dataclasses
import functools

import numpy as np

from lipgan.models.lip_flow import LOWER_INNER, UPPER_INNER, touching

CURVE_POINTS = 12  # of an edge's curve, between two landmarks
EDGE = 0.01  # of the side: width of the border between lips and what is behind them
LIP_MARGIN = 0.004  # how far from the reference's teeth the lips' pixels are taken: dlib's landmarks are no nearer
FULL_GAP = 0.016  # from this gap on the inside shows fully; it begins where lips part
STILL = 0.01  # lips that have moved less than this, as at rest, are rendered partly without layers
BEHIND = 0.02  # width of the change from what the reference shows of its inside to what it does not
CAVITY = np.array([0.20, 0.19, 0.28], np.float32)  # of the lower lip's colour, BGR: what is behind the teeth
TONGUE = np.array([0.24, 0.22, 0.36], np.float32)  # as well, near the lower lip
UNDER_LIP = 0.006  # how far below the upper lip's edge its shadow on the teeth has ended
COLOURED = 24.0  # levels between the channels of a lip in colour, at least
PAINT = 0.2  # share of the network's paint in what the reference does not show


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


def edges(lips):
    """Return the Edges of lips (40,); they meet where dlib's landmarks say that the mouth is shut."""
    return _edges(np.asarray(lips, np.float32).tobytes())


@functools.lru_cache(maxsize=256)  # those of a reference come again
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


def teeth(reference, place):
    """Return by how much lower the inside is taken at points (x, y), and how much the reference shows of it, in [0, 1].

    Teeth go on upwards under the upper lip: where that rises, their upper end is drawn out. Downwards they end.
    """
    upper, lower, opened = reference.at(place[0])
    lowered = np.maximum(np.minimum(upper + UNDER_LIP, (upper + lower) / 2) - place[1], 0)
    return lowered, opened * np.clip((lower - place[1]) / BEHIND + 0.5, 0, 1)


def dark_inside(target, place, lip_colour, paint):
    """Return what is behind the lips where the reference does not show it: (R, C, 3) float32 in [0, 255].

    lip_colour: (3,) BGR of the lower lip; where it is grey, as in a black-and-white photo, the inside is grey as well.
    paint: (R, C, 3) in [0, 255], the network's.
    """
    upper, lower, _ = target.at(place[0])
    depth = np.clip((place[1] - upper) / np.maximum(lower - upper, 1e-3), 0, 1)[..., None]
    shade = CAVITY + depth * depth * (TONGUE - CAVITY)
    inside = (1 - PAINT) * shade * lip_colour + PAINT * paint
    grey = inside.mean(axis=-1, keepdims=True)
    return grey + min(1.0, float(np.ptp(lip_colour)) / COLOURED) * (inside - grey)
