"""Serve a page on which a face and a recording of speech become a video.

    python app.py
    python app.py --host 0.0.0.0 --port 8000 --max_seconds 30

It listens on this machine only, unless --host says otherwise. Visitors wait in a queue; their files are removed after
--keep_minutes. Needs requirements-app.txt (make app installs it).
"""

import argparse
import contextlib
import pathlib
import sys
import tempfile
import threading

from lipgan.inference.options import RunnerOptions, add_options
from lipgan.models.backend import is_installed
from lipgan.utils.cli import UserError, interrupted_by_sigterm, positive_float, positive_int, script


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (default: %(default)s, this machine)")
    add("--port", type=positive_int, default=7860, help="port to listen on (default: %(default)s)")
    add("--max_mb", type=positive_float, default=200, help="largest upload, MB (default: %(default)g)")
    add("--max_seconds", type=positive_float, default=120, help="longest audio, seconds (default: %(default)g)")
    add("--max_waiting", type=positive_int, default=20, help="longest queue of visitors (default: %(default)s)")
    add(
        "--keep_minutes",
        type=positive_float,
        default=60,
        help="visitors' files are kept so long (default: %(default)g)",
    )
    add_options(parser, RunnerOptions)
    return parser.parse_args(argv)


@script
def main(argv=None):
    """Serve the page until Ctrl-C or SIGTERM. Returns an exit status."""
    args = parse_args(argv)
    if not is_installed("gradio"):
        raise UserError("the package gradio is missing; make app, or pip install -r requirements-app.txt")
    with (
        interrupted_by_sigterm(),
        tempfile.TemporaryDirectory(prefix="lipgan_app_", ignore_cleanup_errors=True) as folder,
        contextlib.suppress(KeyboardInterrupt),
    ):
        print(f"open {serve(args, pathlib.Path(folder))} in a browser; Ctrl-C ends it", flush=True)
        threading.Event().wait()
    return 0


def serve(args, folder):
    """Serve the page in threads, with all its files below the folder. Returns its address."""
    from lipgan.app import page
    from lipgan.app.visit import Limits, Studio
    from lipgan.inference.runner import load_runner

    runner = load_runner(args.checkpoint_path, args.model, args.lipgan_batch_size, args.precision, args.backend)
    limits = Limits(args.max_mb, args.max_seconds, args.max_waiting, args.keep_minutes)
    studio = Studio(runner, page.use_folder(folder), limits)
    return page.launch(page.build_page(studio), limits, args.host, args.port)


if __name__ == "__main__":
    sys.exit(main())
