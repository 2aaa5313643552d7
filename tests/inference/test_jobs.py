"""Jobs: every row of a list gets its video or its reason."""

import pathlib

import cv2
import numpy as np
import pytest
from helpers.sounds import write_wav

import batch_inference
from lipgan.inference.jobs import read_jobs, run_jobs
from lipgan.inference.options import Job, LipsyncOptions, job_columns, replace_from_row
from lipgan.media.video import probe
from lipgan.models import checkpoint
from lipgan.utils.cli import UserError


def test_row_replaces_options(tmp_path):
    path = tmp_path / "list.csv"
    text = 'face,audio,pads,static,outfile,crf\n-a b.jpg,s.wav,0 10 0 0,yes,,7\n\n\'c.mp4,"d, e.wav",,False,x.mp4,\n'
    path.write_text(text)
    jobs = [replace_from_row(Job(overwrite=True), row) for row in read_jobs(path, job_columns())]
    assert [job.face.name for job in jobs] == ["-a b.jpg", "'c.mp4"]
    assert [job.out for job in jobs] == [pathlib.Path("results/-a b_s.mp4"), pathlib.Path("x.mp4")]
    assert jobs[0].options == LipsyncOptions(pads=(0, 10, 0, 0), static=True, crf=7)
    assert jobs[1].options == LipsyncOptions() and jobs[1].overwrite


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"crf": "x"}, "--crf x is not a number"),
        ({"crf": "52"}, "--crf 52 is out of range"),
        ({"pads": "1 2"}, "--pads 1 2: 2 values, not 4"),
        ({"reference": "far"}, "--reference far is none of fitted, same"),
        ({"preview": "maybe"}, "--preview maybe is neither True nor False"),
        ({"audio": ""}, "lacks its face or its audio"),
        ({"face_index": "0", "face_box": "0 9 0 9"}, "exclude each other"),
    ],
    ids=str,
)
def test_bad_cell_raises_user_error(cell, message):
    with pytest.raises(UserError, match=message):
        replace_from_row(Job(), {"face": "a.jpg", "audio": "b.wav", **cell})


def test_columns_are_the_options_of_the_command_line():
    args = vars(batch_inference.parse_args(["--face", "a", "--audio", "b"]))
    assert job_columns() == set(args) - {
        "jobs",
        "num_workers",
        "scheduler",
        "list_faces",
        "verbose",
        "face_det_batch_size",
        "n_gpu",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("face,audio\n", "no line under its header"),
        ("face,sound\na.jpg,b.wav\n", "lacks the column audio"),
        ("face,audio\na.jpg,b.wav,c\n", "more cells than columns"),
    ],
)
def test_malformed_csv_raises_user_error(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_jobs(path, job_columns())
    with pytest.raises(UserError, match="does not exist"):
        read_jobs(tmp_path / "none.csv", job_columns())


@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-8", ","), ("utf-8-sig", ";"), ("utf-16", "\t")], ids=["plain", "semicolons", "unicode"]
)
def test_lists_as_spreadsheets_save_them(tmp_path, encoding, mark):
    (tmp_path / "list.csv").write_text(f"face{mark}audio\r\n顔.jpg{mark}b.wav\r\n", encoding=encoding)
    assert read_jobs(tmp_path / "list.csv", job_columns()) == [{"face": "顔.jpg", "audio": "b.wav"}]


@pytest.mark.slow
@pytest.mark.usefixtures("eager_steps")
def test_list_loads_the_weights_once_continues_after_a_failure_and_resumes(tmp_path, capsys, monkeypatch):
    from generator import build_generator

    weights, loaded, load = tmp_path / "w.weights.h5", [], checkpoint.load_generator
    checkpoint.save_generator(weights, build_generator("basic", width=1 / 64), {"width": 1 / 64, "detector": "hog"})
    monkeypatch.setattr(checkpoint, "load_generator", lambda *which, **how: loaded.append(which) or load(*which, **how))
    cv2.imwrite(str(tmp_path / "face.png"), np.full((96, 96, 3), 90, np.uint8))
    write_wav(tmp_path / "a.wav", 0.4)
    lines = [f"{tmp_path}/{face},{tmp_path}/a.wav,{tmp_path}/{out},{fps},8 88 8 88"
             for face, out, fps in (("face.png", "1.mp4", ""), ("none.png", "2.mp4", ""), ("face.png", "3.mp4", 50),
                                    ("face.png", "4.mp4", 1000))]  # fmt: skip
    (tmp_path / "list.csv").write_text("\n".join(["face,audio,outfile,fps,face_box", *lines]))
    command = ["--checkpoint_path", str(weights), "--jobs", str(tmp_path / "list.csv")]
    assert batch_inference.main(command) == 1
    printed = capsys.readouterr().out
    assert "2 of 4 videos exist, 2 failed" in printed
    assert "none.png does not exist" in printed and "--fps 1000 is out of range" in printed
    assert len(loaded) == 1
    assert [probe(tmp_path / f"{n}.mp4").fps for n in (1, 3)] == [25, 50]
    times = [(tmp_path / f"{n}.mp4").stat().st_mtime_ns for n in (1, 3)]
    assert batch_inference.main(command) == 1
    assert capsys.readouterr().out.count("existed") == 2
    assert times == [(tmp_path / f"{n}.mp4").stat().st_mtime_ns for n in (1, 3)]


def test_unknown_column_raises_user_error_and_a_switch_is_turned_off(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("face, audio, pads, silence_gate, crfs\na,b,,False,3\n")
    with pytest.raises(UserError, match="'crfs', which is not an option"):
        read_jobs(path, job_columns())
    path.write_text(path.read_text().replace("crfs", "crf"))
    (row,) = read_jobs(path, job_columns())
    assert replace_from_row(Job(), row).options == LipsyncOptions(silence_gate=False, crf=3)


def test_one_row_does_not_affect_another(tmp_path, capsys, monkeypatch):
    crfs = []
    monkeypatch.setattr(batch_inference, "make_video", lambda job, _: crfs.append(job.options.crf) or job.out)
    rows = ["a.jpg,b.wav,", "c.jpg,b.wav,7", "a.jpg,b.wav,20", ",b.wav,", "d.jpg,b.wav,x", "e.jpg,b.wav,9"]
    (tmp_path / "list.csv").write_text("\n".join(["face,audio,crf", *rows]))
    line = f"--checkpoint_path w --jobs {tmp_path}/list.csv --results_dir {tmp_path}/out --overwrite"
    assert batch_inference.main(line.split()) == 1
    table = [row for row in capsys.readouterr().out.splitlines() if row.startswith("| ")][1:]
    assert crfs == [16, 7, 9]
    expected = ["a_b.mp4", "c_b.mp4", "earlier row too", "lacks its face", "--crf x is not a number", "e_b"]
    for row, words in zip(table, expected, strict=True):
        assert words in row


def test_unexpected_error_fails_one_job_only(capsys):
    results = list(run_jobs([{"crf": "7"}, {"crf": "8"}], lambda row: 1 / (int(row["crf"]) - 7)))
    assert [succeeded for _, succeeded, _ in results] == [False, True]
    assert "ZeroDivisionError" in results[0][2] and "Traceback" in capsys.readouterr().err
