"""The landmarks in all crops of a folder: those of preprocessing, or found once in the crops of older folders."""

import numpy as np
import pytest
from helpers.clips import SIZE, numbered_crop
from helpers.toys import write_data

from lipgan.data import clip_arrays, clip_folder, lip_landmarks
from lipgan.data.dataset import FaceDataset
from lipgan.data.index import open_index
from lipgan.data.lip_landmarks import LipLandmarks, read_landmarks
from lipgan.faces.tracker import smooth_landmarks
from lipgan.utils.cli import UserError
from tools import pack_dataset

pytestmark = pytest.mark.usefixtures("settled_files")


@pytest.fixture
def older(tmp_path):
    """A folder of three clips without landmarks."""
    return write_data(tmp_path)


@pytest.fixture
def root(tmp_path):
    """A folder of two clips with landmarks, of which the second lists its frames in reverse."""
    for number, name in enumerate(("main/a/1", "main/a/2")):
        frames = np.arange(40)[:: -1 if number else 1]
        boxes, mel, wav = np.zeros((40, 4)), np.zeros((80, 129)), np.zeros(25_600)
        crops = (numbered_crop(number, frame) for frame in frames)
        clip_folder.write_clip(tmp_path / name, crops, frames, boxes, mel, wav, landmarks=numbered(number)[frames])
    return tmp_path


def numbered(clip):
    """The landmarks of 40 frames, each with its own numbers, exact in float16."""
    return (np.arange(40)[:, None, None] / 64 + np.arange(136).reshape(68, 2) / 1024 + clip).astype("float32")


def stored_names(root):
    return sorted(path.name for path in root.glob("landmarks*"))


def found(root, index, row):
    """All landmarks of a clip, as `read_landmarks` gives them."""
    return read_landmarks(index).read(row)


def test_landmarks_of_preprocessing_are_read_in_frame_order(root, monkeypatch):
    monkeypatch.setattr(lip_landmarks, "landmarks_of_crops", None)  # it would fail
    index = open_index(root)
    dataset = FaceDataset([root / name for name in index.names], SIZE, index=index, landmarks=read_landmarks(index))
    for clip, frame in ((0, 3), (1, 39)):
        np.testing.assert_array_equal(dataset.landmarks(clip, frame), numbered(clip)[frame])
        np.testing.assert_array_equal(dataset.lips(clip, frame), numbered(clip)[frame, 48:].ravel())
    np.testing.assert_array_equal(dataset.clip_landmarks(1), numbered(1))
    batch = dataset.batch((0, 0, 0), 8)
    assert batch["target_landmarks"].shape == (8, 136)
    np.testing.assert_array_equal(batch["target_lips"], batch["target_landmarks"][:, 96:])


def test_packed_folder_has_the_landmarks_of_preprocessing(root, tmp_path, monkeypatch):
    monkeypatch.setattr(lip_landmarks, "landmarks_of_crops", None)
    assert pack_dataset.main(["--data_root", str(root), "--out", str(tmp_path / "packed")]) == 0
    index = open_index(tmp_path / "packed")
    np.testing.assert_array_equal(found(tmp_path, index, 1), numbered(1).reshape(40, 136))


def test_missing_landmarks_are_computed_from_crops_and_smoothed(older):
    index = open_index(older)
    dataset = FaceDataset([older / name for name in index.names], index=index)
    find = LipLandmarks()
    expected = np.stack([find.face(dataset.read_crop(1, frame)) for frame in range(30)])
    smooth = smooth_landmarks(expected, 25, lips=False).reshape(30, 136)
    np.testing.assert_allclose(found(older, index, 1), smooth, atol=5e-4)  # they are kept as float16
    assert np.abs(smooth - expected.reshape(30, 136)).max() > 0.01


