"""File lists of LRS3, of LRW and of any folder, and the videos that they list."""

import pytest
from helpers.clips import SIZE, write
from helpers.videos import touch

from lipgan.data import dataset, filelists, index
from lipgan.preprocessing import video_list
from lipgan.utils.cli import UserError
from tools import make_filelists


def made(root, *options):
    assert (
        make_filelists.main(["--videos_data_root", str(root / "videos"), "--out", str(root / "lists"), *options]) == 0
    )
    return {path.stem: path.read_text().split() for path in (root / "lists").glob("*.txt")}


def found(root, split):
    jobs, missing = video_list.listed_jobs(root / "videos", split, root / "lists")
    return {job.name: job.source.removeprefix(f"{root}/videos/") for job in jobs}, missing


def test_lrs3_lists_follow_its_folders_and_hold_out_speakers(tmp_path):
    speakers = [f"{letter}{number}" for letter in "abc" for number in range(8)]
    touch(
        tmp_path / "videos/trainval", *(f"{speaker}/{clip}.mp4" for speaker in speakers for clip in ("50001", "50002"))
    )
    touch(tmp_path / "videos", "trainval/a0/50001.txt", "pretrain/a0/00001.mp4", "test/z/00001.mp4")
    lists = made(tmp_path, "--val_share", "0.1")
    assert (lists["test"], lists["pretrain"]) == (["z/00001"], ["a0/00001"])
    assert len(lists["train"]) == 44 and len(lists["val"]) == 4
    assert not {name.split("/")[0] for name in lists["train"]} & {name.split("/")[0] for name in lists["val"]}
    assert found(tmp_path, "test") == ({"main/z/00001": "test/z/00001.mp4"}, [])
    assert found(tmp_path, "pretrain") == ({"pretrain/a0/00001": "pretrain/a0/00001.mp4"}, [])
    jobs, missing = found(tmp_path, "train")
    assert jobs == {f"main/{name}": f"trainval/{name}.mp4" for name in lists["train"]} and not missing


def test_lrw_lists_follow_its_folders(tmp_path):
    touch(tmp_path / "videos/ABOUT", "train/ABOUT_00001.mp4", "val/ABOUT_00001.mp4", "test/ABOUT_00001.mp4")
    touch(tmp_path / "videos/YEARS", "train/YEARS_00001.mp4", "train/YEARS_00001.txt", "val/YEARS_00002.mp4")
    (tmp_path / "videos/YEARS/test").mkdir()
    lists = made(tmp_path)
    assert lists["train"] == ["ABOUT/train_ABOUT_00001", "YEARS/train_YEARS_00001"]
    assert lists["val"] == ["ABOUT/val_ABOUT_00001", "YEARS/val_YEARS_00002"]
    assert found(tmp_path, "val")[0]["main/YEARS/val_YEARS_00002"] == "YEARS/val/YEARS_00002.mp4"
    jobs, missing = found(tmp_path, "train")
    assert list(jobs.values()) == [f"{word}/train/{word}_00001.mp4" for word in ("ABOUT", "YEARS")] and not missing


def test_folder_is_split_by_speakers(tmp_path):
    touch(tmp_path / "videos", *(f"{speaker}/{clip}.mov" for speaker in "abcdefghij" for clip in (1, 2)))
    lists = made(tmp_path, "--val_share", "0.2", "--test_share", "0.1")
    assert {name: len(clips) for name, clips in lists.items()} == {"train": 14, "val": 4, "test": 2}
    everything = {job.name for job in video_list.all_jobs(tmp_path / "videos")}
    assert {f"main/{clip}" for clips in lists.values() for clip in clips} == everything


def test_single_speaker_is_split_by_clips_with_a_warning(tmp_path, capsys):
    touch(tmp_path / "videos", *(f"{clip}.mp4" for clip in range(10)))
    assert {name: len(clips) for name, clips in made(tmp_path).items()} == {"train": 8, "val": 1, "test": 1}
    assert "validation and test clips are of training's speakers" in capsys.readouterr().out


def test_existing_lists_are_not_overwritten(tmp_path, capsys):
    touch(tmp_path / "videos", "a/1.mp4", "b/1.mp4", "c/1.mp4")
    made(tmp_path)
    assert make_filelists.main(["--videos_data_root", str(tmp_path / "videos"), "--out", str(tmp_path / "lists")]) == 1
    assert "train.txt exists; give another --out" in capsys.readouterr().err


def test_leave_out_list_excludes_clips_and_prints_the_count(tmp_path):
    touch(tmp_path, *(f"data/main/a/{clip}/mels.npz" for clip in range(4)), "data/pretrain/a/1/mels.npz")
    (tmp_path / "out.txt").write_text("main/a/1 +8 frames, confidence 0.31\na/3\nmain/z/9\n")
    clips, notes = filelists.find_clips(tmp_path / "data", "train", tmp_path, leave_out=tmp_path / "out.txt")
    assert [path.relative_to(tmp_path / "data").as_posix() for path in clips] == [
        "main/a/0",
        "main/a/2",
        "pretrain/a/1",
    ]
    assert notes[-1].startswith("2 of the 5 clips for train are left out")
    with pytest.raises(UserError, match="no file list"):
        filelists.find_clips(tmp_path / "data", "train", tmp_path, leave_out=tmp_path / "absent.txt")


def test_balance_draws_speakers_by_the_root_of_their_number_of_targets(tmp_path):
    for clip in range(9):
        write(tmp_path / "data", f"main/often/{clip}", clip)
    write(tmp_path / "data", "main/rare/0", 11)
    faces = dataset.FaceDataset(sorted((tmp_path / "data/main").glob("*/*")), SIZE, balance=True)
    drawn = [faces._clip_of[faces._order(0, epoch)] for epoch in range(8)]
    share = sum((clips == 9).mean() for clips in drawn) / len(drawn)
    assert abs(share - 1 / 4) < 0.03  # of 9 to 1; without balance it would be 0.1
    assert index.index_of([tmp_path / "data/main/rare/0"]).reasons == [""]
