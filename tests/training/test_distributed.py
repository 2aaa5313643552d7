"""Training on several devices and in several processes, simulated on the CPU with toy networks."""

import importlib.util
import signal
import socket

import keras
import numpy as np
import pytest
from helpers import toys

from lipgan.data.dataset import FaceDataset
from lipgan.training.config import STATE_NAME, read_state
from lipgan.training.distributed import check_batch_size
from lipgan.utils.cli import UserError

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
BACKENDS = [
    name if importlib.util.find_spec(name) else pytest.param(name, marks=pytest.mark.skip(f"{name} is not installed"))
    for name in ("tensorflow", "jax")
]
LOSSES = ("--mouth_weight", 0.5, "--steps_per_epoch", 3)
WARP = ("--model", "warp", "--audio_steps", 2, "--ema", 0.9, "--steps", 3, "--steps_per_epoch", 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = toys.write_data(tmp_path_factory.mktemp("toy_data"))
    toys.write_expert(root)
    return root


def run(script, runs, backend):
    """Run a script on two simulated devices, once per list of options, in one process. Returns its stdout."""
    line = [word for options in runs for word in ("+", *options)][1:]
    process = toys.start(script, *line, backend=backend, simulated_devices=2)
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def on_one(data, tmp_path_factory):
    """A function that returns a backend's run on one device; parts/ beside it ran on two devices, one and two."""
    kept = {}

    def folder_of(backend):
        if backend not in kept:
            kept[backend] = tmp_path_factory.mktemp(backend)
            line = toys.options_for(data, kept[backend] / "one", *LOSSES)
            parts = [*line, "--logdir", kept[backend] / "parts"]
            resumed = [*parts, "--resume", kept[backend] / "parts" / STATE_NAME]
            one, two = ("--n_gpu", 1), ("--n_gpu", 2)
            runs = [[*line, "--steps", 9, *one], [*parts, "--steps", 3, *two]]
            runs += [[*resumed, "--steps", 6, *one], [*resumed, "--steps", 9, *two]]
            out = run("train", runs, backend)
            assert f"{backend} on 1 of 2 CPUs, float32" in out and f"{backend} on 2 CPUs, float32" in out
        return kept[backend] / "one"

    return folder_of


def assert_same_losses(found, expected, names=frozenset({"mae", "mouth_mae", "disc_wrong", "val_auc"})):
    """Compare every number of two stats.jsonl, `names` among them."""
    for ours, theirs in zip(toys.stats(found), toys.stats(expected), strict=True):
        assert ours.keys() == theirs.keys() and names <= ours.keys()
        for key in ours:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=1e-6), key


def assert_same_arrays(found, expected):
    """Compare all arrays of two HDF5 files."""
    found, expected = toys.arrays(found), toys.arrays(expected)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-3, atol=1e-5, err_msg=key)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_devices_equal_one_and_resume_each_others_states(on_one, backend):
    one = on_one(backend)
    parts = one.with_name("parts")
    assert_same_losses(parts, one)
    for name in (STATE_NAME, "lipgan.weights.h5"):
        assert_same_arrays(parts / name, one / name)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_devices_equal_one_for_the_warp_generator_with_ema(data, tmp_path, backend):
    one, two = tmp_path / "one", tmp_path / "two"
    # In a process of their own: after other networks, TensorFlow takes their sums over devices for its own.
    lines = [toys.options_for(data, folder, *WARP) for folder in (one, two)]
    run("train_unet", [[*line, "--n_gpu", 1 + number] for number, line in enumerate(lines)], backend)
    assert_same_losses(two, one, {"mae", "mouth_l1", "paint", "val_mae"})
    for name in (STATE_NAME, "unet.weights.h5"):
        assert_same_arrays(two / name, one / name)


def free_port():
    """Return an unused port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def run_two(line, process_id, signal_at):
    """Train in two processes, one of which signals itself. Returns (status, stdout, stderr) of each."""
    line = [*line, "--num_processes", 2, "--coordinator", f"127.0.0.1:{free_port()}"]
    processes = []
    for number in range(2):
        signals = {"SIGNAL_AT": signal_at} if number == process_id else {}
        processes.append(toys.start("train", *line, "--process_id", number, backend="jax", **signals))
    try:
        outputs = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, outputs, strict=True)]


def assert_explains_the_end(process_id, err):
    """One line of our own, between what JAX prints."""
    lines = [text for text in err.splitlines() if text.startswith(f"train.py: process {process_id} of 2 failed")]
    assert len(lines) == 1 and "if another process failed first" in lines[0] and "with --resume" in lines[0], err


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_two_processes_equal_one_stop_together_resume_and_end_when_one_is_killed(data, on_one, tmp_path):
    state = tmp_path / "run" / STATE_NAME
    line = toys.options_for(data, tmp_path / "run", *LOSSES, "--steps", 12)
    # The second process is asked to stop after the fourth batch: both stop after the fifth, and the first saves that.
    (status, out, err), (other_status, other_out, _) = run_two(line, 1, "4:SIGTERM")
    assert (status, other_status) == (75, 75), err
    assert f"continue with --resume {state}" in out and "jax on CPU in each of 2 processes" in out
    assert all(text.startswith("[Gloo]") for text in other_out.splitlines())  # nothing of ours
    assert [read_state(state)[name] for name in ("epoch", "batch")] == [1, 2]
    # Resumed, they come to the end of the third epoch as one process does. Then the second one is killed.
    (status, _, err), (other_status, _, _) = run_two([*line, "--resume", state], 1, "5:SIGKILL")
    assert (status, other_status) == (1, -signal.SIGKILL), err
    assert_explains_the_end(0, err)
    assert_same_losses(state.parent, on_one("jax"))
    assert_same_arrays(state, on_one("jax") / STATE_NAME)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
@pytest.mark.parametrize(("event", "status"), [("2:SIGKILL", -signal.SIGKILL), ("2:UserError", 1)])
def test_second_process_ends_when_the_main_process_is_killed_or_fails(data, tmp_path, event, status):
    line = toys.options_for(data, tmp_path / "run", *LOSSES, "--steps", 12)
    (main_status, _, _), (other_status, _, err) = run_two(line, 0, event)
    assert main_status == status, err
    # JAX aborts a process that lost its coordinator, if that does not fail by itself before.
    assert other_status in (1, -signal.SIGABRT), err
    if other_status == 1:
        assert_explains_the_end(1, err)


def test_too_many_devices_and_unequal_parts_are_refused_in_one_line(data, tmp_path, capsys):
    import train_unet

    found = keras.backend.backend()
    for options, message in (
        (("--n_gpu", 2), f"--n_gpu 2: no GPU is found by {found}; look at nvidia-smi"),
        (("--num_processes", 2), "--coordinator, --num_processes and --process_id belong together"),
    ):
        assert train_unet.main(toys.options_for(data, tmp_path / "run", *options)) == 1
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(UserError, match="--batch_size 9 cannot be divided among 2 devices; give 8 or 10"):
        check_batch_size(9, 2)


@pytest.mark.parametrize("augment", [False, True])
def test_rows_of_a_batch_equal_those_of_the_whole_batch(data, augment):
    dataset = FaceDataset(sorted(data.glob("main/speaker/*")), augment=augment)
    whole = dataset.batch((1, 2, 3), 6)
    parts = [dataset.batch((1, 2, 3), 6, slice(first, first + 3)) for first in (0, 3)]
    for name, values in whole.items():
        np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]))
