"""Occlusion: find frames in which a hand, a microphone or a spoon covers the mouth, or the head is in profile.

The lower face is described by the colours of a grid of cells, placed by the eyes. In a covered frame many cells differ
from their median over the shot, or some that are connected differ much, though the head has not turned and the upper
face is as bright as before. Speech changes rows of the mouth: what covers it is taller.
"""

import cv2
import numpy as np

from lipgan.faces.landmarks import EYES
from lipgan.utils.smoothstep import smoothstep

COLUMNS, ROWS, UPPER_COLUMNS = 12, 9, 12  # cells of the lower face; of one row over eyes and cheeks, for the light
NUM_CELLS = COLUMNS * ROWS + UPPER_COLUMNS
SAMPLES = 4  # pixels along each side of a cell
LOWER = (-0.85, 0.85, 0.45, 1.65)  # left, right, top, bottom from the eyes' middle, in eye distances
UPPER = (-0.85, 0.85, -0.15, 0.4)
NOSE_TIP = 30
SPREADS, LEVELS = 3.0, 8.0  # a cell differs beyond 3 standard deviations plus 8 grey levels
COVERED = 0.18  # fraction of differing cells in a covered face; speech, light and head turns stay below
OBJECT_SPREADS, OBJECT_LEVELS = 2.0, 16.0  # a cell is of an object beyond 2 standard deviations plus 16 grey levels
OBJECT = 100.0  # grey levels beyond that, summed over the cells of an object that covers a mouth
OBJECT_ROWS = 3  # its height in cells, at least
MOUTH_CELLS = slice(3, 7), slice(3, 9)  # rows and columns of cells in which the mouth lies
TURN, TURN_SPREADS = 0.06, 3.0  # the nose tip moves by at most 0.06 eye distances plus 3 deviations in speech
PROFILE = 0.5  # eye distances of the nose tip from the eyes' middle, sideways, beyond which a face is in profile
DARK = 12.0  # grey levels of the upper face below which no frame counts as covered
MIN_SHOT = 25  # frames that a shot's median needs
MAX_COVERED = 0.5  # largest fraction of covered frames of a shot: what is there longer belongs to the face
SHORTEST_S, FADE_S = 0.1, 0.16  # shortest occlusion; fade to the frame's own pixels before it, and back after it


def face_cells(frame, points):
    """Return the mean colours of the cells of a face: (NUM_CELLS, 3) uint8. points: (68, 2) in the frame's pixels."""
    left, right = (points[eye].mean(axis=0) for eye in EYES)
    across = right - left
    to = np.column_stack([across, [-across[1], across[0]], (left + right) / 2])
    grids = (LOWER, COLUMNS, ROWS), (UPPER, UPPER_COLUMNS, 1)
    return np.concatenate([_cells(frame, to, *grid) for grid in grids])


def _cells(frame, to, area, columns, rows):
    """Return the mean colours of a grid over an area: (columns * rows, 3). to: (2, 3), eye distances -> pixels."""
    left, right, top, bottom = area
    size = columns * SAMPLES, rows * SAMPLES
    step = np.array([(right - left) / size[0], (bottom - top) / size[1]])
    first = np.array([left, top]) + step / 2
    grid = np.column_stack([to[:, :2] * step, to[:, :2] @ first + to[:, 2]])
    how = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    samples = cv2.warpAffine(frame, grid, size, **how)
    return cv2.resize(samples, (columns, rows), interpolation=cv2.INTER_AREA).reshape(-1, 3)


def covered_share(track, fps):
    """Return by how much each frame of a `tracker.Track` keeps its own mouth: (N,) float32, 0 visible, 1 covered.

    It rises before an occlusion and falls after it. All 0 without landmarks.
    """
    share = np.zeros(len(track.found), np.float32)
    if track.points is None or track.cells is None:
        return share
    for shot in np.unique(track.shots[track.found]).tolist():
        rows = np.flatnonzero((track.shots == shot) & track.found)
        own = covered_frames(track.cells[rows], track.points[rows])
        share[rows] = _faded(_without_short(own, SHORTEST_S * float(fps)), FADE_S * float(fps))
    return share


