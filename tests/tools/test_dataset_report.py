"""The dataset report: measurements of every clip, and a list of clips whose audio and lips disagree."""

import csv
import json

import numpy as np
import pytest
from helpers.clips import SIZE, numbered_crop, numbered_mel, write

from lipgan.data import clip_folder, dataset, filelists
from lipgan.evaluation import sync_offset
from tools import dataset_report


class Oracle:
    """In place of a discriminator: it reads frame numbers from test_dataset's pictures and mels, and turns by them."""

    def predict_on_batch(self, pair):
        crops, mels = (np.asarray(part) for part in pair)
        angles = crops[..., 0].mean((1, 2)) * 255 / 4 * 0.1, (mels[:, 1, 13, 0] / 3.2 - 0.5) * 0.1
        return np.stack([np.cos(angles[0]), np.sin(angles[0]), np.cos(angles[1]), np.sin(angles[1])], axis=1)


def late(root, name, lag, num_frames=50):
    """Write a clip whose audio is `lag` frames late."""
    frames = [numbered_crop(0, frame) for frame in range(num_frames)]
    mel = np.maximum(numbered_mel(0, num_frames) - round(3.2 * lag), 0)
    boxes = np.tile((0, 60, 10, 70), (num_frames, 1))
    wav = np.full(num_frames * 640, 0.1, "float32")
    clip_folder.write_clip(root / name, frames, range(num_frames), boxes, mel, wav)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    for number, lag in enumerate((0, 0, 0, 8, -5)):
        late(root / "data", f"main/{'ab'[number % 2]}/{number}", lag)
    write(root / "data", "main/a/few", num_frames=5)
    return root


@pytest.mark.parametrize("lag", [-15, -3, 0, 1, 8])
def test_discriminator_estimates_the_lag_of_shifted_audio(tmp_path, lag):
    late(tmp_path, "main/a/1", lag)
    faces = dataset.FaceDataset([tmp_path / "main/a/1"], SIZE)
    found = sync_offset.clip_offset(faces, 0, Oracle(), batch_size=8)
    assert abs(found.lag - lag) <= (lag < 0)  # before its beginning shifted audio is silent
    assert found.confidence > 0.3 and found.agreement > -0.1


@pytest.mark.parametrize("lag", [-4.0, 0.0, 2.5])
def test_listener_estimates_the_lag_of_late_audio(lag):
    smooth = np.convolve(np.random.default_rng(0).random(140), np.hanning(7) / 3, "valid")
    moments = np.arange(20, 110)
    opening = np.interp(moments, np.arange(len(smooth)), smooth)
    expected = np.interp(moments - lag, np.arange(len(smooth)), smooth)  # audio says late what the lips say at once
    opening[5:9] = np.nan
    found = sync_offset.listener_offset(expected, opening)
    assert found.lag == pytest.approx(lag, abs=0.25) and found.agreement > 0.9 and found.confidence > 0.5
    assert sync_offset.listener_offset(expected[:8], opening[:8]) is None


def report(root, *options):
    arguments = ["--data_root", root / "data", "--img_size", SIZE, "--out", root / "out", *options]
    assert dataset_report.main([str(argument) for argument in arguments]) == 0
    with (root / "out/clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((root / "out/summary.json").read_text())


def test_report_has_a_row_for_every_clip_and_counts_unusable_ones(root):
    rows, summary = report(root, "--no_lags")
    assert [row["clip"] for row in rows] == ["main/a/0", "main/a/2", "main/a/4", "main/b/1", "main/b/3"]
    first = {name: float(rows[0][name]) for name in rows[0] if name != "clip"}
    assert first == {"crops": 50, "frames": 50, "seconds": 2.0, "face_px": 60, "loudness_db": -20.0}
    assert summary["cannot be trained on"] == {"fewer than 12 crops": 1} and summary["crops"] == 250
    assert summary["quantiles"]["face_px"]["median"] == 60 and summary["speakers"] == 2
    assert (root / "out/report.png").stat().st_size > 5000 and not (root / "out/leave_out.txt").exists()


def test_clips_out_of_sync_are_listed_in_leave_out(root, monkeypatch):
    monkeypatch.setattr(
        dataset_report,
        "lag_estimator",
        lambda _: lambda faces, number: sync_offset.clip_offset(faces, number, Oracle()),
    )
    rows, summary = report(root, "--disc_checkpoint_path", "x", "--max_offset", "3")
    assert {row["clip"]: float(row["lag"]) for row in rows}["main/b/3"] == 8
    assert summary["audio and lips disagree"] == ["main/a/4", "main/b/3"]
    kept, _ = filelists.find_clips(root / "data", "val", root, leave_out=root / "out/leave_out.txt")
    assert sorted(path.name for path in kept) == ["0", "1", "2", "few"]
    row = dataset_report.ClipReport("main/a/0", 50, 50, 2.0, 60.0, -20.0, lag=8.0, confidence=0.2)
    assert dataset_report.LagLimits(3, 0.1).exceeded(row) and not dataset_report.LagLimits(3, 0.3).exceeded(row)


def test_packed_folder_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "shard_00000.tar").touch()
    assert dataset_report.main(["--data_root", str(tmp_path)]) == 1
    assert "is packed" in capsys.readouterr().err
