"""Progress, loss watch and event log."""

import resource

import numpy as np
import pytest

from lipgan.training import callbacks
from lipgan.training.callbacks import LossWatch, Progress, ProgressBar, TensorBoardLog


def test_progress_in_a_log_file_is_a_line_every_half_minute(capsys, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: next(clock))
    progress = Progress(total=20)
    bar = ProgressBar(progress)
    for _ in range(12):
        progress.advance()
        bar.update({"mae": 0.5})
    out = capsys.readouterr().out
    assert "\r" not in out and len(out.splitlines()) == 4
    assert "3/20" in out.splitlines()[0] and "mae 0.5000" in out.splitlines()[0]


def test_progress_resumes_the_position_of_a_state():
    progress = Progress.resume(20, {"epoch": 2, "batch": 3, "batches": 11, "sums": [0.5], "seed": 1})
    assert progress == Progress(20, epoch=2, batch=3, batches=11, metric_sums=[0.5])
    progress.advance()
    assert progress.position() == {"epoch": 2, "batch": 4, "batches": 12}
    progress.end_epoch()
    assert progress.position() == {"epoch": 3, "batch": 0, "batches": 12}


def test_loss_watch_detects_explosion_and_nan():
    watch = LossWatch()
    means = np.cumsum([0.1] * 250 + [5.0] * 5) / np.arange(1, 256)
    problems = [watch.check({"loss": mean, "mae": mean}) for mean in means]
    assert problems[:254] == [None] * 254 and problems[254].startswith("loss explodes (5; it was 0.1)")
    assert watch.is_spike()
    assert LossWatch().check({"loss": float("nan"), "mae": 0.0}) == "the loss is nan"


def test_event_log_on_a_full_disk_raises(tmp_path):
    log = TensorBoardLog(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(OSError):
            for step in range(1_000):
                log.add_scalars(step, {"mae": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
