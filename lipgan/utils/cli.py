"""How the scripts fail: one line for the user's mistakes, and never a half-written file."""

import argparse
import errno
import functools
import pathlib
import sys


class UserError(Exception):
    """Something the user can change. The message says what, what was found, and the next move, in one line."""


def script(main):
    """Decorate a script's `main(argv=None)`: a UserError becomes one line on stderr and exit status 1."""

    @functools.wraps(main)
    def wrapper(argv=None):
        name = pathlib.Path(sys.modules[main.__module__].__file__).name
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="surrogateescape")  # a path that is not UTF-8 is printed as it is
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
        except OSError as e:  # a full disk, a missing right
            full = "; make room, and run it again" if e.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            where = f": {one_line(e.filename)}" if e.filename else ""
            print(f"{name}: {one_line(e.strerror or e)}{where}{full}", file=sys.stderr)
            return 1

    return wrapper


def one_line(text):
    """The text with its line ends, which names of files may have, made visible."""
    return str(text).replace("\r", "\\r").replace("\n", "\\n")


def positive_int(text):
    """An argparse type: a whole number over 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not over 0")
    return value


def positive_float(text):
    """An argparse type: a number over 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not over 0")
    return value


def non_negative_int(text):
    """An argparse type: a whole number from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def non_negative_float(text):
    """An argparse type: a number from 0."""
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def share(text):
    """An argparse type: a number from 0 to under 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to under 1")
    return value
