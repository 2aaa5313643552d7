"""The processors that this process may use."""

import contextlib
import functools
import math
import os
import pathlib

LIMIT = "LIPGAN_CPUS"


@functools.cache
def available_cpus() -> int:
    """Return how many processors this process may use: its affinity, and the quota of its control group (containers).

    At least 1, and no more than LIMIT in the environment says. FFmpeg, x264 and OpenVINO count all processors of the
    machine: too many threads in a container, and in each of several workers.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(KeyError, ValueError):
        count = min(count, int(os.environ[LIMIT]))
    return max(1, math.ceil(min(count, _quota(pathlib.Path("/sys/fs/cgroup")))))


def _quota(root):
    """Return the quota of the control group mounted at root, in processors; infinite where there is none."""
    try:
        if (root / "cpu.max").exists():  # version 2
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
