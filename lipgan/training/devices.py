"""On what a network trains: one device, or several of one machine or of many, each with its part of every batch.

A step on several devices is the step on one: the batch is the same and is cut into equal parts, batch norm's statistics
are those of the whole batch, and gradients are averaged. Everything that is not the step (validation, pictures, the
statistics of users' weights) stays on one device, and so do the networks given to `Placement.spread`.
"""

import contextlib
import dataclasses
import io
import typing

import keras

from lipgan.models.backend import has_gpu
from lipgan.training import machines
from lipgan.training.machines import ALONE, Machines
from lipgan.training.peers import together
from lipgan.utils.cli import UserError

HINTS = {"tensorflow": 'pip install "tensorflow[and-cuda]"', "jax": 'pip install "jax[cuda13]"'}


class Found(typing.NamedTuple):
    """What Keras' backend computes on."""

    kind: str  # GPU, TPU or CPU
    names: tuple[str, ...]  # of the devices, as the backend's own functions take them
    model: str  # such as "NVIDIA H100", or ""

    def __str__(self):
        many = f"{len(self.names)} {self.kind}s" if len(self.names) > 1 else self.kind
        return f"{many} ({self.model})" if self.model else many


def find() -> Found:
    """The devices of the backend's best kind on this machine, with a line where a GPU is there that it cannot use."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        model = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "") if gpus else ""
        kind = "GPU" if gpus else "CPU"
        found = Found(kind, tuple(device.name for device in tf.config.list_logical_devices(kind)), model)
    else:
        import jax

        local = jax.local_devices()
        kind = "CPU" if local[0].platform == "cpu" else "TPU" if local[0].platform == "tpu" else "GPU"
        model = "" if kind == "CPU" else local[0].device_kind
        found = Found(kind, tuple(f"{device.platform}:{device.id}" for device in local), model)
    if found.kind == "CPU" and has_gpu():
        print(f"WARNING: this machine has a GPU that {backend} does not see: {HINTS[backend]}")
    return found


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the step runs: on the one device that Keras takes by itself, or spread over several by `strategy`."""

    found: Found
    num_devices: int = 1  # of all machines
    joined: Machines = ALONE
    strategy: typing.Any = None  # a tf.distribute.Strategy, a keras.distribution.Distribution, or None: one device

    @property
    def leads(self):
        """Whether this is process 0, which alone validates and writes files."""
        return not self.joined.process_id

    @contextlib.contextmanager
    def first_alone(self):
        """Context in which process 0 goes first: the others find the files that it wrote."""
        if not self.leads:
            machines.meet("process 0 is through")
        yield
        if self.leads and self.joined.num_processes > 1:
            machines.meet("process 0 is through")

    def stops(self, asked: bool) -> bool:
        """Whether any process was asked to stop; all must ask this after the same batch."""
        return machines.agreed(asked) if self.joined.num_processes > 1 else asked

    def part(self, size: int) -> slice:
        """The rows of a batch of so many that this process reads."""
        rows = size // self.joined.num_processes
        return slice(self.joined.process_id * rows, (self.joined.process_id + 1) * rows)

    @property
    def num_replicas(self):
        """How often the step's code runs for one batch; the gradients are summed over these (on JAX it runs once)."""
        return self.num_devices if keras.backend.backend() == "tensorflow" else 1

    @property
    def described(self):
        """What to tell the user, such as "2 of 8 GPUs (NVIDIA H100)"."""
        number = self.num_devices // self.joined.num_processes
        told = str(self.found) if number == len(self.found.names) else f"{number} of {self.found}"
        return f"{told} in each of {self.joined.num_processes} processes" if self.joined.num_processes > 1 else told

    def building(self):
        """Context in which what the step consists of is built, and loaded from a state."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def fitting(self):
        """Context of `fit()`."""
        # TensorFlow's fit() knows where its model was built, and in the scope every other model would run there too.
        return contextlib.nullcontext() if keras.backend.backend() == "tensorflow" else self.building()

    def spread(self, network, build):
        """The network as the step takes it: itself on one device, otherwise one of `build()` with the same weights.

        Of several processes, all get the weights of process 0.
        """
        if self.strategy is None or network is None:
            return network
        weights = network.get_weights()
        if self.joined.num_processes > 1:
            weights = machines.from_first(weights)
        with self.building():
            copy = build()
            copy.set_weights(weights)
        return copy

    def gather(self, networks, copies):
        """Give networks (or None) on one device the weights of the copies that were trained; in place."""
        for network, copy in zip(networks, copies, strict=True):
            if network is not copy:
                network.set_weights(copy.get_weights())


@contextlib.contextmanager
def alone():
    """Context in which a network that was not spread is used, inside `Placement.fitting`."""
    if keras.backend.backend() == "tensorflow":
        yield
        return
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


@contextlib.contextmanager
def placed(n_gpu: int = 1, joined: Machines = ALONE):
    """Context of a training: yields its `Placement`, on `n_gpu` devices (GPUs where there are any) of each process.

    joined: the processes that train together. Raises UserError where there are not so many, or not so many devices.
    All but process 0 print nothing, and all end when one dies.
    """
    if joined.num_processes == 1:
        yield _place(n_gpu, ALONE)
        return
    machines.check(joined, keras.backend.backend())
    machines.join(joined, n_gpu)
    quiet = contextlib.redirect_stdout(io.StringIO()) if joined.process_id else contextlib.nullcontext()
    advice = "start all again, with --resume and the state.weights.h5 of the run's folder"
    with quiet, together(joined, advice):
        yield _place(n_gpu, joined)


def _place(n_gpu, joined):
    found = find()
    if n_gpu > len(found.names):
        there = "no GPU is" if found.kind == "CPU" else f"{found} {'is' if len(found.names) == 1 else 'are'}"
        raise UserError(
            f"--n_gpu {n_gpu}: {there} found by {keras.backend.backend()}; look at nvidia-smi and "
            f"CUDA_VISIBLE_DEVICES, or give --n_gpu {len(found.names)}"
        )
    if n_gpu * joined.num_processes == 1:
        return Placement(found)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return Placement(found, n_gpu, joined, tf.distribute.MirroredStrategy(list(found.names[:n_gpu])))
    import jax

    # In the order of the processes, as their parts of a batch are.
    names = [
        f"{device.platform}:{device.id}"
        for process in range(joined.num_processes)
        for device in jax.local_devices(process_index=process)[:n_gpu]
    ]
    distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    return Placement(found, len(names), joined, distribution)


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Raise UserError unless the devices get equal parts of a batch."""
    if batch_size % num_devices:
        below = batch_size - batch_size % num_devices
        sizes = " or ".join(str(size) for size in (below, below + num_devices) if size)
        raise UserError(f"--batch_size {batch_size} cannot be divided among {num_devices} devices; give {sizes}")
