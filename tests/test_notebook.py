"""examples/lipgan.ipynb runs from top to bottom, and shows a video."""

import pathlib

import pytest

nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_notebook_runs_from_top_to_bottom():
    notebook = nbformat.read(ROOT / "examples" / "lipgan.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "examples")}}).execute()
    shown = {name for cell in notebook.cells for output in cell.get("outputs", []) for name in output.get("data", {})}
    assert {"text/html", "image/png"} <= shown  # the video and the strip of frames


def test_notebook_is_stored_without_outputs():
    notebook = nbformat.read(ROOT / "examples" / "lipgan.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
