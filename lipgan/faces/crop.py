"""Face crops: cut from a frame, rotate upright, stack into the generator's input."""

import cv2
import numpy as np

from lipgan.faces.landmarks import EYES

MAX_TRAINED_ROLL = 5.0  # degrees: the heads of GRID, the training data, hardly roll further


def crop(frame, box, img_size):
    """Cut a box out of a frame and resize it to (img_size, img_size, 3) uint8. Raises ValueError as `cut` does."""
    return resize_crop(cut(frame, box), img_size)


def cut(frame, box):
    """Cut a box out of a frame at the frame's own resolution: (h, w, 3) uint8. Edges of the frame are repeated.

    Raises ValueError for a box that is empty or outside of the frame.
    """
    top, bottom, left, right = (int(v) for v in box)
    height, width = frame.shape[:2]
    inside = frame[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
    if min(bottom - top, right - left) < 1 or not inside.size:
        raise ValueError(f"box {top} {bottom} {left} {right} lies outside of the image {height} x {width}")
    edges = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - width))
    return cv2.copyMakeBorder(inside, *edges, cv2.BORDER_REPLICATE) if any(edges) else inside


def resize_crop(image, img_size):
    """Resize a crop of any size to (img_size, img_size, 3) uint8."""
    shrinks = img_size < max(image.shape[:2])
    return cv2.resize(image, (img_size, img_size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def to_crop_coords(points, boxes):
    """Convert landmarks (..., K, 2) from a frame's pixels to fractions of the crop of their box (..., 4): float32."""
    top, bottom, left, right = np.moveaxis(np.asarray(boxes, np.float32), -1, 0)
    start, side = np.stack([left, top], -1), np.stack([right - left, bottom - top], -1)
    return ((points - start[..., None, :]) / side[..., None, :]).astype(np.float32)


def excess_roll(points):
    """Compute by how many degrees a face rolls clockwise beyond MAX_TRAINED_ROLL: landmarks (..., 68, 2) -> (...)."""
    across = points[..., EYES[1], :].mean(-2) - points[..., EYES[0], :].mean(-2)
    tilt = np.degrees(np.arctan2(across[..., 1], across[..., 0]))
    return tilt - np.clip(tilt, -MAX_TRAINED_ROLL, MAX_TRAINED_ROLL)


def rotate(crop, degrees):
    """Rotate a crop (S, S, 3) uint8 anticlockwise about its middle; its edges are repeated."""
    if not degrees:
        return crop
    middle = (crop.shape[0] - 1) / 2
    to = cv2.getRotationMatrix2D((middle, middle), float(degrees), 1)
    how = {"flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    return cv2.warpAffine(crop, to, crop.shape[1::-1], **how)


def rotate_points(points, degrees):
    """Rotate landmarks (K, 2), in fractions of a crop's side, as `rotate` does its pixels."""
    to = cv2.getRotationMatrix2D((0.5, 0.5), float(degrees), 1)
    return (points @ to[:, :2].T + to[:, 2]).astype(np.float32)


def generator_input(reference, pose):
    """Stack the generator's six channels: the reference crop, and the target frame's crop with a black lower half.

    reference, pose: (..., S, S, 3) BGR uint8. Returns (..., S, S, 6) float32 in [0, 1].
    """
    return generator_input_uint8(reference, pose).astype(np.float32) / np.float32(255)


def generator_input_uint8(reference, pose):
    """Stack the six channels of `generator_input` as (..., S, S, 6) uint8 in [0, 255], to be scaled on the device."""
    model_input = np.concatenate([reference, pose], axis=-1)
    model_input[..., model_input.shape[-2] // 2 :, :, 3:] = 0
    return model_input
