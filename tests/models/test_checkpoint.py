"""Checkpoints: what is saved comes back, legacy files give the legacy networks' outputs, wrong files are refused."""

import contextlib
import json

import h5py
import keras
import numpy as np
import pytest
from helpers.legacy import legacy_discriminator, legacy_generator

from audio_hparams import hparams
from discriminator import build_discriminator
from generator import build_generator, scaled
from lipgan.models import hdf5_claims
from lipgan.models.checkpoint import load_discriminator, load_generator, save_discriminator, save_generator
from lipgan.models.hdf5_claims import check_attributes
from lipgan.utils.cli import UserError

WIDTH = 1 / 8
INFO = {"width": WIDTH, "detector": "cnn", "pads": [0, 0, 0, 0], "sync_offset_ms": 40, "step": 7}


def inputs(channels, batch=3):
    rng = np.random.default_rng(0)
    face = rng.random((batch, 96, 96, channels), dtype="float32")
    return [face, rng.uniform(-4, 4, (batch, 80, 27, 1)).astype("float32")]


def output(model, channels=6):
    return keras.ops.convert_to_numpy(model(inputs(channels), training=False))


def shaken(model):
    """The model with other than its first values in every weight, as after a training: norms, gains, biases."""
    rng = np.random.default_rng(1)
    model.set_weights([w + 0.2 * rng.random(w.shape) if w.ndim == 1 else w for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def generator():
    return shaken(build_generator("basic", width=WIDTH))


@pytest.fixture(scope="module")
def saved(generator, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "x.weights.h5"
    save_generator(path, generator, INFO)
    return path


def copied(saved, tmp_path, **changes):
    """A copy of the checkpoint whose JSON has these changes."""
    path = tmp_path / saved.name
    path.write_bytes(saved.read_bytes())
    info = json.loads((saved.parent / "x.json").read_text())
    (tmp_path / "x.json").write_text(json.dumps({**info, **changes}))
    return path


# User checkpoints


def test_generator_and_description_round_trip(saved, generator, capsys):
    model, info = load_generator(saved)
    np.testing.assert_array_equal(output(model), output(generator))
    assert {k: info[k] for k in INFO} == INFO
    assert (info["model"], info["img_size"], info["precision"]) == ("basic", 96, "float32")
    assert info["hparams"] == hparams.as_dict()
    assert info["versions"]["keras"] == keras.__version__
    assert (info["format"], info["differences"]) == ("checkpoint", [])
    assert capsys.readouterr().err == ""
    assert sorted(p.name for p in saved.parent.iterdir()) == ["x.json", "x.weights.h5"]


def test_discriminator_round_trip(tmp_path):
    model = shaken(build_discriminator(128, WIDTH))
    save_discriminator(tmp_path / "d.weights.h5", model, INFO)
    loaded, info = load_discriminator(tmp_path / "d.weights.h5")
    assert (info["model"], info["img_size"]) == ("discriminator", 128)
    for here, there in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(here, there)


def test_half_precision_halves_the_file_and_preserves_the_output(saved, generator, tmp_path):
    path = tmp_path / "half.weights.h5"
    save_generator(path, generator, INFO, half=True)
    model, info = load_generator(path)
    assert info["precision"] == "float16"
    assert {keras.backend.standardize_dtype(w.dtype) for w in model.weights} == {"float32"}
    assert path.stat().st_size < 0.7 * saved.stat().st_size
    np.testing.assert_allclose(output(model), output(generator), atol=2e-3)


@pytest.mark.slow
def test_checkpoint_has_no_optimizer_state(generator, tmp_path):
    model = build_generator("basic", width=WIDTH)
    model.compile(optimizer="adam", loss="mae")
    model.optimizer.build(model.trainable_variables)
    save_generator(tmp_path / "x.weights.h5", model, INFO)
    with h5py.File(tmp_path / "x.weights.h5") as file:
        assert "optimizer" not in file
    load_generator(tmp_path / "x.weights.h5")


@pytest.mark.slow
def test_checkpoint_without_json_is_recognised_from_array_shapes(saved, generator, tmp_path):
    path = tmp_path / "x.weights.h5"
    path.write_bytes(saved.read_bytes())
    model, info = load_generator(path)
    assert (info["model"], info["img_size"], info["width"], info["sync_offset_ms"]) == ("basic", 96, WIDTH, 0)
    np.testing.assert_array_equal(output(model), output(generator))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "img_size", "width"), [("residual", 160, 1 / 4), ("basic", 224, 1 / 3)])
def test_size_and_width_are_recognised_from_array_shapes(kind, img_size, width, tmp_path):
    save_generator(tmp_path / "x.weights.h5", build_generator(kind, img_size, width), {"width": width})
    (tmp_path / "x.json").unlink()
    _, info = load_generator(tmp_path / "x.weights.h5")
    assert (info["model"], info["img_size"]) == (kind, img_size)
    assert [scaled(n, info["width"]) for n in (16, 32, 64, 128, 256, 512)] == [
        scaled(n, width) for n in (16, 32, 64, 128, 256, 512)
    ]


def test_different_hparams_are_returned_with_a_warning(saved, tmp_path, capsys):
    path = copied(saved, tmp_path, hparams={**hparams.as_dict(), "fps": 30})
    _, info = load_generator(path)
    assert info["differences"] == ["fps: here 25, there 30"]
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "fps: here 25, there 30" in warning


def test_options_that_agree_with_the_file_are_accepted(saved):
    load_generator(saved, kind="basic", img_size=96, width=WIDTH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "residual"}, r"x.weights.h5 fits --model basic, img_size 96, width 0.125, not --model residual; "),
        ({"img_size": 128}, r"fits .*, not --img_size 128; "),
        ({"width": 1.0}, r"fits .*, not --width 1.0; "),
    ],
)
@pytest.mark.parametrize("with_json", [True, False])
def test_options_that_contradict_the_file_are_refused(saved, options, message, with_json, tmp_path):
    path = copied(saved, tmp_path)
    if not with_json:
        (tmp_path / "x.json").unlink()
    with pytest.raises(UserError, match=message):
        load_generator(path, **options)


