# SPDX-License-Identifier: Apache-2.0
"""What the README and the docstrings show runs as it stands."""

import doctest
import importlib.util
import os
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import pytest
from mlayers.kernels_cu import driver

import mlayers
from mlayers.bridges.native import FRAMEWORKS
from support import libraries

README = (Path(__file__).parents[1] / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)
NEEDS_KERAS = tuple(
    f"mlayers.{name}"
    for name in ("activations", "bridges.", "insight", "layers", "monolith", "params")
)

has_keras = "KERAS_BACKEND" in os.environ


def test_readme_has_snippets():
    assert len(SNIPPETS) == 7


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_readme_snippet(number):
    source = SNIPPETS[number]
    if "mlayers.layers" in source and not has_keras:
        pytest.skip("KERAS_BACKEND is not set: NumPy alone here")
    if "DeviceMesh" in source:
        pytest.skip("needs four devices: tests/distribution/test_jax.py runs it there")
    # CuPy's runs on a GPU, or in the emulator.
    name = "numpy" if "cupy" not in source else "emulated" if driver.why_not() else "cupy"
    with libraries.library(name):
        exec(compile(source, f"README snippet {number}", "exec"), {"mlayers": mlayers})


def test_porting_page():
    """Its blocks, one after the other."""
    if not has_keras:
        pytest.skip("KERAS_BACKEND is not set: NumPy alone here")
    page = (Path(mlayers.__file__).parent / "PORTING.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 8
    exec(compile("\n".join(blocks), "PORTING.md", "exec"), {})


def modules():
    for info in pkgutil.walk_packages(mlayers.__path__, "mlayers."):
        if ".cython_cpu" not in info.name and not info.name.endswith("__main__"):
            yield info.name


@pytest.mark.parametrize("name", [n for n in modules() if not n.startswith("mlayers.train")])
def test_docstrings(name):
    names = ("_symbolic", "composition", "bench.tower")
    keras_only = name.startswith(NEEDS_KERAS) or name.endswith(names)
    if keras_only and not has_keras:
        pytest.skip("KERAS_BACKEND is not set: NumPy alone here")
    framework = name.removeprefix("mlayers.bridges.").split("_")[0]  # torch_rules is torch's
    if framework in FRAMEWORKS and importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed here")
    results = doctest.testmod(import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


def test_docstrings_have_examples():
    """So that the test above cannot pass by finding nothing."""
    names = [name for name in modules() if name.startswith("mlayers.ops.") and "._" not in name]
    assert names
    for name in names:
        finder = doctest.DocTestFinder(exclude_empty=True)
        assert sum(len(t.examples) > 0 for t in finder.find(import_module(name))) >= 2
