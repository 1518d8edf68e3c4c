# SPDX-License-Identifier: Apache-2.0
"""The shape of the house: imports run one way, and each op has its four rooms."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import mlayers
from mlayers.op import OPS
from support import programs

ROOT = Path(__file__).parents[1]
MODULES = sorted({op.module for op in OPS.values()})

# A module may import modules of its own floor and of those below, never of one above.
FLOORS = [
    {"mlayers.__main__", "mlayers.bench", "mlayers.train"},
    {"mlayers.monolith"},
    {"mlayers.insight", "mlayers.layers"},  # MLP.feature_insight makes a report
    {"mlayers.activations", "mlayers.params"},
    {"mlayers", "mlayers.show_config", "mlayers.threads"},  # re-exports the ops
    {"mlayers.ops"},
    {"mlayers.dispatch"},
    {"mlayers.bridges", "mlayers.cython_cpu", "mlayers.kernels_cu"},
    {"mlayers.config", "mlayers.op"},
]


def floor(module):
    """The number of the floor a module is on; 0 is the top."""
    while module:
        for number, names in enumerate(FLOORS):
            if module in names:
                return number
        module = module.rpartition(".")[0]
    raise AssertionError("not one of ours")


def imports(path):
    """All modules of mlayers that a file imports anywhere, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from mlayers import ops` names a module, `from mlayers.ops import ffm` a function
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "mlayers"
                else [node.module]
            )
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "mlayers")


def source_files():
    for folder in ("mlayers", "cython_cpu", "kernels_cu"):
        package = "mlayers" if folder == "mlayers" else f"mlayers.{folder}"
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            module = ".".join((package, *parts)).removesuffix(".__init__")
            yield pytest.param(module, path, id=module)


@pytest.mark.parametrize(("module", "path"), list(source_files()))
def test_imports_run_one_way(module, path):
    for imported in imports(path):
        assert floor(imported) >= floor(module), f"{module} imports {imported}, which is above it"


def test_direction_test_sees_an_import_upwards(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    from mlayers.layers import Dense\n")
    assert list(imports(path)) == ["mlayers.layers"]
    assert floor("mlayers.layers") < floor("mlayers.ops.ffm")


def test_import_loads_no_framework():
    program = (
        "import sys, numpy, mlayers\n"
        "mlayers.ffm(numpy.ones((2, 2)), numpy.ones((2, 2)), 1)\n"
        "mlayers.show_config()\n"
        "heavy = {'keras', 'tensorflow', 'jax', 'torch', 'cupy', 'pandas', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert programs.output("-c", program).splitlines()[-1] == "[]"


def test_four_rooms_hold_the_same_ops():
    def names(folder, pattern, prefix=""):
        stems = {path.stem.removeprefix(prefix) for path in (ROOT / folder).glob(pattern)}
        return sorted(stem for stem in stems if not stem.startswith("_"))

    assert MODULES
    assert names("mlayers/ops", "*.py") == MODULES
    assert names("cython_cpu", "*.pyx") == MODULES
    assert names("tests/ops", "test_*.py", "test_") == MODULES
    # A .cu without an op is a mistake; an op without a .cu runs elsewhere.
    assert set(names("kernels_cu", "*.cu")) <= set(MODULES)
    helpers = {"plan", "driver"}
    assert set(names("kernels_cu", "*.py")) - helpers == set(names("kernels_cu", "*.cu"))


@pytest.mark.parametrize("name", OPS)
def test_every_op_has_a_kernel(name):
    module = import_module(f"mlayers.cython_cpu.{OPS[name].module}")
    assert name in module.KERNELS
    assert set(module.KERNELS) <= set(OPS)


@pytest.mark.parametrize("name", OPS)
def test_cuda_plan_names_its_arguments_as_the_op(name):
    """The function that plans an op's CUDA kernels takes the item size, shapes and attributes."""
    op = OPS[name]
    function = getattr(import_module(f"mlayers.kernels_cu.{op.module}"), name)
    assert len(inspect.signature(function).parameters) == 1 + len(op.inputs) + len(op.attributes)


@pytest.mark.parametrize("name", OPS)
def test_one_signature(name):
    """Public function, shapes, reference and composition name their arguments alike."""
    op = OPS[name]
    attributes = [attribute.name for attribute in op.attributes]
    expected = [*op.inputs, *attributes]
    parameters = inspect.signature(getattr(mlayers, name)).parameters
    assert list(parameters) == [*expected, "out"]
    assert parameters["out"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(inspect.signature(op.reference).parameters) == expected
    assert list(inspect.signature(op.composition).parameters) == ["xp", *expected]
    assert list(inspect.signature(op.shapes).parameters)[: len(expected)] == expected


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.gradient])
def test_gradient_belongs_to_its_op(name):
    op = OPS[name]
    gradient = op.gradient
    assert gradient is OPS[f"{name}_grad"]
    assert gradient.attributes == op.attributes
    assert set(gradient.inputs) <= {"grad", *op.inputs}
    assert gradient.outputs == tuple(f"{argument}_grad" for argument in op.inputs)
    # Defaults of the two public functions agree.
    defaults = [
        {k: p.default for k, p in inspect.signature(getattr(mlayers, n)).parameters.items()}
        for n in (name, gradient.name)
    ]
    for attribute in op.attributes:
        assert defaults[0][attribute.name] == defaults[1][attribute.name]


def test_every_public_name_is_documented():
    for name in mlayers.ops.__all__:
        doc = getattr(mlayers, name).__doc__
        for section in ("Args:", "Returns:", "Raises:", "Example:"):
            assert section in doc, f"{name} says nothing of {section}"
