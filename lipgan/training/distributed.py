"""Data-parallel training: device placement, and the processes of a run on one or many machines.

A step on several devices equals the step on one: the batch is the same and is cut into equal parts, batch norm uses the
statistics of the whole batch, and gradients are averaged. Validation, files and exported networks belong to the main
process and to a single device.

On TensorFlow the devices are those of one machine (`tf.distribute.MirroredStrategy`). On JAX they can also be those of
several processes (`keras.distribution.DataParallel`); each process then takes every step with its part of the batch.
JAX connects the processes, finds them under SLURM, and ends them when one dies: by its heartbeat, within HEARTBEAT_S.
"""

import atexit
import contextlib
import dataclasses
import io
import os
import pathlib
import re
import sys
import typing

import keras

from lipgan.models.backend import has_gpu
from lipgan.training.config import STATE_NAME
from lipgan.utils.cli import UserError

INSTALL_HINTS = {"tensorflow": 'pip install "tensorflow[and-cuda]"', "jax": 'pip install "jax[cuda13]"'}
CONNECT_S = 300  # for all processes to appear
HEARTBEAT_S = 60  # after which a silent process counts as dead
SHUTDOWN_S = 3_600  # that the others wait at the end while the main process writes the last files


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together, and which of them this one is."""

    num_processes: int = 1
    process_id: int = 0
    coordinator: str | None = None  # HOST:PORT of process 0; None: JAX derives it from SLURM's variables
    local_devices: tuple[int, ...] = (0,)  # GPUs of this process, among those that it sees


SINGLE_PROCESS = ProcessGroup()


def find_processes(config, environ=os.environ) -> ProcessGroup:
    """Return the processes of the run that `config` (a TrainConfig) and the variables of SLURM's srun describe.

    A batch script itself, outside srun, is one process, whatever --ntasks says. Raises UserError for incomplete options
    and for too few GPUs.
    """
    given = (config.coordinator, config.num_processes, config.process_id)
    num_tasks = int(environ.get("SLURM_STEP_NUM_TASKS", 1)) if "SLURM_PROCID" in environ else 1
    if config.num_processes == 1:
        return SINGLE_PROCESS
    if num_tasks == 1 and given == (None, None, None):
        return SINGLE_PROCESS
    if num_tasks == 1 and None in given:
        raise UserError("--coordinator, --num_processes and --process_id belong together; give all three")
    process_id = config.process_id if config.process_id is not None else int(environ["SLURM_PROCID"])
    local_id = int(environ.get("SLURM_LOCALID", 0))
    devices = _local_devices(local_id, config.n_gpu, _num_visible_gpus(environ))
    return ProcessGroup(config.num_processes or num_tasks, process_id, config.coordinator, devices)


def _num_visible_gpus(environ):
    if "CUDA_VISIBLE_DEVICES" in environ:
        return len([name for name in environ["CUDA_VISIBLE_DEVICES"].split(",") if name])
    return len(list(pathlib.Path("/dev").glob("nvidia[0-9]*")))


def _local_devices(local_id, n_gpu, num_visible):
    """Return the GPUs, of those it sees, that belong to process `local_id` of its machine."""
    if num_visible <= n_gpu:  # it sees only its own
        return tuple(range(n_gpu))
    devices = tuple(range(local_id * n_gpu, (local_id + 1) * n_gpu))
    if devices[-1] >= num_visible:
        raise UserError(
            f"--n_gpu {n_gpu}: {local_id + 1} processes on one machine need {devices[-1] + 1} GPUs, and it has "
            f"{num_visible}; start fewer processes per machine"
        )
    return devices


def check_processes(processes: ProcessGroup, backend: str) -> None:
    """Raise UserError if these processes cannot train together on this backend."""
    number = processes.num_processes
    if backend != "jax":
        raise UserError(
            f"{number} processes were started, and only JAX trains in several: use --backend jax "
            "(or --num_processes 1, and start one)"
        )
    if processes.coordinator is not None and not re.fullmatch(r".+:\d+", processes.coordinator):
        raise UserError(f"--coordinator {processes.coordinator}: give HOST:PORT of process 0, to every process")
    if not 0 <= processes.process_id < number:
        raise UserError(f"--process_id {processes.process_id}: give each process its own, from 0 to {number - 1}")


def _connect(processes):
    """Connect the processes, before JAX computes anything. Raises UserError if they do not all appear."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would handle SIGTERM in place of `loop`
    try:
        jax.distributed.initialize(
            processes.coordinator,
            processes.num_processes,
            processes.process_id,
            local_device_ids=processes.local_devices,  # JAX's SLURM detection would always choose one GPU
            initialization_timeout=CONNECT_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=SHUTDOWN_S,
        )
    except RuntimeError as e:
        raise UserError(
            f"--coordinator {processes.coordinator or '(from SLURM)'}: the {processes.num_processes} processes did not "
            f"all appear within {CONNECT_S} s ({str(e).splitlines()[0]}); start all, with the same --coordinator"
        ) from None


