"""The processes of a run, from SLURM's variables and from the options."""

import pytest

from lipgan.training.config import TrainConfig
from lipgan.training.distributed import SINGLE_PROCESS, ProcessGroup, check_processes, find_processes
from lipgan.utils.cli import UserError

STEP = {
    "SLURM_JOB_ID": "4100",
    "SLURM_JOB_NODELIST": "gpu[3-4],login1",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_PROCID": "3",
    "CUDA_VISIBLE_DEVICES": "0,1",
}


def find(environ, **options):
    return find_processes(TrainConfig(with_discriminator=False, data_root="x", **options), environ)


def test_processes_are_read_from_srun_variables():
    assert find(STEP) == ProcessGroup(4, 3, None, local_devices=(1,))
    assert find({}) == SINGLE_PROCESS
    batch_script = {name: value for name, value in STEP.items() if "STEP" not in name}
    assert find(batch_script) == SINGLE_PROCESS  # although SLURM_NTASKS is 4


@pytest.mark.parametrize(
    ("local_id", "n_gpu", "visible", "expected"),
    [(2, 2, 8, (4, 5)), (2, 2, 2, (0, 1)), (0, 2, 8, (0, 1)), (0, 1, 0, (0,))],
)
def test_local_processes_divide_the_gpus(local_id, n_gpu, visible, expected):
    gpus = ",".join(map(str, range(visible)))
    environ = STEP | {"SLURM_LOCALID": str(local_id), "CUDA_VISIBLE_DEVICES": gpus}
    assert find(environ, n_gpu=n_gpu).local_devices == expected


def test_too_few_gpus_for_the_processes_of_a_machine_are_refused():
    with pytest.raises(UserError, match="--n_gpu 3: 4 processes on one machine need 12 GPUs, and it has 8"):
        find(STEP | {"SLURM_LOCALID": "3", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, n_gpu=3)


def test_options_override_slurm_variables():
    by_hand = {"coordinator": "a:1", "num_processes": 2, "process_id": 1}
    assert find({"CUDA_VISIBLE_DEVICES": "0,1"}, **by_hand) == ProcessGroup(2, 1, "a:1", (0,))
    assert find(STEP, coordinator="a:1") == ProcessGroup(4, 3, "a:1", (1,))
    assert find(STEP, num_processes=1) == SINGLE_PROCESS


def test_incomplete_options_are_refused():
    with pytest.raises(UserError, match="belong together"):
        find({}, num_processes=2)


@pytest.mark.parametrize(
    ("processes", "backend", "message"),
    [
        (ProcessGroup(2, 0, "a:1"), "tensorflow", "only JAX trains in several: use --backend jax"),
        (ProcessGroup(2, 0, "a"), "jax", "--coordinator a: give HOST:PORT"),
        (ProcessGroup(2, 2, "a:1"), "jax", "--process_id 2: give each process its own, from 0 to 1"),
    ],
)
def test_incompatible_processes_are_refused(processes, backend, message):
    with pytest.raises(UserError, match=message):
        check_processes(processes, backend)
