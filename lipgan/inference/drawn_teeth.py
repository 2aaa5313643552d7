"""Upper teeth for an image whose mouth is shut: it shows none, and a mouth that speaks without looks toothless.

They are drawn where anatomy puts them, in millimetres. They hang from the skull, so they stay where they are while the
lips move over them, and end a little below the line where the lips meet at rest. Widths of the crowns: Nelson,
Wheeler's Dental Anatomy, Physiology and Occlusion (9th edition, 2010). How bright teeth are beside skin was measured on
open mouths of GRID, how blurred they must be is measured on the image.
"""

import dataclasses

import numpy as np

from lipgan.faces.crop import rotate_points
from lipgan.faces.landmarks import mean_opening
from lipgan.models.lip_flow import LOWER_INNER, UPPER_INNER, touching

SHOWING = 0.015  # of the side: an image whose lips are twice as far apart shows its own teeth; up to this, none
HALF_MOUTH = 25.0  # mm from the middle of the lips to a corner, at rest
WIDTHS = np.array([8.5, 6.5, 7.5, 7.0, 7.0], np.float32)  # of the crowns, from the middle to the side
LENGTHS = np.array([1.7, 1.4, 1.6, 0.9, 0.3], np.float32)  # how far they reach below the line of the lips at rest
ENDS = np.cumsum(WIDTHS)
ARCH = 27.0  # mm: radius of the dental arch
ROUNDED = 0.5  # mm by which a tooth's edge is shorter at its sides
GAP, GAP_DARKNESS = 0.35, 0.4  # mm (standard deviation), and share of the light that is lost between two teeth
EDGE_WIDTHS, WIDEST_EDGE = 2.5, 2.5  # of an edge: in standard deviations of the image's blur, and at most, in mm
SHADOW, SHADOW_DARKNESS = 3.5, 0.45  # mm below the upper lip that lie in its shadow, and how dark that is at the lip
WIDE, DIM = 5.0, 0.45  # mm between the lips from which on all light falls in, and the share that does at first
# Brightness of teeth beside a skin of SKIN_BRIGHTNESS; the power of skin's brightness that it goes with; and how much
# of skin's colour, which is the light's, too, they have.
SKIN_BRIGHTNESS, TEETH_BRIGHTNESS, BRIGHTNESS_POWER, SATURATION = 145.0, 165.0, 0.75, 0.6
CHEEKS = np.array([[0.3, 0.56], [0.7, 0.56]])  # (x, y) of the crop's side: beside the nose
CHEEK = 0.03  # half of the side of the patches there
SHARPEST = 99  # percentile of slopes that are edges


@dataclasses.dataclass(frozen=True)
class TeethLook:
    """How teeth look in an image that shows none."""

    colour: np.ndarray  # (3,) float32 BGR in [0, 255], in full light
    blur: float  # standard deviation of the image's blur, in parts of the crop's side


def hidden_teeth(lips) -> float:
    """Return how much an image with these lips (40,) hides its teeth, in [0, 1]: 1 where they are shut."""
    return float(np.clip(2 - mean_opening(touching(lips).ravel()) / SHOWING, 0, 1))


def teeth_look(crop, lips, roll=0.0) -> TeethLook:
    """Measure skin and blur of a crop (H, W, 3) uint8 with these lips (40,). roll: of `render.render_mouth`."""
    lips = lips.reshape(-1, 2)
    cheeks, lips = (rotate_points(points, -roll) if roll else points for points in (CHEEKS, lips))
    return TeethLook(_teeth_colour(_skin_colour(crop, cheeks)), _blur(crop, lips) / crop.shape[0])


def _skin_colour(crop, places):
    """Return the median colour of patches at places (N, 2) of a crop: (3,) float32."""
    height, width = crop.shape[:2]
    half = max(1, round(CHEEK * height))
    middles = [(round(y * height), round(x * width)) for x, y in places]
    patches = [crop[row - half : row + half, column - half : column + half] for row, column in middles]
    return np.median(np.concatenate([patch.reshape(-1, 3) for patch in patches]), axis=0).astype(np.float32)


