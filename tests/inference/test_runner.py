"""inference.py: a generator made ready gives the lower halves that it gives in training."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
SPEAK = """
import sys, pathlib, numpy as np
import options
options.set_backend("openvino", "openvino")
options.import_keras()
from inference import load_speaker
folder = pathlib.Path(sys.argv[1])
inputs = np.load(folder / "inputs.npz")
for still in (False, True):
    speaker, info, told = load_speaker(folder / "w.weights.h5", None, still, batch_size=2, precision="float32")
    np.save(folder / f"{still}.npy", speaker(*inputs.values()))
"""


@pytest.mark.parametrize("kind", ["residual", "basic", "warp", "warp_tdnn"])
def test_openvino_gives_the_lower_halves_that_the_training_backend_gives(tmp_path, kind):
    import keras  # loaded for this test only

    from generator import build_generator
    from lipgan.models.checkpoint import save_generator
    from lipgan.models.warp import has_lips, informed

    keras.utils.set_random_seed(0)
    model, rng = build_generator(kind, width=1 / 16), np.random.default_rng(0)
    for weights in model.weights:  # what channels differ by must not be the same for all
        if weights.path.endswith(("gamma", "moving_variance")):
            weights.assign(rng.uniform(0.5, 1.5, weights.shape))
        elif weights.path.endswith(("beta", "bias", "moving_mean")):
            weights.assign(rng.uniform(-0.3, 0.3, weights.shape))
    save_generator(tmp_path / "w.weights.h5", model, {"width": 1 / 16})
    face = rng.random((1, 96, 96, 6), dtype="float32")
    faces, mels = np.repeat(face, 2, axis=0), rng.uniform(-4, 4, (2, 80, 27, 1)).astype("float32")
    inputs = [faces, mels]
    if has_lips(model):
        inputs.append(np.tile(rng.uniform(0.6, 0.9, 40).astype("float32"), (2, 1)))
        model = informed(model)
    np.savez(tmp_path / "inputs.npz", *inputs)
    subprocess.run([sys.executable, "-c", SPEAK, str(tmp_path)], cwd=ROOT, env=os.environ, timeout=100, check=True)
    expected = model.predict_on_batch(inputs)
    assert np.ptp(expected[:, 48:]) > 0.1  # there is something to be got wrong
    for still in (False, True):
        made = np.load(tmp_path / f"{still}.npy")
        np.testing.assert_allclose(made[:, 46:], expected[:, 46:], atol=2e-5, err_msg=f"still {still}")
        above = expected if kind.startswith("warp") else faces[..., 3:]
        np.testing.assert_allclose(made[:, :46], above[:, :46], atol=2e-5)
