"""preprocess.py: clips from videos of any kind, unusable ones counted by reason, killed workers replaced."""

import json
import pathlib
import shutil
import wave

import cv2
import numpy as np
import pytest
from helpers.sounds import write_wav
from helpers.videos import face_frames, sometimes_deadly, touch, write_video

import preprocess
from audio_hparams import hparams
from lipgan.data import dataset, filelists
from lipgan.faces.crop import to_crop_coords
from lipgan.faces.detector import FaceDetector
from lipgan.faces.tracker import follow_face
from lipgan.media import video
from lipgan.media.container import DecodeCounts
from lipgan.preprocessing import clip
from lipgan.preprocessing.run_log import RunLog
from lipgan.utils import parallel
from lipgan.utils.cli import UserError


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """LRS2's folders with two good clips and one of every kind of bad ones."""
    root = tmp_path_factory.mktemp("videos")
    main = root / "main"
    good = write_video(main / "anna/good.mp4", face_frames(30))
    write_video(main / "anna/fast.mp4", face_frames(40), fps=50)
    write_video(main / "anna/mute.mp4", face_frames(15), audio=False)
    write_video(main / "anna/three.mp4", list(face_frames(3)))
    write_video(main / "bert/nobody.mp4", [np.full((120, 160, 3), 6 * k, "uint8") for k in range(25)])
    (main / "bert/empty.mp4").touch()
    (main / "bert/cut_off.mp4").write_bytes(good.read_bytes()[: good.stat().st_size * 4 // 5])
    (main / "bert/text.mp4").write_text("no video at all\n" * 100)
    write_wav(main / "bert/deaf.wav", 1).rename(main / "bert/deaf.mp4")
    (root / "filelists").mkdir()
    listed = [f"{path.parent.name}/{path.stem}" for path in sorted(main.glob("*/*.mp4"))]
    (root / "filelists/train.txt").write_text("\n".join([*listed, "anna/absent", ""]))
    (root / "filelists/test.txt").write_text("anna/good NF\n\nanna/fast MV\n")
    return root


def run(videos, final, *options):
    return preprocess.main(
        [
            *("--videos_data_root", str(videos), "--final_data_root", str(final), "--detector", "hog"),
            *("--filelists", str(videos / "filelists"), "--num_workers", "2", *options),
        ]
    )


def in_this_process(task, arguments, num_workers, scratch, scheduler=None):
    """Stand in for `parallel.in_workers`, whose processes take seconds to start."""
    for index, values in enumerate(arguments):
        yield index, task(*values)


@pytest.fixture
def no_workers(monkeypatch):
    monkeypatch.setattr(preprocess, "in_workers", in_this_process)


@pytest.fixture(scope="module")
def final(videos, tmp_path_factory):
    """The preprocessed train list. Tests only read it."""
    final = tmp_path_factory.mktemp("final")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "in_workers", in_this_process)
        assert run(videos, final) == 0
    return final


@pytest.mark.slow
def test_worker_processes_write_the_same_clips(videos, final, tmp_path):
    assert run(videos, tmp_path) == 0
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.jpg")) == sorted(
        path.relative_to(final) for path in final.rglob("*.jpg")
    )
    for name in ("main/anna/good/20.jpg", "main/anna/fast/audio.wav"):
        assert (tmp_path / name).read_bytes() == (final / name).read_bytes()
    runs = [json.loads((folder / "preprocess.json").read_text())["runs"]["train"] for folder in (tmp_path, final)]
    assert runs[0]["failed_clips"] == runs[1]["failed_clips"]


def test_bad_clips_are_counted_by_reason_and_named(final):
    settings = json.loads((final / "preprocess.json").read_text())
    made = settings["runs"]["train"]
    assert made["failed_clips"] == {
        "main/anna/absent": "no video file",
        "main/anna/mute": "no audio",
        "main/anna/three": "fewer than 12 frames",
        "main/bert/cut_off": "truncated file",
        "main/bert/deaf": "no readable video",
        "main/bert/empty": "empty file",
        "main/bert/nobody": "no face",
        "main/bert/text": "no readable video",
    }
    assert (made["done"], made["done_before"], made["skipped"]["no readable video"]) == (2, 0, 2)
    assert sorted(path.parent.name for path in final.glob("*/*/*/mels.npz")) == ["fast", "good"]
    assert settings["hparams"] == hparams.as_dict() and settings["versions"]["numpy"]
    assert (settings["img_size"], settings["detector"], settings["pads"]) == (96, "hog", [0, 0, 0, 0])


