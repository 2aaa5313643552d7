import cv2
import dlib
import numpy as np
import pytest

from lipgan.faces import mmod_openvino
from lipgan.faces.detector import FaceDetector, model_file, overlap
from lipgan.utils.cli import UserError


@pytest.fixture(scope="module")
def network_file():
    return model_file("mmod_human_face_detector.dat")


def test_openvino_gives_the_boxes_of_dlib(astronaut, network_file):
    ours, theirs = mmod_openvino.Detector(network_file), dlib.cnn_face_detection_model_v1(str(network_file))
    face = astronaut[20:220, 14:214]
    small = cv2.copyMakeBorder(cv2.resize(face, (150, 150)), 0, 50, 0, 0, cv2.BORDER_REPLICATE)
    image = np.ascontiguousarray(np.hstack([face, small])[:, :, ::-1])  # one face is detected at a lower level
    boxes, expected = ours(image), [mmod_openvino.sides(detection.rect) for detection in theirs(image, 0)]
    assert len(boxes) == len(expected) == 2
    assert all(overlap(a, b) > 0.95 for a, b in zip(boxes, expected, strict=True))


def test_pyramid_levels_lie_on_the_canvas_without_overlap():
    for height, width in ((512, 512), (90, 700), (400, 41), (5, 5)):
        places, canvas = mmod_openvino.layout(height, width)
        covered = np.zeros(canvas, int)
        for top, left, rows, columns in places:
            assert min(top, left) >= mmod_openvino.BORDER
            assert top + rows <= canvas[0] - mmod_openvino.BORDER and left + columns <= canvas[1] - mmod_openvino.BORDER
            covered[top : top + rows, left : left + columns] += 1
        assert places[0][2:] == (height, width) and covered.max() == 1


def test_file_of_another_network_falls_back_to_dlib_and_is_refused(network_file, tmp_path):
    damaged = tmp_path / "mmod.dat"
    damaged.write_bytes(network_file.read_bytes()[:200_000])
    with pytest.raises(mmod_openvino.UnknownNetwork):
        mmod_openvino.Detector(damaged)
    with pytest.raises(UserError, match="not a dlib CNN face detector"):
        FaceDetector("cnn", damaged)
