"""The commands in order, as a newcomer runs them: preprocess, train_unet, train, batch_inference, evaluate."""

import json

import keras  # noqa: F401 (on the default backend, before inference can choose another)
import pytest
from helpers.videos import face_frames, write_video

import batch_inference
import evaluate
import preprocess
import train
import train_unet
from lipgan.media import video

pytestmark = pytest.mark.slow

TOY = {"width": 0.02, "batch_size": 4, "steps": 2, "steps_per_epoch": 2, "val_samples": 4, "workers": 1}


def run(script, *options):
    """Run a script in this process; it must succeed."""
    assert script.main([str(option) for option in options]) == 0


def test_five_commands_from_videos_to_evaluation(tmp_path):
    videos, data, lists = tmp_path / "videos", tmp_path / "data", tmp_path / "lists"
    for clip in ("a", "b", "c"):
        write_video(videos / "speaker" / f"{clip}.mp4", face_frames(40))
    run(preprocess, "--all", "--videos_data_root", videos, "--final_data_root", data, "--detector", "hog",
        "--num_workers", 1)  # fmt: skip
    lists.mkdir()
    for split, clips in {"train": "ab", "val": "c", "test": "bc"}.items():
        (lists / f"{split}.txt").write_text("".join(f"speaker/{clip}\n" for clip in clips), encoding="utf-8")

    common = ["--data_root", data, "--filelists", lists, "--model", "basic", "--precision", "float32"]
    common += [word for name, value in TOY.items() for word in (f"--{name}", value)]
    run(train_unet, *common, "--logdir", tmp_path / "unet")
    unet = tmp_path / "unet" / "unet.weights.h5"
    run(train, *common, "--resume_gen", unet, "--logdir", tmp_path / "gan")
    generator = tmp_path / "gan" / "lipgan.weights.h5"

    result = tmp_path / "result.mp4"
    run(batch_inference, "--checkpoint_path", generator, "--face", videos / "speaker" / "c.mp4",
        "--audio", videos / "speaker" / "a.mp4", "--outfile", result)  # fmt: skip
    assert video.probe(result).num_frames == 40

    run(evaluate, "--checkpoint_path", generator, "--data_root", data, "--filelists", lists, "--json",
        tmp_path / "scores.json")  # fmt: skip
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
