"""Fine detail of mouths: a rendered mouth has as much of it as the shot's own mouths have on average.

Resampled pixels have less of it than the source, edges between lips, teeth and dark more. Measured by the variance of
the Laplacian, in parts of the squared brightness, so that it does not depend on the light.
"""

import cv2
import numpy as np

from lipgan.utils.smoothstep import smoothstep

REACH, FADE = 0.7, 0.25  # half the side of what is measured and adjusted, and the fade beyond, in mouth widths
BLACK = 16.0  # grey levels added to the brightness: in the dark there is only noise
BLUR = 1.0  # pixels: what a blur of this deviation takes away is fine detail
LIMITS = -0.8, 0.8  # share of the fine detail that is added, at most: more would draw outlines
NOISE = 2.5  # variance of the Laplacian that rounding to 8 bits (0.7) and encoding add


def mouth_detail(frame, lips):
    """Return the fine detail of the mouth in a frame (H, W, 3) uint8; nan outside. lips: (20, 2) in its pixels."""
    rows, columns = _square(frame.shape, lips, REACH)
    if min(rows.stop - rows.start, columns.stop - columns.start) < 8:
        return np.nan
    grey = cv2.cvtColor(np.ascontiguousarray(frame[rows, columns]), cv2.COLOR_BGR2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var() / (grey.mean() + BLACK) ** 2)


def adjust_detail(frame, lips, aim, mask, place):
    """Bring the fine detail of the mouth in a frame near `aim`, in place, where a mask is not 0.

    frame: (H, W, 3) uint8. lips: (20, 2) in its pixels. mask: (R, C) float32 of the rows and columns at `place`.
    """
    rows, columns = _square(frame.shape, lips, REACH + FADE)
    if not np.isfinite(aim) or min(rows.stop - rows.start, columns.stop - columns.start) < 8:
        return
    whole = np.zeros(frame.shape[:2], np.float32)
    whole[place] = mask
    weight = whole[rows, columns] * _fade(rows, columns, lips)
    image = frame[rows, columns].astype(np.float32)
    fine = (image - cv2.GaussianBlur(image, (0, 0), BLUR)) * weight[..., None]
    inner = tuple(
        slice(s.start - o.start, s.stop - o.start)
        for s, o in zip(_square(frame.shape, lips, REACH), (rows, columns), strict=True)
    )
    grey, change = (cv2.cvtColor(values, cv2.COLOR_BGR2GRAY)[inner] for values in (image, fine))
    laplacian, added = (cv2.Laplacian(values, cv2.CV_32F) for values in (grey, change))
    now, both, square = laplacian.var(), ((laplacian - laplacian.mean()) * added).mean(), added.var()
    wanted = aim * (grey.mean() + BLACK) ** 2 - NOISE
    share = (np.sqrt(max(both**2 - square * (now - wanted), 0)) - both) / max(square, 1e-6)
    frame[rows, columns] = np.clip(image + np.float32(np.clip(share, *LIMITS)) * fine + 0.5, 0, 255).astype(np.uint8)


def _square(shape, lips, reach):
    """Return rows and columns of a frame of this shape about the middle of lips, `reach` mouth widths to each side."""
    middle, half = lips.mean(axis=0), reach * np.linalg.norm(lips[6] - lips[0])
    first, last = np.floor(middle - half).astype(int), np.ceil(middle + half).astype(int)
    return tuple(slice(max(0, first[i]), max(0, min(shape[1 - i], last[i]))) for i in (1, 0))


def _fade(rows, columns, lips):
    """Return 1 within REACH of the middle of lips, falling to 0 within FADE: (R, C) float32."""
    middle, width = lips.mean(axis=0), np.linalg.norm(lips[6] - lips[0])
    y, x = (
        smoothstep((REACH + FADE - np.abs(np.arange(s.start, s.stop) - middle[i]) / width) / FADE)
        for s, i in ((rows, 1), (columns, 0))
    )
    return np.float32(y[:, None] * x)
