"""Many tasks over many processes, when some of them kill the process they run in."""

import logging
import pathlib
import tempfile

import dask
import distributed

TRIES = 2  # times that a task may kill its worker before it is given up


def in_workers(task, arguments, num_workers, scratch):
    """Call `task` with each of the tuples `arguments` in worker processes. Yields (number, result) as they finish.

    A worker that dies is replaced, and what it was doing is done again; where that happens TRIES times, the result is
    None. An exception of a task is raised here. `task` must be importable by the workers.
    scratch: folder for a `.tmp_` folder of notes, removed at the end.
    """
    if not arguments:
        return
    numbered = iter(enumerate(arguments))
    settings = {
        # By itself the scheduler gives up a task after a few deaths of workers on which it merely waited.
        "distributed.scheduler.allowed-failures": 10**6,
        "distributed.scheduler.worker-ttl": None,  # a worker deep inside the detector may not answer for long
    }
    with (
        tempfile.TemporaryDirectory(prefix=".tmp_", dir=scratch, ignore_cleanup_errors=True) as marks,
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=num_workers,
            threads_per_worker=1,
            # No page, and any free port: with None, 8787 is taken all the same, with a warning when it is in use.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=None,
            local_directory=marks,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):

        def submit(count):
            batch = [job for _, job in zip(range(count), numbered, strict=False)]
            return [client.submit(_attempt, task, number, job, marks, pure=False) for number, job in batch]

        running = distributed.as_completed(submit(2 * num_workers))  # a window: a scheduler chokes on 100,000 tasks
        for future in running:
            yield future.result()
            running.update(submit(1))


def _attempt(task, number, arguments, marks):
    """In a worker: leave a mark while the task runs, so that its next attempt knows how often it killed its worker."""
    marks = pathlib.Path(marks)
    begun = len(list(marks.glob(f"{number}.*")))
    if begun >= TRIES:
        return number, None
    mark = marks / f"{number}.{begun}"
    mark.touch()
    try:
        return number, task(*arguments)
    finally:
        mark.unlink()
