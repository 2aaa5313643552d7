"""The folder of files that are kept for the next start: bounded, and never in the way."""

import os
import pathlib

import pytest

from lipgan.utils import disk_cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPGAN_CACHE", str(tmp_path))
    return tmp_path


def test_missing_home_is_no_error(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(pathlib.Path, "home", no_home)
    for name in ("LIPGAN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    disk_cache.write("key", "json", b"{}")
    assert disk_cache.read("key", "json") is None
    assert not pathlib.Path("lipgan/key.json").exists()


def test_files_used_last_stay_within_the_limit(folder, monkeypatch):
    monkeypatch.setattr(disk_cache, "MAX_BYTES", 2_500)
    for number in range(3):
        disk_cache.write(f"key{number}", "blob", bytes(1_000))
        os.utime(folder / f"key{number}.blob", (number, number))
        if number == 1:
            assert disk_cache.read("key0", "blob") == bytes(1_000)  # now key1 is the one that was not used for longest
    assert sorted(path.name for path in folder.iterdir()) == ["key0.blob", "key2.blob"]
