"""Batches: a CSV file of jobs is read, run one job after another, and reported."""

import traceback

from lipgan.utils.cli import UserError, one_line
from lipgan.utils.files import read_rows


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
