"""evaluate.py: the table says who uses the sound, for generators and for finished videos."""

import csv
import json
import pathlib

import cv2
import keras
import numpy as np
import pytest

import evaluate
from discriminator import build_discriminator
from generator import build_generator
from lipgan.data.clip_folder import write_clip
from lipgan.data.dataset import FaceDataset
from lipgan.evaluation.report import table
from lipgan.evaluation.scoring import COPIED, GENERATED, MEAN, OTHER, OTHER_MOUTH, OWN, ROWS, TRUTH, score_clips
from lipgan.faces.crop import crop
from lipgan.media import video
from lipgan.models.checkpoint import save_discriminator, save_generator

TINY = 0.02
NUM_FRAMES = 40
ASTRONAUT = cv2.imread(str(pathlib.Path(__file__).parents[2] / "examples" / "astronaut.jpg"))
CROP = crop(ASTRONAUT, (75, 193, 174, 276), 96)
MOUTH_X, MOUTH_Y = 48, 62


def face(level):
    """The astronaut's crop, (96, 96, 3), with the chin drawn down under a mouth that is open by `level` in [0, 1]."""
    y, x = np.mgrid[:96, :96].astype("float32")
    gap = 12 * np.float32(level) * np.cos(np.clip((x - MOUTH_X) / 15, -1, 1) * np.pi / 2)
    open_crop = cv2.remap(CROP, x, np.where(y > MOUTH_Y, np.maximum(y - gap, MOUTH_Y), y), cv2.INTER_LINEAR)
    open_crop[(y > MOUTH_Y) & (y < MOUTH_Y + gap)] = (30, 20, 60)
    return open_crop


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two speakers with two clips each, in which the mouth is as open as the sound is loud."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    names = ["one/00001", "one/00002", "two/00001", "two/00002"]
    for name in names:
        loud = np.convolve(rng.random(NUM_FRAMES + 3), np.full(4, 0.25), "valid")
        loud = (loud - loud.min()) / np.ptp(loud)
        heard = np.interp(np.arange(128) / 3.2 - 0.5, np.arange(NUM_FRAMES), loud)  # 3.2 mel frames for each of video
        mel = (heard * 6 - 3)[None].repeat(80, axis=0).astype("float32")
        crops = np.stack([face(level) for level in loud]) + rng.integers(0, 4, (NUM_FRAMES, 96, 96, 3), dtype="uint8")
        boxes = np.zeros((NUM_FRAMES, 4))
        write_clip(root / "main" / name, crops, np.arange(NUM_FRAMES), boxes, mel, np.zeros(25_600))
    (root / "test.txt").write_text("\n".join([*names, "two/00003"]))
    return root


class Speaker:
    """A generator that draws the mouth that it hears, and takes no notice of the faces but of their colours.

    place: the mel frame of the window that it draws; 13 is the frame's own, one less is 12.5 ms earlier.
    """

    def __init__(self, place=13):
        self.place = place

    def predict_on_batch(self, inputs):
        middle = inputs[1][:, 40, self.place, 0]
        return np.stack([face(level) for level in np.clip((middle + 3) / 6, 0, 1)]).astype("float32") / 255


def test_a_generator_that_follows_the_sound_beats_all_baselines(data):
    dataset = FaceDataset(sorted((data / "main").glob("*/*")))
    clips = list(score_clips(dataset, Speaker()))
    rows = table({clip.name: clip.scores for clip in clips})
    assert tuple(rows) == ROWS
    own = rows[OWN]
    assert own["correlation"][0] > 0.9 and own["lag"][0] == 0 and own["in time"][0] == 1
    assert own["opening"][0] == pytest.approx(1, abs=0.2)
    for other in (OTHER, COPIED, MEAN):
        assert own["mouth PSNR"][0] > rows[other]["mouth PSNR"][0] + 1
        assert own["LMD"][0] < rows[other]["LMD"][0]
    assert rows[OTHER]["correlation"][0] < 0.6
    # With another sound a perfect network makes the other clip's mouth.
    assert rows[OTHER]["correlation"][0] == pytest.approx(rows[OTHER_MOUTH]["correlation"][0], abs=0.1)
    assert np.isnan(rows[MEAN]["correlation"][0]) and np.isnan(rows[OTHER_MOUTH]["PSNR"][0])