def read_damaged(path):
    counts = DecodeCounts()
    return sum(1 for _ in video.read_frames(path, 25, counts)), counts.num_frames, counts.num_damaged


def test_damaged_frames_are_counted_while_frames_are_read(videos, tmp_path):
    data = bytearray((videos / "main/anna/good.mp4").read_bytes())
    assert read_damaged(videos / "main/anna/good.mp4") == (30, 30, 0)
    data[len(data) * 2 // 3 : len(data) * 3 // 4] = bytes(len(data) * 3 // 4 - len(data) * 2 // 3)
    (tmp_path / "damaged.mp4").write_bytes(data)
    _, decoded, damaged = read_damaged(tmp_path / "damaged.mp4")
    assert 20 <= decoded <= 30 and damaged > 0


def test_a_mostly_damaged_video_is_skipped_and_a_slightly_damaged_one_is_reported(videos, tmp_path, monkeypatch):
    real = clip.video.read_frames

    def damaged(path, fps, counts=None, share=0.5):
        for frame in real(path, fps, counts):
            if counts:
                counts.num_damaged = round(counts.num_frames * share)
            yield frame

    detector = FaceDetector("hog")
    monkeypatch.setattr(clip.video, "read_frames", damaged)
    with pytest.raises(clip.UnusableClip, match="damaged video"):
        clip.preprocess_clip(videos / "main/anna/good.mp4", tmp_path / "half", detector)
    monkeypatch.setattr(clip.video, "read_frames", lambda *args: damaged(*args, share=0.05))
    result = clip.preprocess_clip(videos / "main/anna/good.mp4", tmp_path / "few", detector)
    assert (result.status, result.num_damaged) == (clip.Status.DONE, 2) and not (tmp_path / "half").exists()


def test_a_clip_is_decoded_twice_in_all(videos, tmp_path, monkeypatch):
    calls, real = [], clip.video.read_frames
    monkeypatch.setattr(clip.video, "read_frames", lambda path, *more: (calls.append(path), real(path, *more))[1])
    clip.preprocess_clip(videos / "main/anna/good.mp4", tmp_path / "clip", FaceDetector("hog"))
    assert len(calls) == 2


def test_unexpected_error_fails_one_clip_with_file_and_line(tmp_path, monkeypatch):
    monkeypatch.setattr(clip, "_detector", lambda *_: None)
    monkeypatch.setattr(clip, "preprocess_clip", lambda *_: 1 / 0)
    result = clip.run_job("a.mp4", str(tmp_path / "clip"), clip.ClipSettings())
    assert result.status == clip.Status.FAILED and result.reason.startswith("unexpected error (ZeroDivisionError in ")


def test_a_clip_keeps_the_trackers_landmarks_in_crop_coordinates(videos, final):
    frames = video.read_frames(videos / "main/anna/good.mp4", 25)
    track = follow_face(frames, 25, FaceDetector("hog"), smooth_lips=False)
    with np.load(final / "main/anna/good/mels.npz", allow_pickle=False) as arrays:
        landmarks = arrays["landmarks"]
    assert landmarks.dtype == np.float32
    np.testing.assert_array_equal(landmarks, to_crop_coords(track.points, track.boxes))
    assert (np.abs(landmarks - 0.5) < 0.6).all()


def test_clip_has_the_crops_boxes_mels_and_audio_of_its_video(final):
    folder = final / "main/anna/good"
    with np.load(folder / "mels.npz", allow_pickle=False) as arrays:
        spec, frame_ids, boxes = arrays["spec"], arrays["frame_ids"], arrays["boxes"]
        assert arrays["fps"] == 25
    assert frame_ids.tolist() == list(range(30)) and boxes.shape == (30, 4)
    assert spec.dtype == np.float32 and spec.shape[0] == 80 and abs(spec.shape[1] - 1.2 * 80) <= 2
    with wave.open(str(folder / "audio.wav")) as file:
        assert abs(file.getnframes() - 1.2 * 16_000) <= 1
    assert sorted(int(path.stem) for path in folder.glob("*.jpg")) == list(range(30))
    top, bottom, left, right = boxes[20]
    frame = list(face_frames(21))[20]
    expected = cv2.resize(frame[max(0, top) : bottom, left:right], (96, 96), interpolation=cv2.INTER_AREA)
    crop = cv2.imread(str(folder / "20.jpg"))
    assert crop.shape == (96, 96, 3)
    if top >= 0 and bottom <= 240:
        assert np.abs(crop.astype(int) - expected).mean() < 6


def test_another_frame_rate_becomes_25_by_time(final):
    assert len(list((final / "main/anna/fast").glob("*.jpg"))) == 20  # 40 frames at 50 are 0.8 s
    with np.load(final / "main/anna/fast/mels.npz") as arrays:
        assert arrays["frame_ids"].tolist() == list(range(20))
        assert abs(arrays["spec"].shape[1] - 0.8 * 80) <= 2


def test_preprocessed_clips_can_be_trained_on(final):
    clips, notes = filelists.find_clips(final, "train", final)
    assert len(clips) == 2 and "ALL 2 clips" in notes[0]
    batch = dataset.FaceDataset(clips, 96).batch((0, 0, 0), 4)
    assert batch["target"].shape == (4, 96, 96, 3) and batch["target"].std() > 20


@pytest.mark.usefixtures("no_workers")
def test_second_run_preprocesses_only_missing_clips(videos, final, tmp_path, monkeypatch, capsys):
    again = tmp_path / "again"
    shutil.copytree(final, again)
    kept = (again / "main/anna/good/0.jpg").stat().st_mtime_ns
    shutil.rmtree(again / "main/anna/fast")
    leftover = again / "main/anna/.tmp_killed"
    leftover.mkdir()
    (leftover / "0.jpg").touch()
    assert run(videos, again, "--split", "test") == 0
    assert "1 clips done, 1 existed, 0 skipped" in capsys.readouterr().out
    assert (again / "main/anna/good/0.jpg").stat().st_mtime_ns == kept
    assert (again / "main/anna/fast/mels.npz").exists() and not leftover.exists()
    runs = json.loads((again / "preprocess.json").read_text())["runs"]
    assert runs["train"]["done"] == 2 and (runs["test"]["done"], runs["test"]["done_before"]) == (1, 1)
    monkeypatch.setattr(clip, "preprocess_clip", lambda *_: pytest.fail("there was nothing to do"))
    assert run(videos, again, "--split", "test") == 0


@pytest.mark.parametrize("options", [["--img_size", "128"], ["--detector", "cnn"], ["--pads", "0", "10", "0", "0"]])
def test_options_that_differ_from_the_data_are_refused(videos, final, options, capsys):
    assert run(videos, final, *options) == 1
    error = capsys.readouterr().err
    assert error.startswith("preprocess.py: ") and error.count("\n") == 1
    assert options[0].strip("-") in error and "--final_data_root" in error


@pytest.mark.usefixtures("no_workers")
def test_run_without_a_usable_clip_exits_with_1(videos, tmp_path, capsys):
    (tmp_path / "filelists").mkdir()
    (tmp_path / "filelists/val.txt").write_text("bert/empty\n")
    options = ["--filelists", str(tmp_path / "filelists"), "--split", "val"]
    assert run(videos, tmp_path / "final", *options) == 1
    assert "1 skipped, empty file: main/bert/empty" in capsys.readouterr().out


def test_wrong_folders_and_lists_are_refused_in_one_line(videos, tmp_path, capsys):
    (tmp_path / "filelists").mkdir()
    (tmp_path / "filelists/train.txt").write_text("x/1\nx/2\n")
    (tmp_path / "filelists/val.txt").write_text("\n")
    lists = ["--filelists", str(tmp_path / "filelists")]
    cases = [
        (["--filelists", str(tmp_path)], "no file list"),
        (lists, "none of the 2 clips"),
        ([*lists, "--split", "val"], "lists no clips"),
        (["--videos_data_root", str(tmp_path / "absent")], "no folder"),
        (["--videos_data_root", str(tmp_path / "absent"), "--all"], "no folder"),
        (["--videos_data_root", str(tmp_path / "filelists"), "--all"], "no video below"),
        (["--detector", "cnn", "--face_det_checkpoint", str(tmp_path / "x.dat")], "--face_det_checkpoint"),
    ]
    for options, message in cases:
        assert run(videos, tmp_path / "final", *options) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    with pytest.raises(SystemExit) as e:
        run(videos, tmp_path / "final", "--num_workers", "0")
    assert e.value.code == 2


def test_two_runs_in_one_folder_at_once_are_refused(tmp_path):
    again = RunLog(tmp_path / "final", "val").lock()
    with (
        RunLog(tmp_path / "final", "train").lock(),
        pytest.raises(UserError, match=r"another preprocess\.py is running"),
        again,
    ):
        pass
    with RunLog(tmp_path / "final", "train").lock():
        pass


def test_listed_videos_have_any_ending_in_any_lrs_layout(tmp_path):
    touch(tmp_path, "main/a/1.mp4", "main/a/2.MPG", "main/a/3.5.webm", "pretrain/a/1.mp4", "lists/train.txt")
    (tmp_path / "lists/train.txt").write_text("a/1\na/2\na/3.5\na/4\n")
    (tmp_path / "lists/pretrain.txt").write_text("a/1\n")
    jobs, missing = preprocess.listed_jobs(tmp_path, "train", tmp_path / "lists")
    assert [job.name for job in jobs] == ["main/a/1", "main/a/2", "main/a/3.5"] and missing == ["main/a/4"]
    assert [pathlib.Path(job.source).name for job in jobs] == ["1.mp4", "2.MPG", "3.5.webm"]
    assert preprocess.listed_jobs(tmp_path / "main", "train", tmp_path / "lists") == (jobs, missing)
    jobs, _ = preprocess.listed_jobs(tmp_path, "pretrain", tmp_path / "lists")
    assert jobs == [("pretrain/a/1", str(tmp_path / "pretrain/a/1.mp4"))]


def test_all_lists_every_video_and_preserves_main_and_pretrain(tmp_path):
    touch(tmp_path, "main/a/1.mp4", "pretrain/a/1.mp4", "b/c/2.mov", "b/c/notes.txt", ".hidden/3.mp4", "b/.tmp_4.mp4")
    names = {
        pathlib.Path(job.source).relative_to(tmp_path).as_posix(): job.name for job in preprocess.all_jobs(tmp_path)
    }
    assert names == {"main/a/1.mp4": "main/a/1", "pretrain/a/1.mp4": "pretrain/a/1", "b/c/2.mov": "main/c/2"}
    touch(tmp_path / "flat", "5.mp4")
    assert [job.name for job in preprocess.all_jobs(tmp_path / "flat")] == ["main/flat/5"]


def test_all_gives_every_video_a_unique_name(tmp_path):
    touch(tmp_path, "x/a/1.mp4", "y/a/1.mp4", "x/a/2.mp4", "x/a/2.mov", "y/a/3.mp4")
    names = {
        pathlib.Path(job.source).relative_to(tmp_path).as_posix(): job.name for job in preprocess.all_jobs(tmp_path)
    }
    assert names == {
        "x/a/1.mp4": "main/x_a/1",
        "y/a/1.mp4": "main/y_a/1",
        "x/a/2.mp4": "main/x_a/2_mp4",
        "x/a/2.mov": "main/x_a/2_mov",
        "y/a/3.mp4": "main/a/3",
    }


@pytest.mark.slow
def test_killed_workers_are_replaced_and_only_the_cause_is_dropped(tmp_path):
    tasks = [(n, str(tmp_path)) for n in range(16)]
    results = dict(parallel.in_workers(sometimes_deadly, tasks, num_workers=2, scratch=tmp_path))
    assert results == {n: {3: "bad", 5: None}.get(n, n) for n in range(16)}
    assert not list(tmp_path.glob(".tmp_*"))


@pytest.mark.real_data
def test_a_real_clip_gives_a_crop_for_every_frame(tmp_path, real_clips):
    source = next(iter(sorted((real_clips / "grid/main").glob("*/*.mp4"))))
    result = clip.preprocess_clip(source, tmp_path / "clip", FaceDetector("hog"))
    assert (result.status, result.num_frames, result.num_crops) == (clip.Status.DONE, 75, 75)
