import bz2

import cv2
import dlib
import numpy as np
import pytest

from lipgan.faces import tracker
from lipgan.faces.crop import crop, generator_input
from lipgan.faces.detector import FaceDetector, _load_hog, final_box, model_file, overlap
from lipgan.faces.tracker import find_boxes, follow_face
from lipgan.utils.cli import UserError


def shifted(image, x, y=0, scale=1.0):
    """Shift an image, scaled about its corner, on grey."""
    size = image.shape[1::-1]
    return cv2.warpAffine(image, np.float32([[scale, 0, x], [0, scale, y]]), size, borderValue=(90, 90, 90))


def test_cnn_and_hog_detectors_give_the_same_crop(astronaut, hog):
    boxes = []
    for detector in (FaceDetector("cnn"), hog):
        [box] = detector.detect_whole(astronaut)
        boxes.append(detector.square(astronaut, box))
    assert overlap(*boxes) > 0.9


def test_detector_finds_the_same_after_its_memory_was_released(astronaut):
    detector, found = FaceDetector("cnn"), []
    for _ in range(2):
        [box] = detector.detect_whole(astronaut)
        found.append(np.append(box, detector.landmarks(astronaut, box)))
        detector.release_memory()
    np.testing.assert_array_equal(*found)


def test_hog_detector_finds_the_same_when_it_is_loaded_from_disk(astronaut, tmp_path, monkeypatch):
    monkeypatch.setenv("LIPGAN_CACHE", str(tmp_path))
    unpacked = _load_hog.__wrapped__()
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.delattr(dlib, "get_frontal_face_detector")
    loaded = _load_hog.__wrapped__()
    assert len(unpacked(astronaut, 0)) == 1
    assert unpacked.run(astronaut, 0, 0.3) == loaded.run(astronaut, 0, 0.3)


def test_crop_holds_the_whole_face_with_the_mouth_in_the_lower_half(astronaut, hog):
    (box,), found = find_boxes([astronaut], 25, hog)
    assert found.all()
    points = hog.landmarks(astronaut, box)
    top, bottom, left, right = box
    assert left < points[:, 0].min() and points[:, 0].max() < right
    assert top < points[:, 1].min() and points[8, 1] < bottom  # 8 is the chin
    assert points[48:68, 1].min() > (top + bottom) / 2  # 48 to 67 are the lips


def test_box_is_stable_while_the_mouth_moves(astronaut, hog):
    (box,), _ = find_boxes([astronaut], 25, hog)
    lips = hog.landmarks(astronaut, box)[48:68]
    middle, height = round(lips[:, 1].mean()), astronaut.shape[0]
    rows = np.arange(height, dtype=np.float32)
    open_rows = np.where(rows > middle, np.maximum(middle, rows - 10), rows)  # all below the lips 10 pixels lower
    columns = np.arange(astronaut.shape[1], dtype=np.float32)
    moved = cv2.remap(astronaut, *np.meshgrid(columns, open_rows.astype(np.float32)), cv2.INTER_LINEAR)
    moved[middle : middle + 10, round(lips[:, 0].min()) : round(lips[:, 0].max())] = 20
    (other,), _ = find_boxes([moved], 25, hog)
    assert np.abs(other - box).max() <= 0.03 * (box[1] - box[0])


def test_boxes_follow_a_moving_face_and_are_smooth(astronaut, hog):
    path = np.linspace(0, 48, 40)
    boxes, found = find_boxes((shifted(astronaut, x) for x in path), 25, hog)
    assert found.all()
    centres = boxes[:, 2:].mean(1) - boxes[0, 2:].mean()
    assert np.abs(centres - path).max() < 5
    assert np.abs(np.diff(boxes[:, 1] - boxes[:, 0])).max() <= 2


def test_frames_without_a_face_have_no_box_and_no_average_crosses_a_cut(astronaut, hog):
    empty, far = np.full_like(astronaut, 200), shifted(astronaut, 60, 30, 0.85)
    frames = [astronaut] * 20 + [empty] * 7 + [far] * 20
    boxes, found = find_boxes(iter(frames), 25, hog)
    assert found.tolist() == [True] * 20 + [False] * 7 + [True] * 20
    assert not boxes[20:27].any()
    for part in (boxes[:20], boxes[27:]):  # nothing is averaged across the cut
        assert np.ptp(part, axis=0).max() <= 1


def test_face_that_disappears_within_a_shot_has_boxes_until_then(astronaut, hog):
    without_face = astronaut.copy()
    (box,), _ = find_boxes([astronaut], 25, hog)
    top, bottom, left, right = box
    without_face[top - 8 : bottom, left:right] = without_face[top - 8 : bottom, :1].mean()
    _, found = find_boxes([astronaut] * 22 + [without_face] * 20, 25, hog)
    assert found[:22].all() and not found[22:].any()


