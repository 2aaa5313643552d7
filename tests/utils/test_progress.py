"""Progress in logs."""

from lipgan.utils import progress


def test_log_file_gets_lines_without_carriage_returns(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_S", 0)
    assert list(progress.tracked(range(3), "clips", total=5, existing=2)) == [0, 1, 2]
    lines = capsys.readouterr().err
    assert lines.splitlines()[0].startswith("clips: 3 of 5 clips") and "\r" not in lines


def test_restarted_phase_has_its_own_clock(monkeypatch, capsys):
    clock = iter(range(0, 100_000, 100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.ProgressBars() as show:
        for _ in range(50):
            show(50, 100, "faces")
        show(1, 100, "faces")
        show(2, 100, "faces")
    assert int(capsys.readouterr().err.split()[-3]) < 20_000  # seconds left; 49 frames' time is not this search's
