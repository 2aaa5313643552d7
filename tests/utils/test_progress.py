"""Progress in logs."""

from lipgan.utils import progress


def test_tracked_items_pass_and_a_log_gets_lines_without_carriage_returns(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_S", 0)
    assert list(progress.tracked(range(3), "clips", total=5, existing=2)) == [0, 1, 2]
    lines = capsys.readouterr().err
    assert lines.splitlines()[0].startswith("clips: 3 of 5 clips") and "\r" not in lines
