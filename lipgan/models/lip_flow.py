"""Appearance flow of the lips: from where in the reference each pixel of a mouth with other lips comes. NumPy only.

The same formulas as in the network (`models.warp`), for any resolution: rendering at the video's own resolution and
augmentation use these. (Zhou et al., View Synthesis by Appearance Flow, ECCV 2016.)

The upper and the lower lip pull separately, each on its side of the line where the lips meet. A single field would
average the two: between lips that close it would fetch what lies between the reference's open lips, its teeth.

Lips are (20, 2) or (40,) float32: x and y of dlib's landmarks 48 to 67 in parts of the crop's side.
"""

import numpy as np

from lipgan.faces.landmarks import FACING

UPPER_LIP = (0, 1, 2, 3, 4, 5, 6, 12, 13, 14, 15, 16)  # indices into the 20 landmarks; both corners are in both
LOWER_LIP = (6, 7, 8, 9, 10, 11, 0, 16, 17, 18, 19, 12)
UPPER_INNER, LOWER_INNER = (12, 13, 14, 15, 16), (12, 19, 18, 17, 16)  # from the left corner to the right one
SEAL = 0.02  # of the side: how much further lips that close reach over the teeth than their landmarks say
SEAL_GAP = 0.03  # of the side: a gap that closes completely seals fully from this size on
PULL_RADIUS = 0.045  # of the side: how far a landmark pulls the pixels around it
PULL_FLOOR = 0.05  # weight of not moving at all
PULL_STEPS = 2  # in which what landmarks pull is corrected; with more, the field is less smooth
INNER_RADIUS = 0.03  # of the side: smoothing of the inner lips' curves
SEAM_SOFTNESS = 0.004  # of the side: width of the change from the upper to the lower lip's field
EDGE_SOFTNESS = 0.01  # of the side: width of the border of the inner mouth
OVERLAY_MARGIN = 0.012  # of the side: how far past the inner lips the renderer may paint
OVERLAY_KEEP = 0.6  # share of the inside of the reference's own mouth that is kept, where it shows
SHUT_GAP = 0.01  # of the side: between dlib's inner landmarks where lips touch
OVERLAY_GAP = 0.02  # of the side: from this gap on it may paint fully, and not at all where lips touch


def lip_flow(reference, target, rows, columns):
    """Return the offsets (y, x) at which the reference shows what belongs at each pixel: (R, C, 2) float32.

    reference, target: lips. rows (R,), columns (C,): pixel centres. Everything in parts of the crop's side.
    """
    upper, lower = lip_pulls(reference, target, rows, columns)
    below_upper, above_lower = edge_distances(target, rows, columns)
    above = sigmoid((above_lower - below_upper) / (2 * SEAM_SOFTNESS))[..., None]
    return lower + above * (upper - lower)


def lip_pulls(reference, target, rows, columns):
    """Return the smooth fields of which `lip_flow` is joined where the lips meet: the upper and the lower lip's."""
    reference, target = (np.asarray(lips, np.float32).reshape(-1, 2) for lips in (reference, target))
    reference = _sealed(reference, target)
    return tuple(_pull(reference[list(lip)], target[list(lip)], rows, columns) for lip in (UPPER_LIP, LOWER_LIP))


def touching(lips):
    """Return lips (20, 2) whose inner landmarks meet where the mouth is shut.

    dlib leaves a gap of about SHUT_GAP there. One of 3 SHUT_GAP and more stays as it is.
    """
    lips = np.array(lips, np.float32).reshape(-1, 2)
    up, low = (list(lip) for lip in FACING)
    gap = lips[low, 1] - lips[up, 1]
    shift = np.clip(np.minimum(gap, (3 * SHUT_GAP - gap) / 2), 0, SHUT_GAP) / 2
    lips[up, 1] += shift
    lips[low, 1] -= shift
    return lips


