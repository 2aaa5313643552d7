"""jobs.py: every line of a list gets its video or its reason."""

import cv2
import numpy as np
import pytest
from helpers.sounds import write_wav

import batch_inference
from lipgan.inference.jobs import read_jobs
from lipgan.media.video import probe
from lipgan.models import checkpoint
from lipgan.utils.cli import UserError


def test_a_line_becomes_options(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('face,audio,pads,static,outfile\n-a b.jpg,s.wav,0 10 0 0,yes,\n\n\'c.mp4,"d, e.wav",,False,x.mp4\n')
    assert read_jobs(path) == [
        ["--face=-a b.jpg", "--audio=s.wav", "--pads", "0", "10", "0", "0", "--static"],
        ["--face='c.mp4", "--audio=d, e.wav", "--outfile=x.mp4"],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("face,audio\n", "no line under its header"),
        ("face,sound\na.jpg,b.wav\n", "lacks the column audio"),
        ("face,audio\na.jpg,b.wav,c\n", "more cells than columns"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_jobs(path)
    with pytest.raises(UserError, match="does not exist"):
        read_jobs(tmp_path / "none.csv")


def test_a_list_loads_the_weights_once_goes_on_after_a_failure_and_is_resumed(tmp_path, capsys, monkeypatch):
    from generator import build_generator

    weights, loaded, load = tmp_path / "w.weights.h5", [], checkpoint.load_generator
    checkpoint.save_generator(weights, build_generator(width=1 / 64), {"width": 1 / 64, "detector": "hog"})
    monkeypatch.setattr(checkpoint, "load_generator", lambda *which: loaded.append(which) or load(*which))
    cv2.imwrite(str(tmp_path / "face.png"), np.full((96, 96, 3), 90, np.uint8))
    write_wav(tmp_path / "a.wav", 0.4)
    lines = [f"{tmp_path}/{face},{tmp_path}/a.wav,{tmp_path}/{out},{fps},8 88 8 88"
             for face, out, fps in (("face.png", "1.mp4", ""), ("none.png", "2.mp4", ""), ("face.png", "3.mp4", 50),
                                    ("face.png", "4.mp4", 1000))]  # fmt: skip
    (tmp_path / "list.csv").write_text("\n".join(["face,audio,outfile,fps,face_box", *lines]))
    command = ["--checkpoint_path", str(weights), "--jobs", str(tmp_path / "list.csv")]
    assert batch_inference.main(command) == 1
    told = capsys.readouterr().out
    assert "2 of 4 videos are there, 2 failed" in told
    assert "none.png does not exist" in told and "--fps 1000 is out of range" in told
    assert len(loaded) == 1
    assert [probe(tmp_path / f"{n}.mp4").fps for n in (1, 3)] == [25, 50]
    times = [(tmp_path / f"{n}.mp4").stat().st_mtime_ns for n in (1, 3)]
    assert batch_inference.main(command) == 1
    assert capsys.readouterr().out.count("was there") == 2
    assert times == [(tmp_path / f"{n}.mp4").stat().st_mtime_ns for n in (1, 3)]


def test_a_column_that_is_no_option_is_refused_and_a_switch_is_turned_off(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("face, audio, pads, silence_gate, crfs\na,b,,False,3\n")
    with pytest.raises(UserError, match="'crfs', which is no option"):
        read_jobs(path, columns=("face", "audio", "pads", "silence_gate", "crf"))
    path.write_text(path.read_text().replace("crfs", "crf"))
    assert read_jobs(path, columns=("face", "audio", "pads", "silence_gate", "crf")) == [
        ["--face=a", "--audio=b", "--no-silence_gate", "--crf=3"]
    ]


def test_no_line_is_lost_or_undone_by_another(tmp_path, capsys, monkeypatch):
    made = []
    monkeypatch.setattr(batch_inference, "make_video", lambda row, _: made.append(row.crf) or 1 / (row.crf - 7))
    rows = ["a.jpg,b.wav,", "c.jpg,b.wav,7", "a.jpg,b.wav,20", ",b.wav,", "d.jpg,b.wav,x", "e.jpg,b.wav,9"]
    (tmp_path / "list.csv").write_text("\n".join(["face,audio,crf", *rows]))
    line = f"--checkpoint_path w --jobs {tmp_path}/list.csv --results_dir {tmp_path}/out --overwrite"
    assert batch_inference.main(line.split()) == 1
    table = [row for row in capsys.readouterr().out.splitlines() if row.startswith("| ")][1:]
    assert made == [16, 7, 9]
    for row, words in zip(
        table,
        ["a_b.mp4", "ZeroDivisionError", "earlier line too", "lacks its face", "--crf: invalid", "e_b"],
        strict=True,
    ):
        assert words in row
