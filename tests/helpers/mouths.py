"""Lips of made-up faces."""

import numpy as np


def lips(width, gap, corners=0.0):
    """Lips (40,) float32: half their width, the gap between the inner ones, and how far the corners are raised."""
    angles = np.arange(12) / 12 * 2 * np.pi + np.pi
    outer = np.stack([np.cos(angles) * width, np.sin(angles) * (0.03 + gap / 2)], axis=1)
    angles = np.arange(8) / 8 * 2 * np.pi + np.pi
    inner = np.stack([np.cos(angles) * width * 0.8, np.sin(angles) * gap / 2], axis=1)
    points = np.concatenate([outer, inner])
    points[:, 1] -= corners * (points[:, 0] / width) ** 2
    return np.add(points, (0.5, 0.72)).astype(np.float32).ravel()
