"""Blending: pastes a generated mouth into its frame without a visible edge, colour step or change of sharpness.

Detail coarser than the generator's pixels comes from the generator, except where it differs little far from the lips.
Finer detail (pores, stubble, grain) stays the frame's own, as far as the face under it has not moved. Boxes are (top,
bottom, left, right) in pixels. Frames and crops are BGR uint8.
"""

import cv2
import numpy as np

from lipgan.faces.crop import to_crop_coords
from lipgan.faces.landmarks import LIPS, NOSE_BASE
from lipgan.utils.smoothstep import smoothstep

JAW = slice(0, 17)  # of dlib's 68 landmarks, from ear to ear by the chin
# (x, y) of the jaw in parts of the crop where no landmarks are known: the mean of nine people, from ear to ear.
MEAN_JAW = (0.02, 0.28), (0.04, 0.5), (0.11, 0.7), (0.27, 0.86), (0.5, 0.93), (0.73, 0.86), (0.88, 0.7), (0.94, 0.5)
FEATHER = 0.045  # half the width of the mask's edge, in parts of the crop
BESIDE, BELOW = 0.01, 0.08  # how far past the jaw the mask reaches: a mouth that opens wider moves the chin down
RISE = 0.5, 0.58  # rows in which the mask rises, where it is not between nose and lips
ABOVE_LIPS, BELOW_NOSE, STEEPEST = 0.01, 0.015, 0.03  # how far from both, and in no less of the side than this
MAX_SHIFT = 24.0  # grey levels by which colours are corrected at most
INSIDE = 0.2  # weight of the skin inside the mask, against the mask's edge, when colours are corrected
SAME_FACE = 10.0  # grey levels of difference, smoothed, at which the frame's fine texture has faded to a third
MAX_SHARPENING = 1.0  # of an unsharp mask: more would draw outlines


def mask_rise(box, landmarks):
    """Return between which rows the mask of a rendered mouth rises: between nose and upper lip, RISE where unknown.

    A head that nods moves both in the crop. box, landmarks: as of `paste_mask`. In parts of the side.
    """
    if landmarks is None or not np.isfinite(landmarks).all():
        return RISE
    points = to_crop_coords(landmarks, box)[:, 1]
    last = min(RISE[1], float(points[LIPS].min()) - ABOVE_LIPS)
    first = max(last - (RISE[1] - RISE[0]), min(float(points[NOSE_BASE].max()) + BELOW_NOSE, last - STEEPEST))
    return first, last


def paste_mask(img_size, box=None, landmarks=None, rise=RISE):
    """Return the weight of the generated crop: 1 inside, 0 outside, feathered along the jaw and between two rows.

    box, landmarks: the crop's box and dlib's 68 points (68, 2) of the frame's face, in the frame's pixels; without
    them (or with nan in them) the mean jaw. rise: rows between which the mask rises from 0, in parts of the side.
    Returns (S, S) float32 in [0, 1]; 0 above that and at the edges.
    """
    jaw = np.array(MEAN_JAW)
    if landmarks is not None and np.isfinite(landmarks[JAW]).all():
        jaw = to_crop_coords(landmarks[JAW], box).astype(np.float64)
    outward = jaw - (jaw[:, 0].mean(), 0.5)
    jaw = jaw + outward / np.linalg.norm(outward, axis=1, keepdims=True).clip(1e-6) * BESIDE
    jaw[:, 1] += BELOW * np.clip(outward[:, 1] / 0.4, 0, 1)
    jaw[[0, -1], 1] = 0.3  # above the middle the jaw does not matter
    margin = FEATHER + 1.5 / img_size  # so that the blur ends inside of the crop
    jaw = jaw.clip(margin, 1 - margin)
    mask = np.zeros((img_size, img_size), np.uint8)
    points = np.round((jaw * img_size - 0.5) * 16).astype(np.int32)  # in sixteenths: the mask moves without steps
    cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, shift=4)
    mask = mask.astype(np.float32) / 255
    width = max(1, round(FEATHER * img_size)) // 2 * 2 + 1
    mask = cv2.blur(cv2.blur(mask, (width, width)), (width, width))  # ends at a distance, as a Gaussian would not
    rows = np.arange(img_size, dtype=np.float32)
    first, last = (round(row * img_size, 3) for row in rise)
    mask *= smoothstep((rows - first) / (last - first))[:, None]
    mask[:, [0, -1]] = mask[-1] = 0
    return mask


