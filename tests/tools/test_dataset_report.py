"""The dataset report: measurements of every clip, and a list of clips whose audio and lips disagree."""

import csv
import json

import numpy as np
import pytest
from helpers.clips import SIZE, numbered_mel, picture, write

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
    """A clip whose sound comes `lag` frames late."""
    frames = [picture(0, frame) for frame in range(num_frames)]
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
def test_the_offset_is_the_lag_by_which_the_audio_was_shifted(tmp_path, lag):
    late(tmp_path, "main/a/1", lag)
    faces = dataset.FaceDataset([tmp_path / "main/a/1"], SIZE)
    found = sync_offset.clip_offset(faces, 0, Oracle(), batch_size=8)
    assert abs(found.lag - lag) <= (lag < 0)  # before its beginning a shifted sound has nothing to say
    assert found.confidence > 0.3 and found.distance < 0.1


def report(root, *options):
    arguments = ["--data_root", root / "data", "--img_size", SIZE, "--out", root / "out", *options]
    assert dataset_report.main([str(argument) for argument in arguments]) == 0
    with (root / "out/clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((root / "out/summary.json").read_text())


def test_a_report_has_every_clips_measurements_and_unusable_clips(root):
    rows, summary = report(root)
    assert [row["clip"] for row in rows] == ["main/a/0", "main/a/2", "main/a/4", "main/b/1", "main/b/3"]
    first = {name: float(rows[0][name]) for name in rows[0] if name != "clip"}
    assert first == {"crops": 50, "frames": 50, "seconds": 2.0, "face_px": 60, "loudness_db": -20.0}
    assert summary["cannot be trained on"] == {"fewer than 12 crops": 1} and summary["crops"] == 250
    assert summary["quantiles"]["face_px"]["median"] == 60 and summary["speakers"] == 2
    assert (root / "out/report.png").stat().st_size > 5000 and not (root / "out/leave_out.txt").exists()


def test_clips_whose_audio_and_lips_disagree_are_listed_and_left_out(root, monkeypatch):
    monkeypatch.setattr(
        dataset_report, "offsets_by", lambda *_: lambda faces, number: sync_offset.clip_offset(faces, number, Oracle())
    )
    rows, summary = report(root, "--disc_checkpoint_path", "x", "--max_offset", "3")
    assert {row["clip"]: int(row["offset"]) for row in rows}["main/b/3"] == 8
    assert summary["sound and lips disagree"] == ["main/a/4", "main/b/3"]
    kept, _ = filelists.find_clips(root / "data", "val", root, leave_out=root / "out/leave_out.txt")
    assert sorted(path.name for path in kept) == ["0", "1", "2", "few"]
    assert not dataset_report.disagrees({"offset": 8, "confidence": 0.2}, max_offset=3, min_confidence=0.3)  # unsure


def test_a_packed_folder_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "shard_00000.tar").touch()
    assert dataset_report.main(["--data_root", str(tmp_path)]) == 1
    assert "is packed" in capsys.readouterr().err
