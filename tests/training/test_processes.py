"""Which processes train together, from SLURM's variables and from the options."""

import pytest

from lipgan.training.machines import (
    ALONE,
    Machines,
    check,
    find_machines,
    first_host,
    from_slurm,
    local_devices,
    tasks_of_node,
)
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
}


def test_srun_s_variables_tell_the_processes():
    assert from_slurm(STEP) == Machines("gpu003:61444", 4, 3, local_id=1, local_processes=2)
    assert from_slurm({}) == ALONE
    batch_script = {name: value for name, value in STEP.items() if "STEP" not in name}
    assert from_slurm(batch_script) == ALONE  # it is one process, though SLURM_NTASKS says 4


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("gpu[003-007,9],x1", "gpu003"),
        ("a,b[1-2]", "a"),
        ("rack[1,3]-n[08-10]-ib", "rack1-n08-ib"),
        ("node-1.cluster,node-2.cluster", "node-1.cluster"),
    ],
)
def test_the_first_host_of_slurm_s_list(nodes, first):
    assert first_host(nodes) == first


def test_tasks_of_each_node():
    assert [tasks_of_node("2(x3),1", node) for node in range(4)] == [2, 2, 2, 1]
    assert tasks_of_node("4", 0) == 4


def test_processes_of_one_machine_share_out_its_gpus():
    third = Machines("a:1", 4, 2, local_id=2, local_processes=4, visible_gpus=8)
    assert local_devices(third, 2) == [4, 5]
    assert local_devices(third._replace(visible_gpus=2), 2) is None  # SLURM shows each its own
    assert local_devices(ALONE._replace(visible_gpus=8), 2) is None
    with pytest.raises(UserError, match="4 processes on one machine need 12 GPUs, and 8 are there"):
        local_devices(third, 3)


def test_options_stand_over_slurm_s_variables(monkeypatch):
    for name in STEP:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert find_machines("a:1", 2, 1) == Machines("a:1", 2, 1, visible_gpus=2)
    assert find_machines(None, None, None).num_processes == 1
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    assert find_machines("a:1", None, None)[:3] == ("a:1", 4, 3)
    assert find_machines(None, 1, None) == ALONE


@pytest.mark.parametrize(
    ("machines", "backend", "message"),
    [
        (Machines("a:1", 2, 0), "tensorflow", "only JAX trains in several: --backend jax"),
        (Machines("a", 2, 0), "jax", "--coordinator a: give HOST:PORT"),
        (Machines("a:1", 2, 2), "jax", "--process_id 2: give every process another one, from 0 to 1"),
    ],
)
def test_processes_that_cannot_train_together_are_told_why(machines, backend, message):
    with pytest.raises(UserError, match=message):
        check(machines, backend)
