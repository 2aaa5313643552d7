"""GeneratorRunner: the compiled generator gives the lower halves that the training backend gives."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from lipgan.inference.runner import load_runner
from lipgan.utils.cli import UserError

ROOT = pathlib.Path(__file__).parents[2]
PREDICT = """
import sys, pathlib, numpy as np
import lipgan
folder = pathlib.Path(sys.argv[1])
faces, audio, *lips = np.load(folder / "inputs.npz").values()
runner = lipgan.load_runner(folder / "w.weights.h5", batch_size=2, precision="float32", backend="openvino")
assert lipgan.load_runner(folder / "w.weights.h5", None, 2, "float32") is runner
for still in (False, True):
    np.save(folder / f"{still}.npy", runner.reset(still).predict(faces, audio, *lips))
if runner.needs_lips:
    runner.predict_mouths(faces, audio, *lips, np.ones((len(faces), 1), np.float32))
print("keras" in sys.modules)
"""


def predict(folder):
    """Run PREDICT. Returns whether it imported Keras."""
    command, environment = (
        [sys.executable, "-c", PREDICT, str(folder)],
        {**os.environ, "LIPGAN_CACHE": str(folder / "c")},
    )
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=100, check=True, capture_output=True, text=True)
    return {"True": True, "False": False}[done.stdout.strip()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["residual", "basic", "warp"])
def test_openvino_matches_the_training_backend(tmp_path, kind):
    import keras  # loaded for this test only

    from lipgan.models.checkpoint import build_generator, save_generator

    keras.utils.set_random_seed(0)
    model, rng = build_generator(kind, width=1 / 16), np.random.default_rng(0)
    for weights in model.weights:  # untrained, all channels would have the same scale
        if weights.path.endswith(("gamma", "moving_variance")):
            weights.assign(rng.uniform(0.5, 1.5, weights.shape))
        elif weights.path.endswith(("beta", "bias", "moving_mean")):
            weights.assign(rng.uniform(-0.3, 0.3, weights.shape))
    save_generator(tmp_path / "w.weights.h5", model, {"width": 1 / 16})
    face = rng.random((1, 96, 96, 6), dtype="float32")
    faces, mels = np.repeat(face, 2, axis=0), rng.uniform(-4, 4, (2, 80, 27, 1)).astype("float32")
    inputs = [faces, mels]
    if kind == "warp":
        lips = np.tile(rng.uniform(0.6, 0.9, 40).astype("float32"), (2, 1))
        inputs = [faces, rng.normal(size=(2, 23, 335)).astype("float32"), lips, lips + np.float32(0.01)]
    np.savez(tmp_path / "inputs.npz", *inputs)
    assert predict(tmp_path)
    expected = model.predict_on_batch(inputs)
    assert np.ptp(expected[:, 48:]) > 0.1  # else any result would pass
    for still in (False, True):
        made = np.load(tmp_path / f"{still}.npy")
        # Sampling noise magnifies rounding of the flow: a face has no such edges.
        wrong = np.abs(made[:, 46:] - expected[:, 46:])
        assert wrong.mean() < 1e-4 if kind == "warp" else wrong.max() < 2e-5, f"still {still}"
        above = expected if kind.startswith("warp") else faces[..., 3:]
        np.testing.assert_allclose(made[:, :46], above[:, :46], atol=2e-5)
    first = [np.load(tmp_path / f"{still}.npy") for still in (False, True)]
    assert not predict(tmp_path)  # again, from the compiled networks on disk
    for still, made in zip((False, True), first, strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / f"{still}.npy"), made)


def test_missing_checkpoint_raises_user_error(tmp_path):
    with pytest.raises(UserError, match=r"none\.h5 does not exist"):
        load_runner(tmp_path / "none.h5")


def test_gpu_machine_without_a_framework_uses_openvino(monkeypatch):
    """requirements-inference.txt on a machine with a GPU."""
    from lipgan.inference import runner
    from lipgan.models import backend

    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    for installed, chosen in (("openvino", "openvino"), ("jax openvino", "jax"), ("tensorflow jax", "tensorflow")):
        monkeypatch.setattr(backend, "is_installed", installed.split().__contains__)
        monkeypatch.setenv("KERAS_BACKEND", "")
        assert backend.set_backend(None, runner.GPU_BACKENDS) == chosen