def edge_distances(lips, rows, columns):
    """Return how far pixels lie below the upper inner lip, and above the lower one: (R, C) float32 each.

    In parts of the side, measured along the column; both are positive inside of an open mouth.
    """
    lips = np.asarray(lips, np.float32).reshape(-1, 2)
    upper, lower = (_curve(lips[list(inner)], columns) for inner in (UPPER_INNER, LOWER_INNER))
    return rows[:, None] - upper, lower - rows[:, None]


def inner_mouth(lips, rows, columns):
    """Return a soft mask of the inside of the mouth: (R, C) float32 in [0, 1], 0.25 where the lips touch.

    rows, columns: as for `lip_flow`.
    """
    return _between(*edge_distances(lips, rows, columns))


def overlay_mask(lips, rows, columns):
    """Return where the renderer may paint: (R, C) float32 in [0, 1]. Lips and skin stay the reference's.

    The inside of the mouth and a little more, less where the lips are close, and nothing where they touch.
    """
    below_upper, above_lower = edge_distances(lips, rows, columns)
    gap = below_upper + above_lower
    return _between(below_upper + OVERLAY_MARGIN, above_lower + OVERLAY_MARGIN) * np.clip(gap / OVERLAY_GAP, 0, 1)


def sigmoid(x):
    """Return the logistic function of an array."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # as 1 / (1 + exp(-x)), which overflows


def pixel_centres(size, start=0, stop=None):
    """Return the centres of pixels start to stop of `size` in parts of the side: float32."""
    return (np.arange(start, size if stop is None else stop, dtype=np.float32) + np.float32(0.5)) / np.float32(size)


def _sealed(reference, target):
    """Move the reference's inner landmarks into the lip where the gap closes, so that no tooth shows."""
    up, low = (list(lip) for lip in FACING)
    gap, new_gap = reference[low, 1] - reference[up, 1], target[low, 1] - target[up, 1]
    shift = SEAL * np.clip((gap - new_gap) / np.maximum(gap, SEAL_GAP), 0, 1)
    sealed = reference.copy()
    sealed[up, 1] -= shift
    sealed[low, 1] += shift
    return sealed


def _pull(reference, target, rows, columns):
    """Compute the field of one lip: a mean of its landmarks' offsets, weighted by a Gaussian around each. (R, C, 2)."""
    x = np.exp(-np.square(columns - target[:, :1]) / (2 * PULL_RADIUS**2))  # (K, C)
    y = np.exp(-np.square(rows - target[:, 1:]) / (2 * PULL_RADIUS**2)).T  # (R, K)
    offsets = _pulling(reference - target, target)
    # No matrix product: beside other threads OpenBLAS wastes both cores on these (see media.audio.melspectrogram).
    scale = 1 / (np.einsum("rk,kc->rc", y, x) + PULL_FLOOR)
    sums = [np.einsum("rk,kc->rc", y, x * offsets[:, i : i + 1]) for i in (1, 0)]
    return np.stack([total * scale for total in sums], axis=-1)


def _pulling(offsets, points):
    """Return what landmarks (K, 2) must pull so that the mean of their neighbours' pulls is their own offset: (K, 2).

    By a few steps of Richardson's iteration (Phil. Trans. A 1911): nearly so, and smooth where landmarks are close.
    """
    near = np.exp(-np.square(points[:, None] - points[None]).sum(-1) / (2 * PULL_RADIUS**2))  # (K, K)
    mean = near / (near.sum(axis=1, keepdims=True) + PULL_FLOOR)
    pulls = offsets
    for _ in range(PULL_STEPS):
        pulls = pulls + offsets - (mean[..., None] * pulls).sum(axis=1)
    return pulls


def _curve(points, columns):
    """Height of the smooth curve through points (5, 2) at each column: (C,)."""
    near = np.exp(-np.square(columns - points[:, :1]) / (2 * INNER_RADIUS**2)) + 1e-6  # (5, C)
    return (near * points[:, 1:]).sum(0) / near.sum(0)


def _between(below_upper, above_lower):
    return sigmoid(below_upper / EDGE_SOFTNESS) * sigmoid(above_lower / EDGE_SOFTNESS)
