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
