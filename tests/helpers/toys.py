"""Training of toy networks on toy data, in separate processes, as several devices need.

    python toys.py train --n_gpu 2 ... + --n_gpu 1 ...

makes two runs, one after the other. Environment: KERAS_BACKEND, SIMULATED_DEVICES, and SIGNAL_AT=5:SIGTERM to send
itself a signal after the fifth batch (5:UserError to raise an exception).
"""

import importlib
import os
import pathlib
import signal
import subprocess
import sys

import h5py
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]


def toy_generator(kind="basic", img_size=96, width=1.0, synchronized=False):
    """Build a small generator with batch norm: [face, mel] -> face, as `generator.build_generator`.

    For the kind "warp", build the product's own at its smallest width.
    """
    import keras
    from keras import layers

    from generator import FUSION
    from lipgan.models.warp import build_warp_generator

    synchronized = synchronized and keras.backend.backend() == "tensorflow"
    if kind == "warp":
        return build_warp_generator(img_size, 1 / 64)
    face, mel = keras.Input((img_size, img_size, 6), name="face"), keras.Input((80, 27, 1), name="mel")
    x = layers.Conv2D(4, 8, 8, use_bias=False)(face)  # before batch norm a bias learns nothing but rounding errors
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.8, synchronized=synchronized)(x))
    face_code = layers.GlobalAveragePooling2D(keepdims=True)(x)
    audio_code = layers.Reshape((1, 1, 8))(layers.Dense(8)(layers.Flatten()(layers.AveragePooling2D(9)(mel))))
    x = layers.Dense(3)(layers.Concatenate(name=FUSION)([face_code, audio_code])) + layers.Conv2D(3, 1)(face)
    output = layers.Activation("sigmoid", name="prediction")(x)
    return keras.Model([face, mel], output, name=f"{kind}_generator")


def toy_discriminator(img_size=96, width=1.0):
    """Build a small discriminator: [face, mel] -> distance, as `discriminator.build_discriminator`."""
    import keras
    from keras import layers

    face, mel = keras.Input((img_size, img_size, 3), name="face"), keras.Input((80, 27, 1), name="mel")
    face_code = layers.Dense(8)(layers.Flatten()(layers.AveragePooling2D(16)(face)))
    audio_code = layers.Conv2D(8, (80, 27), name="face_to_vector")(mel)
    distance = keras.ops.mean(keras.ops.square(face_code - layers.Flatten()(audio_code)), axis=-1, keepdims=True)
    return keras.Model([face, mel], keras.ops.sqrt(distance + 1e-6), name="discriminator")


def write_data(root):
    """Write three clips of noise, two listed for training and one for validation. Returns root."""
    from lipgan.data.clip_folder import write_clip

    rng = np.random.default_rng(0)
    for number in range(3):
        crops = rng.integers(0, 256, (30, 12, 12, 3), dtype="uint8").repeat(8, axis=1).repeat(8, axis=2)
        mel = rng.uniform(-4, 4, (80, 96)).astype("float32")
        folder = root / "main" / "speaker" / f"{number:05d}"
        write_clip(folder, crops, np.arange(30), np.zeros((30, 4)), mel, np.zeros(19_200))
    return write_lists(root, train=range(2), val=range(2, 3))


def write_expert(data):
    """Write an untrained mouth expert for this data, always with the same weights."""
    import keras

    from lipgan.data.dataset import FaceDataset
    from lipgan.training.lip_expert import build_expert
    from lipgan.training.loop import expert_path

    keras.utils.set_random_seed(0)
    clips = [data / "main" / line for line in (data / "filelists" / "train.txt").read_text().split()]
    build_expert(96).save_weights(expert_path(FaceDataset(clips), data))


def write_lists(root, **splits):
    """Write file lists of one speaker's clips, given by number. Returns root."""
    (root / "filelists").mkdir()
    for name, numbers in splits.items():
        (root / "filelists" / f"{name}.txt").write_text("".join(f"speaker/{number:05d}\n" for number in numbers))
    return root


def options_for(data, logdir, *more):
    """Return the command-line options of a run on this data."""
    line = f"--data_root {data} --filelists {data}/filelists --logdir {logdir} --width 0.02 --model basic"
    line += " --batch_size 8 --val_samples 8 --precision float32 --workers 1"
    return [*line.split(), *map(str, more)]


def start(script, *options, backend, simulated_devices=1, **environment):
    """Start a script on toy networks, by default with one thread. Returns a subprocess.Popen."""
    environment = {"KERAS_BACKEND": backend, "SIMULATED_DEVICES": str(simulated_devices)} | environment
    environment = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "PYTHONUNBUFFERED": "1"} | environment
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "KERAS_"))}
    command = [sys.executable, __file__, script, *map(str, options)]
    return subprocess.Popen(
        command, env=inherited | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stats(logdir):
    """Read the rows of a run's stats.jsonl, without their times."""
    from lipgan.training.config import STATS_NAME, read_stats

    return [
        {name: value for name, value in row.items() if name != "epoch_s"} for row in read_stats(logdir / STATS_NAME)
    ]


def arrays(path):
    """Read all arrays of an HDF5 file by name."""
    values = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: values.update({name: item[...]} if isinstance(item, h5py.Dataset) else {}))
    return values


def signals_itself(callback, number, event):
    """Return a subclass of a callback that, after `number` batches, sends its process a signal or raises UserError."""
    from lipgan.utils.cli import UserError

    class SignalsItself(callback):
        batches = 0

        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            SignalsItself.batches += 1
            if SignalsItself.batches == number and event == "UserError":
                raise UserError("an error of this process alone")
            if SignalsItself.batches == number:
                os.kill(os.getpid(), signal.Signals[event])

    return SignalsItself


def main(script, runs):
    """Run a script once for each list of options, on toy networks and simulated devices; returns the last status."""
    sys.path.insert(0, str(ROOT))
    from lipgan.models.backend import import_keras

    import_keras()
    number = int(os.environ["SIMULATED_DEVICES"])
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        jax.config.update("jax_num_cpu_devices", number)
    elif number > 1:
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * number)
    from lipgan.training import loop

    loop.build_generator, loop.build_discriminator = toy_generator, toy_discriminator
    if "SIGNAL_AT" in os.environ:
        number, name = os.environ["SIGNAL_AT"].split(":")
        loop.KeepFreedMemory = signals_itself(loop.KeepFreedMemory, int(number), name)
    status = 0
    for line in runs:
        status = status or importlib.import_module(script).main(line)
    return status


if __name__ == "__main__":
    arguments, runs = sys.argv[2:], [[]]
    for argument in arguments:  # "+" between the options of several runs
        if argument == "+":
            runs.append([])
        else:
            runs[-1].append(argument)
    raise SystemExit(main(sys.argv[1], runs))