def test_generator_and_discriminator_are_not_confused(saved, tmp_path):
    with pytest.raises(UserError, match=r"fits --model basic, .*, not the discriminator"):
        load_discriminator(saved)
    save_discriminator(tmp_path / "d.weights.h5", build_discriminator(96, WIDTH), INFO)
    (tmp_path / "d.json").unlink()
    with pytest.raises(UserError, match=r"fits the discriminator, img_size 96, width 0.125, not a generator"):
        load_generator(tmp_path / "d.weights.h5")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "residual"}, r"fits --model basic, .*, not --model residual, .* as x.json beside it says"),
        ({"model": "unet"}, r"x.json does not describe weights \(ValueError\('model unet'\)\)"),
        ({"img_size": "big"}, "x.json does not describe weights"),
        ({"hparams": 3}, "x.json does not describe weights"),
        ({"pads": "1234"}, r"does not describe weights \(ValueError\('pads 1234'\)\)"),
        ({"detector": "eyes"}, "does not describe weights"),
        ({"sync_offset_ms": None}, "does not describe weights"),
        ({"sync_offset_ms": float("nan")}, "does not describe weights"),
        ({"width": 4}, "far fewer weights than --model basic, img_size 96, width 4"),
    ],
)
def test_json_that_contradicts_the_weights_is_refused(saved, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_generator(copied(saved, tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": "basic", "width": 1}', "[" * 100_000])
def test_invalid_json_is_refused(saved, tmp_path, text):
    path = copied(saved, tmp_path)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x.json does not describe weights"):
        load_generator(path)


def test_unreadable_files_are_refused_in_one_line(saved, tmp_path):
    def refusal(name, content=None):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError) as refused:
            load_generator(path)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert "no such file" in refusal("missing.weights.h5")
    (tmp_path / "folder.weights.h5").mkdir()
    assert "is a folder" in refusal("folder.weights.h5")
    assert "is no HDF5 file (0 bytes)" in refusal("empty.weights.h5", b"")
    assert "is no HDF5 file" in refusal("text.h5", b"not weights at all")
    whole = saved.read_bytes()
    assert "cannot be read whole" in refusal("cut.weights.h5", whole[: len(whole) // 2])
    assert "cannot be read whole" in refusal("cut.h5", whole[: len(whole) // 2])
    assert "rename it to renamed.weights.h5" in refusal("renamed.h5", whole)


def test_arrays_of_an_unknown_network_are_refused(tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(UserError, match=r"fits none of the networks here \(residual, basic, warp, discriminator\)"):
        load_generator(tmp_path / "other.weights.h5")


def test_external_link_is_not_followed(saved, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = [b"layers"]
        file["layers"] = h5py.ExternalLink(str(saved), "layers")
    with pytest.raises(UserError, match="cannot be read whole"):
        load_generator(tmp_path / "x.h5")


def test_failed_saving_leaves_no_files(generator, tmp_path):
    with pytest.raises(UserError, match=r"must end in .weights.h5"):
        save_generator(tmp_path / "x.h5", generator, INFO)
    with pytest.raises(ValueError, match="width"):
        save_generator(tmp_path / "x.weights.h5", generator, {"width": 1.0})
    with pytest.raises(TypeError):
        save_generator(tmp_path / "x.weights.h5", generator, {**INFO, "step": object()})
    assert list(tmp_path.iterdir()) == []


# Legacy files, made by Keras 2 from the reference's tables of layers


@pytest.fixture(scope="module")
def tf_keras():
    return pytest.importorskip("tf_keras", reason="tf_keras (requirements-dev.txt) writes the legacy files")


@pytest.fixture(scope="module", params=[pytest.param("residual", marks=pytest.mark.slow), "basic", "discriminator"])
def legacy(request, tf_keras, tmp_path_factory):
    """(kind, {what is saved: file}, the legacy network's output)."""
    folder = tmp_path_factory.mktemp("legacy")
    kind = request.param
    if kind == "discriminator":
        model = shaken(legacy_discriminator(tf_keras, WIDTH))
    else:
        model = shaken(legacy_generator(tf_keras, kind, WIDTH))
    files = {"weights": folder / "weights.h5", "model": folder / "model.h5"}
    model.save_weights(str(files["weights"]))
    model.compile("adam", "mae")
    with pytest.warns(UserWarning, match="HDF5"):
        model.save(str(files["model"]))
    return kind, files, model(inputs(3 if kind == "discriminator" else 6), training=False).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("saved_as", ["weights", "model"])
def test_legacy_weights_give_the_output_of_keras_2(legacy, saved_as):
    kind, files, expected = legacy
    assert expected.std() > 1e-3
    model, info = (load_discriminator if kind == "discriminator" else load_generator)(files[saved_as])
    assert (info["model"], info["img_size"], info["width"]) == (kind, 96, WIDTH)
    assert (info["format"], info["differences"]) == ("legacy", [])
    np.testing.assert_allclose(output(model, 3 if kind == "discriminator" else 6), expected, atol=1e-4)


def test_keras_load_weights_accepts_legacy_files(legacy):
    kind, files, expected = legacy
    model = build_discriminator(96, WIDTH) if kind == "discriminator" else build_generator(kind, 96, WIDTH)
    model.load_weights(files["weights"])
    np.testing.assert_allclose(output(model, 3 if kind == "discriminator" else 6), expected, atol=1e-4)


def test_legacy_file_is_recognised_by_content(legacy, tmp_path):
    kind, files, expected = legacy
    path = tmp_path / "legacy.weights.h5"
    path.write_bytes(files["weights"].read_bytes())
    model, _ = (load_discriminator if kind == "discriminator" else load_generator)(path)
    np.testing.assert_allclose(output(model, 3 if kind == "discriminator" else 6), expected, atol=1e-4)


def test_legacy_scalar_gain_is_loaded(legacy, tmp_path):
    kind, files, expected = legacy
    if kind != "discriminator":
        pytest.skip("only the discriminator has gains")
    path = tmp_path / "x.h5"
    path.write_bytes(files["weights"].read_bytes())
    with h5py.File(path, "r+") as file:
        gains = []
        file.visititems(lambda name, item: gains.append(name) if getattr(item, "shape", None) == (1,) else None)
        assert len(gains) == 22
        for name in gains:
            value = file[name][0]
            del file[name]
            file[name] = value
    np.testing.assert_allclose(output(load_discriminator(path)[0], 3), expected, atol=1e-4)


@pytest.mark.slow
def test_legacy_file_of_another_network_is_refused_with_its_architecture(legacy):
    kind, files, _ = legacy
    if kind == "discriminator":
        with pytest.raises(UserError, match=r"fits the discriminator, img_size 96, width 0.125, not a generator"):
            load_generator(files["model"])
        return
    other = "basic" if kind == "residual" else "residual"
    with pytest.raises(UserError, match=rf"fits --model {kind}, img_size 96, width 0.125, not --model {other}; "):
        load_generator(files["model"], kind=other)
    with pytest.raises(UserError, match=r"not --img_size 128 --width 0.5; "):
        load_generator(files["weights"], img_size=128, width=0.5)


# What a damaged file claims


def with_names(path, names):
    """A legacy file without arrays, whose list of layers holds these names, as strings of variable length."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = names
    return path


@pytest.mark.parametrize("number", [0, 1])
def test_name_of_gigabytes_is_refused_without_allocating_it(tmp_path, number):
    path = with_names(tmp_path / "x.h5", [b"first", b"second"])
    data = bytearray(path.read_bytes())
    at = data.index(len([b"first", b"second"][number]).to_bytes(4, "little"), data.index(b"layer_names") + 40)
    data[at : at + 4] = (2**31 + 5).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot be read whole \(a string of 2,147,483,653 bytes in its attribute"):
        load_generator(path)


@pytest.mark.parametrize("size", [0, 8])
def test_a_heap_with_an_object_of_no_size_is_refused(tmp_path, size):
    path = with_names(tmp_path / "x.h5", [b"first", b"second"])
    data = bytearray(path.read_bytes())
    at = data.index(b"first", data.index(b"GCOL")) + 8  # behind the string that is stored last: what is free
    assert data[at : at + 2] == b"\0\0"
    data[at + 8 : at + 16] = size.to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match="an object of no size in its global heap"):
        load_generator(path)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_lengths_of_names_are_read_in_every_version_of_the_format(tmp_path, libver):
    for names in ([b"one", b"three"], np.array([b"one", b"three"])):  # of variable length, and of a fixed one
        with h5py.File(tmp_path / "x.h5", "w", libver=libver) as file:
            file.attrs["layer_names"] = names
            file.attrs["weight_names"] = "four"
        check_attributes(tmp_path / "x.h5", ["layer_names", "weight_names"])
        with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="a string of 4 bytes"):
            patch.setattr(hdf5_claims, "LONGEST_TEXT", 3)
            check_attributes(tmp_path / "x.h5", ["weight_names"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hdf5_claims, "LONGEST_TEXT", 4)
            refused = pytest.raises(ValueError, match="5 bytes in its attribute layer_names")
            with refused if isinstance(names, list) else contextlib.nullcontext():
                check_attributes(tmp_path / "x.h5", ["layer_names"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (2**14, 2**14), "dtype": "float32"}, "is empty"),  # HDF5 keeps no array that nothing was written to
        ({"data": np.zeros(3, "S9")}, "no numbers"),
        ({"shape": (4,), "chunks": (2**28,), "maxshape": (None,), "dtype": "float32"}, "comes in pieces of"),
    ],
)
def test_arrays_that_claim_more_than_the_file_holds_are_refused(saved, tmp_path, settings, message):
    path = copied(saved, tmp_path)
    with h5py.File(path, "r+") as file:
        file["layers"].create_dataset("other", **settings)
    with pytest.raises(UserError, match=f"cannot be read whole .*{message}"):
        load_generator(path)
