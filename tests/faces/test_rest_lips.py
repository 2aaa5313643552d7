"""The lips of a face at rest, and its own expression added to them."""

import numpy as np
import pytest
from helpers.mouths import lips

from lipgan.faces import rest_lips
from lipgan.faces.landmarks import FACING

REST, SMILE = lips(0.16, 0.01), lips(0.22, 0.05, corners=0.03)


def gaps(points):
    points = points.reshape(20, 2)
    return np.array([points[low, 1] - points[up, 1] for up, low in zip(*FACING, strict=True)])


def test_expression_is_full_in_a_pause_and_absent_when_neutral():
    np.testing.assert_allclose(rest_lips.with_expression(REST, SMILE, 1, 1), SMILE, atol=1e-6)
    np.testing.assert_array_equal(rest_lips.with_expression(REST, SMILE, 0, 1), REST)
    half = rest_lips.with_expression(REST, SMILE, 0.5, 1)
    np.testing.assert_allclose(half, (REST + SMILE) / 2, atol=1e-6)


def test_smile_has_closed_lips_in_speech():
    spoken = rest_lips.with_expression(REST, SMILE, 1, 0)
    np.testing.assert_allclose(gaps(spoken), gaps(REST), atol=1e-6)
    width, corner = (spoken.reshape(20, 2)[6] - spoken.reshape(20, 2)[0])[0], spoken.reshape(20, 2)[0, 1]
    assert 0.32 < width < 0.44 and SMILE.reshape(20, 2)[0, 1] < corner < REST.reshape(20, 2)[0, 1]


@pytest.mark.parametrize(("gap", "strength"), [(0.0, 1), (0.05, 1), (0.08, 0.5), (0.14, 0)])
def test_wide_open_mouth_is_no_expression(gap, strength):
    assert rest_lips.natural_expression(lips(0.16, gap)) == pytest.approx(strength, abs=0.01)
