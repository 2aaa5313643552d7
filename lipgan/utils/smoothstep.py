"""Smoothstep, the cubic ease from 0 to 1 of masks and fades."""

import numpy as np


def smoothstep(x):
    """Return 3 x^2 - 2 x^3 of values clipped to [0, 1]: the slope is 0 at both ends. dtype as given."""
    share = np.clip(x, 0, 1)
    return share * share * (3 - 2 * share)
