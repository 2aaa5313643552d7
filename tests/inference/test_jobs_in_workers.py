"""Batches in worker processes: no video is lost when workers are killed."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from helpers.deadly_jobs import make_or_die
from helpers.sounds import write_wav

import batch_inference
from lipgan.inference import jobs
from lipgan.inference.options import Job, LipsyncOptions, RunnerOptions
from lipgan.utils import parallel
from lipgan.utils.cli import UserError

ROOT = pathlib.Path(__file__).parents[2]
pytest.importorskip("distributed", reason="worker processes need dask[distributed]")


@pytest.mark.slow
@pytest.mark.distributed
def test_jobs_of_killed_workers_are_retried_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jobs, "make_in_worker", make_or_die)
    faces = ["a", "once", "bad", "always", "b", "existing"]
    audio = write_wav(tmp_path / "s.wav", 0.1)
    for face in faces:
        (tmp_path / f"{face}.jpg").write_text(face)
    out = tmp_path / "out"
    out.mkdir()
    (out / "existing_s.mp4").write_text("mine")
    lines = [f"{tmp_path}/{face}.jpg,{audio}" for face in [*faces, "absent"]]
    (tmp_path / "list.csv").write_text("\n".join(["face,audio", *lines]))
    command = ["--jobs", str(tmp_path / "list.csv"), "--results_dir", str(out), "--num_workers", "2", "--verbose"]
    assert batch_inference.main(command) == 1
    printed = capsys.readouterr().out
    assert "4 of 7 videos exist, 3 failed" in printed
    table = [row for row in printed.splitlines() if row.startswith("| ")][1:]
    expected = ["a_s.mp4", "once_s.mp4", "FAILED: bad face", "FAILED: killed its worker process 2 times", "b_s.mp4",
                "existed", "absent.jpg does not exist"]  # fmt: skip
    for row, words in zip(table, expected, strict=True):
        assert words in row
    assert printed.count("  assumed nothing\n  time by phase: none\n") == 3
    # Nothing half-written is left, and a second run makes only what is missing.
    assert sorted(path.name for path in out.iterdir()) == ["a_s.mp4", "b_s.mp4", "existing_s.mp4", "once_s.mp4"]
    monkeypatch.setattr(jobs, "in_workers", lambda task, arguments, *_: ((n, None) for n in range(len(arguments))))
    assert batch_inference.main(command) == 1
    assert capsys.readouterr().out.count("existed") == 4


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_list_with_workers_and_leaves_no_temporary_file(tmp_path, sent):
    out = tmp_path / "out"
    audio = write_wav(tmp_path / "s.wav", 0.1)
    names = ["a", "endless1", "endless2", "b"]
    for name in names:
        (tmp_path / f"{name}.jpg").write_text(name)
    lines = [f"{tmp_path}/{name}.jpg,{audio}" for name in names]
    (tmp_path / "list.csv").write_text("\n".join(["face,audio", *lines]))
    code = (
        "import sys, signal, batch_inference as b; from lipgan.inference import jobs; from helpers import deadly_jobs\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a job in the background ignores it
        "jobs.make_in_worker = deadly_jobs.make_for_ever; sys.exit(b.main())"
    )
    options = ["--jobs", str(tmp_path / "list.csv"), "--results_dir", str(out), "--num_workers", "2"]
    path = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    run = subprocess.Popen([sys.executable, "-c", code, *options], cwd=tmp_path, env=os.environ | path)
    deadline = time.monotonic() + 240
    while len(list(out.glob(".tmp_*_endless?.mp4"))) < 2:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(sent)
    try:
        assert run.wait(20) == 130
    finally:
        run.kill()
    assert {path.name for path in out.iterdir()} <= {"a_s.mp4", "b_s.mp4"}


def test_worker_reports_errors_and_existing_results_as_an_outcome(tmp_path):
    checkpoint = RunnerOptions(checkpoint_path=tmp_path / "none.weights.h5")
    job = Job(face=tmp_path / "a.jpg", audio=tmp_path / "b.wav", outfile=tmp_path / "c.mp4", runner=checkpoint)
    outcome = jobs.make_in_worker(job, ".tmp_x_")
    assert not outcome.succeeded and "none.weights.h5 does not exist" in outcome.lines[0]
    job.out.touch()
    assert jobs.make_in_worker(job, ".tmp_x_").succeeded


def test_worker_jobs_have_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = LipsyncOptions(ref_face=pathlib.Path("me.jpg"))
    job = Job(face=tmp_path / "a.jpg", audio=pathlib.Path("b.wav"), options=options).absolute()
    assert (job.audio, job.out) == (tmp_path / "b.wav", tmp_path / "results" / "a_b.mp4")
    assert job.options.ref_face == tmp_path / "me.jpg" and job.options.pads is None


def test_workers_without_a_list_are_refused(capsys):
    with pytest.raises(SystemExit):
        batch_inference.parse_args(["--face", "a", "--audio", "b", "--num_workers", "2"])
    assert "--num_workers and --scheduler are for --jobs" in capsys.readouterr().err


def test_missing_dask_raises_user_error(monkeypatch):
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "dask\[distributed\]"'):
        list(parallel.in_workers(make_or_die, [()], 2, None))
