"""Sources: the size of the result."""

import cv2
import numpy as np
import pytest

from lipgan.inference.options import LipsyncOptions
from lipgan.inference.source import open_source


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((4032, 3024), {}, (2880, 2160)),  # 12 megapixels
        ((3024, 4032), {}, (2160, 2880)),
        ((4032, 3024), {"resize_factor": 1.0}, (4032, 3024)),
        ((4032, 3024), {"resize_factor": 4.0}, (1008, 756)),
        ((3840, 2160), {}, (3840, 2160)),
    ],
)
def test_large_photos_are_fitted_into_4k_unless_a_factor_is_given(tmp_path, capsys, size, options, expected):
    cv2.imwrite(str(tmp_path / "x.jpg"), np.full((size[1], size[0]), 90, np.uint8))
    source = open_source(tmp_path / "x.jpg", LipsyncOptions(**options))
    assert (source.width, source.height) == expected
    assert source.image.shape == (expected[1], expected[0], 3)
    note = capsys.readouterr().err
    fitted = not options and size != expected
    assert ("--resize_factor 1 keeps all" in note) == fitted
