"""A deformation moves points and pixels alike."""

import numpy as np

from lipgan.data.augment import draw_deformation


def test_landmarks_follow_the_deformed_pixels():
    crop = np.zeros((96, 96, 3), "uint8")
    spot = np.array([52.0, 70.0])
    crop[68:73, 50:55] = 255
    for seed in range(10):
        deformation = draw_deformation(96, np.random.default_rng(seed))
        y, x = np.nonzero(deformation.apply(crop)[..., 0] > 127)
        np.testing.assert_allclose(deformation.target(spot), (x.mean(), y.mean()), atol=0.7)


def test_deformation_target_inverts_source():
    points = np.random.default_rng(0).uniform(20, 76, (20, 2))
    deformation = draw_deformation(96, np.random.default_rng(1))
    np.testing.assert_allclose(deformation.source(deformation.target(points)), points, atol=0.1)


def test_deformation_moves_lips_and_mirrors_their_order():
    lips = np.tile([0.5, 0.75], (20, 1))
    lips[0], lips[6] = (0.4, 0.72), (0.6, 0.72)  # the corners
    sides = set()
    for seed in range(10):
        deformation = draw_deformation(96, np.random.default_rng(seed))
        sides.add(deformation.mirrored)
        moved = deformation.landmarks(lips.ravel(), 96).reshape(20, 2)
        assert moved[0, 0] < moved[6, 0]  # the left corner stays on the left
        for corner, place in ((0, lips[0]), (6, lips[6])):
            crop = np.zeros((96, 96, 3), "uint8")
            x, y = (place * 96).astype(int)
            crop[y - 2 : y + 2, x - 2 : x + 2] = 255  # about (x, y) in pixels from the crop's edge
            rows, columns = np.nonzero(deformation.apply(crop)[..., 0] > 127)
            shown = moved[6 - corner if deformation.mirrored else corner] * 96
            np.testing.assert_allclose(shown, (columns.mean() + 0.5, rows.mean() + 0.5), atol=1.2)
    assert sides == {False, True}
