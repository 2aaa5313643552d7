"""The Keras backend: chosen before Keras is imported, and what the hardware supports."""

import contextlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import types

from lipgan.utils.cli import UserError
from lipgan.utils.imports import OPENVINO_CONVERTER, hidden

BACKENDS = ("tensorflow", "jax", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16")  # inference precision


def has_gpu():
    """Return whether the system has an NVIDIA device node, without importing anything."""
    return any(pathlib.Path("/dev").glob("nvidia[0-9]*")) or pathlib.Path("/dev/dxg").exists()


def has_bfloat16(kind="CPU"):
    """Return whether a device ("CPU", "GPU" or "TPU") has bfloat16 arithmetic.

    GPUs have it from Ampere on, CPUs with AVX512-BF16 or AMX, TPUs always.
    """
    if kind == "TPU":
        return True
    if kind == "GPU":
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        try:
            capability = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60).stdout
            return float(capability.split()[0]) >= 8.0
        except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):
            return False
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def is_installed(package):
    """Return whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def set_backend(requested, default):
    """Set the Keras backend before Keras is imported: `requested`, KERAS_BACKEND or the default. Returns its name.

    default: the name of a backend, or several of which the first that is installed is used; "tensorflow" alone means
    TensorFlow or else JAX. If Keras is imported already, its backend stays, with a warning. Raises UserError for a
    backend that is not installed.
    """
    if "keras" in sys.modules:
        current = sys.modules["keras"].backend.backend()
        if requested and requested != current:
            print(f"warning: Keras already runs on {current}; --backend {requested} is ignored", file=sys.stderr)
        return current
    candidates = (
        ("tensorflow", "jax") if default == "tensorflow" else (default,) if isinstance(default, str) else default
    )
    default = next(filter(is_installed, candidates), candidates[0])
    backend = requested or os.environ.get("KERAS_BACKEND") or default
    if backend not in BACKENDS or not is_installed(backend):
        raise UserError(
            f"--backend {backend} is not installed; pip install {backend}, or choose one of {', '.join(BACKENDS)}"
        )
    os.environ["KERAS_BACKEND"] = backend
    # Without a GPU even TensorFlow's errors are noise: it looks for CUDA at each start.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2" if has_gpu() else "3")
    return backend


def current_backend():
    """Return the backend that Keras runs on, or will run on once it is imported: what `set_backend` has set."""
    if "keras" in sys.modules or not os.environ.get("KERAS_BACKEND"):
        import keras

        return keras.backend.backend()
    return os.environ["KERAS_BACKEND"]


def import_keras():
    """Import Keras for inference, without the packages it needs only for plots, wrappers, shells and signal windows.

    Those (matplotlib, scikit-learn, IPython and, on OpenVINO, scipy.signal) take four fifths of its start-up: 2.6 of
    3.2 s of CPU time. Code that needs them later imports them as usual.
    """
    without = dict.fromkeys(("matplotlib", "sklearn", "IPython", OPENVINO_CONVERTER))  # optional for Keras
    if os.environ.get("KERAS_BACKEND") == "openvino":
        without["scipy.signal"] = types.ModuleType("scipy.signal")
    is_noisy = os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow" and not has_gpu()
    with (
        hidden({} if "keras" in sys.modules else without),
        discarded_stderr() if is_noisy else contextlib.nullcontext(),
    ):
        import keras  # noqa: F401


@contextlib.contextmanager
def discarded_stderr():
    """Discard what native code prints on stderr in the block; exceptions are raised as usual.

    TensorFlow looks for CUDA when it is imported, and reports before it reads TF_CPP_MIN_LOG_LEVEL that there is none.
    """
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)