def frame_mask(shape, box, img_size, landmarks=None, rise=RISE):
    """Return `paste_mask` in a frame of this shape (H, W, ...): (H, W) float32; `paste_back` changes nothing else."""
    first_row, bottom, left, right = (int(v) for v in box)
    small = np.dstack(
        [np.zeros((img_size, img_size, 6), np.float32), *[paste_mask(img_size, box, landmarks, rise)] * 2]
    )
    rows, columns = _visible_part(shape, box, rise[0])
    mask = np.zeros(shape[:2], np.float32)
    if rows.start < rows.stop and columns.start < columns.stop:
        maps = _interpolate(small, 0, img_size, (bottom - first_row, right - left), rows, columns)
        mask[first_row + rows.start : first_row + rows.stop, left + columns.start : left + columns.stop] = maps[..., 6]
    return mask


def _visible_part(shape, box, first=0.5):
    """Return rows and columns of the box, from `first` down, that lie in a frame of this shape: slices of the box."""
    top, bottom, left, right = (int(v) for v in box)
    rows = slice(max(0, -top, int((bottom - top) * first) - 1), min(bottom, shape[0]) - top)
    return rows, slice(max(0, -left), min(right, shape[1]) - left)


def paste_back(frame, generated, box, landmarks=None):
    """Return a copy of the frame with the generated crop's lower half in the box: feathered, as bright, as sharp.

    generated: (S, S, 3) uint8. landmarks: (68, 2) of the frame's face in the frame's pixels, or None.
    Pixels where `paste_mask` is 0 stay as they are.
    """
    top, bottom, left, right = (int(v) for v in box)
    height, width, size = bottom - top, right - left, generated.shape[0]
    result = frame.copy()
    rows, columns = _visible_part(frame.shape, box)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return result
    edges = (max(0, -top), max(0, bottom - frame.shape[0]), max(0, -left), max(0, right - frame.shape[1]))
    source = frame[max(0, top) : bottom, max(0, left) : right]
    if any(edges):
        source = cv2.copyMakeBorder(source, *edges, cv2.BORDER_REPLICATE)
    shrinks = size < max(height, width)
    coarse = cv2.resize(source, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    mask = paste_mask(size, box, landmarks)
    half = slice(size // 2 - 2, size)  # what the mask needs, and two rows for the interpolation
    old, new, mask = coarse[half].astype(np.float32), generated[half].astype(np.float32), mask[half]
    new += _colour_correction(old - new, mask)
    new = _match_sharpness(new, old)
    same = _sameness(new - old)
    moved = mask * (1 - same * _distance_weight(size, box, landmarks)[half])
    change = np.dstack([moved[..., None] * (new - old), old, mask, mask * (1 - same)])  # (S/2, S, 8)
    change = _interpolate(change, half.start, size, (height, width), rows, columns)

    here = np.ascontiguousarray(source[rows, columns])
    blend = here + change[..., :3]
    if min(height, width) > size:
        fine = here - change[..., 3:6]
        blend -= change[..., 7:] * (fine - _limit_to_grain(fine, change[..., 6]))
    changed = (change[..., 6] > 0)[..., None]
    blend = np.clip(blend + 0.5, 0, 255, out=blend).astype(np.uint8)
    within = slice(top + rows.start, top + rows.stop), slice(left + columns.start, left + columns.stop)
    result[within] = np.where(changed, blend, here)
    return result


def _interpolate(maps, first_row, size, shape, rows, columns):
    """Interpolate a crop's maps, from first_row on, at rows and columns of its box of shape (height, width)."""
    across, down = shape[1] / size, shape[0] / size
    # Pixel centres of the box to those of the maps
    to = np.array([[1 / across, 0, (columns.start + 0.5) / across - 0.5]])
    to = np.concatenate([to, [[0, 1 / down, (rows.start + 0.5) / down - 0.5 - first_row]]])
    target = (columns.stop - columns.start, rows.stop - rows.start)
    how = {"flags": cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    colours = [cv2.warpAffine(np.ascontiguousarray(maps[..., i : i + 3]), to, target, **how) for i in (0, 3)]
    how["flags"] = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # the cubic one overshoots
    masks = cv2.warpAffine(np.ascontiguousarray(maps[..., 6:]), to, target, **how)
    return np.concatenate([*colours, masks], axis=-1)


def _distance_weight(size, box, landmarks):
    """Return 1 on cheeks and beside the face, 0 on and around the lips: (S, S). Small changes there are not speech."""
    centre, radii = np.array([0.5, 0.69]), np.array([0.24, 0.22])
    if landmarks is not None and np.isfinite(landmarks[LIPS]).all():
        lips = to_crop_coords(landmarks[LIPS], box)
        centre, radii = (lips.min(0) + lips.max(0)) / 2, np.ptp(lips, axis=0) / 2 + (0.08, 0.12)
    x, y = ((np.arange(size, dtype=np.float32) + 0.5) / size - c for c in centre)
    distance = np.sqrt((x[None] / radii[0]) ** 2 + (y[:, None] / radii[1]) ** 2)
    return smoothstep((2 * (distance - 1)).astype(np.float32))


def _sameness(difference):
    """Return 1 where the face under the paste has not moved, so that its fine texture fits, 0 where it has."""
    level = cv2.GaussianBlur(np.abs(difference).mean(axis=-1), (0, 0), 1.5)
    return np.exp(-((level / SAME_FACE) ** 2))


def _limit_to_grain(fine, mask):
    """Limit the fine texture to the frame's grain: what a mouth that moved may keep of it without its old outlines."""
    level = 2.0 * np.median(np.abs(fine[mask > 0.02])) if (mask > 0.02).any() else 0.0
    return np.clip(fine, -level, level)


def _match_sharpness(new, old):
    """Sharpen the generated image to the frame's level of fine detail there; it is never blurred."""
    fine = [image - cv2.GaussianBlur(image, (0, 0), 1.0) for image in (new, old)]
    generated, true = (np.abs(f).mean() for f in fine)
    amount = np.clip(true / max(generated, 1e-6) - 1, 0, MAX_SHARPENING)
    return new + amount * fine[0].mean(axis=-1, keepdims=True)  # of the brightness alone: no coloured fringes


def _colour_correction(difference, mask):
    """Return the smooth colour correction that makes new agree with old, at most MAX_SHIFT.

    difference: old - new. Weighted along the mask's edge above all, a little on the skin inside; what differs much is
    a mouth or a chin that moved.
    """
    weight = 4 * mask * (1 - mask) + INSIDE * mask  # about 1 in the middle of the feathered edge
    weight = weight * np.exp(-((np.abs(difference).mean(axis=-1) / MAX_SHIFT) ** 2)) + 1e-4
    sigma = 0.15 * mask.shape[1]
    small = max(1, round(sigma / 4))  # the field is smooth: a coarse grid of it is enough
    size = (max(2, mask.shape[1] // small), max(2, mask.shape[0] // small))
    weighted = cv2.resize(difference * weight[..., None], size, interpolation=cv2.INTER_AREA)
    weight = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    blur = {"ksize": (0, 0), "sigmaX": sigma / small, "borderType": cv2.BORDER_REPLICATE}
    field = cv2.GaussianBlur(weighted, **blur) / cv2.GaussianBlur(weight, **blur)[..., None]
    return cv2.resize(np.clip(field, -MAX_SHIFT, MAX_SHIFT), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
