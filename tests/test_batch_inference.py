"""batch_inference.py: published commands, bad input, and interrupted runs."""

import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import av
import cv2
import numpy as np
import pytest
from helpers.sounds import write_wav

import batch_inference
import lipgan
from lipgan.faces.detector import FaceDetector
from lipgan.media import video
from lipgan.models.backend import has_bfloat16

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A face as picture and as video, a sound, and weights of the smallest network, all in one folder."""
    folder = tmp_path_factory.mktemp("world")
    face = cv2.imread(str(ROOT / "examples" / "astronaut.jpg"))[:256, 96:352]
    cv2.imwrite(str(folder / "A face.jpg"), face)
    write_wav(folder / "a.wav", 0.6)
    with video.VideoWriter(folder / "v.mp4", 256, 256, 30, audio=folder / "a.wav") as writer:
        for _ in range(6):
            writer.write(face)
    with video.VideoWriter(folder / "silent.mp4", 256, 256, 30) as writer:
        writer.write(face)
    cv2.imwrite(str(folder / "empty.png"), np.full((128, 128, 3), 90, np.uint8))
    (folder / "text.jpg").write_text("no picture at all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "tensorflow")  # saving on OpenVINO takes ten times as long
        from generator import build_generator
        from lipgan.models.checkpoint import save_generator

        save_generator(
            folder / "w.weights.h5", build_generator("basic", width=1 / 64), {"width": 1 / 64, "detector": "hog"}
        )
    return folder


@pytest.fixture(autouse=True)
def eager(eager_steps):
    """Run networks eagerly: tracing them takes longer than the few frames of these tests."""


def environment():
    return {**os.environ, "KERAS_BACKEND": "openvino"}


def command(world, results, *options):
    return [sys.executable, str(ROOT / "batch_inference.py"), "--checkpoint_path", str(world / "w.weights.h5"),
            "--audio", str(world / "a.wav"), "--results_dir", str(results), *options]  # fmt: skip


@pytest.mark.slow
def test_script_runs_from_another_folder_and_prints_the_result_last(world, tmp_path):
    done = subprocess.run(
        command(world, tmp_path / "results", "--face", "v.mp4", "--model", "basic"),
        cwd=world, capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "results" / "v_a.mp4")
    assert "tensorflow" not in done.stderr.lower()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "name", "fps", "num_frames"),
    [
        (["--face", "v.mp4", "--fps", "25"], "v_a.mp4", 25, 15),  # a video is resampled
        (["--face", "v.mp4", "--fps", "25", "--keep_fps"], "v_a.mp4", 30, 18),
        (["--face", "A face.jpg", "--fps", "24", "--static"], "A face_a.mp4", 24, 14),
    ],
)
def test_published_commands_run(world, tmp_path, monkeypatch, options, name, fps, num_frames):
    monkeypatch.chdir(world)
    options = [*options, "--model", "basic", "--pads", "0", "0", "0", "0"]
    assert batch_inference.main(command(world, tmp_path / "results", *options)[2:]) == 0
    result = tmp_path / "results" / name
    info = video.probe(result)
    assert (info.fps, info.num_frames, info.has_audio) == (fps, num_frames, True)
    assert [p.name for p in result.parent.iterdir() if p.name != ".boxes"] == [name]


@pytest.mark.slow
def test_result_is_marked_as_synthetic_and_the_track_is_cached(world, tmp_path, monkeypatch):
    line = ["--checkpoint_path", str(world / "w.weights.h5"), "--face", str(world / "v.mp4")]
    line += ["--audio", str(world / "a.wav"), "--lossless", "--outfile"]
    assert batch_inference.main([*line, str(tmp_path / "one.mp4"), "--preview"]) == 0
    assert cv2.imread(str(tmp_path / "one.png")).shape == (640, 1280, 3)
    with av.open(str(tmp_path / "one.mp4")) as container:
        comment = container.metadata["comment"]
    assert comment.startswith("Synthetic") and "w.weights.h5" in comment and lipgan.__version__ in comment

    monkeypatch.setattr("lipgan.faces.tracker.follow_face", lambda *_: pytest.fail("the face was searched again"))
    assert batch_inference.main([*line, str(tmp_path / "two.mp4"), "--no_metadata"]) == 0
    with av.open(str(tmp_path / "two.mp4")) as container:
        assert "comment" not in container.metadata
    for one, two in zip(*(video.read_frames(tmp_path / f"{name}.mp4") for name in ("one", "two")), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not (tmp_path / "two.png").exists()


@pytest.mark.slow
def test_cached_track_depends_on_start_and_end(world, tmp_path, monkeypatch):
    line = ["--checkpoint_path", str(world / "w.weights.h5"), "--face", str(world / "v.mp4")]
    line += ["--audio", str(world / "a.wav"), "--overwrite", "--outfile", str(tmp_path / "one.mp4")]
    for end in ([], ["--end", "0.1"]):
        assert batch_inference.main([*line, *end]) == 0
        assert len(list(video.read_frames(tmp_path / "one.mp4"))) == 18
    monkeypatch.setattr("lipgan.faces.tracker.follow_face", lambda *_: pytest.fail("the face was searched again"))
    assert batch_inference.main([*line, *end]) == 0


def test_list_faces_needs_no_audio_and_no_checkpoint(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = f"--face {world}/v.mp4 --detector hog --list_faces faces.png"
    assert batch_inference.main(line.split()) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("--face_index 0    --face_box ") and printed[-1] == "faces.png"
    picture = cv2.imread("faces.png")
    assert picture.shape == (256, 256, 3)
    assert batch_inference.main(line.split()) == 1
    assert "faces.png exists already; give --overwrite" in capsys.readouterr().err
    assert batch_inference.main([*line.split(), "--overwrite"]) == 0


def test_list_faces_ignores_an_existing_result(world, tmp_path):
    (tmp_path / "v_a.mp4").write_text("mine")
    line = f"--checkpoint_path {world}/w.weights.h5 --face {world}/v.mp4 --audio {world}/a.wav --results_dir {tmp_path}"
    assert batch_inference.main([*line.split(), "--list_faces", str(tmp_path / "faces.png")]) == 0


@pytest.mark.slow
def test_face_box_searches_the_first_frame_once(world, tmp_path, monkeypatch):
    searched, detect_all = [], FaceDetector.detect_all
    monkeypatch.setattr(FaceDetector, "detect_all", lambda self, frame: searched.append(1) or detect_all(self, frame))
    line = f"--checkpoint_path {world}/w.weights.h5 --face {world}/v.mp4 --audio {world}/a.wav --results_dir {tmp_path}"
    assert batch_inference.main([*line.split(), "--face_box", "50", "200", "60", "200"]) == 0
    assert len(searched) == 1


@pytest.mark.slow
def test_animated_webp(world, tmp_path):
    face, moving = cv2.imread(str(world / "A face.jpg")), cv2.Animation()
    moving.frames, moving.durations = [face, face[:, ::-1].copy(), face], np.array([200, 200, 200], np.int32)
    cv2.imwriteanimation(str(tmp_path / "f.webp"), moving)
    line = f"--checkpoint_path {world}/w.weights.h5 --face {tmp_path}/f.webp --audio {world}/a.wav --fps 10 --lossless"
    assert batch_inference.main([*line.split(), "--no-box_cache", "--outfile", str(tmp_path / "r.mp4")]) == 0
    frames = list(video.read_frames(tmp_path / "r.mp4"))
    order = [face, face, face[:, ::-1], face[:, ::-1], face, face]
    for frame, source in zip(frames, order, strict=True):
        assert np.abs(frame[:60].astype(int) - source[:60]).mean() < 8  # WebP loses some


@pytest.mark.slow
@pytest.mark.parametrize(
    ("face", "audio"),
    [
        ("-face.jpg", "-a b.wav"),
        ("--static", "http:x.wav"),
        ("new\nline %d.jpg", "concat:a.wav"),
        ("ü'\".jpg", "-h.wav"),
    ],
    ids=ascii,
)
def test_unusual_file_names(world, tmp_path, monkeypatch, capsys, face, audio):
    monkeypatch.chdir(tmp_path)
    shutil.copy(world / "A face.jpg", tmp_path / face)
    shutil.copy(world / "a.wav", tmp_path / audio)
    line = ["--checkpoint_path", str(world / "w.weights.h5"), "--face", face, "--audio", audio, "--outfile", "-r.mp4"]
    assert batch_inference.main(line) == 0
    assert capsys.readouterr().out == "-r.mp4\n"
    assert video.probe("-r.mp4").num_frames == 15
    assert batch_inference.main(line) == 1
    (tmp_path / face).unlink()
    assert batch_inference.main([*line[:2], f"--face={face}", *line[4:]]) == 1
    errors = [text for text in capsys.readouterr().err.splitlines() if "batch_inference.py: " in text]
    assert "exists already" in errors[0] and "does not exist" in errors[1]


def test_face_box_without_a_face_is_used_with_a_warning(world, tmp_path, capsys):
    line = f"--checkpoint_path {world}/w.weights.h5 --face {world}/empty.png --audio {world}/a.wav"
    line += f" --face_box 20 100 20 100 --results_dir {tmp_path}"
    assert batch_inference.main(line.split()) == 0
    assert "the box itself is used for all frames" in capsys.readouterr().err


def test_existing_preview_is_not_overwritten(world, tmp_path, capsys):
    (tmp_path / "one.png").write_text("mine")
    line = f"--checkpoint_path {world}/w.weights.h5 --face {world}/v.mp4 --audio {world}/a.wav --preview --outfile"
    assert batch_inference.main([*line.split(), str(tmp_path / "one.mp4")]) == 1
    assert "one.png exists already" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signal_leaves_no_file_and_a_nonzero_status(world, tmp_path, sent):
    write_wav(tmp_path / "long.wav", 600)
    options = ["--face", str(world / "A face.jpg"), "--audio", str(tmp_path / "long.wav")]
    results = tmp_path / "results"
    run = subprocess.Popen(
        command(world, results, *options),
        stderr=subprocess.PIPE,
        env=environment(),
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a job in the background ignores it
    )
    deadline = time.monotonic() + 60
    while not (results.exists() and any(results.iterdir())):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(sent)
    run.communicate(timeout=60)
    assert run.returncode != 0
    assert not any(results.iterdir())


@pytest.mark.slow
def test_openvino_loads_no_other_framework(world, tmp_path):
    _, _, *options = command(world, tmp_path, "--face", str(world / "A face.jpg"), "--precision", "bfloat16")
    code = "import sys, batch_inference as b; assert b.main() == 0; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code, *options], env=environment(), cwd=ROOT, timeout=60, capture_output=True, text=True
    )
    assert run.returncode == 0
    unneeded = {"tensorflow", "jax", "torch"}  # librosa, for the mel filter bank, brings packages of its own
    assert not unneeded & set(run.stdout.splitlines()[-1].split())
    assert ("no bfloat16 arithmetic" in run.stderr) == (not has_bfloat16())
    assert (tmp_path / "A face_a.mp4").exists()


def test_full_disk_leaves_no_file_and_prints_one_line(world, tmp_path, capsys):
    options = command(world, tmp_path / "results", "--face", str(world / "A face.jpg"))[2:]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        status = batch_inference.main(options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    printed = capsys.readouterr().err
    assert status == 1 and "Traceback" not in printed
    assert "File too large" in printed.strip().splitlines()[-1]
    assert not any((tmp_path / "results").iterdir())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--face", "missing.jpg"], "missing.jpg does not exist"),
        (["--face", "."], "is a folder"),
        (["--face", "text.jpg"], "text.jpg"),
        (["--face", "a.wav"], "a.wav"),
        (["--face", "empty.png"], "no face found in the image empty.png (detector hog); try --face_box"),
        (["--audio", "missing.wav"], "missing.wav does not exist"),
        (["--audio", "silent.mp4"], "silent.mp4 has no audio"),
        (["--audio", "text.jpg"], "text.jpg"),
        (["--checkpoint_path", "missing.h5"], "missing.h5 does not exist"),
        (["--checkpoint_path", "a.wav"], "a.wav"),
        (["--model", "residual"], "--model basic"),
        (["--fps", "0"], "--fps 0 is out of range"),
        (["--expression", "happy"], "--expression happy is no expression; give keep, neutral or a number from 0 to 1"),
        (["--max_sec", "-1"], "--max_sec -1 is out of range"),
        (["--lipgan_batch_size", "0"], "--lipgan_batch_size 0 is out of range"),
        (["--face_box", "9", "5", "0", "50"], "--face_box 9 5 0 50 is not a box"),
        (["--face_box", "900", "950", "0", "50"], "outside of the frame"),
        (["--pads", "-200", "-200", "0", "0"], "change --pads"),
        (["--outfile", "result.avi"], ".mp4"),
        (["--outfile", "a.wav/out.mp4"], "is a file"),
        (["--outfile", "taken.mp4"], "--overwrite"),
        (["--outfile", "v.mp4", "--audio", "v.mp4", "--overwrite"], "one of the inputs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_prints_one_line_with_status_1(world, monkeypatch, capsys, options, says):
    monkeypatch.chdir(world)
    monkeypatch.setenv("KERAS_BACKEND", "openvino")
    (world / "taken.mp4").touch()
    before = {p: p.stat().st_size for p in world.iterdir()}
    usual = ["--checkpoint_path", "w.weights.h5", "--face", "A face.jpg", "--audio", "a.wav"]
    assert batch_inference.main([*usual, *options]) == 1
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("batch_inference.py: ")]
    assert len(lines) == 1 and says in lines[0] and "Traceback" not in printed.err
    assert not printed.out
    assert {p: p.stat().st_size for p in world.iterdir()} == before


@pytest.mark.parametrize(("given", "strength"), [([], None), (["keep"], 1), (["neutral"], 0), (["0.4"], 0.4)], ids=str)
def test_expression_is_a_name_or_a_number(given, strength):
    given = ["--expression", *given] if given else []
    job = batch_inference.job_from_args(batch_inference.parse_args(["--face", "f", "--audio", "a", *given]))
    assert job.options.expression == strength
    if given:
        row = batch_inference.replace_from_row(job, {"expression": given[1]})
        assert row.options.expression == strength


@pytest.mark.parametrize(("given", "static"), [([], False), (["--static"], True), (["--static", "False"], False)])
def test_static_takes_an_optional_value(given, static):
    args = batch_inference.parse_args(["--checkpoint_path", "w", "--face", "f", *given, "--audio", "a"])
    assert args.static is static
