"""Files: atomic writes, CSV rows, and package versions."""

import codecs
import contextlib
import contextvars
import csv
import importlib.metadata
import os
import pathlib
import platform
import shutil
import tempfile

from lipgan.utils.cli import UserError

_prefix = contextvars.ContextVar("prefix", default=".tmp_")


@contextlib.contextmanager
def temporary_prefix(prefix):
    """Let `atomic_write` name its temporary files so in the block, by which they are found if the process is killed."""
    token = _prefix.set(prefix)
    try:
        yield
    finally:
        _prefix.reset(token)


@contextlib.contextmanager
def atomic_write(path):
    """Yield a temporary path beside `path` that is renamed to `path` on success and removed on failure."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(
        prefix=_prefix.get(), suffix="".join(path.suffixes[-2:])[-20:], dir=path.parent
    )
    os.close(handle)
    temporary = pathlib.Path(temporary)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        with contextlib.suppress(OSError):  # some network shares refuse chmod
            temporary.chmod(0o666 & ~umask)  # mkstemp gives 0600
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path):
    """Yield a temporary folder beside `path` that is renamed to `path` on success and removed on failure."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".tmp_{path.name}.", dir=path.parent))
    try:
        yield temporary
        with contextlib.suppress(OSError):  # some network shares refuse chmod
            temporary.chmod(0o755)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_rows(path, option, required):
    """Read a CSV file with a header as a list of {column: text}, without blank rows. Raises UserError.

    UTF-8, or UTF-16 with its mark; columns apart by commas, semicolons or tabs, as spreadsheets write them.

    option: the one that names the file, for messages. required: columns that must exist; others may.
    """
    columns = " and ".join(required)
    try:
        with path.open("rb") as file:
            is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        with path.open(newline="", encoding="utf-16" if is_utf16 else "utf-8-sig") as file:
            header = file.readline()
            delimiter = "," if "," in header else next((mark for mark in ";\t" if mark in header), ",")
            file.seek(0)
            rows = list(csv.DictReader(file, skipinitialspace=True, delimiter=delimiter))
    except FileNotFoundError:
        raise UserError(f"--{option} {path} does not exist; give a CSV file with the columns {columns}") from None
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as e:
        raise UserError(f"--{option} {path} is not a CSV file ({e}); give one with the columns {columns}") from None
    rows = [row for row in rows if any(row.values())]
    if not rows:
        raise UserError(f"--{option} {path} has no line under its header; add one for each video")
    if missing := [name for name in required if name not in rows[0]]:
        raise UserError(f"--{option} {path} lacks the column {' and '.join(missing)} in its first line")
    for number, row in enumerate(rows, 1):
        if None in row:  # more cells than the header
            raise UserError(
                f"--{option} {path}, row {number}: more cells than columns; put names with commas into quotes"
            )
    return rows


def versions(packages):
    """Return {name: version} of Python and of those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
