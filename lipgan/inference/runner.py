"""GeneratorRunner: a generator compiled for this machine, called in one way by inference, validation and evaluation.

Keras is imported inside the functions: `load_runner` chooses the backend first.
"""

import dataclasses
import functools
import hashlib
import pathlib
import threading
from collections.abc import Callable

import numpy as np

from lipgan.inference.options import SHIPPED_CHECKPOINT
from lipgan.models import compiled
from lipgan.models.backend import current_backend, has_gpu, import_keras, is_installed, set_backend
from lipgan.models.metadata import check_kind, description, json_path, warn_of_differences
from lipgan.utils.cli import UserError, warn
from lipgan.utils.imports import import_openvino

BFLOAT16_KINDS = ("residual",)  # whose results, with trained weights, bfloat16 changes by 4 grey levels at most
CPU_BATCH, GPU_BATCH = 8, 64
OPENINGS = 256  # at a time: 10 s
GPU_BACKENDS = ("tensorflow", "jax", "openvino")  # the first that is installed; openvino always is


@dataclasses.dataclass(frozen=True)
class Generator:
    """A generator whose keras.Model is built and loaded only where it is needed: not where its compiled form is kept.

    load: () -> keras.Model of `generator.build_generator`. inputs: {name: shape}, of one sample. key: of
    `compiled.cache_key`; None: its compiled form is not kept.
    """

    load: Callable
    inputs: dict
    key: str | None = None

    @classmethod
    def of(cls, model):
        """Return a Generator of a keras.Model that is loaded."""
        return cls(lambda: model, {tensor.name: tuple(tensor.shape[1:]) for tensor in model.inputs})


