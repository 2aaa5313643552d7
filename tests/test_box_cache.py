"""box_cache.py: the same video is searched once, and nothing else passes for it."""

import numpy as np
import pytest

from box_cache import cache_path, load_boxes, save_boxes

BOXES = np.arange(40, dtype=np.int32).reshape(10, 4)
FOUND = np.arange(10) % 3 > 0


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"some video")
    return path


def test_boxes_come_back_whatever_the_video_is_called(clip, tmp_path):
    save_boxes(cache_path(tmp_path / "boxes", clip, kind="cnn"), BOXES, FOUND, whole=True)
    copy = clip.rename(tmp_path / "other name.mp4")
    boxes, found = load_boxes(cache_path(tmp_path / "boxes", copy, kind="cnn"), 10)
    np.testing.assert_array_equal(boxes, BOXES)
    np.testing.assert_array_equal(found, FOUND)


def test_another_video_or_another_setting_is_searched_anew(clip, tmp_path):
    path = cache_path(tmp_path, clip, kind="cnn", pads=(0, 0, 0, 0))
    assert path == cache_path(tmp_path, clip, kind="cnn", pads=(0, 0, 0, 0))
    assert path != cache_path(tmp_path, clip, kind="hog", pads=(0, 0, 0, 0))
    assert path != cache_path(tmp_path, clip, kind="cnn", pads=(0, 9, 0, 0))
    clip.write_bytes(b"some videO")
    assert path != cache_path(tmp_path, clip, kind="cnn", pads=(0, 0, 0, 0))


def test_a_longer_sound_needs_more_boxes_unless_the_video_has_no_more(tmp_path):
    save_boxes(tmp_path / "part.npz", BOXES, FOUND, whole=False)
    save_boxes(tmp_path / "whole.npz", BOXES, FOUND, whole=True)
    assert load_boxes(tmp_path / "part.npz", 11) is None
    assert len(load_boxes(tmp_path / "part.npz", 4)[0]) == 4
    assert len(load_boxes(tmp_path / "whole.npz", 11)[0]) == 10


def test_a_damaged_file_is_passed_over_with_a_line(tmp_path, capsys):
    path = tmp_path / "boxes.npz"
    assert load_boxes(path, 1) is None
    save_boxes(path, BOXES, FOUND, whole=True)
    for damaged in (path.read_bytes()[:100], b"", b"text"):
        path.write_bytes(damaged)
        assert load_boxes(path, 1) is None
        assert "searched anew" in capsys.readouterr().err


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path):
    (tmp_path / "file").write_text("no folder")
    save_boxes(tmp_path / "file" / "boxes.npz", BOXES, FOUND, whole=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
