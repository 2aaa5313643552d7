"""A list of videos to be made one after another: read, run, and told about at the end."""

import traceback

from lipgan.utils.cli import UserError, one_line
from lipgan.utils.files import read_rows

SWITCHES = ("silence_gate", "box_cache")  # flags that are on unless a cell says False
LISTS = ("pads", "face_box")  # options of several values


def read_jobs(path, columns=None):
    """The lines of a CSV file with a header, as command line options: [["--face", "a.jpg", "--audio", ...], ...].

    columns: the names that the header may have (None: any). An empty cell leaves its option out; a flag's cell says
    True or yes, or is empty, False or no. Blank lines are skipped. Raises UserError for a file without the columns face
    and audio, with one that is no option, or without a line.
    """
    rows = read_rows(path, "jobs", ("face", "audio"))
    if unknown := [name for name in rows[0] if columns and name and name.removeprefix("no-") not in columns]:
        raise UserError(
            f"--jobs {path} has the column {unknown[0]!a}, which is no option; take face, audio and others of --help"
        )
    return [_options(row) for row in rows]


def _options(row):
    options = []
    for name, text in row.items():
        text = (text or "").strip()
        if not text or text.lower() in ("false", "no"):
            options += [f"--no-{name}"] * bool(text and name in SWITCHES)
            continue
        values = text.split() if name in LISTS else [text]
        # With "=" a name that begins with a dash is a value.
        options += (
            [f"--{name}"]
            if text.lower() in ("true", "yes")
            else ([f"--{name}={text}"] if len(values) == 1 else [f"--{name}", *values])
        )
    return options


def run_jobs(jobs, make):
    """Make one after another, whatever becomes of the others. make: options -> what to say of the result.

    Yields (options, succeeded, what to say) for each. An error fails its own video only; the traceback of one that is
    not the user's is shown.
    """
    for number, options in enumerate(jobs, 1):
        print(f"video {number} of {len(jobs)}: {' '.join(options)}", flush=True)
        try:
            yield options, True, make(options)
        except (UserError, OSError) as e:
            print(f"failed: {one_line(e)}", flush=True)
            yield options, False, one_line(e)
        except Exception as e:  # a mistake of ours must not cost the rest of the list
            traceback.print_exc()
            yield options, False, one_line(repr(e))


def report(results):
    """Print a table of what became of each. Returns an exit status: 1 where any failed."""
    results = list(results)
    print("\n| video | result |\n|---|---|")
    for number, (options, succeeded, told) in enumerate(results, 1):
        cells = f"{number} {' '.join(options)}", f"{'' if succeeded else 'FAILED: '}{told}"
        print("|", " | ".join(one_line(cell).replace("|", "\\|") for cell in cells), "|")
    failed = sum(not succeeded for _, succeeded, _ in results)
    print(f"{len(results) - failed} of {len(results)} videos are there, {failed} failed", flush=True)
    return int(failed > 0)
