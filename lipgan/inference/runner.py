"""GeneratorRunner: a generator compiled for this machine, called in one way by inference, validation and evaluation.

Keras is imported inside the functions: `load_runner` chooses the backend first.
"""

import functools
import hashlib
import os
import pathlib
import queue
import threading

import numpy as np

from lipgan.inference.options import SHIPPED_CHECKPOINT
from lipgan.models.backend import has_gpu, import_keras, is_installed, set_backend
from lipgan.models.metadata import check_kind, description
from lipgan.utils.cli import UserError, warn
from lipgan.utils.cpus import available_cpus
from lipgan.utils.imports import import_openvino

BFLOAT16_KINDS = ("residual",)  # whose results, with trained weights, bfloat16 changes by 4 grey levels at most
CPU_BATCH, GPU_BATCH = 8, 64
GPU_BACKENDS = ("tensorflow", "jax", "openvino")  # the first that is installed; openvino always is


class GeneratorRunner:
    """Runs a generator on batches of one size; a still image is encoded once. For one clip at a time.

    img_size: side S of the faces. batch_size: B. audio_kind: the features it hears, of `audio_features.KINDS`.
    needs_lips: whether `predict` uses lips. concurrency: threads that may call `predict` at a time. info: the
    checkpoint's description. name: what results say of it in their metadata.
    """

    def __init__(self, generator, batch_size=CPU_BATCH, precision="float32", info=None, name="a generator"):
        """Wrap a keras.Model of `generator.build_generator`. precision: float32 or bfloat16, on OpenVINO only.

        Its channels-first form generates the lower half and two rows more, which is what is pasted; above that the
        faces returned are the pose.
        """
        import keras

        self.img_size, self.batch_size, self.info, self.name = generator.input_shape[0][2], batch_size, info or {}, name
        names = [tensor.name for tensor in generator.inputs]
        self.needs_lips = "reference_lips" in names
        self.audio_kind = "speech" if "speech" in names else "mel"
        self._lower_half_only = generator.input_shape[0][1] != self.img_size
        self._generator, self._precision = generator, precision
        # Two calls at a time, each with half of the cores, get more done than one with all; a batch size of 1 is for
        # those who wait for every frame.
        self.concurrency = 2 if batch_size > 1 and keras.backend.backend() == "openvino" else 1
        self._lock, self._face_codes, self._still = threading.Lock(), None, False

    def reset(self, still=False):
        """Start a clip. still: all of its faces are the same one, which is encoded once: half of residual's work."""
        self._face_codes, self._still = None, still
        _ = self._networks  # compiled here, not in the first batch
        return self

    def predict(self, faces, audio, lips=None, rest_lips=None):
        """Generate faces: (N, S, S, 3) float32 in [0, 1].

        faces: (N, S, S, 6) float32 of `crop.generator_input`. audio: (N, ...) windows of `AudioFeatures`. lips:
        (N, 40) float32, x and y of the 20 lip landmarks of the references in parts of S, and rest_lips: the same of
        their faces at rest; only where `needs_lips`.
        """
        return self._predict(faces, audio, lips, rest_lips)[0]

    def predict_mouths(self, faces, audio, lips, rest_lips):
        """Generate what `render.MouthMaps` holds: lips (N, 40), correction and overlay. Only where `needs_lips`.

        Arguments as of `predict`.
        """
        return self._predict(faces, audio, lips, rest_lips)[1:]

    def _predict(self, *inputs):
        """The outputs of the network, a list of arrays (N, ...), for any number of inputs N."""
        faces, _, lips, rest_lips = inputs
        if self.needs_lips and (lips is None or rest_lips is None):
            raise ValueError("this generator needs the lips of the references, and those at rest")
        inputs = inputs if self.needs_lips else inputs[:2]
        results = []
        for start in range(0, len(faces), self.batch_size):
            batch = [values[start : start + self.batch_size] for values in inputs]
            count = len(batch[0])
            if count < self.batch_size:
                batch = [np.concatenate([v, np.repeat(v[-1:], self.batch_size - count, axis=0)]) for v in batch]
            results.append([values[:count] for values in self._predict_batch(*batch)])
        return results[0] if len(results) == 1 else [np.concatenate(parts) for parts in zip(*results, strict=True)]

    def _predict_batch(self, *inputs):
        if not self._lower_half_only:
            return self._decode(*inputs)
        faces = inputs[0]
        (lower,) = self._decode(*(np.ascontiguousarray(np.moveaxis(x, -1, 1)) for x in inputs))
        results = faces[..., 3:].copy()
        results[:, -lower.shape[2] :] = np.moveaxis(lower, 1, -1)
        return [results]

    def _decode(self, faces, audio, *lips):
        encode, decode = self._networks
        if encode is None:
            return decode([faces, audio, *lips])
        return decode([*self._encode_face(faces), audio])

    def _encode_face(self, faces):
        """Return what the network computes from the still image alone, repeated over the batch."""
        with self._lock:
            if self._face_codes is None:
                codes = self._networks[0]([faces[:1]])
                self._face_codes = [np.repeat(code, self.batch_size, axis=0) for code in codes]
            return self._face_codes

    @property
    def _networks(self):
        # The flagship's renderer sees face and lips together from its first layer on: nothing is known beforehand.
        return self._still_networks if self._still and not self.needs_lips else self._video_networks

    @functools.cached_property
    def _video_networks(self):
        from lipgan.models.warp import with_maps

        network = with_maps(self._generator) if self.needs_lips else self._generator
        return None, _compile(network, self.batch_size, self.concurrency, self._precision)

    @functools.cached_property
    def _still_networks(self):
        encode, decode = _split(self._generator)
        return (
            _compile(encode, 1, 1, self._precision),
            _compile(decode, self.batch_size, self.concurrency, self._precision),
        )


