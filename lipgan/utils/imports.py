"""Imports without the optional packages that libraries load and that nothing here uses."""

import contextlib
import sys


@contextlib.contextmanager
def hidden(replacements):
    """While the block runs, imports of these modules find the replacement; None: they fail as if not installed.

    Modules that are loaded already stay. Later imports find the real ones.
    """
    replacements = {name: module for name, module in replacements.items() if name not in sys.modules}
    sys.modules.update(replacements)
    try:
        yield
    finally:
        for name in replacements:
            sys.modules.pop(name, None)  # another thread may have been here


# OpenVINO's converter of models, which `import openvino` loads: it takes two thirds of that import's time, and sends a
# report of each import over the network, from a forked process that prints a traceback where there is no network.
OPENVINO_CONVERTER = "openvino.tools.ovc"


def import_openvino():
    """Import and return openvino, without its converter of models."""
    with hidden({OPENVINO_CONVERTER: None}):
        import openvino
    return openvino
