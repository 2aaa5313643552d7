import json

import keras
import numpy as np
import pytest
from helpers import toys

import train
import train_unet
from audio_hparams import hparams
from discriminator import build_discriminator
from generator import FUSION, build_generator
from lipgan.data.clip_folder import write_clip
from lipgan.data.dataset import FaceDataset
from lipgan.data.index import open_index
from lipgan.data.lip_landmarks import read_landmarks
from lipgan.training import lip_expert
from lipgan.training.loader import as_bytes, as_inputs
from lipgan.training.losses import MouthLoss, TrainingStep, in_sync_loss, out_of_sync_loss, recalibrate_batch_norm

TINY = 0.02  # every layer has the minimum of 8 filters


def random_batch(rng, size):
    shape = (size, 96, 96, 3)
    batch = {name: rng.integers(0, 256, shape, dtype="uint8") for name in ("reference", "target")}
    windows = {name: rng.uniform(-4, 4, (size, 80, 27, 1)).astype("float32") for name in ("mel", "wrong_mel")}
    return as_inputs(batch | windows)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four clips in which the height of a dark mouth follows the loudness."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in range(4):
        loud = np.abs(np.sin(np.arange(40) * 0.4 + number))
        heard = np.interp(np.arange(128) / 3.2 - 0.5, np.arange(40), loud)  # 3.2 mel frames for each of video
        mel = (heard * 6 - 3)[None].repeat(80, axis=0).astype("float32")
        crops = np.full((40, 96, 96, 3), 90 + 30 * number, "uint8")
        for crop, level in zip(crops, loud, strict=True):
            crop[62 : 64 + int(16 * level), 32:64] = (20, 20, 60 + number)
        crops = crops + rng.integers(0, 4, crops.shape, dtype="uint8")
        write_clip(
            root / "main" / "speaker" / f"{number:05d}", crops, np.arange(40), np.zeros((40, 4)), mel, np.zeros(25_600)
        )
    return toys.write_lists(root, train=range(3), val=range(3, 4))


def options_for(data, logdir, *more):
    return toys.options_for(data, logdir, "--width", TINY, "--val_samples", 16, "--workers", 2, *more)


@pytest.mark.slow
@pytest.mark.usefixtures("eager_steps")
def test_every_variable_of_both_networks_learns():
    keras.utils.set_random_seed(0)
    step = TrainingStep(build_generator("basic", width=TINY), build_discriminator(width=TINY))
    step.compile(optimizer=keras.optimizers.Adam(1e-3))
    before = [keras.ops.convert_to_numpy(v).copy() for v in step.trainable_variables]
    names = {v.path for v in step.trainable_variables}
    assert names == {v.path for v in step.generator.trainable_variables + step.discriminator.trainable_variables}
    x, y = random_batch(np.random.default_rng(0), 8)
    for _ in range(2):
        step.train_on_batch(x, y)
    still = [
        v.path
        for v, old in zip(step.trainable_variables, before, strict=True)
        if np.array_equal(keras.ops.convert_to_numpy(v), old)
    ]
    assert still == []


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares with TensorFlow's tapes")
def test_gradients_equal_those_of_separate_losses():
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    generator, discriminator = toys.toy_generator(), toys.toy_discriminator()
    step = TrainingStep(generator, discriminator)
    x, y = keras.tree.map_structure(tf.constant, random_batch(np.random.default_rng(1), 4))
    generator_inputs = [x["face"], x["mel"]]
    with tf.GradientTape() as tape:
        total = step.compute_loss(x, y, step(x, training=True), training=True)
    ours = tape.gradient(total, generator.trainable_variables + discriminator.trainable_variables)

    with tf.GradientTape() as tape:
        fake = generator(generator_inputs, training=True)
        loss = tf.reduce_mean(tf.abs(y - fake)) + 0.01 * in_sync_loss(discriminator([fake, x["mel"]]))
    theirs = tape.gradient(loss, generator.trainable_variables)
    with tf.GradientTape() as tape:
        loss = in_sync_loss(discriminator([y, x["mel"]]))
        loss += 0.5 * out_of_sync_loss(discriminator([y, x["wrong_mel"]]))
        loss += 0.5 * out_of_sync_loss(discriminator([fake, x["mel"]]))
    theirs += tape.gradient(loss, discriminator.trainable_variables)
    scale = max(float(tf.reduce_max(tf.abs(g))) for g in theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * scale)


@pytest.mark.usefixtures("eager_steps")
def test_mouth_expert_is_applied_but_never_trained():
    keras.utils.set_random_seed(2)
    expert = lip_expert.build_expert(96)
    step = TrainingStep(toys.toy_generator(), None, mouth=MouthLoss(expert, 96, 1.0, 0.1))
    step.compile(optimizer=keras.optimizers.Adam(1e-3))
    before = [keras.ops.convert_to_numpy(v).copy() for v in expert.variables]
    x, y = random_batch(np.random.default_rng(2), 4)
    losses = step.train_on_batch(x, y, return_dict=True)
    assert losses["landmarks"] > 0 and losses["mouth_mae"] > 0
    assert losses["loss"] == pytest.approx(losses["mae"] + losses["mouth_mae"] + 0.1 * losses["landmarks"], rel=1e-4)
    for variable, old in zip(expert.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), old)


