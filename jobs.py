"""A list of videos to be made one after another: read, run, and told about at the end."""

import csv

from errors import UserError


def read_jobs(path):
    """The lines of a CSV file with a header, as command line options: [["--face", "a.jpg", "--audio", ...], ...].

    An empty cell leaves its option out; a flag's cell says True (or yes, 1) or is empty or False. Blank lines are
    skipped. Raises UserError for a file without the columns face and audio, or without a line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise UserError(f"--jobs {path} does not exist; give a CSV file with the columns face and audio") from None
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as e:
        raise UserError(f"--jobs {path} is not a CSV file ({e}); give one with the columns face and audio") from None
    rows = [row for row in rows if any(row.values())]
    if not rows:
        raise UserError(f"--jobs {path} has no line under its header; give a line for each video")
    if missing := {"face", "audio"} - set(rows[0]):
        raise UserError(f"--jobs {path} lacks the column {' and '.join(sorted(missing))} in its first line")
    return [_options(path, number, row) for number, row in enumerate(rows, 1)]


def _options(path, number, row):
    if None in row:  # more cells than the header
        raise UserError(f"--jobs {path}, video {number}: more cells than columns; put names with commas into quotes")
    options = []
    for name, text in row.items():
        text = (text or "").strip()
        if not text or text.lower() in ("false", "no"):
            continue
        values = text.split() if name in ("pads", "face_box") else [text]
        # With "=" a name that begins with a dash is a value.
        options += (
            [f"--{name}"]
            if text.lower() in ("true", "yes")
            else ([f"--{name}={text}"] if len(values) == 1 else [f"--{name}", *values])
        )
    return options


def run_jobs(jobs, make):
    """Make one after another, whatever becomes of the others. make: options -> what to say of the result.

    Yields (options, succeeded, what to say) for each. An error of the command line or of the user's files fails its
    own video only.
    """
    for number, options in enumerate(jobs, 1):
        print(f"video {number} of {len(jobs)}: {' '.join(options)}", flush=True)
        try:
            yield options, True, make(options)
        except (UserError, OSError) as e:
            print(f"failed: {e}", flush=True)
            yield options, False, str(e)
        except SystemExit:  # argparse has told what is wrong
            yield options, False, "wrong options in this line"


def report(results):
    """Print a table of what became of each. Returns an exit status: 1 where any failed."""
    results = list(results)
    print("\n| video | result |\n|---|---|")
    for number, (options, succeeded, told) in enumerate(results, 1):
        print(f"| {number} {' '.join(options)} | {'' if succeeded else 'FAILED: '}{told} |")
    failed = sum(not succeeded for _, succeeded, _ in results)
    print(f"{len(results) - failed} of {len(results)} videos are there, {failed} failed", flush=True)
    return int(failed > 0)