def covered_frames(cells, points):
    """Return which frames of a shot show a covered mouth or a profile: (N,) bool.

    cells: (N, NUM_CELLS, 3) of `face_cells`. points: (N, 68, 2), dlib's landmarks.
    """
    turn = _turn(points)
    profile = np.abs(turn[:, 0]) > PROFILE
    if len(cells) < MIN_SHOT:
        return profile
    cells = cells.astype(np.float32)
    upper = cells[:, COLUMNS * ROWS :].mean(axis=1)  # (N, 3)
    usual_light = np.median(upper, axis=0)
    lower = cells[:, : COLUMNS * ROWS] * (usual_light / np.maximum(upper, 1))[:, None]
    distance, spread = _from_usual(lower)
    distance, spread = distance.mean(-1), spread.mean(-1)
    differing = (distance > SPREADS * spread + LEVELS).mean(axis=1)
    turned, turn_spread = _from_usual(turn)
    steady = (turned < TURN + TURN_SPREADS * turn_spread).all(axis=1)
    covered = (differing > COVERED) | _shows_object(distance - (OBJECT_SPREADS * spread + OBJECT_LEVELS))
    covered &= steady & (upper.mean(axis=1) > DARK)
    return profile | (covered if covered.mean() <= MAX_COVERED else False)


def _shows_object(excess):
    """Return which frames show an object before the mouth: (N,) bool.

    excess: (N, COLUMNS * ROWS), by how many grey levels a cell differs more than it would in speech.
    """
    excess = excess.clip(0).reshape(-1, ROWS, COLUMNS)
    result = np.zeros(len(excess), bool)
    for number in np.flatnonzero(excess.sum(axis=(1, 2)) >= OBJECT):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(np.uint8(excess[number] > 0))
        size = np.bincount(labels.ravel(), excess[number].ravel(), count)
        size[0] = 0  # cells that do not differ
        tall = stats[:, cv2.CC_STAT_HEIGHT] >= OBJECT_ROWS
        result[number] = np.isin(labels[MOUTH_CELLS], np.flatnonzero(tall & (size >= OBJECT))).any()
    return result


def _turn(points):
    """Return the place of the nose tip from the eyes' middle, sideways and down, in eye distances: (N, 2)."""
    left, right = (points[:, eye].mean(axis=1) for eye in EYES)
    unit = np.linalg.norm(right - left, axis=1, keepdims=True).clip(1e-6)
    return (points[:, NOSE_TIP] - (left + right) / 2) / unit


def _from_usual(values):
    """Return the distances of values (N, ...) from their median, and their robust standard deviation (...)."""
    distance = np.abs(values - np.median(values, axis=0))
    return distance, 1.4826 * np.median(distance, axis=0)


def _without_short(covered, shortest):
    """Close gaps shorter than `shortest` frames, then drop runs of True as short: (N,) bool."""
    kernel = np.ones(max(1, round(shortest)) // 2 * 2 + 1, np.uint8)
    mask = covered.astype(np.uint8)[None]
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel[None])
    ends = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}  # of a shot: short runs there are dropped as well
    return cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel[None], **ends)[0].astype(bool)


def _faded(covered, fade):
    """Return 1 in covered frames, falling to 0 within `fade` frames beside them: (N,) float32."""
    if not covered.any():
        return covered.astype(np.float32)
    indices, frames = np.flatnonzero(covered), np.arange(len(covered))
    after = np.searchsorted(indices, frames)
    ends = indices[np.maximum(after - 1, 0)], indices[np.minimum(after, len(indices) - 1)]
    distance = np.min([np.abs(frames - end) for end in ends], axis=0)
    return smoothstep(1 - distance / (fade + 1)).astype(np.float32)
