"""A generator made ready for many frames: compiled for this machine, and looking at a still picture only once."""

import queue
import threading

import keras
import numpy as np

from lipgan.models import checkpoint
from lipgan.models.warp import has_lips, informed, seen_lips

HARMLESS = ("residual",)  # kinds that bfloat16 was seen, with trained weights, to change by 4 grey levels at most


class Speaker:
    """Called with faces (B, S, S, 6) and mels (B, 80, 27, 1), gives pictures (B, S, S, 3) in [0, 1]; all float32.

    Where `wants_lips`, lips (B, 40) are a third argument: where those of the references are (see warp.py).
    generator: a keras.Model of `generator.build_generator`. A lower_half_nchw one makes the lower half and two
    rows more, which is what is pasted; above that the pictures are the pose. B is always `batch_size`.
    still: all faces of a clip are the same one, which is looked at once: half of the residual generator's work.
    `forget` between clips.
    Up to `at_once` threads may call it at a time: two, each with half of the cores, get more done than one with all
    (but a `batch_size` of 1 is for those who wait for every frame).
    """

    def __init__(self, generator, still=False, batch_size=8, precision="float32"):
        self.img_size, self.batch_size, self.wants_lips = generator.input_shape[0][2], batch_size, has_lips(generator)
        self._lean = generator.input_shape[0][1] != self.img_size
        self.at_once = 2 if batch_size > 1 and keras.backend.backend() == "openvino" else 1
        self.still, self._seen, self._lock = still, None, threading.Lock()
        whole = informed(generator) if self.wants_lips else generator
        self._look, speak = _parted(generator) if still else (None, whole)
        self._look = self._look and _runner(self._look, 1, 1, precision)
        self._speak = _runner(speak, batch_size, self.at_once, precision)

    def __call__(self, faces, mels, lips=None):
        if not self._lean:
            return self._said(faces, mels, *([lips] if self.wants_lips else []))
        made = self._said(*(np.ascontiguousarray(np.moveaxis(x, -1, 1)) for x in (faces, mels)))
        pictures = faces[..., 3:].copy()
        pictures[:, -made.shape[2] :] = np.moveaxis(made, 1, -1)
        return pictures

    def _said(self, faces, mels, *lips):
        if not self.still:
            return self._speak([faces, mels, *lips])[0]
        with self._lock:
            if self._seen is None:
                seen = self._look([faces[:1], *(points[:1] for points in lips)])
                self._seen = [np.repeat(features, self.batch_size, axis=0) for features in seen]
        return self._speak([*self._seen, *lips, mels])[0]

    def forget(self):
        """The next faces are those of another clip."""
        self._seen = None


def _parted(generator):
    """The generator as two keras.Models: face -> what it makes of the face alone; [that, mel] -> picture.

    Where it goes through lips, those of the face are the last input of the first, and the last but one of the second.
    """
    face, mel = generator.inputs
    lips = [seen_lips(generator)] if has_lips(generator) else []
    known = {id(tensor) for tensor in lips}
    heard, before_sound = {id(mel)}, []  # tensors that depend on the sound; those that meet it and do not
    for step in generator.operations:  # layers and bare operations, from the inputs to the output
        inputs = [] if isinstance(step, keras.layers.InputLayer) else keras.tree.flatten(step.input)
        if any(id(tensor) in heard for tensor in inputs):
            before_sound += [t for t in inputs if id(t) not in heard | known and all(t is not b for b in before_sound)]
            heard.update(id(tensor) for tensor in keras.tree.flatten(step.output))
    return keras.Model([face, *lips], before_sound), keras.Model([*before_sound, *lips, mel], generator.output)


def _runner(model, batch_size, at_once, precision):
    """A function from the model's inputs, a list of arrays, to the list of its outputs."""
    if keras.backend.backend() != "openvino":

        def predict(inputs):
            outputs = model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
            return [np.asarray(x, np.float32) for x in keras.tree.flatten(outputs)]

        return predict
    # As Model.predict does, but for one batch size, in two streams where two threads call: a third less CPU time, as no
    # core waits for another at the end of every layer.
    import openvino as ov
    import openvino.opset13 as ops

    parameters = [ops.parameter([batch_size, *x.shape[1:]], np.float32) for x in model.inputs]
    tensors = [keras.ops.convert_to_tensor(p.output(0)) for p in parameters]
    outputs = keras.tree.flatten(model(tensors if len(tensors) > 1 else tensors[0]))
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"}
    settings |= {"PERFORMANCE_HINT": "THROUGHPUT" if at_once > 1 else "LATENCY"}
    settings |= {"PERFORMANCE_HINT_NUM_REQUESTS": str(at_once)}
    compiled = ov.compile_model(ov.Model([x.output for x in outputs], parameters), "CPU", settings)
    idle = queue.SimpleQueue()
    for _ in range(at_once):
        idle.put(compiled.create_infer_request())

    def run(inputs):
        request = idle.get()
        try:
            made = request.infer(inputs, share_inputs=True)
            return [made[n] for n in range(len(outputs))]
        finally:
            idle.put(request)

    return run


def load_speaker(path, kind=None, still=False, batch_size=8, precision="auto"):
    """(Speaker, info) of the weights in `path`, as `checkpoint.load_generator` finds them, and a line to tell, or None.

    precision: of options.PRECISIONS. "auto" is bfloat16 where OpenVINO says that the CPU multiplies such numbers itself
    and the generator is known to bear it (HARMLESS), else float32. The line tells where bfloat16 cannot be had.
    """
    if keras.backend.backend() != "openvino":
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
        try:
            generator, info = checkpoint.load_generator(path, kind)
        finally:
            keras.config.set_dtype_policy(before)
        return Speaker(generator, still, batch_size), info, None
    import openvino as ov

    # Else Keras would turn every map round before and after every convolution, as OpenVINO has the channels first.
    generator, info = checkpoint.load_generator(path, kind, lower_half_nchw=True)
    able = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    told = None
    if precision == "bfloat16" and not able:
        told = "--precision bfloat16: this CPU has no bfloat16 arithmetic; float32 is used"
    wanted = precision == "bfloat16" or (precision == "auto" and info["model"] in HARMLESS)
    return Speaker(generator, still, batch_size, "bfloat16" if wanted and able else "float32"), info, told
