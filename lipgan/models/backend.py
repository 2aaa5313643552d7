"""The Keras backend: chosen before Keras is imported, and what the hardware supports."""

import importlib.util
import os
import pathlib
import subprocess
import sys
import types

from lipgan.utils.cli import UserError

BACKENDS = ("tensorflow", "jax", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16")  # of inference


def has_gpu():
    """Whether the machine shows an NVIDIA device. Imports nothing."""
    return any(pathlib.Path("/dev").glob("nvidia[0-9]*")) or pathlib.Path("/dev/dxg").exists()


def has_bfloat16(kind="CPU"):
    """Whether a device of this kind multiplies bfloat16 numbers itself: GPUs from Ampere on, CPUs with AVX512-BF16 or
    AMX, all TPUs."""
    if kind == "TPU":
        return True
    if kind == "GPU":
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        try:
            told = subprocess.run(query, capture_output=True, text=True, check=False, timeout=60).stdout.split()
            return float(told[0]) >= 8.0
        except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):
            return False
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def set_backend(wanted, default):
    """Fix Keras' backend before its first import: `wanted`, or KERAS_BACKEND, or `default`. Returns its name.

    In place of TensorFlow as the default, JAX is taken where only that is installed.

    Where Keras is imported already its backend stays, and a line says so.
    """
    if "keras" in sys.modules:
        current = sys.modules["keras"].backend.backend()
        if wanted and wanted != current:
            print(f"warning: Keras already runs on {current}; --backend {wanted} is ignored", file=sys.stderr)
        return current
    if default == "tensorflow" and importlib.util.find_spec("tensorflow") is None and importlib.util.find_spec("jax"):
        default = "jax"
    backend = wanted or os.environ.get("KERAS_BACKEND") or default
    if backend not in BACKENDS or importlib.util.find_spec(backend) is None:
        raise UserError(
            f"--backend {backend} is not installed; pip install {backend}, or choose of {', '.join(BACKENDS)}"
        )
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return backend


def import_keras():
    """Import Keras for inference, the first time without packages that it only draws, wraps and windows with.

    Those (matplotlib, scikit-learn, and on OpenVINO scipy.signal) take four fifths of its start-up: 2.6 of 3.2 s of CPU
    time. Whoever needs them later imports them as ever.
    """
    hidden = {"matplotlib": None, "sklearn": None}  # Keras does without either
    if os.environ.get("KERAS_BACKEND") == "openvino":
        hidden["scipy.signal"] = types.ModuleType("scipy.signal")  # scipy finds the real one when it is asked for
    hidden = {name: module for name, module in hidden.items() if name not in sys.modules and "keras" not in sys.modules}
    sys.modules.update(hidden)
    try:
        import keras  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