@pytest.mark.parametrize(("place", "lag", "offset_ms"), [(13 - 6, 2, 80), (13 + 10, -3, -120)])
def test_the_offset_that_is_told_brings_the_lips_in_time(data, place, lag, offset_ms):
    # Weights that were trained with the sound late draw what they hear before the window's middle: late lips.
    clips = sorted((data / "main").glob("one/*"))

    def own(sync_offset_ms):
        scored = score_clips(FaceDataset(clips), Speaker(place), sync_offset_ms=sync_offset_ms)
        return [clip.scores[OWN] for clip in scored]

    late = own(0)
    assert [scores["lag"] for scores in late] == [lag] * 2
    told = evaluate.lag_told([scores["lag"] for scores in late], 0)
    assert f"lag {lag:+d} frames ({offset_ms:+d} ms, lips {'late' if lag > 0 else 'early'})" in told
    assert told.endswith(f"--sync_offset_ms {offset_ms}")
    in_time = own(offset_ms)
    assert [scores["lag"] for scores in in_time] == [0] * 2
    for before, after in zip(late, in_time, strict=True):
        assert after["correlation"] > max(0.8, before["correlation"] + 0.2)
    told = evaluate.lag_told([scores["lag"] for scores in in_time], offset_ms)
    assert told.endswith(f"2 of 2 clips within a frame of it; batch_inference.py wants --sync_offset_ms {offset_ms}")


def test_lags_that_disagree_and_mouths_that_never_move_tell_no_offset():
    assert evaluate.lag_told([-9, 0, 3, 8], 0).endswith("too few to tell an offset by")
    assert evaluate.lag_told([float("nan")] * 2, 0) == "no lag can be told, no mouth moves"
    assert "sync_offset_ms" not in evaluate.lag_told([1, 1])


def test_a_clip_too_short_for_the_offset_is_counted(data):
    dataset = FaceDataset(sorted((data / "main").glob("*/*")))
    assert not list(score_clips(dataset, Speaker(), sync_offset_ms=5000))
    assert dataset.skipped == {"no frame has its whole sound, so much later, in the clip": 4}


def test_one_command_writes_tables_numbers_and_pictures(data, tmp_path, capsys):
    keras.utils.set_random_seed(0)
    weights, judge = tmp_path / "gen.weights.h5", tmp_path / "disc.weights.h5"
    save_generator(weights, build_generator("basic", width=TINY), {"width": TINY})
    save_discriminator(judge, build_discriminator(width=TINY), {"width": TINY, "model": "discriminator"})
    line = f"--checkpoint_path {weights} --disc_checkpoint_path {judge} --data_root {data} --filelists {data}"
    line += f" --json {tmp_path}/all.json --csv {tmp_path}/all.csv --picture_dir {tmp_path}/pictures --max_pictures 1"
    assert evaluate.main([*line.split(), "--sync_offset_ms", "-40"]) == 0
    told = capsys.readouterr().out
    assert "| 4 clips | L1 | PSNR |" in told and "| own sound, by speaker |" in told and "| two, 2 |" in told
    assert "area under the curve" in told and "1 of the 5 clips" in told
    assert "own sound: " in told and "| truth | - |" in told
    whole = json.loads((tmp_path / "all.json").read_text())
    assert set(whole["clips"]) == {"one/00001", "one/00002", "two/00001", "two/00002"}
    distances = [whole["clips"]["one/00001"][row]["disc distance"] for row in (*GENERATED, COPIED, MEAN, TRUTH)]
    assert all(0 <= distance <= 2 for distance in distances) and len(set(distances)) > 2
    with (tmp_path / "all.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * len((*ROWS, TRUTH))
    assert float(lines[0]["PSNR"]) == whole["clips"][lines[0]["clip"]][lines[0]["row"]]["PSNR"]
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"one_00001.png", "one_00001_opening.png"}
    assert cv2.imread(str(tmp_path / "pictures" / "one_00001.png")).shape == (3 * 96, 10 * 96, 3)


def test_one_clip_is_too_few(data, tmp_path, capsys):
    weights = tmp_path / "gen.weights.h5"
    save_generator(weights, build_generator("basic", width=TINY), {"width": TINY})
    (tmp_path / "test.txt").write_text("one/00001")
    assert evaluate.main(f"--checkpoint_path {weights} --data_root {data} --filelists {tmp_path}".split()) == 1
    assert "another clip's sound needs two" in capsys.readouterr().err


