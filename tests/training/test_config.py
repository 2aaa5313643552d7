"""The command line of the training scripts, and the TrainConfig it becomes."""

import dataclasses

import h5py
import numpy as np
import pytest

import train
import train_unet
from lipgan.training.config import (
    RECIPES,
    STATE_ATTRIBUTE,
    STATE_NAME,
    Architecture,
    TrainConfig,
    read_state,
    state_architecture,
)
from lipgan.utils.cli import UserError


def test_defaults_of_the_two_scripts():
    unet, gan = (script.parse_args(["--data_root", "x"]) for script in (train_unet, train))
    assert (unet.lr, unet.checkpoint_name, unet.with_discriminator) == (1e-3, "unet", False)
    assert (gan.lr, gan.checkpoint_name, gan.with_discriminator) == (1e-4, "lipgan", True)


def test_config_is_frozen_and_names_its_architecture():
    config = TrainConfig(with_discriminator=True, data_root="x", model="basic", width=0.5)
    assert config.architecture == Architecture("basic", 96, 0.5, with_discriminator=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 1.0


def test_options_override_the_recipe():
    plain = train.parse_args(["--data_root", "x"]).as_dict()
    config = train.parse_args(["--data_root", "x", "--recipe", "warp", "--width", "0.25", "--no-balance"]).as_dict()
    changed = {name: value for name, value in config.items() if value != plain[name]}
    expected = RECIPES["warp"] | {"recipe": "warp", "width": 0.25}
    del expected["balance"]  # the same as without a recipe
    assert changed == expected


@pytest.mark.parametrize(
    "option",
    ["--width 0", "--lr -1", "--img_size 100", "--mouth_weight -1", "--ema 1", "--workers 0", "--process_id -1"],
)
def test_values_out_of_range_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        train.parse_args(["--data_root", "x", *option.split()])
    assert f"argument {option.split()[0]}: " in capsys.readouterr().err


def test_legacy_option_is_accepted_but_not_in_the_help(capsys):
    assert train.parse_args(["--data_root", "x", "--all_images", "y"]) == train.parse_args(["--data_root", "x"])
    assert "--all_images is ignored" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train.parse_args(["--help"])
    assert "all_images" not in capsys.readouterr().out


def test_only_train_py_has_resume_gen(capsys):
    assert train.parse_args(["--data_root", "x", "--resume_gen", "y"]).resume_gen == "y"
    with pytest.raises(SystemExit):
        train_unet.parse_args(["--data_root", "x", "--resume_gen", "y"])
    assert "--resume_gen" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "text", "list", "fields"])
def test_a_damaged_training_state_is_refused_in_one_line(tmp_path, damage):
    path = tmp_path / STATE_NAME
    with h5py.File(path, "w") as file:
        file.attrs[STATE_ATTRIBUTE] = {"text": "{", "list": "[1]"}.get(damage, '{"batches": 3}')
        file["array"] = np.zeros(100)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UserError, match="cannot be read whole") as refused:
        state_architecture(read_state(path))
    assert "\n" not in str(refused.value)
