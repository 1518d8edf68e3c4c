# SPDX-License-Identifier: Apache-2.0
"""Every notebook runs from top to bottom, draws something, and is kept small and clean."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
PICTURES = {  # at least so many
    "1_quickstart": 1,
    "2_gated_tower": 2,
    "3_feature_insight": 2,
    "4_speed": 2,
}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_the_notebooks_are_these():
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_runs_and_draws(name, tmp_path):
    notebook = read(name)
    os.environ.setdefault("MLAYERS_NOTEBOOK_SECONDS", "0.02")
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= PICTURES[name]
    assert all(len(output["data"]["image/png"]) > 5000 for output in pictures), "an empty picture"


@pytest.mark.parametrize("name", PICTURES)
def test_is_kept_clean(name):
    """No outputs, which change with every run and hold paths of a machine."""
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 20_000
