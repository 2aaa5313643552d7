"""Smoothstep, the cubic ease from 0 to 1 of masks and fades."""


def smoothstep(share):
    """Return 3 x^2 - 2 x^3 of values in [0, 1]: 0 and 1 stay, the slope is 0 at both. dtype as given."""
    return share * share * (3 - 2 * share)
