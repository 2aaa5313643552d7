"""Compiled networks on disk: taken up again, remade where damaged, and never in the way."""

import numpy as np
import pytest

from lipgan.models import compiled
from lipgan.utils import disk_cache
from lipgan.utils.imports import import_openvino

NUMBERS = np.arange(6, dtype=np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIPGAN_CACHE", str(tmp_path))
    return tmp_path


def adder(amount):
    """Return a function that builds a network which adds an amount to six numbers."""

    def build():
        ov = import_openvino()
        import openvino.opset13 as ops

        x = ops.parameter([6], np.float32)
        return ov.Model([ops.add(x, ops.constant(np.float32(amount)))], [x])

    return build


def built_again():
    raise AssertionError("the network is in the cache")


def test_compiled_network_is_reused(folder):
    key = compiled.cache_key(network="adder")
    for build in (adder(2), built_again):
        (result,) = compiled.compile_network(build, concurrency=2, key=key)([NUMBERS])
        np.testing.assert_array_equal(result, NUMBERS + 2)
    assert compiled.cache_key(network="another") != key
    (result,) = compiled.compile_network(adder(3), concurrency=1, key=key)([NUMBERS])  # other settings: another file
    np.testing.assert_array_equal(result, NUMBERS + 3)


def test_network_computes_the_same_after_its_memory_was_released(folder):
    network = compiled.compile_network(adder(2), concurrency=2)
    for _ in range(2):
        np.testing.assert_array_equal(network([NUMBERS])[0], NUMBERS + 2)
        network.release_memory()


@pytest.mark.parametrize("damage", ["cut off", "changed", "empty", "a file that OpenVINO refuses"])
def test_damaged_cache_file_is_rebuilt(folder, damage):
    key = compiled.cache_key(network="adder")
    compiled.compile_network(adder(2), key=key)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    if damage == "a file that OpenVINO refuses":
        disk_cache.write(path.stem, "blob", b"no network")
    else:
        changed = whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
        path.write_bytes({"cut off": whole[:-9], "changed": changed, "empty": b""}[damage])
    (result,) = compiled.compile_network(adder(2), key=key)([NUMBERS])
    np.testing.assert_array_equal(result, NUMBERS + 2)
    compiled.compile_network(built_again, key=key)


def test_folder_that_cannot_be_used_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LIPGAN_CACHE", str(tmp_path / "file"))
    (result,) = compiled.compile_network(adder(2), key=compiled.cache_key(network="adder"))([NUMBERS])
    np.testing.assert_array_equal(result, NUMBERS + 2)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert compiled.read_description(compiled.cache_key(network="adder")) is None


def test_key_depends_on_weights_and_code(monkeypatch, tmp_path):
    key = compiled.cache_key(weights="a")
    assert key == compiled.cache_key(weights="a") != compiled.cache_key(weights="b")
    monkeypatch.setattr(compiled, "CODE", compiled.CODE[1:])
    compiled._common.cache_clear()
    assert compiled.cache_key(weights="a") != key
    monkeypatch.setattr(compiled, "ROOT", tmp_path)  # no code there
    compiled._common.cache_clear()
    assert compiled.cache_key(weights="a") is None
    compiled._common.cache_clear()
