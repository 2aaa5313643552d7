"""How the scripts fail: one line for the user's mistakes, and never a half-written file."""

import contextlib
import errno
import functools
import os
import pathlib
import shutil
import sys
import tempfile


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


@contextlib.contextmanager
def whole_file(path):
    """Yield a temporary path beside `path`, renamed to it when the block ends well, removed when not."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".tmp_", suffix="".join(path.suffixes[-2:])[-20:], dir=path.parent)
    os.close(handle)
    temporary = pathlib.Path(temporary)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp gives 0600
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path):
    """Yield a temporary folder beside `path`, renamed to it when the block ends well, removed when not."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".tmp_{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