def write(path, frames):
    with video.VideoWriter(path, frames[0].shape[1], frames[0].shape[0], 25) as writer:
        for frame in frames:
            writer.write(frame)


def test_a_finished_video_is_scored_against_the_original_of_its_name(astronaut, tmp_path, capsys):
    results, originals = tmp_path / "results", tmp_path / "originals"
    for folder in (results, originals):
        folder.mkdir()
    soft = cv2.GaussianBlur(astronaut, (0, 0), 2)
    write(originals / "a.mp4", [astronaut] * 16)
    write(results / "a.mp4", [soft] * 16)
    write(results / "b.mp4", [soft] * 16)
    line = f"--videos {results} --originals {originals} --detector hog --json {tmp_path}/all.json"
    assert evaluate.main(line.split()) == 0
    told = capsys.readouterr().out
    assert "1 clips could not be scored: no original of the same name" in told and "--sync_offset_ms" not in told
    rows = json.loads((tmp_path / "all.json").read_text())["clips"]["a"]
    assert rows["video"]["PSNR"] < rows[COPIED]["PSNR"] - 3
    assert rows["video"]["sharpness"] < 0.5 and rows[COPIED]["sharpness"] == pytest.approx(1, abs=0.1)
    assert rows["video"]["LMD"] < 5
    # The same two files by a list, under a name that is not the original's.
    (tmp_path / "pairs.csv").write_text(f"video,original,program\n{results}/b.mp4,{originals}/a.mp4,other\n")
    line = f"--pairs {tmp_path}/pairs.csv --detector hog --json {tmp_path}/pairs.json"
    assert evaluate.main(line.split()) == 0
    assert json.loads((tmp_path / "pairs.json").read_text())["clips"] == {f"{results}/b.mp4": rows}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,source\na.mp4,a.mp4\n", "lacks the column original in its first line"),
        ("video,original\na.mp4,b.mp4\n", "video 1, column original: b.mp4 is no file; give the path of a file"),
        ("video,original\na.mp4,a.mp4\na.mp4\n", "video 2, column original: the cell is empty"),
        ("video,original\na.mp4,a.mp4\na.mp4,a.mp4\n", "video 2: a.mp4 stands there already"),
        ("video,original\n", "no line under its header"),
    ],
)
def test_a_list_of_pairs_that_cannot_be_meant_is_refused_in_one_line(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("a.mp4").touch()
    pathlib.Path("pairs.csv").write_text(text)
    assert evaluate.main(["--pairs", "pairs.csv"]) == 1
    told = capsys.readouterr().err
    assert message in told and told.startswith("evaluate.py: --pairs pairs.csv") and told.count("\n") == 1


def test_what_cannot_be_scored_is_said_in_one_line(tmp_path, capsys):
    assert evaluate.main(["--videos", str(tmp_path), "--originals", str(tmp_path / "none")]) == 1
    assert "none is no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--videos", str(tmp_path)])
    assert stop.value.code == 2
    for wrong in (["--sync_offset_ms", "900"], ["--pairs", "a.csv", "--videos", "b"]):
        with pytest.raises(SystemExit) as stop:
            evaluate.main(["--checkpoint_path", "a", "--data_root", "b", *wrong])
        assert stop.value.code == 2


def test_clips_scored_before_are_put_together_and_none_twice(tmp_path, capsys):
    for name, correlation in (("a", 0.2), ("b", 0.6)):
        numbers = {"correlation": correlation, "lag": 0.0}
        evaluate.write_json(tmp_path / f"{name}.json", {f"{name}/1": {OWN: numbers}}, {"too short": 1})
    both = [str(tmp_path / f"{name}.json") for name in "ab"]
    assert evaluate.main(["--scored", *both, "--json", str(tmp_path / "all.json")]) == 0
    assert "2 clips could not be scored: too short" in capsys.readouterr().out
    whole = json.loads((tmp_path / "all.json").read_text())
    assert whole["mean_low_high"][OWN]["correlation"][0] == pytest.approx(0.4) and set(whole["clips"]) == {"a/1", "b/1"}
    (tmp_path / "broken.json").write_text("{")
    for wrong, message in ((both[:1] * 2, "a/1 is in another"), ([str(tmp_path / "broken.json")], "is no file of")):
        assert evaluate.main(["--scored", *wrong]) == 1
        assert message in capsys.readouterr().err