def test_largest_face_is_followed_when_another_grows_larger(astronaut, hog):
    def pair(left_scale, right_scale):
        halves = [cv2.resize(astronaut[:, 40:216], None, fx=s, fy=s) for s in (left_scale, right_scale)]
        canvas = np.full((340, 520, 3), 120, np.uint8)
        for half, x in zip(halves, (0, 260), strict=True):
            canvas[: half.shape[0], x : x + half.shape[1]] = half[:, : 520 - x]
        return canvas

    frames = [pair(1.2 - 0.01 * n, 0.9 + 0.01 * n) for n in range(31)]
    boxes, found = find_boxes(frames, 25, hog)
    assert found.all()
    assert boxes[:, 3].max() < 260


def test_image_without_a_face_gives_an_empty_box(hog):
    boxes, found = find_boxes([np.full((120, 160, 3), 128, np.uint8)], 25, hog)
    assert boxes.tolist() == [[0, 0, 0, 0]] and found.tolist() == [False]
    boxes, found = find_boxes([], 25, hog)
    assert boxes.shape == (0, 4) and found.shape == (0,)


def test_pads_grow_the_box_when_positive():
    square = np.array([100, 200, 50, 150])
    plain = final_box(square)
    assert plain.tolist() == [100, 215, 50, 150]
    assert (final_box(square, (1, 2, 3, 4)) - plain).tolist() == [-1, 2, -3, 4]


def test_crop_beyond_the_frame_repeats_the_edge():
    frame = np.full((20, 20, 3), 50, np.uint8)
    frame[:, 0] = 200
    with pytest.raises(ValueError, match="outside"):
        crop(frame, (30, 40, 0, 10), 10)
    assert (crop(frame, (0, 20, -20, 20), 40)[:, :20] == 200).all()


def test_generator_input_masks_the_lower_half_of_the_target_only():
    rng = np.random.default_rng(0)
    reference, pose = rng.integers(0, 256, (2, 3, 96, 96, 3), dtype="uint8")
    model_input = generator_input(reference, pose)
    assert model_input.shape == (3, 96, 96, 6) and model_input.dtype == np.float32
    np.testing.assert_array_equal(model_input[..., :3], reference.astype("float32") / np.float32(255))
    np.testing.assert_array_equal(model_input[:, :48, :, 3:], pose[:, :48].astype("float32") / np.float32(255))
    assert not model_input[:, 48:, :, 3:].any()


def test_bz2_detector_file_is_loaded_and_a_wrong_file_raises_user_error(tmp_path):
    packed = tmp_path / "mmod_human_face_detector.dat.bz2"
    packed.write_bytes(bz2.compress(model_file("mmod_human_face_detector.dat").read_bytes(), 1))
    assert FaceDetector("cnn", packed).kind == "cnn"
    text = tmp_path / "wrong.dat"
    text.write_text("no detector")
    broken = tmp_path / "broken.dat.bz2"
    broken.write_bytes(packed.read_bytes()[:1000])
    for path in (text, broken, tmp_path / "none.dat"):
        with pytest.raises(UserError, match=path.name) as error:
            FaceDetector("cnn", path)
        assert "\n" not in str(error.value)


def test_landmarks_of_a_track_are_smooth(astronaut, hog):
    path = [0, 3, -2, 2, -3, 1, 2, -1, 0, 2, -2, 1, 0, 1, -1, 0]  # a camera that shakes
    track = follow_face((shifted(astronaut, x) for x in path), 25, hog)
    again = hog.landmarks(shifted(astronaut, path[8]), track.boxes[8])
    assert track.points.shape == (16, 68, 2) and np.abs(track.points[8] - again).max() < 8
    steps = np.abs(np.diff(track.points[:, 30, 0]))  # the tip of the nose
    assert steps.max() < 1.5
    frames = [shifted(astronaut, x) for x in path]
    lips = [follow_face(frames, 25, hog, smooth_lips=smooth).points[:, 48:] for smooth in (True, False)]
    np.testing.assert_array_equal(track.points[:, 48:], lips[0])
    assert np.abs(np.diff(lips[1], axis=0)).max() > 2 * np.abs(np.diff(lips[0], axis=0)).max()


def test_smoothing_keeps_a_linear_movement_and_averages_over_the_window():
    line = np.linspace((0, 5), (39, -3), 40)
    noisy = line + np.where(np.arange(40) % 2, 1, -1)[:, None]
    np.testing.assert_allclose(tracker._smoothed(line, 15), line, atol=1e-12)
    smooth = tracker._smoothed(noisy, 15)
    np.testing.assert_allclose(smooth[20], noisy[13:28].mean(0))
    assert np.abs(smooth - line).max() < 0.2


@pytest.mark.slow
def test_small_face_in_a_large_frame_is_detected_in_tiles(astronaut):
    detector = FaceDetector("cnn")
    frame = np.full((1500, 2400, 3), 90, np.uint8)
    frame[700:860, 1300:1460] = cv2.resize(astronaut, (160, 160), interpolation=cv2.INTER_AREA)  # a face of 60 px
    assert not len(detector.detect_whole(frame))
    detector.search_small = True
    [box] = detector.detect_whole(frame)
    assert 700 < box[0] < box[1] < 860 and 1300 < box[2] < box[3] < 1460
