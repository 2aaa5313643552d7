"""evaluate.py: rows and tables for generators and for finished videos."""

import csv
import json
import pathlib

import cv2
import keras
import numpy as np
import pytest
from helpers.runners import FunctionRunner

import evaluate
from discriminator import build_discriminator
from generator import build_generator
from lipgan.data.clip_folder import write_clip
from lipgan.data.dataset import FaceDataset
from lipgan.evaluation import scoring
from lipgan.evaluation.free_speech import Timer
from lipgan.evaluation.report import lag_summary
from lipgan.evaluation.results import (
    COPIED_REFERENCE,
    GENERATED,
    MEAN_FACE,
    OTHER_AUDIO,
    OTHER_MOUTH,
    TARGET_REFERENCE,
    TRUTH,
    VIDEO,
    Evaluation,
    ImageScores,
    Row,
    SkippedClip,
    by_row,
    means,
    means_over_people,
    write_json,
)
from lipgan.evaluation.scoring import ClipScorer
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


def audio_drawer(place=13):
    """A generator that draws the mouth that it hears, whatever the face is.

    place: the mel frame of the window that it draws; 13 is the frame's own, one less is 12.5 ms earlier.
    """

    def generate(faces, mels, lips, rest_lips):
        levels = np.clip((mels[:, 40, place, 0] + 3) / 6, 0, 1)
        return np.stack([face(level) for level in levels]).astype("float32") / 255

    return generate


def scores(clips, generate, **settings):
    """The rows of these clips, one list by row's name."""
    return by_row([row for clip in ClipScorer(FaceDataset(clips), generate, **settings) for row in clip.rows])


@pytest.mark.slow
def test_generator_that_follows_the_audio_beats_all_baselines(data):
    rows = scores(sorted((data / "main").glob("one/*")), audio_drawer())
    assert list(rows) == [GENERATED, OTHER_AUDIO, TARGET_REFERENCE, COPIED_REFERENCE, MEAN_FACE, OTHER_MOUTH]
    table = {name: {key: mean for key, (mean, _, _) in means(some).items()} for name, some in rows.items()}
    own = table[GENERATED]
    assert own["opening"] > 0.9 and own["lag"] == 0 and own["in_time"] == 1
    assert own["opening_range"] == pytest.approx(1, abs=0.2)
    for other in (OTHER_AUDIO, COPIED_REFERENCE, MEAN_FACE):
        assert own["mouth_psnr"] > table[other]["mouth_psnr"] + 1
        assert own["lmd"] < table[other]["lmd"]
    assert table[OTHER_AUDIO]["opening"] < 0.6
    # From another clip's audio a perfect network makes the other clip's mouth.
    assert table[OTHER_AUDIO]["opening"] == pytest.approx(table[OTHER_MOUTH]["opening"], abs=0.2)
    assert np.isnan(table[MEAN_FACE]["opening"]) and np.isnan(table[OTHER_MOUTH]["psnr"])


@pytest.fixture
def lips_only(monkeypatch):
    """Leave out the measures of images, which take most of the time of scoring."""
    monkeypatch.setattr(scoring, "image_scores", lambda *_: ImageScores())


