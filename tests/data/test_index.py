"""The index is reused and never stale, and a packed folder gives the samples of its tree."""

import os
import tarfile

import numpy as np
import pytest
from helpers.clips import SIZE, numbered_mel, write

from lipgan.data import clip_folder, dataset, filelists, index, tar_shards
from lipgan.utils.cli import UserError
from tools import pack_dataset

LISTED = ("main/a/1", "main/a/2", "main/b/1", "pretrain/p/1")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Four clips, of which the last has no usable crops, and no clip too young to be sure of."""
    monkeypatch.setattr(index, "UNSURE_S", 0.0)
    for number, name in enumerate(LISTED):
        write(tmp_path / "data", name, number, num_frames=40 if number < 3 else 5)
    clip_folder.write_settings(tmp_path / "data", {"img_size": SIZE})
    return tmp_path / "data"


@pytest.fixture
def reads(monkeypatch):
    """The names of the clips whose mels.npz is read."""
    names, read = [], index._entry
    monkeypatch.setattr(index, "_entry", lambda name, *rest, **more: (names.append(name), read(name, *rest, **more))[1])
    return names


def samples(root):
    """Two batches of all usable clips below a folder."""
    found = index.open_index(root)
    clips, _ = filelists.find_clips(root, "train", root, found)
    faces = dataset.FaceDataset(clips, SIZE, index=found)
    return [faces.batch((0, 1, number), 8) for number in range(2)], dict(faces.skipped)


def same(one, two):
    return all(np.array_equal(a[name], b[name]) for a, b in zip(one, two, strict=True) for name in a)


def test_an_index_is_built_once_and_gives_the_samples_of_the_folders(root, reads):
    first, skipped = samples(root)
    assert reads == [*LISTED] and skipped == {"fewer than 12 crops": 1}
    again, skipped_again = samples(root)
    assert reads == [*LISTED] and same(first, again) and skipped == skipped_again
    faces = dataset.FaceDataset([root / name for name in LISTED], SIZE)
    assert same(first, [faces.batch((0, 1, number), 8) for number in range(2)])


def test_only_changed_clips_are_reindexed(root, reads):
    samples(root)
    write(root, "main/b/2", 4)
    (root / "main/a/2/0.jpg").unlink()  # changes the time of the folder
    (root / "main/a/1").rename(root / "main/a/0")
    reads.clear()
    found = index.open_index(root)
    assert reads == ["main/a/0", "main/a/2", "main/b/2"]
    assert found.names == ["main/a/0", "main/a/2", "main/b/1", "main/b/2", "pretrain/p/1"]
    assert found.reasons == ["", "missing crops", "", "", "fewer than 12 crops"]
    assert len(list(root.glob("mels_*.f16"))) == 1
    for row, clip in ((0, 0), (2, 2), (3, 4)):
        np.testing.assert_array_equal(found.mel(row, 0, 27), numbered_mel(clip, 40)[:, :27])


def test_mels_overwritten_in_place_are_reindexed(root, reads):
    samples(root)
    path = root / "main/a/1/mels.npz"
    before, folder = path.stat(), path.parent.stat()
    with np.load(path) as arrays:
        arrays = dict(arrays)
    np.savez(path, **arrays | {"spec": arrays["spec"] + 2})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert path.parent.stat().st_mtime_ns == folder.st_mtime_ns
    assert index.open_index(root).mel(0, 7, 8)[1] == 9


def test_clips_newer_than_the_timestamp_resolution_are_reindexed(root, reads, monkeypatch):
    monkeypatch.setattr(index, "UNSURE_S", 60.0)
    samples(root)
    samples(root)
    assert reads == [*LISTED] * 2


@pytest.mark.parametrize("damage", ["index.npz", "mels", "version", "hparams"])
def test_damaged_or_outdated_index_is_rebuilt(root, reads, damage, monkeypatch):
    first, _ = samples(root)
    reads.clear()
    if damage == "index.npz":
        (root / "index.npz").write_bytes((root / "index.npz").read_bytes()[:500])
    elif damage == "mels":
        mels = next(root.glob("mels_*.f16"))
        mels.write_bytes(mels.read_bytes()[:-2])
    elif damage == "version":
        monkeypatch.setattr(index, "VERSION", 10**6)
    else:
        monkeypatch.setattr(type(index.hparams), "as_dict", lambda self: {"hop_size": 1})
    assert same(first, samples(root)[0]) and reads == [*LISTED]


def test_a_folder_that_cannot_be_written_is_indexed_for_the_run(root, monkeypatch, capsys):
    monkeypatch.setattr(index, "is_writable", lambda root: False)
    samples(root)
    assert "for this run alone" in capsys.readouterr().out
    assert sorted(path.name for path in root.iterdir()) == ["main", "preprocess.json", "pretrain"]


def test_windows_past_the_ends_are_silent(root):
    found = index.open_index(root)
    window = found.mel(1, -3, 24)
    assert (window[:, :3] == -4).all() and window[1, 3] == 0
    window = found.mel(1, 120, 147)
    assert window[1, 0] == 120 and (window[:, 129 - 120 :] == -4).all()
    assert found.mel(1, 500, 527).shape == (80, 27)


def test_a_packed_folder_gives_the_same_samples_in_the_same_order(root, tmp_path, reads, capsys):
    packed = tmp_path / "packed"
    assert pack_dataset.main(["--data_root", str(root), "--out", str(packed)]) == 0
    assert "4 clips in 1 shards" in capsys.readouterr().out
    reads.clear()
    (from_tree, skipped), (from_tar, skipped_too) = samples(root), samples(packed)
    assert same(from_tree, from_tar) and skipped == skipped_too and reads == [*LISTED]  # of the tree: tar's were known
    assert clip_folder.read_settings(packed) == {"img_size": SIZE}
    assert [path.relative_to(packed) for path in filelists.find_clips(packed, "val", tmp_path)[0]] == [
        path.relative_to(root) for path in filelists.find_clips(root, "val", tmp_path)[0]
    ]


def test_shards_use_webdataset_layout_and_unpack_to_the_tree(root, tmp_path):
    assert tar_shards.pack(root, tmp_path / "packed", 50_000) == (4, 4)
    members = []
    for path in tar_shards.shard_files(tmp_path / "packed"):
        with tarfile.open(path) as tar:
            members += tar.getnames()
            tar.extractall(tmp_path / "again", filter="data")
    assert members[:2] == ["main/a/1/0.jpg", "main/a/1/1.jpg"] and "main/a/1/mels.npz" in members
    assert [name.rpartition("/")[0] for name in members] == sorted(name.rpartition("/")[0] for name in members)
    for path in root.glob("*/*/*/*"):
        assert (tmp_path / "again" / path.relative_to(root)).read_bytes() == path.read_bytes()
    tar_shards.pack(root, tmp_path / "packed_again", 50_000)
    one, two = (
        b"".join(map(lambda p: p.read_bytes(), tar_shards.shard_files(tmp_path / n)))
        for n in ("packed", "packed_again")
    )
    assert one == two


def test_changed_shards_are_reindexed_and_truncated_ones_named(root, tmp_path):
    packed = tmp_path / "packed"
    tar_shards.pack(root, packed, 50_000)
    assert len(index.open_index(packed).names) == 4
    last = tar_shards.shard_files(packed)[2]
    whole = last.read_bytes()
    last.unlink()
    assert index.open_index(packed).names == ["main/a/1", "main/a/2", "pretrain/p/1"]
    last.write_bytes(whole[:30_000])
    with pytest.raises(UserError, match=r"shard_00002\.tar is not a complete tar file"):
        index.open_index(packed)


def test_packing_into_a_used_or_from_an_empty_folder_is_refused(root, tmp_path, capsys):
    assert pack_dataset.main(["--data_root", str(root), "--out", str(root)]) == 1
    assert "is not empty" in capsys.readouterr().err
    assert pack_dataset.main(["--data_root", str(tmp_path / "x"), "--out", str(tmp_path / "y")]) == 1
    assert "no preprocessed clips" in capsys.readouterr().err and not (tmp_path / "y").exists()
