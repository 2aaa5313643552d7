"""Training on several devices: here on CPUs that were divided into two, and on toy networks."""

import importlib.util

import h5py
import keras
import numpy as np
import pytest
import toys

from dataset import FaceDataset
from devices import check_batch_size
from errors import UserError
from run_folder import STATE_NAME

BACKENDS = [
    name if importlib.util.find_spec(name) else pytest.param(name, marks=pytest.mark.skip(f"{name} is not installed"))
    for name in ("tensorflow", "jax")
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toys.write_data(tmp_path_factory.mktemp("toy_data"))


def run(script, runs, backend):
    """Run a script on two simulated devices, once for each list of options, in one process. Returns what it wrote."""
    line = [word for options in runs for word in ("+", *options)][1:]
    process = toys.start(script, *line, backend=backend, simulated_devices=2)
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out


def arrays(path):
    """All arrays of an HDF5 file by name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[...]}) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_devices_train_as_one_does_and_go_on_from_each_other_s_states(data, tmp_path, backend):
    line = toys.options_for(data, tmp_path / "one", "--mouth_weight", 0.5, "--steps_per_epoch", 2)
    parts = [*line, "--logdir", tmp_path / "parts"]
    resumed = [*parts, "--resume", tmp_path / "parts" / STATE_NAME]
    out = run(
        "train",
        [
            [*line, "--steps", 6],
            [*parts, "--steps", 2, "--n_gpu", 2],
            [*resumed, "--steps", 4],
            [*resumed, "--steps", 6, "--n_gpu", 2],
        ],
        backend,
    )
    assert f"{backend} on 1 of 2 CPUs, float32" in out and f"{backend} on 2 CPUs, float32" in out
    for ours, theirs in zip(toys.stats(tmp_path / "parts"), toys.stats(tmp_path / "one"), strict=True):
        assert ours.keys() == theirs.keys() and {"mae", "mouth_mae", "disc_wrong", "val_auc"} <= ours.keys()
        for key in ours.keys() - {"epoch_s"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-6), key
    for file in (STATE_NAME, "lipgan.weights.h5"):
        found, expected = (arrays(tmp_path / name / file) for name in ("parts", "one"))
        assert found.keys() == expected.keys()
        for key, value in found.items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-3, atol=1e-5, err_msg=key)


def test_more_devices_than_there_are_and_unequal_parts_are_refused_in_one_line(data, tmp_path, capsys):
    import train_unet

    found = keras.backend.backend()
    for options, message in (
        (("--n_gpu", 2), f"--n_gpu 2: no GPU is found by {found}; look at nvidia-smi"),
        (("--num_processes", 2), "--coordinator, --num_processes and --process_id go together"),
    ):
        assert train_unet.main(toys.options_for(data, tmp_path / "run", *options)) == 1
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(UserError, match="--batch_size 9 cannot be divided among 2 devices; give 8 or 10"):
        check_batch_size(9, 2)


@pytest.mark.parametrize("augment", [False, True])
def test_rows_of_a_batch_read_alone_are_those_of_the_whole(data, augment):
    dataset = FaceDataset(sorted(data.glob("main/speaker/*")), augment=augment)
    whole = dataset.batch((1, 2, 3), 6)
    parts = [dataset.batch((1, 2, 3), 6, slice(first, first + 3)) for first in (0, 3)]
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))
