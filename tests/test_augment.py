"""augment.py: points and pixels are deformed alike."""

import numpy as np

from augment import draw_deformation


def test_points_move_with_the_picture_s_pixels():
    crop = np.zeros((96, 96, 3), "uint8")
    spot = np.array([52.0, 70.0])
    crop[68:73, 50:55] = 255
    for seed in range(10):
        deformation = draw_deformation(96, np.random.default_rng(seed))
        y, x = np.nonzero(deformation.apply(crop)[..., 0] > 127)
        np.testing.assert_allclose(deformation.target(spot), (x.mean(), y.mean()), atol=0.7)


def test_where_a_point_went_and_where_it_came_from_agree():
    points = np.random.default_rng(0).uniform(20, 76, (20, 2))
    deformation = draw_deformation(96, np.random.default_rng(1))
    np.testing.assert_allclose(deformation.source(deformation.target(points)), points, atol=0.1)


def test_lips_move_with_their_mouth_and_change_sides_in_a_mirror():
    lips = np.random.default_rng(0).uniform(0.3, 0.9, (20, 2))
    mirrored, plain = (next(d for d in map(drawn, range(20)) if d.mirrored == wanted) for wanted in (True, False))
    moved = (plain.target(lips * 96 - 0.5) + 0.5) / 96
    np.testing.assert_allclose(plain.lips(lips.ravel(), 96).reshape(20, 2), moved)
    found = mirrored.lips(lips.ravel(), 96).reshape(20, 2)
    left_corner = (mirrored.target(lips[0] * 96 - 0.5) + 0.5) / 96
    np.testing.assert_allclose(found[6], left_corner)  # it is the right corner now
    assert np.abs(found[14] - (1 - lips[14, 0], lips[14, 1])).max() < 0.15  # a middle one stays the same one


def drawn(seed):
    return draw_deformation(96, np.random.default_rng(seed))
