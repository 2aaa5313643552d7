"""lips.py and lip_cache.py: the lips in all crops of a folder, read once."""

import numpy as np
import pytest
from helpers.toys import write_data

from lipgan.data import lip_landmarks
from lipgan.data.dataset import FaceDataset
from lipgan.data.index import open_index
from lipgan.data.lip_landmarks import LipLandmarks, read_lips
from lipgan.utils.cli import UserError
from tools import pack_dataset


@pytest.fixture
def root(tmp_path):
    return write_data(tmp_path)


def kept(root):
    return sorted(path.name for path in root.glob("lips_*.npy"))


def test_every_crop_has_dlib_s_landmarks_in_the_datasets_order(root):
    index = open_index(root)
    dataset = FaceDataset([root / index.names[2], root / index.names[0]], index=index, lips=read_lips(index))
    for clip, frame in ((0, 0), (0, 29), (1, 7)):
        expected = LipLandmarks()(dataset.read_crop(clip, frame)).ravel()
        np.testing.assert_allclose(dataset.lips(clip, frame), expected, atol=5e-4)  # they are kept as float16


def test_lips_are_read_once_and_anew_where_the_data_change(root, monkeypatch):
    first = read_lips(open_index(root))
    names = kept(root)
    with monkeypatch.context() as patched:
        patched.setattr(lip_landmarks, "lips_of_files", None)  # it would fail
        np.testing.assert_array_equal(read_lips(open_index(root)), first)
    (root / "main" / "speaker" / "00001").rename(root / "main" / "speaker" / "00009")
    read_lips(open_index(root))
    assert len(kept(root)) == 1 and kept(root) != names


def test_a_sample_has_the_lips_of_its_own_two_crops(root):
    index = open_index(root)
    dataset = FaceDataset([root / name for name in index.names], index=index, lips=read_lips(index))
    batch, find = dataset.batch((0, 0, 0), 4), LipLandmarks()
    for name in ("reference", "target"):
        expected = np.stack([find(crop).ravel() for crop in batch[name]])
        np.testing.assert_allclose(batch[f"{name}_lips"], expected, atol=5e-4)


def test_a_crop_that_is_no_picture_has_no_lips(root):
    crop = next((root / "main" / "speaker" / "00000").glob("5.jpg"))
    crop.write_bytes(b"no picture")
    lips = read_lips(open_index(root))
    assert np.isnan(lips).all(axis=1).sum() == 1 and np.isnan(lips[5]).all()
    index = open_index(root)
    with pytest.raises(UserError, match=r"5.jpg is not a picture"):
        FaceDataset([root / name for name in index.names], index=index, lips=lips).lips(0, 5)


def test_a_packed_folder_has_the_same_lips(root, tmp_path):
    assert pack_dataset.main(["--data_root", str(root), "--out", str(tmp_path / "packed")]) == 0
    packed, index = open_index(tmp_path / "packed"), open_index(root)
    assert packed.names == index.names
    np.testing.assert_array_equal(read_lips(packed), read_lips(index))


def test_where_nothing_can_be_written_lips_are_read_for_one_run(root, monkeypatch, capsys):
    monkeypatch.setattr(lip_landmarks, "is_writable", lambda folder: False)
    assert not np.isnan(read_lips(open_index(root))).any()
    assert kept(root) == [] and "cannot be written" in capsys.readouterr().out


def test_many_crops_are_read_by_several_processes_to_the_same_numbers(root, monkeypatch):
    alone = read_lips(open_index(root))
    (root / kept(root)[0]).unlink()
    monkeypatch.setattr(lip_landmarks, "FEW", 0)
    monkeypatch.setattr(lip_landmarks.dask.system, "CPU_COUNT", 2)
    np.testing.assert_array_equal(read_lips(open_index(root)), alone)


def test_a_clip_that_kills_its_reader_is_named(root, monkeypatch):
    monkeypatch.setattr(lip_landmarks, "FEW", 0)
    monkeypatch.setattr(lip_landmarks.dask.system, "CPU_COUNT", 2)
    monkeypatch.setattr(lip_landmarks, "in_workers", lambda *_: iter([(1, None)]))
    with pytest.raises(UserError, match="00001 kills"):
        read_lips(open_index(root))
    assert kept(root) == []