@pytest.mark.slow
@pytest.mark.usefixtures("lips_only")
@pytest.mark.parametrize(("place", "lag", "offset_ms"), [(13 - 6, 2, 80), (13 + 10, -3, -120)])
def test_named_sync_offset_corrects_the_lag(data, place, lag, offset_ms):
    # Weights trained with late audio draw what they hear before the window's middle: late lips.
    clips = sorted((data / "main").glob("one/*"))
    late = scores(clips, audio_drawer(place))[GENERATED]
    assert [row.lag for row in late] == pytest.approx([lag] * 2, abs=0.5)
    text = lag_summary([lag] * 2, 0)
    assert f"lag {lag:+d} frames ({offset_ms:+d} ms, lips {'late' if lag > 0 else 'early'})" in text
    assert text.endswith(f"--sync_offset_ms {offset_ms}")
    in_time = scores(clips, audio_drawer(place), sync_offset_ms=offset_ms)[GENERATED]
    assert [row.lag for row in in_time] == pytest.approx([0] * 2, abs=0.5)
    for before, after in zip(late, in_time, strict=True):
        assert after.opening > max(0.8, before.opening + 0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("lips_only")
def test_clips_with_late_audio_are_compared_at_their_own_lag(data):
    # The drawer hears 2 frames ahead, as if its clips' audio were 2 frames late: late lips, but right at that lag.
    clips = sorted((data / "main").glob("one/*"))
    timer = Timer({"one/00001": 2.0, "one/00002": 2.0})
    rows = scores(clips, audio_drawer(13 - 6), timer=timer)[GENERATED]
    assert [row.own_lag for row in rows] == [2, 2]
    assert [row.lag for row in rows] == pytest.approx([0, 0], abs=0.5) and min(row.opening for row in rows) > 0.8


def test_lags_that_disagree_and_still_mouths_name_no_offset():
    assert lag_summary([-9, 0, 3, 8], 0).endswith("too few to name an offset")
    assert lag_summary([float("nan")] * 2, 0) == "no lag: no mouth moves"
    assert "sync_offset_ms" not in lag_summary([1, 1])


def test_clip_too_short_for_the_offset_is_skipped(data):
    dataset = FaceDataset(sorted((data / "main").glob("*/*")))
    outcomes = list(ClipScorer(dataset, audio_drawer(), sync_offset_ms=5000))
    reason = "no frame's whole audio window, at this offset, lies in the clip"
    assert [(type(outcome), outcome.reason) for outcome in outcomes] == [(SkippedClip, reason)] * 4


def test_mean_over_people_weighs_each_person_alike():
    rows = [Row(clip=f"a/{n}", person="a", row=GENERATED, opening=0.2) for n in range(3)]
    rows.append(Row(clip="b/0", person="b", row=GENERATED, opening=0.6))
    assert means(rows)["opening"][0] == pytest.approx(0.3)
    mean, low, high = means_over_people(rows)["opening"]
    assert mean == pytest.approx(0.4) and low < mean < high


@pytest.mark.slow
def test_command_writes_tables_measures_and_figures(data, tmp_path, capsys):
    keras.utils.set_random_seed(0)
    weights, judge = tmp_path / "gen.weights.h5", tmp_path / "disc.weights.h5"
    save_generator(weights, build_generator("basic", width=TINY), {"width": TINY})
    save_discriminator(judge, build_discriminator(width=TINY), {"width": TINY, "model": "discriminator"})
    line = f"--checkpoint_path {weights} --disc_checkpoint_path {judge} --data_root {data} --filelists {data}"
    line += f" --json {tmp_path}/all.json --csv {tmp_path}/all.csv --picture_dir {tmp_path}/pictures --max_pictures 1"
    assert evaluate.main([*line.split(), "--sync_offset_ms", "-40"]) == 0
    text = capsys.readouterr().out
    assert "| 4 clips | l1 | psnr |" in text and "| generated, by person |" in text and "| two, 2 clips |" in text
    assert "area under the curve" in text and "1 of the 5 clips" in text
    assert "generated: " in text and "| truth | - |" in text and "| mean of 2 people |" in text
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert {row["clip"] for row in rows} == {"one/00001", "one/00002", "two/00001", "two/00002"}
    distances = {row["row"]: row["disc_distance"] for row in rows if "disc_distance" in row}
    assert {*distances} == {GENERATED, OTHER_AUDIO, TARGET_REFERENCE, COPIED_REFERENCE, MEAN_FACE, TRUTH}
    assert all(0 <= distance <= 2 for distance in distances.values()) and len(set(distances.values())) > 2
    with (tmp_path / "all.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows) == 4 * 7
    assert float(lines[0]["psnr"]) == rows[0]["psnr"] and lines[0]["row"] == rows[0]["row"]
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"one_00001.png", "one_00001_opening.png"}
    assert cv2.imread(str(tmp_path / "pictures" / "one_00001.png")).shape == (3 * 96, 10 * 96, 3)


def test_single_clip_is_refused(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lipgan.inference.runner.load_runner", lambda *_, **__: FunctionRunner(None, img_size=96))
    (tmp_path / "test.txt").write_text("one/00001")
    assert evaluate.main(f"--checkpoint_path w.weights.h5 --data_root {data} --filelists {tmp_path}".split()) == 1
    assert "another clip's audio needs two" in capsys.readouterr().err


def write(path, frames):
    with video.VideoWriter(path, frames[0].shape[1], frames[0].shape[0], 25) as writer:
        for frame in frames:
            writer.write(frame)


@pytest.mark.slow
def test_finished_video_is_scored_against_its_original(astronaut, tmp_path, capsys):
    results, originals = tmp_path / "results", tmp_path / "originals"
    for folder in (results, originals):
        folder.mkdir()
    soft = cv2.GaussianBlur(astronaut, (0, 0), 2)
    write(originals / "a.mp4", [astronaut] * 16)
    write(results / "a.mp4", [soft] * 16)
    write(results / "b.mp4", [soft] * 16)
    line = f"--videos {results} --originals {originals} --detector hog --json {tmp_path}/all.json"
    assert evaluate.main(line.split()) == 0
    text = capsys.readouterr().out
    assert "1 clips could not be scored: no original of the same name" in text and "--sync_offset_ms" not in text
    rows = {row["row"]: row for row in json.loads((tmp_path / "all.json").read_text())["rows"]}
    assert rows[VIDEO]["psnr"] < rows[COPIED_REFERENCE]["psnr"] - 3
    assert rows[VIDEO]["sharpness"] < 0.5 and rows[COPIED_REFERENCE]["sharpness"] == pytest.approx(1, abs=0.1)
    assert rows[VIDEO]["sharpness_native"] < 0.3 and rows[VIDEO]["lmd"] < 5
    # The same two files by a list, under a name that is not the original's, with a known lag.
    (tmp_path / "pairs.csv").write_text(f"video,original,lag\n{results}/b.mp4,{originals}/a.mp4,1.5\n")
    line = f"--pairs {tmp_path}/pairs.csv --detector hog --json {tmp_path}/pairs.json"
    assert evaluate.main(line.split()) == 0
    listed = json.loads((tmp_path / "pairs.json").read_text())["rows"][0]
    assert (listed["clip"], listed["person"], listed["own_lag"]) == (f"{results}/b.mp4", "originals", 1.5)
    assert all(listed[name] == rows[VIDEO][name] for name in ("psnr", "lmd", "sharpness_native"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,source\na.mp4,a.mp4\n", "lacks the column original in its first line"),
        ("video,original\na.mp4,b.mp4\n", "video 1, column original: b.mp4 is no file; give the path of a file"),
        ("video,original\na.mp4,a.mp4\na.mp4\n", "video 2, column original: the cell is empty"),
        ("video,original\na.mp4,a.mp4\na.mp4,a.mp4\n", "video 2: a.mp4 stands there already"),
        ("video,original,lag\na.mp4,a.mp4,x\n", "video 1: lag 'x' is no number of frames"),
        ("video,original\n", "no line under its header"),
    ],
)
def test_malformed_list_of_pairs_raises_user_error(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("a.mp4").touch()
    pathlib.Path("pairs.csv").write_text(text)
    assert evaluate.main(["--pairs", "pairs.csv"]) == 1
    text = capsys.readouterr().err
    assert message in text and text.startswith("evaluate.py: --pairs pairs.csv") and text.count("\n") == 1


def test_unusable_options_are_refused_in_one_line(tmp_path, capsys):
    assert evaluate.main(["--videos", str(tmp_path), "--originals", str(tmp_path / "none")]) == 1
    assert "none is no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--videos", str(tmp_path)])
    assert stop.value.code == 2
    for wrong in (["--sync_offset_ms", "900"], ["--pairs", "a.csv", "--videos", "b"]):
        with pytest.raises(SystemExit) as stop:
            evaluate.main(["--checkpoint_path", "a", "--data_root", "b", *wrong])
        assert stop.value.code == 2


def test_scored_files_are_joined_and_each_clip_counts_once(tmp_path, capsys):
    for name, opening in (("a", 0.2), ("b", 0.6)):
        row = Row(clip=f"{name}/1", person=name, row=GENERATED, opening=opening, lag=0.0)
        write_json(tmp_path / f"{name}.json", Evaluation((row,), {"too short": 1}))
    both = [str(tmp_path / f"{name}.json") for name in "ab"]
    assert evaluate.main(["--scored", *both, "--json", str(tmp_path / "all.json")]) == 0
    assert "2 clips could not be scored: too short" in capsys.readouterr().out
    joined = json.loads((tmp_path / "all.json").read_text())
    assert joined["mean_low_high"][GENERATED]["opening"][0] == pytest.approx(0.4)
    assert [row["clip"] for row in joined["rows"]] == ["a/1", "b/1"]
    (tmp_path / "broken.json").write_text("{")
    for wrong, message in ((both[:1] * 2, "a/1 is in another"), ([str(tmp_path / "broken.json")], "is not a file of")):
        assert evaluate.main(["--scored", *wrong]) == 1
        assert message in capsys.readouterr().err