def _split(generator):
    """Split a generator into two keras.Models: face -> codes of the face alone; [codes, audio] -> face."""
    import keras

    face, audio = generator.inputs
    from_audio, codes = {id(audio)}, []  # tensors that depend on the audio; those that meet it and do not
    for step in generator.operations:  # layers and bare operations, from the inputs to the output
        inputs = [] if isinstance(step, keras.layers.InputLayer) else keras.tree.flatten(step.input)
        if any(id(tensor) in from_audio for tensor in inputs):
            codes += [t for t in inputs if id(t) not in from_audio and all(t is not code for code in codes)]
            from_audio.update(id(tensor) for tensor in keras.tree.flatten(step.output))
    return keras.Model(face, codes), keras.Model([*codes, audio], generator.output)


def _compile(model, batch_size, concurrency, precision):
    """Return a function from the model's inputs, a list of arrays, to the list of its outputs."""
    import keras

    if keras.backend.backend() != "openvino":

        def predict(inputs):
            outputs = model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
            return [np.asarray(x, np.float32) for x in keras.tree.flatten(outputs)]

        return predict
    # As Model.predict does, but for one batch size, in two streams where two threads call: a third less CPU time, as no
    # core waits for another at the end of every layer.
    ov = import_openvino()
    import openvino.opset13 as ops

    parameters = [ops.parameter([batch_size, *x.shape[1:]], np.float32) for x in model.inputs]
    tensors = [keras.ops.convert_to_tensor(p.output(0)) for p in parameters]
    outputs = keras.tree.flatten(model(tensors if len(tensors) > 1 else tensors[0]))
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"}
    settings |= {"PERFORMANCE_HINT": "THROUGHPUT" if concurrency > 1 else "LATENCY"}
    settings |= {"PERFORMANCE_HINT_NUM_REQUESTS": str(concurrency)}
    if available_cpus() < (os.cpu_count() or 1):  # a container's limit, which OpenVINO does not see
        settings |= {"INFERENCE_NUM_THREADS": str(available_cpus())}
    compiled = ov.compile_model(ov.Model([x.output for x in outputs], parameters), "CPU", settings)
    idle = queue.SimpleQueue()
    for _ in range(concurrency):
        idle.put(compiled.create_infer_request())

    def run(inputs):
        request = idle.get()
        try:
            results = request.infer(inputs, share_inputs=True)
            return [results[n] for n in range(len(outputs))]
        finally:
            idle.put(request)

    return run


# Loading --------------------------------------------------------------------------------------------------------------


def load_runner(checkpoint=None, model=None, batch_size=None, precision="auto", backend=None) -> GeneratorRunner:
    """Load a generator for `lipgan.lipsync`; the same arguments give the same runner, without loading it again.

    checkpoint: X.weights.h5 or a legacy .h5 (default: the shipped weights). model: the kind it must be (default: as the
    file says). batch_size: faces at a time (default: 8, on a GPU 64). precision: auto, float32 or bfloat16; auto is
    bfloat16 where OpenVINO has it on this CPU and the generator is known to bear it. backend: what Keras runs on
    (default: KERAS_BACKEND if set; else tensorflow, jax or openvino with a GPU, the first that is installed, and
    openvino without); once Keras is imported, that one.
    Raises UserError.
    """
    path = SHIPPED_CHECKPOINT if checkpoint is None else pathlib.Path(checkpoint)
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the path of a checkpoint")
    check_kind(path, description(path), model)
    gpu = has_gpu()
    backend = set_backend(backend, default=GPU_BACKENDS if gpu else "openvino")  # the fastest on this machine
    batch_size = batch_size or (GPU_BATCH if gpu and backend != "openvino" else CPU_BATCH)
    state = path.stat()
    return _load(path.absolute(), (state.st_mtime_ns, state.st_size), model, batch_size, precision)


@functools.lru_cache(maxsize=4)
def _load(path, state, kind, batch_size, precision):
    import_keras()
    import keras

    from lipgan.models import checkpoint

    _warn_of_idle_gpu()
    if keras.backend.backend() == "openvino":
        # Channels first: else Keras turns every map round before and after every convolution.
        generator, info = checkpoint.load_generator(path, kind, lower_half_nchw=True)
        precision = _openvino_precision(precision, info["model"])
    else:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
        try:
            generator, info = checkpoint.load_generator(path, kind)
        finally:
            keras.config.set_dtype_policy(before)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return GeneratorRunner(generator, batch_size, precision, info, f"{path.name} ({digest[:12]})")


def _openvino_precision(precision, kind):
    """Return float32 or bfloat16 for a kind of generator; a line on stderr says where bfloat16 cannot be had."""
    ov = import_openvino()
    has_bfloat16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bfloat16" and not has_bfloat16:
        warn("--precision bfloat16: this CPU has no bfloat16 arithmetic; float32 is used")
    wanted = precision == "bfloat16" or (precision == "auto" and kind in BFLOAT16_KINDS)
    return "bfloat16" if wanted and has_bfloat16 else "float32"


def _warn_of_idle_gpu():
    """Warn where the GPU of this machine is not used: TensorFlow's plain package has no CUDA, or there is none."""
    import keras

    if has_gpu() and not any(map(is_installed, GPU_BACKENDS[:-1])):
        warn('the GPU is not used: no framework for it is installed; pip install "tensorflow[and-cuda]"')
    if not has_gpu() or keras.backend.backend() != "tensorflow":
        return
    if not any("gpu" in name for name in keras.distribution.list_devices()):
        warn('warning: TensorFlow finds no GPU; pip install "tensorflow[and-cuda]", or --backend openvino for the CPU')