def _teeth_colour(skin):
    """Return the colour of teeth in full light beside skin of a colour (3,): (3,) float32 BGR."""
    brightness = max(float(skin.mean()), 1.0)
    bright = TEETH_BRIGHTNESS * (brightness / SKIN_BRIGHTNESS) ** BRIGHTNESS_POWER
    return np.minimum(bright * (1 + SATURATION * (skin / brightness - 1)), 255)


def _blur(crop, lips):
    """Estimate how blurred the mouth in a crop is, by its sharpest edges: a standard deviation in pixels.

    Of an edge between two levels that a Gaussian blurs, the steepest slope is their difference / (sqrt(2 pi) sigma).
    lips: (20, 2) in parts of the side.
    """
    first, last = (np.clip(points * crop.shape[1::-1], 0, crop.shape[1::-1]) for points in (lips.min(0), lips.max(0)))
    # Green, of every other column: slopes are those of the lips, from row to row.
    levels = crop[int(first[1]) : int(last[1]) + 2, int(first[0]) : int(last[0]) + 2 : 2, 1]
    if min(levels.shape) < 3:
        return 1.0
    slope = np.percentile(np.abs(np.diff(levels.astype(np.int16), axis=0)), SHARPEST)
    contrast = np.ptp(np.percentile(levels, (100 - SHARPEST, SHARPEST)))
    return float(contrast / (np.sqrt(2 * np.pi) * max(slope, 1.0)))


def draw_teeth(behind, reference_lips, target, place, look, share=1.0):
    """Draw upper teeth onto what is behind the lips: (R, C, 3) float32 in [0, 255], changed in place.

    reference_lips: (40,), the shut ones. target: `mouth_interior.Edges` of the new ones. place: x and y of the pixels
    in parts of the side, each (R, C), or (1, C) and (R, 1). look: TeethLook. share: how opaque teeth are, in [0, 1].
    """
    lips, (x, y) = touching(reference_lips), place
    left, right = lips[UPPER_INNER[0]], lips[UPPER_INNER[-1]]
    middle = lips[[UPPER_INNER[2], LOWER_INNER[2]]].mean(axis=0)
    left_mm, right_mm = (max(abs(corner[0] - middle[0]), 0.01) / HALF_MOUTH for corner in (left, right))
    mm = (left_mm + right_mm) / 2  # in parts of the side; a face turned aside has another one on each side
    across = np.abs(x - middle[0]) / np.where(x < middle[0], left_mm, right_mm)
    line = np.interp(x, *np.transpose([left, middle, right]))  # where the lips meet at rest
    upper, lower, _ = target.at(x)

    facing = np.clip(across / ARCH, 0, 1)  # sine of the angle at which a tooth is seen
    along = ARCH * np.arcsin(facing)  # the arch, from its middle
    tooth = np.minimum(np.searchsorted(ENDS, along), len(ENDS) - 1)
    within = np.clip(1 - (ENDS[tooth] - along) / WIDTHS[tooth], 0, 1)
    length = LENGTHS[tooth] - ROUNDED * np.abs(2 * within - 1) ** 3
    blur = look.blur / mm
    edge = np.clip((length - (y - line) / mm) / np.clip(EDGE_WIDTHS * blur, 0.1, WIDEST_EDGE) + 0.5, 0, 1)

    gap, to_gap = np.hypot(GAP, blur), np.minimum(within, 1 - within) * WIDTHS[tooth]
    light = (1 - GAP_DARKNESS * GAP / gap * np.exp(-((to_gap / gap) ** 2) / 2)) * np.sqrt(1 - facing**2)
    light *= DIM + (1 - DIM) * np.clip((lower - upper) / mm / WIDE, 0, 1)
    light = light * (1 - SHADOW_DARKNESS * np.clip(1 - (y - upper) / mm / SHADOW, 0, 1))
    opacity = share * edge * (along < ENDS[-1])
    behind += np.float32(opacity)[..., None] * (np.float32(light)[..., None] * look.colour - behind)
