"""Batches: a CSV file of jobs is read, run one job after another or in worker processes, and reported."""

import contextlib
import dataclasses
import traceback
import uuid

from lipgan.inference.options import Job
from lipgan.utils.cli import UserError, one_line
from lipgan.utils.files import read_rows, temporary_prefix
from lipgan.utils.parallel import MAX_TRIES, in_workers

KILLER = f"killed its worker process {MAX_TRIES} times and is given up"


@dataclasses.dataclass(frozen=True)
class Workers:
    """Where a batch runs: processes on this machine, or the workers of a Dask cluster."""

    count: int = 1
    scheduler: str | None = None  # its address, tcp://host:port


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a job ended in a worker."""

    succeeded: bool
    lines: tuple[str, ...]  # the summary of the result, or the error
    time_by_phase: str = ""


def read_jobs(path, columns):
    """Read a CSV file with a header: its rows as dicts of text by column.

    columns: the names that the header may have. Blank lines are skipped. Raises UserError for a file without the
    columns face and audio, with one that is not an option, or without a row.
    """
    rows = read_rows(path, "jobs", ("face", "audio"))
    if unknown := [name for name in rows[0] if name and name not in columns]:
        raise UserError(
            f"--jobs {path} has the column {unknown[0]!a}, which is not an option; take face, audio and others of "
            "--help"
        )
    return [{name: text for name, text in row.items() if name} for row in rows]


def run_jobs(rows, make):
    """Run one job after another; an error fails its own job only. make: row -> the line that describes the result.

    Yields (row, succeeded, line) for each. Errors that are not the user's are shown with their traceback.
    """
    for number, row in enumerate(rows, 1):
        print(f"video {number} of {len(rows)}: {describe(row)}", flush=True)
        try:
            yield row, True, make(row)
        except (UserError, OSError) as e:
            print(f"failed: {one_line(e)}", flush=True)
            yield row, False, one_line(e)
        except Exception as e:  # a bug must not cost the rest of the list
            traceback.print_exc()
            yield row, False, one_line(repr(e))


def run_in_workers(rows, job_of, workers: Workers, verbose=False):
    """Run jobs in worker processes, each with its generator loaded once. Yields as `run_jobs` does, in its order.

    job_of: row -> Job, or None where its result exists. The job of a killed worker is run again, once. verbose: print
    the time by phase too.
    """
    jobs, results = _planned(rows, job_of)
    numbers = list(jobs)
    with contextlib.closing(_outcomes(list(jobs.values()), workers)) as outcomes:
        for number, outcome in outcomes:
            row = numbers[number]
            print(f"video {row + 1} of {len(rows)}: {'' if outcome.succeeded else 'failed: '}{outcome.lines[0]}")
            for line in (*outcome.lines[1:], *([outcome.time_by_phase] if verbose and outcome.time_by_phase else [])):
                print(f"  {line}")
            results[row] = outcome.succeeded, str(jobs[row].out) if outcome.succeeded else outcome.lines[0]
    for number, row in enumerate(rows):
        yield row, *results[number]


def _planned(rows, job_of):
    """Return {number of a row: Job} of what is to be made, and {number: (succeeded, line)} of all others."""
    jobs, results = {}, {}
    for number, row in enumerate(rows):
        try:
            if (job := job_of(row)) is None:
                results[number] = True, "existed"
            else:
                job.check()
                jobs[number] = job
        except (UserError, OSError) as e:
            results[number] = False, one_line(e)
    return jobs, results


def _outcomes(jobs, workers):
    """Yield (number, Outcome) of the jobs as they end, and remove what killed workers left of their files."""
    jobs = [job.absolute() for job in jobs]
    folders = {job.out.parent for job in jobs}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    prefix = f".tmp_{uuid.uuid4().hex}_"
    scratch = min(folders, default=None)  # seen by all workers, as the results are
    count = min(workers.count, max(1, len(jobs)))
    tasks = [(job, prefix) for job in jobs]
    try:
        # Closed before the files are removed: then no worker is left that writes.
        with contextlib.closing(in_workers(make_in_worker, tasks, count, scratch, workers.scheduler)) as ended:
            for number, outcome in ended:
                yield number, outcome or Outcome(False, (KILLER,))
    finally:
        for folder in folders:
            for leftover in (*folder.glob(f"{prefix}*"), *folder.glob(f".boxes/{prefix}*")):
                leftover.unlink(missing_ok=True)


def make_in_worker(job: Job, prefix: str) -> Outcome:
    """Make the video of a job in a worker process; its errors are part of the Outcome. prefix: of temporary files."""
    from lipgan.inference.pipeline import lipsync
    from lipgan.inference.runner import load_runner

    options = job.runner
    try:
        if job.out.exists() and not job.overwrite:  # by a worker that was killed before it could say so
            return Outcome(True, (f"{job.out} existed",))
        runner = load_runner(
            options.checkpoint_path, options.model, options.lipgan_batch_size, options.precision, options.backend
        )
        with temporary_prefix(prefix):
            result = lipsync(job.face, job.audio, job.out, runner, job.options)
        return Outcome(True, tuple(result.summary()), result.time_by_phase())
    except (UserError, OSError) as e:
        return Outcome(False, (one_line(e),))
    except Exception as e:  # a bug must not cost the rest of the list
        traceback.print_exc()
        return Outcome(False, (one_line(repr(e)),))


def report(results):
    """Print a table of the results. Returns an exit status: 1 where any job failed."""
    results = list(results)
    print("\n| video | result |\n|---|---|")
    for number, (row, succeeded, line) in enumerate(results, 1):
        cells = f"{number} {describe(row)}", f"{'' if succeeded else 'FAILED: '}{line}"
        print("|", " | ".join(one_line(cell).replace("|", "\\|") for cell in cells), "|")
    failed = sum(not succeeded for _, succeeded, _ in results)
    print(f"{len(results) - failed} of {len(results)} videos exist, {failed} failed", flush=True)
    return int(failed > 0)


def describe(row):
    """Return the row as options, without its empty cells."""
    return " ".join(f"--{name}={text.strip()}" for name, text in row.items() if text and text.strip())