def test_only_changed_clips_are_recomputed(older, monkeypatch):
    first, names = found(older, open_index(older), 0), stored_names(older)
    calls, compute = [], lip_landmarks.landmarks_of_crops
    monkeypatch.setattr(lip_landmarks, "landmarks_of_crops", lambda *job: (calls.append(job), compute(*job))[1])
    np.testing.assert_array_equal(found(older, open_index(older), 0), first)
    assert not calls and stored_names(older) == names
    (older / "main/speaker/00001").rename(older / "main/speaker/00009")
    index = open_index(older)
    np.testing.assert_array_equal(found(older, index, 0), first)
    assert len(calls) == 1 and len(stored_names(older)) == 2 and stored_names(older) != names
    assert not np.isnan(found(older, index, 2)).any()


def test_results_before_an_interruption_are_saved(older, monkeypatch):
    calls, compute = [], lip_landmarks.landmarks_of_crops

    def fails_at_the_second(*job):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compute(*job)

    monkeypatch.setattr(lip_landmarks, "landmarks_of_crops", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        read_landmarks(open_index(older))
    read_landmarks(open_index(older))
    assert len(calls) == 4  # one, the failure, and the two that were left


@pytest.mark.parametrize("damage", ["header", "rows"])
def test_damaged_arrays_are_recomputed(root, damage):
    index = open_index(root)
    first = found(root, index, 1)
    path = root / "landmarks.npz" if damage == "header" else next(root.glob("landmarks_*.f16"))
    path.write_bytes(path.read_bytes()[:300])
    np.testing.assert_array_equal(found(root, open_index(root), 1), first)


def test_mirrored_landmarks_swap_sides(root):
    index = open_index(root)
    dataset = FaceDataset(
        [root / name for name in index.names], SIZE, index=index, landmarks=read_landmarks(index), augment=True
    )
    batch = dataset.batch((0, 0, 0), 32)
    right = batch["target_landmarks"].reshape(32, 68, 2)
    right_of_left = right[:, 16, 0] - right[:, 0, 0]  # x grows with a landmark's number in `numbered`
    assert 8 < (right_of_left > 0).sum() <= 32
    np.testing.assert_array_equal(batch["target_lips"], batch["target_landmarks"][:, 96:])


def test_a_crop_that_is_not_an_image_has_no_landmarks(older):
    next((older / "main" / "speaker" / "00000").glob("5.jpg")).write_bytes(b"no image")
    index = open_index(older)
    landmarks = read_landmarks(index)
    assert np.isnan(landmarks.read(0)).all(axis=1).nonzero()[0].tolist() == [5]
    with pytest.raises(UserError, match=r"5.jpg is not an image"):
        FaceDataset([older / name for name in index.names], index=index, landmarks=landmarks).lips(0, 5)


def test_landmarks_in_a_read_only_folder_are_computed_for_one_run(older, monkeypatch, capsys):
    monkeypatch.setattr(clip_arrays, "is_writable", lambda folder: False)
    assert not np.isnan(found(older, open_index(older), 2)).any()
    assert stored_names(older) == [] and "cannot be written" in capsys.readouterr().out


@pytest.mark.slow
def test_several_processes_compute_the_same_landmarks(older, monkeypatch):
    alone = found(older, open_index(older), 1)
    (older / "landmarks.npz").unlink()
    monkeypatch.setattr(lip_landmarks, "FEW", 0)
    monkeypatch.setattr(lip_landmarks.dask.system, "CPU_COUNT", 2)
    np.testing.assert_array_equal(found(older, open_index(older), 1), alone)


def test_clip_that_kills_its_worker_is_named(older, monkeypatch):
    monkeypatch.setattr(lip_landmarks, "FEW", 0)
    monkeypatch.setattr(lip_landmarks.dask.system, "CPU_COUNT", 2)
    monkeypatch.setattr(lip_landmarks, "in_workers", lambda *_: iter([(1, None)]))
    with pytest.raises(UserError, match="00001 kills"):
        read_landmarks(open_index(older))
