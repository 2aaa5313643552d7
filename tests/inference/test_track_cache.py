"""Track cache: the same video is searched once, and no other is taken for it."""

import numpy as np
import pytest

from lipgan.faces.tracker import Track
from lipgan.inference.track_cache import cache_path, load_track, save_track

TRACK = Track(
    np.arange(40, dtype=np.int32).reshape(10, 4),
    np.arange(10) % 3 > 0,
    np.arange(1360, dtype=np.float32).reshape(10, 68, 2),
    np.arange(10, dtype=np.int32) // 5,
    np.arange(10) % 3 > 0,
    np.arange(10, dtype=np.float32),
    np.arange(3600, dtype=np.uint16).reshape(10, 120, 3).astype(np.uint8),
)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"some video")
    return path


def test_track_is_cached_by_video_content(clip, tmp_path):
    save_track(cache_path(tmp_path / "boxes", clip, kind="cnn"), TRACK, whole=True)
    copy = clip.rename(tmp_path / "other name.mp4")
    for kept, array in zip(load_track(cache_path(tmp_path / "boxes", copy, kind="cnn"), 10), TRACK, strict=True):
        np.testing.assert_array_equal(kept, array)


def test_another_video_or_setting_is_another_file(clip, tmp_path):
    path = cache_path(tmp_path, clip, kind="cnn", pads=(0, 0, 0, 0))
    assert path == cache_path(tmp_path, clip, kind="cnn", pads=(0, 0, 0, 0))
    assert path != cache_path(tmp_path, clip, kind="hog", pads=(0, 0, 0, 0))
    assert path != cache_path(tmp_path, clip, kind="cnn", pads=(0, 9, 0, 0))
    clip.write_bytes(b"some videO")
    assert path != cache_path(tmp_path, clip, kind="cnn", pads=(0, 0, 0, 0))


def test_longer_audio_needs_more_frames_unless_the_video_has_no_more(tmp_path):
    save_track(tmp_path / "part.npz", TRACK, whole=False)
    save_track(tmp_path / "whole.npz", TRACK, whole=True)
    assert load_track(tmp_path / "part.npz", 11) is None
    assert len(load_track(tmp_path / "part.npz", 4)[0]) == 4
    assert len(load_track(tmp_path / "whole.npz", 11)[0]) == 10


def test_damaged_file_is_skipped_with_a_warning(tmp_path, capsys):
    path = tmp_path / "boxes.npz"
    assert load_track(path, 1) is None
    save_track(path, TRACK, whole=True)
    for damaged in (path.read_bytes()[:100], b"", b"text"):
        path.write_bytes(damaged)
        assert load_track(path, 1) is None
        assert "searched again" in capsys.readouterr().err


def test_unwritable_folder_is_no_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    save_track(tmp_path / "file" / "boxes.npz", TRACK, whole=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