class GeneratorRunner:
    """Runs a generator on batches of one size; a still image is encoded once. For one clip at a time.

    img_size: side S of the faces. batch_size: B. audio_kind: the features it hears, of `audio_features.KINDS`.
    needs_lips: whether `predict` uses lips. concurrency: threads that may call `predict` at a time. info: the
    checkpoint's description. name: what results say of it in their metadata.
    """

    def __init__(self, generator, batch_size=CPU_BATCH, precision="float32", info=None, name="a generator"):
        """Wrap a keras.Model of `generator.build_generator`, or a Generator. precision: bfloat16 on OpenVINO only.

        Its channels-first form generates the lower half and two rows more, which is what is pasted; above that the
        faces returned are the pose.
        """
        self._generator = generator if isinstance(generator, Generator) else Generator.of(generator)
        inputs = self._generator.inputs
        face = inputs["face"]
        self.img_size, self.batch_size, self.info, self.name = face[1], batch_size, info or {}, name
        self.needs_lips = "reference_lips" in inputs
        self.audio_kind = "speech" if "speech" in inputs else "mel"
        self._lower_half_only = face[0] != self.img_size
        self._precision, self._on_openvino = precision, current_backend() == "openvino"
        # Two calls at a time, each with half of the cores, get more done than one with all; a batch size of 1 is for
        # those who wait for every frame.
        self.concurrency = 2 if batch_size > 1 and self._on_openvino else 1
        self._lock, self._face_codes, self._still = threading.Lock(), None, False

    def reset(self, still=False):
        """Start a clip. still: all of its faces are the same one, which is encoded once: half of residual's work."""
        self._face_codes, self._still = None, still
        _ = self._mouths if self.needs_lips else self._networks  # compiled here, not in the first batch
        return self

    def predict(self, faces, audio, lips=None, rest_lips=None):
        """Generate faces: (N, S, S, 3) float32 in [0, 1].

        faces: (N, S, S, 6) float32 of `crop.generator_input`. audio: (N, ...) windows of `AudioFeatures`. lips:
        (N, 40) float32, x and y of the 20 lip landmarks of the references in parts of S, and rest_lips: the same of
        their faces at rest; only where `needs_lips`.
        """
        if not self.needs_lips:
            return self._in_batches(self._predict_batch, faces, audio)[0]
        if lips is None or rest_lips is None:
            raise ValueError("this generator needs the lips of the references, and those at rest")
        return self._in_batches(self._predict_batch, faces, audio, lips, rest_lips)[0]

    def predict_mouths(self, faces, audio, lips, rest_lips, motion_gains):
        """Generate what `render.MouthMaps` holds: lips (N, 40) and correction. Only where `needs_lips`.

        motion_gains: (N, 1) float32, of `articulation.motion_gain`. The other arguments as of `predict`.
        """
        return self._in_batches(self._mouths, faces, audio, lips, rest_lips, motion_gains)

    def member_openings(self, features):
        """Return how far each member of the flagship opens the mouth in speech, 25 times a second: (N, M) float32.

        features: (T, 335) float32 of `models.speech`.
        """
        from lipgan.models import speech

        count = -(-len(features) // 2)
        padded = np.tile(speech.silence(), (2 * (-(-count // OPENINGS) * OPENINGS) + speech.WINDOW - 2, 1))
        padded[speech.WINDOW // 2 :][: len(features)] = features
        chunk = speech.WINDOW + 2 * (OPENINGS - 1)
        starts = range(0, 2 * count, 2 * OPENINGS)
        return np.concatenate([self._openings([padded[None, s : s + chunk]])[0][0] for s in starts])[:count]

    def _in_batches(self, network, *inputs):
        """Return the outputs of a network, a list of arrays (N, ...), for any number of inputs N."""
        results = []
        for start in range(0, len(inputs[0]), self.batch_size):
            batch = [values[start : start + self.batch_size] for values in inputs]
            count = len(batch[0])
            if count < self.batch_size:
                batch = [np.concatenate([v, np.repeat(v[-1:], self.batch_size - count, axis=0)]) for v in batch]
            results.append([values[:count] for values in network(batch)])
        return results[0] if len(results) == 1 else [np.concatenate(parts) for parts in zip(*results, strict=True)]

    def _predict_batch(self, inputs):
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
        return None, self._compile("whole", self._generator.load, self.batch_size, self.concurrency)

    @functools.cached_property
    def _mouths(self):
        def build():
            import keras

            from lipgan.models.warp import with_maps

            network = with_maps(self._generator.load())
            return keras.Model(network.inputs, network.outputs[1:])  # without the face, which is not used

        return self._compile("mouths", build, self.batch_size, self.concurrency)

    @functools.cached_property
    def _openings(self):
        def build():
            from lipgan.models.warp import member_openings

            return member_openings(self._generator.load(), OPENINGS)

        return self._compile("openings", build, 1, 1)

    @functools.cached_property
    def _still_networks(self):
        halves = functools.cache(lambda: _split(self._generator.load()))
        return (
            self._compile("face", lambda: halves()[0], 1, 1),
            self._compile("rest", lambda: halves()[1], self.batch_size, self.concurrency),
        )

    def _compile(self, part, build, batch_size, concurrency):
        """Return a function from the inputs of a part of the generator, a list of arrays, to the list of its outputs.

        build: () -> keras.Model.
        """
        if not self._on_openvino:
            return _predict_function(build())

        # As Model.predict does, but for one batch size, in two streams where two threads call: a third less CPU time,
        # as no core waits for another at the end of every layer.
        def build_openvino():
            model = build()
            return compiled.openvino_model(model, [[batch_size, *x.shape[1:]] for x in model.inputs])

        key = self._generator.key
        key = key and compiled.cache_key(generator=key, part=part, batch_size=batch_size)
        return compiled.compile_network(build_openvino, self._precision, concurrency, key)


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


def _predict_function(model):
    """Return a function from a keras.Model's inputs, a list of arrays, to the list of its outputs."""
    import keras

    def predict(inputs):
        outputs = model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
        return [np.asarray(x, np.float32) for x in keras.tree.flatten(outputs)]

    return predict


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
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = f"{path.name} ({digest[:12]})"
    if current_backend() == "openvino":
        generator, info = _openvino_generator(path, kind, digest)
        _warn_of_idle_gpu()
        return GeneratorRunner(generator, batch_size, _openvino_precision(precision, info["model"]), info, name)
    import_keras()
    import keras

    from lipgan.models import checkpoint

    _warn_of_idle_gpu()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        generator, info = checkpoint.load_generator(path, kind)
    finally:
        keras.config.set_dtype_policy(before)
    return GeneratorRunner(generator, batch_size, precision, info, name)


def _openvino_generator(path, kind, digest):
    """Return (Generator, info) of a checkpoint. digest: of its content."""

    @functools.cache
    def load():
        import_keras()
        from lipgan.models import checkpoint

        # Channels first: else Keras turns every map round before and after every convolution.
        return checkpoint.load_generator(path, kind, lower_half_nchw=True)

    described = json_path(path).read_text(encoding="utf-8") if json_path(path).exists() else None
    key = compiled.cache_key(weights=digest, ending=path.suffixes[-2:], described=described, kind=kind)
    known = compiled.read_description(key)
    if known is None:
        model, info = load()
        known = {"info": info, "inputs": {tensor.name: tensor.shape[1:] for tensor in model.inputs}}
        compiled.write_description(key, known)
    elif known["info"]["differences"]:
        warn_of_differences(path, known["info"]["differences"])
    return Generator(lambda: load()[0], known["inputs"], key), known["info"]


def _openvino_precision(precision, kind):
    """Return float32 or bfloat16 for a kind of generator; a line on stderr says where bfloat16 cannot be had."""
    ov = import_openvino()
    has_bfloat16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bfloat16" and not has_bfloat16:
        warn("--precision bfloat16: this CPU has no bfloat16 arithmetic; float32 is used")
    use_bfloat16 = precision == "bfloat16" or (precision == "auto" and kind in BFLOAT16_KINDS)
    return "bfloat16" if use_bfloat16 and has_bfloat16 else "float32"


def _warn_of_idle_gpu():
    """Warn where the GPU of this machine is not used: TensorFlow's plain package has no CUDA, or there is none."""
    if has_gpu() and not any(map(is_installed, GPU_BACKENDS[:-1])):
        warn('the GPU is not used: no framework for it is installed; pip install "tensorflow[and-cuda]"')
    if not has_gpu() or current_backend() != "tensorflow":
        return
    import keras

    if not any("gpu" in name for name in keras.distribution.list_devices()):
        warn('warning: TensorFlow finds no GPU; pip install "tensorflow[and-cuda]", or --backend openvino for the CPU')
