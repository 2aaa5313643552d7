"""Run work beside the main thread: a prefetching thread, and tasks in worker processes, here or on a Dask cluster.

Dask is imported where workers are started: the packages that only make videos need do not include it.
"""

import contextlib
import importlib.util
import itertools
import logging
import multiprocessing
import pathlib
import queue
import tempfile
import threading
import time

from lipgan.utils.cli import UserError
from lipgan.utils.cpus import LIMIT, available_cpus

MAX_TRIES = 2  # times that a task may kill its worker before it is given up
WORKER_TIMEOUT_S = 60  # for the first worker of a cluster
CLOSE_TIMEOUT_S = 6  # for workers that are stopped; Dask kills its own after 4 s
ALLOWED_FAILURES = 10**6  # by default a scheduler gives up tasks after a few deaths of workers that merely held them


def in_workers(task, arguments, num_workers, scratch, scheduler=None):
    """Run `task` on each tuple of `arguments` in worker processes. Yields (index, result) as they finish.

    A worker that dies is replaced and its task is run again; a task that kills MAX_TRIES workers yields None. An
    exception of a task is raised here. `task` must be importable by the workers. Closing this generator (or its end, or
    an exception) ends the workers.
    num_workers: processes on this machine. scheduler: address of a Dask scheduler whose workers are used instead.
    scratch: folder that all workers share, for a temporary `.tmp_` folder of marks.
    Raises UserError where Dask is missing, for a scheduler that does not answer, or whose workers cannot import this
    module.
    """
    if not arguments:
        return
    if importlib.util.find_spec("distributed") is None:
        raise UserError('worker processes need the package distributed; pip install "dask[distributed]"')
    with tempfile.TemporaryDirectory(prefix=".tmp_", dir=scratch, ignore_cleanup_errors=True) as marks:
        cluster = _ClusterThread(task, arguments, marks, num_workers, scheduler)
        try:
            while (entry := cluster.results.get()) is not None:
                result, error = entry
                if error is not None:
                    raise error
                yield result
        finally:
            cluster.close()


class _ClusterThread:
    """Calls Dask in a thread of its own, where no signal interrupts it.

    Python raises Ctrl-C's exception in the main thread, at any instruction. Inside Dask it can leave a lock taken for
    which Dask's event loop then waits for ever. The main thread therefore waits at a SimpleQueue only, which is safe.
    """

    def __init__(self, task, arguments, marks, num_workers, scheduler):
        self.results = queue.SimpleQueue()  # of (result, None) or (None, exception); None at the end
        self._ended = queue.SimpleQueue()  # of futures; None to stop
        self._task, self._indexed, self._marks = task, iter(enumerate(arguments)), marks
        self._open_client = lambda: _remote_client(scheduler) if scheduler else _local_client(num_workers, marks)
        self._scheduler = scheduler
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self):
        """Stop the tasks and the workers of this machine; those that do not stop in time are killed."""
        self._ended.put(None)
        try:
            self._thread.join(CLOSE_TIMEOUT_S)
        finally:  # a second Ctrl-C ends the waiting
            if self._thread.is_alive() and not self._scheduler:
                for process in multiprocessing.active_children():
                    if process.name.startswith("Dask Worker"):
                        process.kill()
                        process.join()

    def _run(self):
        try:
            with self._open_client() as client:
                self._run_tasks(client)
        except BaseException as e:  # every exception belongs to the consumer
            self.results.put((None, e))
        self.results.put(None)

    def _run_tasks(self, client):
        import distributed

        window, running = _Window(client), {}
        try:
            while True:
                for index, args in itertools.islice(self._indexed, max(0, window.size() - len(running))):
                    future = client.submit(_attempt, self._task, index, args, self._marks, pure=False)
                    running[future.key] = future
                    future.add_done_callback(self._ended.put)
                if not running or (future := self._ended.get()) is None:
                    return
                self.results.put((running.pop(future.key).result(), None))
        except distributed.client.FutureCancelledError as e:
            raise UserError(f"lost the scheduler {self._scheduler} ({e}); run again: finished work is kept") from None


class _Window:
    """Limits the tasks in flight to twice the workers' threads: a scheduler chokes on 100,000 tasks."""

    def __init__(self, client):
        self._client, self._size, self._updated = client, 0, 0.0

    def size(self):
        if time.monotonic() - self._updated > 5:  # workers of a cluster come and go
            self._size = 2 * max(1, sum(self._client.nthreads().values()))
            self._updated = time.monotonic()
        return self._size


@contextlib.contextmanager
def _local_client(num_workers, folder):
    """Yield the client of a Dask cluster on this machine."""
    import dask
    import distributed

    settings = {
        "distributed.scheduler.allowed-failures": ALLOWED_FAILURES,
        "distributed.scheduler.worker-ttl": None,  # a worker deep inside the detector may not answer for long
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=num_workers,
            threads_per_worker=1,
            # No dashboard, any free port: with None, 8787 is taken all the same, with a warning when it is in use.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=None,
            env={LIMIT: str(max(1, available_cpus() // num_workers))},
            local_directory=folder,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@contextlib.contextmanager
def _remote_client(address):
    """Yield the client of a running scheduler whose workers can import this module (and so the ones beside it)."""
    import distributed

    # Nested functions are pickled by value: the scheduler need not have this module.
    def raise_allowed_failures(dask_scheduler=None):
        dask_scheduler.allowed_failures = allowed

    def has_module():
        return importlib.util.find_spec(module) is not None

    allowed, module = ALLOWED_FAILURES, __name__
    start_worker = f"python -m dask worker {address} --nthreads 1"
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(distributed.Client(address, timeout=WORKER_TIMEOUT_S))
            client.run_on_scheduler(raise_allowed_failures)
            client.wait_for_workers(1, timeout=WORKER_TIMEOUT_S)
            found = client.run(has_module)
        except (TimeoutError, OSError, ValueError) as e:
            raise UserError(
                f"no scheduler with a worker answers at --scheduler {address} ({type(e).__name__}); start them with "
                f"python -m dask scheduler, and {start_worker}"
            ) from None
        if not all(found.values()):
            raise UserError(
                f"a worker of {address} cannot import {module}; start it in the repository's folder: {start_worker}"
            )
        yield client


def _attempt(task, index, arguments, marks):
    """Run a task in a worker, leaving a mark meanwhile that shows the next attempt how often it killed its worker."""
    marks = pathlib.Path(marks)
    attempts = len(list(marks.glob(f"{index}.*")))
    if attempts >= MAX_TRIES:
        return index, None
    mark = marks / f"{index}.{attempts}"
    mark.touch()
    try:
        return index, task(*arguments)
    finally:
        mark.unlink()


def prefetch(items, size):
    """Yield the items of an iterator that a thread runs up to `size` items ahead. Its exceptions are raised here.

    Closing this generator (or its end, or an exception) ends the thread and closes `items`.
    """
    ready, stop = queue.Queue(size), threading.Event()

    def put(*entry):
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(entry, timeout=0.1)

    def work():
        try:
            for item in items:
                put(item, None)
                if stop.is_set():
                    break
            put(None, StopIteration)
        except BaseException as e:  # every exception belongs to the consumer
            put(None, e)
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, end = ready.get()
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
    """Add the duration of the block to seconds[phase]. A phase belongs to one thread."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start
