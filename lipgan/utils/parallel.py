"""Many tasks over many processes, on this machine or a cluster, when some of them kill the process they run in."""

import contextlib
import importlib.util
import logging
import pathlib
import queue
import tempfile
import threading
import time

import dask
import distributed

from lipgan.utils.cli import UserError

TRIES = 2  # times that a task may kill its worker before it is given up
PATIENCE_S = 60  # for the first worker of a cluster
ENOUGH_FAILURES = 10**6  # by itself a scheduler gives up tasks after some deaths of workers on which they merely waited


def in_workers(task, arguments, num_workers, scratch, scheduler=None):
    """Call `task` with each of the tuples `arguments` in worker processes. Yields (number, result) as they finish.

    A worker that dies is replaced, and what it was doing is done again; where that happens TRIES times, the result is
    None. An exception of a task is raised here. `task` must be importable by the workers.
    num_workers: processes on this machine. scheduler: address of a Dask scheduler whose workers do it instead.
    scratch: folder, which all of them see, for a `.tmp_` folder of notes, removed at the end.
    Raises UserError for a scheduler that does not answer, or whose workers do not find the task's file.
    """
    if not arguments:
        return
    numbered = iter(enumerate(arguments))
    with (
        tempfile.TemporaryDirectory(prefix=".tmp_", dir=scratch, ignore_cleanup_errors=True) as marks,
        _cluster(scheduler) if scheduler else _local(num_workers, marks) as client,
    ):
        window = _Window(client)

        def submit(count):
            batch = [job for _, job in zip(range(count), numbered, strict=False)]
            return [client.submit(_attempt, task, number, job, marks, pure=False) for number, job in batch]

        running = distributed.as_completed(submit(window.size()))
        try:
            for future in running:
                yield future.result()
                running.update(submit(max(0, window.size() - running.count())))
        except distributed.client.FutureCancelledError as e:
            raise UserError(f"the scheduler {scheduler} was lost ({e}); run this again: what is done stays") from None


class _Window:
    """How many tasks to have under way, twice the workers' threads: a scheduler chokes on 100,000 tasks."""

    def __init__(self, client):
        self._client, self._known, self._asked = client, 0, 0.0

    def size(self):
        if time.monotonic() - self._asked > 5:  # workers of a cluster come and go
            self._known = 2 * max(1, sum(self._client.nthreads().values()))
            self._asked = time.monotonic()
        return self._known


@contextlib.contextmanager
def _local(num_workers, folder):
    """A client of a cluster on this machine."""
    settings = {
        "distributed.scheduler.allowed-failures": ENOUGH_FAILURES,
        "distributed.scheduler.worker-ttl": None,  # a worker deep inside the detector may not answer for long
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=num_workers,
            threads_per_worker=1,
            # No page, and any free port: with None, 8787 is taken all the same, with a warning when it is in use.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=None,
            local_directory=folder,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@contextlib.contextmanager
def _cluster(address):
    """A client of a scheduler somewhere, whose workers can import this file (and so what lies beside it)."""

    # Functions inside a function travel whole: the scheduler need not find this file.
    def keep_trying(dask_scheduler=None):
        dask_scheduler.allowed_failures = enough

    def finds_module():
        return importlib.util.find_spec(module) is not None

    enough, module = ENOUGH_FAILURES, __name__
    start_worker = f"python -m dask worker {address} --nthreads 1"
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(distributed.Client(address, timeout=PATIENCE_S))
            client.run_on_scheduler(keep_trying)
            client.wait_for_workers(1, timeout=PATIENCE_S)
            found = client.run(finds_module)
        except (TimeoutError, OSError, ValueError) as e:
            raise UserError(
                f"no scheduler with a worker answers at --scheduler {address} ({type(e).__name__}); start them with "
                f"python -m dask scheduler, and {start_worker}"
            ) from None
        if not all(found.values()):
            raise UserError(f"a worker of {address} does not find {module}.py; start it in its folder: {start_worker}")
        yield client


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


def prefetch(items, size):
    """Yield what `items` yields, while a thread works up to `size` items ahead. Its errors are raised here.

    Closing this generator (or its end, or an error) ends the thread and closes `items`.
    """
    waiting, stop = queue.Queue(size), threading.Event()

    def put(*entry):
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return waiting.put(entry, timeout=0.1)

    def work():
        try:
            for item in items:
                put(item, None)
                if stop.is_set():
                    break
            put(None, StopIteration)
        except BaseException as e:  # whatever it is, it belongs to who reads
            put(None, e)
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, end = waiting.get()
            if end is StopIteration:
                return
            if end is not None:
                raise end
            yield item
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def timed(seconds, phase):
    """Add the time that the block takes to seconds[phase]. A phase belongs to one thread."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start
