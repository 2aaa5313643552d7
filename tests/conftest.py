"""Fixtures of several test files: the photo, a detector, eager training steps, real clips."""

import os
import pathlib
import tempfile

import cv2
import pytest

from lipgan.faces.detector import FaceDetector

if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes (make test): TensorFlow keeps to one core in each
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "1")

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # Gradio's client reports its use

_cache = tempfile.TemporaryDirectory(prefix="lipgan_tests_", ignore_cleanup_errors=True)  # removed at the end
os.environ["LIPGAN_CACHE"] = _cache.name  # of compiled networks: not the user's

ASTRONAUT = pathlib.Path(__file__).parent.parent / "examples" / "astronaut.jpg"


@pytest.fixture(scope="session")
def astronaut():
    """The example face with its surroundings, (256, 256, 3); the face is about 100 pixels high."""
    return cv2.imread(str(ASTRONAUT))[0:256, 96:352]


@pytest.fixture(scope="session")
def hog():
    return FaceDetector("hog")


@pytest.fixture
def eager_steps():
    """Run functions eagerly on TensorFlow: of a training step, tracing takes as long as ten eager ones."""
    import keras

    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def settled_files(monkeypatch):
    """Take the times of files as reliable at once, instead of two seconds after they were written."""
    from lipgan.data import clip_arrays, index

    for module in (clip_arrays, index):
        monkeypatch.setattr(module, "UNSURE_S", 0.0)


@pytest.fixture(scope="session")
def real_clips():
    """The folder that LIPGAN_DATA names, with grid/main, addresses/main and so on; without it the test is skipped."""
    folder = pathlib.Path(os.environ.get("LIPGAN_DATA", "no folder"))
    if not folder.is_dir():
        pytest.skip("no real clips: set LIPGAN_DATA to their folder")
    return folder
