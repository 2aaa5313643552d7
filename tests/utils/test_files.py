"""Atomic files and folders."""

import pathlib

import pytest

from lipgan.utils.files import atomic_dir, atomic_write


@pytest.fixture
def share(tmp_path, monkeypatch):
    """A folder like a network share's, where every chmod is refused."""

    def refuse(path, mode, **_):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(pathlib.Path, "chmod", refuse)
    return tmp_path


def test_refused_chmod_keeps_the_file(share):
    with atomic_write(share / "result.mp4") as temporary:
        temporary.write_text("video")
    assert [(path.name, path.read_text()) for path in share.iterdir()] == [("result.mp4", "video")]


def test_refused_chmod_keeps_the_folder(share):
    with atomic_dir(share / "clip") as temporary:
        (temporary / "0.jpg").write_text("crop")
    assert [path.name for path in share.iterdir()] == ["clip"]
    assert (share / "clip" / "0.jpg").read_text() == "crop"


def test_failed_write_leaves_no_file(tmp_path):
    with pytest.raises(KeyError), atomic_write(tmp_path / "x.mp4") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
