"""Imports without optional packages."""

import os
import pathlib
import subprocess
import sys

import pytest

from lipgan.models.backend import has_gpu, is_installed
from lipgan.utils.imports import hidden

ROOT = pathlib.Path(__file__).parents[2]
WAYS = {
    "openvino": "from lipgan.utils.imports import import_openvino; import_openvino()",
    "keras": "from lipgan.models.backend import import_keras; import_keras()",
}


@pytest.mark.parametrize("way", WAYS)
def test_openvino_is_imported_without_its_telemetry(way):
    code = f"{WAYS[way]}; import sys; print('openvino' in sys.modules, 'openvino_telemetry' in sys.modules)"
    command, environment = [sys.executable, "-c", code], {**os.environ, "KERAS_BACKEND": "openvino"}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.split()[-2:] == ["True", "False"]


def test_hidden_module_is_missing_only_in_the_block():
    sys.modules.pop("colorsys", None)
    with hidden({"colorsys": None}), pytest.raises(ImportError):
        import colorsys
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(has_gpu() or not is_installed("tensorflow"), reason="TensorFlow without a GPU complains about CUDA")
def test_tensorflow_without_a_gpu_prints_no_cuda_errors():
    code = (
        "from lipgan.models import backend; backend.set_backend('tensorflow', 'tensorflow'); backend.import_keras(); "
    )
    code += "import tensorflow; print(tensorflow.config.list_physical_devices('GPU'))"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL")
    }
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")
