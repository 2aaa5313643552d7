"""A generated mouth pasted back into its frame, so that no edge and no other colour shows.

Boxes are (top, bottom, left, right) in pixels, as of `faces`. Frames and crops are BGR uint8.
"""

import cv2
import numpy as np


def lower_half_mask(height, width):
    """What of a crop is pasted back: 1 inside, 0 outside, feathered. The lower half, rounded off like a jaw.

    Returns (height, width) float32 in [0, 1]; 0 in the upper half and along the other three edges.
    """
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    x = (np.arange(width, dtype=np.float32)[None] + 0.5) / width
    radius = (np.abs(x - 0.5) / 0.48) ** 3 + (np.maximum(y - 0.5, 0) / 0.49) ** 3
    jaw = np.clip((1 - radius) / 0.4, 0, 1)
    line = np.clip((y - 0.5) / 0.08, 0, 1)
    mask = np.minimum(jaw, line)
    return (mask * mask * (3 - 2 * mask)).astype(np.float32)


def paste_back(frame, generated, box):
    """A copy of the frame in which the generated crop's lower half lies in the box, feathered, its colours matched.

    generated: (S, S, 3) uint8. Pixels where `lower_half_mask` is 0 stay as they are.
    """
    top, bottom, left, right = (int(v) for v in box)
    height, width = bottom - top, right - left
    shrinks = height < generated.shape[0]
    face = cv2.resize(generated, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    mask = lower_half_mask(height, width)
    # Only what lies inside the picture, and only the lower half
    y0, y1 = max(0, -top, height // 2 - 1), min(height, frame.shape[0] - top)
    x0, x1 = max(0, -left), min(width, frame.shape[1] - left)
    result = frame.copy()
    if y0 >= y1 or x0 >= x1:
        return result
    old = frame[top + y0 : top + y1, left + x0 : left + x1].astype(np.float32)
    new, mask = face[y0:y1, x0:x1].astype(np.float32), mask[y0:y1, x0:x1, None]
    new += _seam_colour(old - new, mask[..., 0])
    blend = old + mask * (new - old)
    result[top + y0 : top + y1, left + x0 : left + x1] = np.where(mask > 0, np.clip(blend + 0.5, 0, 255), old)
    return result


def _seam_colour(difference, mask):
    """The smooth colour correction that makes new agree with old along the mask's edge, at most 24 grey levels."""
    weight = np.clip(4 * mask * (1 - mask), 0, 1) + 1e-4  # 1 in the middle of the feathered edge
    sigma = 0.15 * mask.shape[1]
    small = max(1, round(sigma / 4))  # the field is smooth: a coarse grid of it is enough
    size = (max(2, mask.shape[1] // small), max(2, mask.shape[0] // small))
    weighted = cv2.resize(difference * weight[..., None], size, interpolation=cv2.INTER_AREA)
    weight = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    blur = {"ksize": (0, 0), "sigmaX": sigma / small, "borderType": cv2.BORDER_REPLICATE}
    field = cv2.GaussianBlur(weighted, **blur) / cv2.GaussianBlur(weight, **blur)[..., None]
    return cv2.resize(np.clip(field, -24, 24), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
