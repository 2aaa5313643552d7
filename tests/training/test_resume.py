import json
import os
import pathlib
import resource
import signal
import subprocess

import cv2
import h5py
import keras
import numpy as np
import pytest
from helpers.toys import arrays, options_for, start, stats, toy_discriminator, toy_generator, write_data
from keras import ops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
import train_unet
from lipgan.data.dataset import FaceDataset
from lipgan.training import loop
from lipgan.training.config import STATE_ATTRIBUTE, STATE_NAME, read_state
from lipgan.training.loader import BatchLoader
from lipgan.training.loop import TrainingLoop
from lipgan.training.losses import TrainingStep
from lipgan.training.optimizer import ExportedNetworks, build_optimizer, learning_rate
from lipgan.training.run_dir import open_folder, write_record
from tools import plot

AVERAGED = ("--ema", "0.9", "--accumulate", "2", "--warmup_steps", "3", "--lr_decay_steps", "20")
BATCHES = ("--steps_per_epoch", "4", "--checkpoint_freq", "2", "--seed", "5", "--steps", "7")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.setattr(loop, "build_generator", toy_generator)
    monkeypatch.setattr(loop, "build_discriminator", toy_discriminator)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that was never stopped, with averaged weights and accumulated gradients."""
    with pytest.MonkeyPatch.context() as patched:
        small_networks.__wrapped__(patched)
        folder = tmp_path_factory.mktemp("runs") / "whole"
        assert train.main(options_for(data, folder, *BATCHES, *AVERAGED)) == 0
    return folder


def assert_same_end(one, other):
    assert stats(one) == stats(other)
    for path in sorted(one.glob("*.weights.h5")):
        ours, theirs = arrays(path), arrays(other / path.name)
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=f"{path.name} {name}")


def happens_at(monkeypatch, number, action):
    """Have `action(loop)` done at the end of a batch, before its losses are checked."""
    before = TrainingLoop.on_train_batch_end

    def then(self, batch, logs=None):
        if self.progress.batches + 1 == number:
            action(self)
        before(self, batch, logs)

    monkeypatch.setattr(TrainingLoop, "on_train_batch_end", then)


@pytest.mark.slow
def test_run_killed_inside_an_epoch_resumes_bit_exactly(data, whole, tmp_path):
    folder = tmp_path / "parts"
    # On as many threads as this process, after which it is resumed here.
    threads = {name: os.environ.get(name, "0") for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")}
    options = options_for(data, folder, *BATCHES, *AVERAGED)
    process = start("train", *options, backend=keras.backend.backend(), SIGNAL_AT="3:SIGKILL", **threads)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert read_state(folder)["batches"] == 2
    (folder / "stats.jsonl").write_text('{"epoch": 1, "ma')  # as if it had been killed while it wrote that,
    (folder / ".tmp_folder").mkdir()  # the users' weights,
    (folder / ".tmp_folder" / "lipgan.weights.h5").touch()
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples" / ".tmp_picture.png").touch()  # or a picture
    resumed = options_for(data, folder, "--resume", folder / STATE_NAME)  # all else stands in the state
    assert train.main(resumed) == 0
    assert_same_end(whole, folder)
    assert not list(folder.rglob(".tmp_*"))


@pytest.mark.slow
def test_run_without_ema_or_accumulation_resumes_bit_exactly_and_is_reproducible(data, tmp_path):
    for run, *steps in (("whole", 5), ("parts", 3, 5)):
        for number in steps:
            resume = ("--resume", tmp_path / run) if number != steps[0] else ()
            options = options_for(data, tmp_path / run, *BATCHES[:-2], "--steps", number, *resume)
            assert train_unet.main(options) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.usefixtures("eager_steps")
def test_nonfinite_weights_never_replace_a_good_state(data, tmp_path, monkeypatch, capsys):
    def spoil(loop):  # as a gradient does that is not finite while the loss is
        kernel = loop.model.generator.trainable_variables[0]
        kernel.assign(ops.convert_to_numpy(kernel) * np.nan)

    happens_at(monkeypatch, 4, spoil)
    assert train.main(options_for(data, tmp_path / "run", *BATCHES, "--steps_per_epoch", 6)) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is not finite at epoch 1, batch 4" in error and STATE_NAME in error and "smaller --lr" in error
    assert read_state(tmp_path / "run")["batches"] == 2
    assert all(np.isfinite(array).all() for array in arrays(tmp_path / "run" / STATE_NAME).values())


@pytest.mark.usefixtures("eager_steps")
def test_sigterm_saves_the_state_and_exits_resumable(data, tmp_path, monkeypatch, capsys):
    happens_at(monkeypatch, 3, lambda loop: os.kill(os.getpid(), signal.SIGTERM))
    assert train.main(options_for(data, tmp_path / "run", *BATCHES)) == loop.EXIT_RESUMABLE == 75
    assert read_state(tmp_path / "run")["batches"] == 3 and "SIGTERM" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("eager_steps")
def test_full_disk_keeps_the_last_state_and_exits_resumable(data, tmp_path, monkeypatch, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    happens_at(monkeypatch, 4, lambda loop: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1])))
    try:
        assert train.main(options_for(data, tmp_path / "run", *BATCHES)) == 75
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_state(tmp_path / "run")["batches"] == 2 and "make room" in capsys.readouterr().out
    assert not list((tmp_path / "run").glob(".tmp_*"))


def test_accumulation_updates_with_the_mean_gradient():
    gradients = np.array([[1.0, 2.0], [3.0, -4.0]], "float32")
    ends = []
    for accumulate, steps in ((2, gradients), (1, [gradients.mean(axis=0)])):
        variable, optimizer = keras.Variable(np.ones(2, "float32")), build_optimizer(learning_rate(0.1), accumulate)
        optimizer.build([variable])
        for gradient in steps:
            optimizer.apply([ops.convert_to_tensor(gradient)])
        ends.append(ops.convert_to_numpy(variable))
    np.testing.assert_allclose(*ends, rtol=1e-6)


def test_learning_rate_schedule_counts_batches():
    def rates(accumulate=1, **options):
        optimizer = build_optimizer(learning_rate(1.0, **options), accumulate)
        variable, found = keras.Variable(1.0), []
        optimizer.build([variable])
        for _ in range(9):
            found.append(float(ops.convert_to_numpy(optimizer.learning_rate)))
            optimizer.apply([ops.convert_to_tensor(1.0)])
        return found

    assert rates() == pytest.approx([1.0] * 9)
    assert rates(warmup_steps=4, accumulate=2)[4:] == pytest.approx([1.0] * 5)
    assert rates(warmup_steps=4)[0] == pytest.approx(0.25)
    both = rates(warmup_steps=4, decay_steps=8)
    assert both[4] == pytest.approx(1.0) and both[6] == pytest.approx(0.5) and both[8] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.usefixtures("eager_steps")
def test_exported_networks_are_averaged_and_recalibrated_and_the_step_is_unchanged(data):
    keras.utils.set_random_seed(0)
    step = TrainingStep(toy_generator(), toy_discriminator())
    step.compile(optimizer=build_optimizer(learning_rate(0.01), ema=0.9))
    loader = BatchLoader(FaceDataset([data / "main" / "speaker" / "00000"]), 8, seed=0, workers=1, per_epoch=2)
    for x, y in (*loader.first_batches(0, 2), *loader.first_batches(1, 2)):
        step.train_on_batch(x, y)
    before = [ops.convert_to_numpy(v) for v in step.variables]
    copies = toy_generator(), toy_discriminator()
    generator, discriminator = ExportedNetworks(step, copies, loader.first_batches).update(0)
    for mine, now in zip(before, step.variables, strict=True):
        np.testing.assert_array_equal(mine, now)
    averages = [ops.convert_to_numpy(average) for _, average in step.optimizer.averages()]
    got = generator.trainable_variables + discriminator.trainable_variables
    for value, average in zip(got, averages, strict=True):
        np.testing.assert_array_equal(value, average)
    mine, its = (
        next(layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)).moving_mean
        for network in (generator, step.generator)
    )
    assert np.abs(ops.convert_to_numpy(mine) - ops.convert_to_numpy(its)).max() > 1e-5


@pytest.mark.slow
def test_run_is_charted_in_tensorboard_and_by_plot(whole, tmp_path, capsys):
    events = EventAccumulator(str(whole / "tensorboard"), size_guidance={"images": 0, "histograms": 0}).Reload()
    tags = events.Tags()
    assert {"epoch/mae", "epoch/val_gap", "epoch/learning_rate"} <= set(tags["tensors"] + tags["scalars"])
    assert "samples" in tags["images"] + tags["tensors"]
    assert "val_distance/own_sound" in tags["histograms"] + tags["tensors"]
    assert plot.main([str(whole), "--out", str(tmp_path / "curves.png"), "--names", "mae", "val_mae"]) == 0
    assert cv2.imread(str(tmp_path / "curves.png")).std() > 1
    assert plot.main([str(whole), "--names", "mea"]) == 1
    assert "there are" in capsys.readouterr().err


@pytest.mark.slow
def test_run_records_options_versions_and_commit_from_any_directory(whole, tmp_path, monkeypatch):
    record = json.loads((whole / "args.json").read_text())
    assert record["options"]["accumulate"] == 2 and {"numpy", "h5py"} <= record["versions"].keys()
    here = pathlib.Path(loop.__file__).parent
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True).stdout.strip()
    monkeypatch.chdir(tmp_path)
    write_record(tmp_path, {}, None)
    assert json.loads((tmp_path / "args.json").read_text())["git"].removesuffix("-dirty") == commit


def test_two_runs_never_get_the_same_folder(tmp_path):
    assert [open_folder(tmp_path / "run", None).name for _ in range(3)] == ["run", "run-2", "run-3"]


@pytest.mark.slow
def test_resumed_options_are_restored_and_incompatible_ones_refused(data, whole, capsys, tmp_path):
    options = options_for(data, tmp_path, "--resume", whole / STATE_NAME, "--accumulate", 3)
    assert train.main(options) == 1
    assert "--accumulate 2" in capsys.readouterr().err
    args = train.parse_args(options_for(data, tmp_path, "--resume", whole, "--lr", "0.5"))
    assert (args.lr, args.seed, args.accumulate, args.steps) == (0.5, 5, 2, 7)
    with h5py.File(whole / STATE_NAME) as file:
        assert json.loads(file.attrs[STATE_ATTRIBUTE])["batch"] == 3