@pytest.mark.usefixtures("eager_steps", "settled_files")
def test_pretraining_changes_only_the_audio_encoder(data, capsys):
    clips = [data / "main" / "speaker" / f"{number:05d}" for number in range(4)]
    index = open_index(data)
    train_set, val_set = (
        FaceDataset(part, index=index, landmarks=read_landmarks(index)) for part in (clips[:3], clips[3:])
    )
    generator = toys.toy_generator()
    before = {v.path: keras.ops.convert_to_numpy(v).copy() for v in generator.trainable_variables}
    lip_expert.pretrain_audio_encoder(generator, train_set, val_set, 3)
    assert -1 <= float(capsys.readouterr().out.split()[-1]) <= 1
    sound = keras.Model(generator.inputs[1], generator.get_layer(FUSION).input[1])
    after = {v.path: keras.ops.convert_to_numpy(v) for v in generator.trainable_variables}
    changed = {path for path, value in after.items() if not np.array_equal(value, before[path])}
    assert changed == {v.path for v in sound.trainable_variables}


@pytest.mark.slow
def test_overfits_64_samples(data):
    keras.utils.set_random_seed(3)
    dataset = FaceDataset([data / "main" / "speaker" / f"{number:05d}" for number in range(4)])
    batches = [as_inputs(dataset.batch((0, 0, number), 16)) for number in range(4)]
    step = TrainingStep(build_generator("basic", width=TINY))
    step.compile(optimizer=keras.optimizers.Adam(1e-2))
    errors = [[step.train_on_batch(x, y, return_dict=True)["loss"] for x, y in batches] for _ in range(8)]
    assert np.mean(errors[-1]) < 0.35 * np.mean(errors[0])


@pytest.mark.slow
def test_recalibrated_batch_norm_has_the_statistics_of_all_batches():
    generator = build_generator("basic", width=TINY)
    batches = [random_batch(np.random.default_rng(number), 4) for number in range(3)]
    kernels = [keras.ops.convert_to_numpy(v).copy() for v in generator.trainable_variables]
    recalibrate_batch_norm(generator, batches)
    first = next(layer for layer in generator.layers if isinstance(layer, keras.layers.Conv2D))
    norm = next(layer for layer in generator.layers if isinstance(layer, keras.layers.BatchNormalization))
    source = "face" if first.input.shape[-1] == 6 else "mel"
    outputs = np.stack([keras.ops.convert_to_numpy(first(x[source])) for x, _ in batches])
    np.testing.assert_allclose(norm.moving_mean, outputs.mean(axis=(0, 1, 2, 3)), atol=1e-4)
    assert norm.momentum == 0.8
    for variable, kernel in zip(generator.trainable_variables, kernels, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), kernel)


@pytest.mark.slow
@pytest.mark.usefixtures("eager_steps")
def test_run_documents_itself_and_its_weights_start_the_gan(data, tmp_path, capsys):
    logdir = tmp_path / "unet"
    more = ("--epochs", 2, "--steps_per_epoch", 2, "--checkpoint_name", "mine.h5")
    assert train_unet.main(options_for(data, logdir, *more)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(logdir / "mine.weights.h5")
    rows = toys.stats(logdir)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"mae", "val_mae", "val_gap", "val_lower_gap", "learning_rate", "batches"} <= set(rows[-1])
    assert (logdir / "samples" / "epoch_0002.png").is_file()
    described = json.loads((logdir / "mine.json").read_text())
    assert described["model"] == "basic" and described["step"] == 4
    assert described["hparams"] == hparams.as_dict()
    record = json.loads((logdir / "args.json").read_text())
    assert record["options"]["batch_size"] == 8 and record["versions"]["keras"] == keras.__version__
    # A second run does not write into the first one's folder, and takes its weights.
    more = ("--steps", 1, "--resume_gen", logdir / "mine.weights.h5")
    assert train.main(options_for(data, logdir, *more)) == 0
    rows = toys.stats(tmp_path / "unet-2")
    assert {"adversarial", "disc_real", "disc_wrong", "disc_fake", "val_auc"} <= set(rows[-1])


def test_resuming_an_unusable_file_is_refused_in_one_line(data, tmp_path, capsys):
    text = tmp_path / "text.h5"
    text.write_text("no weights")
    for path, reason in ((tmp_path / "none.h5", "no such file"), (text, "not an HDF5 file")):
        assert train_unet.main(options_for(data, tmp_path / "run", "--resume", path)) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("train_unet.py: ") and reason in error


def test_uint8_images_give_the_loss_of_scaled_ones():
    rng = np.random.default_rng(3)
    batch = {name: rng.integers(0, 256, (4, 96, 96, 3), dtype="uint8") for name in ("reference", "target")}
    batch |= {name: rng.uniform(-4, 4, (4, 80, 27, 1)).astype("float32") for name in ("mel", "wrong_mel")}
    step = TrainingStep(toys.toy_generator())
    (x, y), (x_bytes, y_bytes) = as_inputs(batch), as_bytes(batch)
    assert (x_bytes["face"].dtype, y_bytes.dtype) == ("uint8", "uint8")
    losses = [
        float(step.compute_loss(x, keras.ops.convert_to_tensor(y), step(keras.tree.map_structure(np.copy, x))))
        for x, y in ((x, y), (x_bytes, y_bytes))
    ]
    assert abs(losses[0] - losses[1]) < 1e-6
