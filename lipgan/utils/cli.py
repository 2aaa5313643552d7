"""Command-line scripts: errors as one line with exit status 1, printable paths, and argparse types."""

import argparse
import codecs
import contextlib
import contextvars
import errno
import functools
import os
import pathlib
import signal
import sys
import threading

_notes = contextvars.ContextVar("notes", default=None)  # the list of `collected_notes`


class UserError(Exception):
    """An error that the user can fix. The message names the option or file, what was found and what to do next."""


def _encode_path(error):
    """Encode a path that the console's encoding lacks: as its own bytes where it has any, or else escaped."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeEncodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error("path", _encode_path)


def script(main):
    """Decorate a script's `main(argv=None)`: a UserError becomes one line on stderr and exit status 1."""

    @functools.wraps(main)
    def wrapper(argv=None):
        name = pathlib.Path(sys.modules[main.__module__].__file__).name
        _open_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="path")  # no path stops a program that only prints it
        try:
            return main(argv) or 0
        except UserError as e:
            print(f"{name}: {one_line(e)}", file=sys.stderr)
            return 1
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr)
            return 130
        except OSError as e:  # disk full, permission denied
            full = "; free some space and run it again" if e.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            where = f": {one_line(e.filename)}" if e.filename else ""
            print(f"{name}: {one_line(e.strerror or e)}{where}{full}", file=sys.stderr)
            return 1

    return wrapper


def _open_closed_streams():
    """Give a program that was started without stdin, stdout or stderr, as services are, the null device for them.

    Python has None there, on which nothing can be printed, and the next file that is opened would get their number and
    all that libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers: the lowest
        if getattr(sys, name) is None:  # free one is taken
            setattr(sys, name, pathlib.Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 (stays open)


def warn(text):
    """Print a line on stderr: stdout is for results."""
    print(one_line(text), file=sys.stderr, flush=True)


def note(text):
    """Say what was assumed or found on the way: in the list of `collected_notes`, or else as `warn` does."""
    notes = _notes.get()
    warn(text) if notes is None else notes.append(one_line(text))


@contextlib.contextmanager
def collected_notes():
    """Yield a list that gets the notes of the block, of this thread, instead of stderr; an error prints them."""
    notes = []
    token = _notes.set(notes)
    try:
        yield notes
    except UserError:
        for line in notes:  # they may explain the error, which will be the last line
            warn(line)
        raise
    finally:
        _notes.reset(token)


@contextlib.contextmanager
def interrupted_by_sigterm():
    """Let SIGTERM end the block as Ctrl-C does, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def one_line(text):
    """Return the text with line breaks, which file names may contain, escaped."""
    return str(text).replace("\r", "\\r").replace("\n", "\\n")


def positive_int(text):
    """Parse an integer above 0 (an argparse type)."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def positive_float(text):
    """Parse a number above 0 (an argparse type)."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def non_negative_int(text):
    """Parse an integer of at least 0 (an argparse type)."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def non_negative_float(text):
    """Parse a number of at least 0 (an argparse type)."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def share(text):
    """Parse a number of at least 0 and below 1 (an argparse type)."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and below 1")
    return value
