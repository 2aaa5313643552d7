"""Networks compiled by OpenVINO and kept on disk: a later start builds none, and does not even import Keras.

A file in the `disk_cache` is named after all that decides on its content (weights, code, versions, processor,
settings), so it is never wrong, only missing.
"""

import functools
import hashlib
import json
import os
import pathlib
import queue
import threading

import numpy as np

from audio_hparams import hparams
from lipgan.utils import disk_cache
from lipgan.utils.cpus import available_cpus
from lipgan.utils.files import versions
from lipgan.utils.imports import import_openvino

ROOT = pathlib.Path(__file__).parents[2]
# Whose code decides on the networks. Others, such as this one's own, may change without making files invalid.
CODE = ("generator.py", "lipgan/inference/runner.py", "lipgan/faces/landmarks.py")
CODE += tuple(f"lipgan/models/{name}.py" for name in ("warp", "lip_flow", "speech", "checkpoint"))


def cache_key(**parts) -> str | None:
    """Return the name of what these parts (anything that JSON can hold) decide on, beside code, versions, processor.

    None where the code cannot be read: then nothing is cached.
    """
    common = _common()
    return common and hashlib.sha256(json.dumps([common, parts], sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def _common():
    """Return what all keys depend on, as text; None where it is not known."""
    try:
        code = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in CODE)).hexdigest()
    except OSError:
        return None
    ov = import_openvino()
    processor = [str(ov.Core().get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    installed = versions(("keras", "openvino", "numpy"))
    return json.dumps([code, hparams.as_dict(), ov.__version__, processor, installed], sort_keys=True)


def read_description(key) -> dict | None:
    """Return the dict that was stored by `write_description`, or None."""
    data = disk_cache.read(key, "json")
    return data and json.loads(data)


def write_description(key, description: dict):
    """Store a dict that JSON can hold."""
    disk_cache.write(key, "json", json.dumps(description).encode())


class Network:
    """A function from a network's inputs, a list of arrays, to the list of its outputs.

    compiled: an openvino.CompiledModel. concurrency: threads that may call at a time.
    """

    def __init__(self, compiled, concurrency):
        self._compiled, self._concurrency, self._num_outputs = compiled, concurrency, len(compiled.outputs)
        self._idle, self._releasing = queue.SimpleQueue(), threading.Lock()
        for _ in range(concurrency):
            self._idle.put(compiled.create_infer_request())

    def __call__(self, inputs):
        request = self._idle.get()
        try:
            results = request.infer(inputs, share_inputs=True)
            return [results[n] for n in range(self._num_outputs)]
        finally:
            self._idle.put(request)

    def release_memory(self):
        """Free the memory of what is between inputs and outputs, once no call is running; the next takes it again."""
        with self._releasing:
            requests = [self._idle.get() for _ in range(self._concurrency)]
            self._compiled.release_memory()
            for request in requests:
                self._idle.put(request)


def compile_network(build, precision="float32", concurrency=1, key=None) -> Network:
    """Compile a network for OpenVINO on the CPU, or read it from the cache.

    build: () -> openvino.Model, called only where the compiled network is not in the cache. precision: float32 or
    bfloat16. concurrency: threads that may call at a time. key: of `cache_key`, for the network; None: it is not kept.
    """
    ov = import_openvino()
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"}
    settings |= {"PERFORMANCE_HINT": "THROUGHPUT" if concurrency > 1 else "LATENCY"}
    settings |= {"PERFORMANCE_HINT_NUM_REQUESTS": str(concurrency)}
    if available_cpus() < (os.cpu_count() or 1):  # a container's limit, which OpenVINO does not see
        settings |= {"INFERENCE_NUM_THREADS": str(available_cpus())}
    key = key and cache_key(network=key, settings=settings)
    compiled = _imported(key, settings)
    if compiled is None:
        compiled = ov.compile_model(build(), "CPU", settings)
        if key:
            disk_cache.write(key, "blob", compiled.export_model().getvalue())
    return Network(compiled, concurrency)


def _imported(key, settings):
    """Return the openvino.CompiledModel of a key, or None."""
    data = disk_cache.read(key, "blob")
    if data is None:
        return None
    try:
        return import_openvino().Core().import_model(data, "CPU", settings)
    except RuntimeError:  # OpenVINO refuses it: it is compiled again
        return None


def openvino_model(model, shapes):
    """Return a keras.Model on the backend OpenVINO as an openvino.Model. shapes: of its inputs, -1 where it varies."""
    import keras

    ov = import_openvino()
    import openvino.opset13 as ops

    parameters = [ops.parameter(shape, np.float32) for shape in shapes]
    tensors = [keras.ops.convert_to_tensor(p.output(0)) for p in parameters]
    outputs = keras.tree.flatten(model(tensors if len(tensors) > 1 else tensors[0]))
    return ov.Model([x.output for x in outputs], parameters)