@dataclasses.dataclass(frozen=True)
class Devices:
    """List the devices of the fastest kind that the Keras backend has on this machine."""

    kind: str  # GPU, TPU or CPU
    names: tuple[str, ...]  # as the backend's own functions take them
    model: str = ""  # such as "NVIDIA H100"

    def __str__(self):
        many = f"{len(self.names)} {self.kind}s" if len(self.names) > 1 else self.kind
        return f"{many} ({self.model})" if self.model else many


def find_devices() -> Devices:
    """Find the devices of this process. Prints a warning if the machine has a GPU that the backend cannot use."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        model = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "") if gpus else ""
        kind = "GPU" if gpus else "CPU"
        devices = Devices(kind, tuple(device.name for device in tf.config.list_logical_devices(kind)), model)
    else:
        import jax

        local = jax.local_devices()
        kind = {"cpu": "CPU", "tpu": "TPU"}.get(local[0].platform, "GPU")
        model = "" if kind == "CPU" else local[0].device_kind
        devices = Devices(kind, tuple(f"{device.platform}:{device.id}" for device in local), model)
    if devices.kind == "CPU" and has_gpu():
        print(f"WARNING: this machine has a GPU that {backend} does not see: {INSTALL_HINTS[backend]}")
    return devices


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a training step runs, and what its processes do together."""

    devices: Devices
    num_devices: int = 1  # of all processes
    processes: ProcessGroup = SINGLE_PROCESS
    strategy: typing.Any = None  # tf.distribute.Strategy, keras.distribution.Distribution, or None for one device

    def __str__(self):
        """Return the devices in words, such as "2 of 8 GPUs (NVIDIA H100)"."""
        number = self.num_devices // self.processes.num_processes
        text = str(self.devices) if number == len(self.devices.names) else f"{number} of {self.devices}"
        return f"{text} in each of {self.processes.num_processes} processes" if self.is_distributed else text

    @property
    def is_distributed(self):
        """True if several processes train together."""
        return self.processes.num_processes > 1

    @property
    def is_main_process(self):
        """True in process 0, which alone validates and writes files."""
        return not self.processes.process_id

    @property
    def num_replicas(self):
        """Number of replicas of the step whose gradients are summed. (On JAX one step spans all devices.)"""
        return self.num_devices if keras.backend.backend() == "tensorflow" else 1

    def barrier(self, name):
        """Wait until every process is here."""
        if self.is_distributed:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(name)

    @contextlib.contextmanager
    def main_process_first(self):
        """Enter a context in which the main process goes first, so that the others find the files that it wrote."""
        if not self.is_main_process:
            self.barrier("main process first")
        yield
        if self.is_main_process:
            self.barrier("main process first")

    def any_process(self, flag: bool) -> bool:
        """Return whether `flag` is set in any process. All processes must call this at the same batch."""
        if not self.is_distributed:
            return flag
        import numpy as np
        from jax.experimental import multihost_utils

        return bool(multihost_utils.process_allgather(np.array(flag)).any())

    def rows(self, batch_size: int) -> slice:
        """Return the rows of a batch that this process reads."""
        number = batch_size // self.processes.num_processes
        return slice(self.processes.process_id * number, (self.processes.process_id + 1) * number)

    def build_scope(self):
        """Enter a context in which the step is built, and loaded from a training state."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def fit_scope(self):
        """Enter the context of `fit()`."""
        # TensorFlow's fit() knows where its model was built; inside the scope every other model would run there too.
        return contextlib.nullcontext() if keras.backend.backend() == "tensorflow" else self.build_scope()

    def replicate(self, network, build):
        """Return the network for the step: itself on one device, otherwise a `build()` with the same weights.

        All processes get the weights of the main process.
        """
        if self.strategy is None or network is None:
            return network
        weights = network.get_weights()
        if self.is_distributed:
            from jax.experimental import multihost_utils

            weights = multihost_utils.broadcast_one_to_all(weights)
        with self.build_scope():
            replica = build()
            replica.set_weights(weights)
        return replica


@contextlib.contextmanager
def single_device():
    """Enter a context, inside `Placement.fit_scope`, in which networks that were not replicated are used."""
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
def launch(config):
    """Connect the processes of a training run, and yield its Placement on config.n_gpu devices of each.

    Processes other than the main one print nothing to stdout. Raises UserError for too few processes or devices.
    """
    processes = find_processes(config)
    if processes.num_processes == 1:
        yield _place(config.n_gpu, processes)
        return
    check_processes(processes, keras.backend.backend())
    _connect(processes)
    with contextlib.ExitStack() as stack:
        if processes.process_id:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        try:
            placement = _place(config.n_gpu, processes)
            yield placement
            placement.barrier("end")
        except BaseException as e:
            # JAX's shutdown waits for the other processes, which wait in their next step for this one: with JAX 0.10
            # both still waited after five minutes. Leave without it, and JAX ends the others.
            atexit.register(_exit_at_once, getattr(e, "exit_status", 1))
            if not _is_connection_error(e):
                raise
            reason = str(e).splitlines()[0]
            raise UserError(
                f"process {processes.process_id} of {processes.num_processes} failed ({reason}); if another process "
                f"failed first, its output says why; start all again with --resume and the run's {STATE_NAME}"
            ) from e


def _is_connection_error(error):
    import jax

    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)  # Gloo's are ValueErrors


def _exit_at_once(status):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _place(n_gpu, processes):
    devices = find_devices()
    if n_gpu > len(devices.names):
        found = "no GPU is" if devices.kind == "CPU" else f"{devices} {'is' if len(devices.names) == 1 else 'are'}"
        raise UserError(
            f"--n_gpu {n_gpu}: {found} found by {keras.backend.backend()}; look at nvidia-smi and "
            f"CUDA_VISIBLE_DEVICES, or give --n_gpu {len(devices.names)}"
        )
    if n_gpu * processes.num_processes == 1:
        return Placement(devices)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return Placement(devices, n_gpu, processes, tf.distribute.MirroredStrategy(list(devices.names[:n_gpu])))
    import jax

    # In the order of the processes, which is the order of their parts of a batch.
    names = [
        f"{device.platform}:{device.id}"
        for process in range(processes.num_processes)
        for device in jax.local_devices(process_index=process)[:n_gpu]
    ]
    distribution = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    return Placement(devices, len(names), processes, distribution)


def check_batch_size(batch_size: int, num_devices: int) -> None:
    """Raise UserError unless the devices get equal parts of a batch."""
    if batch_size % num_devices:
        below = batch_size - batch_size % num_devices
        sizes = " or ".join(str(size) for size in (below, below + num_devices) if size)
        raise UserError(f"--batch_size {batch_size} cannot be divided among {num_devices} devices; give {sizes}")
