"""Training in several processes, on one machine or many: who they are, how they are joined, what they agree on.

JAX joins them; each then takes every step with its part of the batch (devices.py), and process 0 alone writes files.
"""

import os
import pathlib
import re
import typing

from lipgan.utils.cli import UserError

CONNECT_S = 300  # for all processes to have come
HEARTBEAT_S = 120  # JAX's own; `peers` notices sooner
END_S = 3_600  # that the others wait at the end while process 0 writes the last files


class Machines(typing.NamedTuple):
    """The processes that train together, and which of them this one is."""

    coordinator: str = ""  # HOST:PORT of process 0
    num_processes: int = 1
    process_id: int = 0
    local_id: int = 0  # which of its machine's processes this one is ...
    local_processes: int = 1  # ... and of how many
    visible_gpus: int = 0


ALONE = Machines()


def find_machines(coordinator, num_processes, process_id) -> Machines:
    """The processes that train together, as these options say; what is None is SLURM's, if srun started this one."""
    slurm, given = from_slurm(os.environ), (coordinator, num_processes, process_id)
    if num_processes == 1:
        return ALONE
    if slurm.num_processes == 1 and None in given and given != (None, None, None):
        raise UserError("--coordinator, --num_processes and --process_id go together; give all three, to every process")
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        gpus = len([name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name])
    else:
        gpus = len(list(pathlib.Path("/dev").glob("nvidia[0-9]*")))
    chosen = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    return slurm._replace(visible_gpus=gpus, **{k: v for k, v in chosen.items() if v is not None})


def from_slurm(environ) -> Machines:
    """The processes that `srun` started together, as SLURM's variables in `environ` tell; otherwise one process.

    A batch script by itself, outside srun, is one process, whatever --ntasks says.
    """
    number = int(environ.get("SLURM_STEP_NUM_TASKS", 1))
    if number == 1 or "SLURM_PROCID" not in environ:
        return ALONE
    host = first_host(environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"])
    port = 61_440 + int(environ["SLURM_JOB_ID"]) % 4_096  # above those that systems give away by themselves
    local = tasks_of_node(environ.get("SLURM_STEP_TASKS_PER_NODE", "1"), int(environ.get("SLURM_NODEID", 0)))
    return Machines(f"{host}:{port}", number, int(environ["SLURM_PROCID"]), int(environ.get("SLURM_LOCALID", 0)), local)


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list: gpu003 of "gpu[003-007,9]-a,x1" is gpu003-a."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def tasks_of_node(counts: str, node: int) -> int:
    """How many tasks a node has, of SLURM's "2(x3),1": three nodes with two, then one with one."""
    for part in counts.split(","):
        tasks, _, repeated = part.partition("(x")
        node -= int(repeated.rstrip(")") or 1)
        if node < 0:
            break
    return int(tasks)


def local_devices(machines: Machines, n_gpu: int) -> list[int] | None:
    """Which of the GPUs that the machine shows are this process's, or None where all that it sees are its own.

    Raises UserError where they do not suffice for the processes there.
    """
    visible, wanted = machines.visible_gpus, machines.local_processes * n_gpu
    if machines.local_processes == 1 or visible <= n_gpu:
        return None
    if wanted > visible:
        raise UserError(
            f"--n_gpu {n_gpu}: {machines.local_processes} processes on one machine need {wanted} GPUs, and {visible} "
            "are there; start fewer processes a machine"
        )
    return list(range(machines.local_id * n_gpu, (machines.local_id + 1) * n_gpu))


def check(machines: Machines, backend: str) -> None:
    """Raise UserError where these processes cannot train together on this backend."""
    number = machines.num_processes
    if backend != "jax":
        raise UserError(
            f"{number} processes were started, and only JAX trains in several: --backend jax "
            "(or --num_processes 1, and start only one)"
        )
    if not re.fullmatch(r".+:\d+", machines.coordinator):
        raise UserError(
            f"--coordinator {machines.coordinator or '(not given)'}: give HOST:PORT of process 0, to every process"
        )
    if not 0 <= machines.process_id < number:
        raise UserError(f"--process_id {machines.process_id}: give every process another one, from 0 to {number - 1}")


def join(machines: Machines, n_gpu: int) -> None:
    """Join the processes, before JAX computes anything. Raises UserError when they do not all come."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    try:
        jax.distributed.initialize(
            machines.coordinator,
            machines.num_processes,
            machines.process_id,
            local_device_ids=local_devices(machines, n_gpu),
            cluster_detection_method="deactivate",  # SLURM's would give each process one GPU, whatever --n_gpu says
            initialization_timeout=CONNECT_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=END_S,
        )
    except RuntimeError as e:
        raise UserError(
            f"--coordinator {machines.coordinator}: the {machines.num_processes} processes did not all come within "
            f"{CONNECT_S} s ({str(e).splitlines()[0]}); start all of them, with the same --coordinator"
        ) from None


# What every process must call at the same place; in a process alone they do nothing.


def from_first(values):
    """Process 0's arrays (a tree of them) in every process."""
    import jax
    from jax.experimental import multihost_utils

    return values if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(values)


def agreed(flag: bool) -> bool:
    """Whether any process says so."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def meet(place: str) -> None:
    """Wait until all processes are at this place."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(place)
