"""Scripts: every path is printed somehow, and errors are one line."""

import contextlib
import io
import os
import subprocess
import sys

import pytest

from lipgan.utils.cli import UserError, script


def console():
    """Return the stream of a console that knows cp1252 only; its `buffer` holds what it receives."""
    return io.TextIOWrapper(io.BytesIO(), "cp1252", write_through=True)


def test_a_path_outside_of_the_consoles_encoding_is_escaped():
    @script
    def main(argv=None):
        print("caf\u00e9/\u9854.jpg", "caf\udcff.jpg")  # the second one's bytes are no UTF-8

    with contextlib.redirect_stdout(console()) as stdout:
        assert main() == 0
    assert stdout.buffer.getvalue().split() == [b"caf\xe9/\\u9854.jpg", b"caf\xff.jpg"]


def test_error_with_an_unencodable_path_is_one_line():
    @script
    def main(argv=None):
        raise UserError("\u9854\n.jpg does not exist")

    with contextlib.redirect_stderr(console()) as stderr:
        assert main() == 1
    assert stderr.buffer.getvalue() == b"test_cli.py: \\u9854\\n.jpg does not exist\n"


@pytest.mark.skipif(os.name == "nt", reason="closes file descriptors")
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_program_that_is_started_without_streams_runs(tmp_path, closed):
    (tmp_path / "program.py").write_text(
        "import os, sys\n"
        "from lipgan.utils.cli import script, warn\n"
        "@script\n"
        "def main(argv=None):\n"
        "    print('result', flush=True)\n"
        "    warn('note')\n"
        "    sys.stderr.isatty()\n"
        "    with open('x', 'w') as file:\n"
        "        assert file.fileno() > 2\n"
        "        os.write(2, b'what a library prints')\n"
        "sys.exit(main())\n"
    )

    # A program that closes them and becomes the other one: between fork and exec, where threads run, it can hang.
    close = f"import os, sys; [os.close(number) for number in {closed}]; os.execv(sys.argv[1], sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", close, sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "x").read_bytes() == b""
