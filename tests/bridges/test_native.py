# SPDX-License-Identifier: Apache-2.0
"""What the bridges share: where one is missing, the composition serves and the reason is told."""

import os
import sys

import numpy as np
import pytest

import mlayers
from mlayers.bridges import native
from mlayers.op import OPS
from support import programs
from support.bridge_calls import CALLS, arrays_of, call

BACKEND = os.environ.get("KERAS_BACKEND")
needs_backend = pytest.mark.skipif(BACKEND is None, reason="KERAS_BACKEND is not set")


@pytest.fixture
def broken(monkeypatch):
    """The active framework's bridge, unavailable."""
    why = "the function some_function is missing in this version"
    monkeypatch.setitem(native._bridges, BACKEND, why)
    return why


@needs_backend
@pytest.mark.parametrize("name", CALLS)
def test_composition_serves_where_a_bridge_is_missing(broken, name):
    import keras

    arrays = arrays_of(name)
    with mlayers.use_kernels("reference"):
        expected = call(name, *arrays)
    found = keras.ops.convert_to_numpy(call(name, *map(keras.ops.convert_to_tensor, arrays)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@needs_backend
def test_why_a_bridge_is_missing_is_told(broken):
    import keras

    ones = keras.ops.ones((2, 2))
    assert mlayers.show_config(mode="dict")["bridges"][BACKEND] == f"composition: {broken}"
    with (
        mlayers.use_kernels("cython"),
        pytest.raises(RuntimeError, match=f"ffm: the path 'cython' is forced, but {broken}"),
    ):
        mlayers.ffm(ones, ones, 1)


@needs_backend
def test_bridge_of_the_backend_is_there():
    __import__(BACKEND)
    line = mlayers.show_config(mode="dict")["bridges"][BACKEND]
    assert line.startswith("kernels"), line


FIRST_CALLS = {
    "jax": [
        "jax.jit(f)(a)",
        "jax.grad(lambda a: f(a).sum())(a)",
        "jax.vmap(f)(a[None])",
        "jax.lax.scan(lambda c, _: (c + f(a).sum(), None), 0.0, None, length=2)",
    ],
    "tensorflow": [
        "tensorflow.function(f)(a)",
        "tensorflow.function(f, jit_compile=True)(a)",
        "tensorflow.vectorized_map(f, a[None])",
        "tensorflow.map_fn(f, a[None])",
    ],
}


@pytest.mark.parametrize("program", FIRST_CALLS.get(BACKEND, []))
def test_the_very_first_call_may_be_anywhere(program):
    """A bridge is loaded and tested outside of whatever is traced, mapped or differentiated."""
    program = (
        f"import {BACKEND}, keras, mlayers\n"
        "a, f = keras.ops.ones((2, 4)), lambda a: mlayers.ffm(a, a, 2)\n"
        f"{program}\n"
        "print(mlayers.bridges.native.state(keras.backend.backend()))\n"
    )
    assert programs.output("-c", program).startswith("kernels on the CPU")


@pytest.mark.parametrize("framework", native.FRAMEWORKS)
def test_framework_that_is_not_loaded(framework):
    if framework in sys.modules:
        pytest.skip(f"{framework} is loaded here")
    line = mlayers.show_config(mode="dict")["bridges"][framework]
    assert line == f"not in use: {framework} is not loaded"
    assert framework not in sys.modules


@pytest.mark.skipif(BACKEND not in ("tensorflow", "torch"), reason="no other import is waited for")
@pytest.mark.parametrize("again", ["importlib.reload(mlayers)", "forget(); import mlayers"])
def test_loaded_again_before_the_framework(again):
    program = f"""
import importlib, sys, mlayers
def forget():
    for name in [*sys.modules]:
        if name.partition(".")[0] == "mlayers":
            del sys.modules[name]
{again}
import {BACKEND}
print("there")
"""
    assert programs.output("-c", program) == "there"


@needs_backend
def test_an_attribute_of_many_values_fills_no_memory():
    import keras

    from mlayers.bridges import composition

    x = keras.ops.ones(3)
    with mlayers.use_kernels("composition"):
        for threshold in range(1, 1101):
            mlayers.fid_counter(x, counter_threshold=threshold)
    assert 0 < len(composition._functions) <= 1024


@pytest.mark.parametrize("framework", ["tensorflow", "torch"])
def test_missing_library_is_named(framework):
    """The C half looks its functions up in what the process has loaded, and says what it misses."""
    if framework in sys.modules:
        pytest.skip(f"{framework} is loaded here")
    with pytest.raises(native.Unavailable, match=rf"lib{framework}\w*\.so"):
        native.start(framework)


def test_missing_compiled_half_is_named():
    with pytest.raises(native.Unavailable, match="no compiled bridge libmlayers_paddle"):
        native.start("paddle")


def test_wrong_result_of_the_probe_is_refused():
    x = np.ones(3, "float32")
    native.check_probe(3 * x, 3, x)
    for wrong in (x, (3 * x).astype("float64")):
        with pytest.raises(native.Unavailable, match="its test failed"):
            native.check_probe(wrong, 3, x)


def test_bridge_whose_probe_fails_is_not_used(monkeypatch):
    class Bridge:
        def load(self):
            pass

        def probe(self, dtype):
            native.check_probe(np.ones(1), 3, np.ones(1))

    monkeypatch.setattr(native, "import_module", lambda name: Bridge())
    monkeypatch.delitem(native._bridges, "paddle", raising=False)
    assert native.bridge("paddle") is None
    assert native.why_not("paddle").startswith("its test failed")
    native._bridges.pop("paddle")


def test_words_of_a_native_error_are_the_front_doors():
    with pytest.raises(ValueError, match="batch size") as front:
        mlayers.ffm(np.ones((4, 6), "f"), np.ones((5, 9), "f"), 3, "dot")
    ints, floats = OPS["ffm"].encode((3, "dot"))
    assert native.explain("ffm", "float32", [(4, 6), (5, 9)], ints, floats) == str(front.value)
    # Where the front door would not mind, at least what came is told.
    assert native.explain("ffm", "float32", [(4, 6)], ints, floats) == (
        "ffm: the inputs do not fit one another. Received: float32 arrays of (4, 6)"
    )


@pytest.mark.parametrize("name", OPS)
def test_attributes_survive_the_way_into_a_kernel(name):
    op = OPS[name]
    examples = {
        "dim_size": 4,
        "int_type": "dot",
        "segment_sizes": (3, 0, 2),
        "aggregate": True,
        "counter_threshold": 0.1,  # exact in float64 alone
        "step": -1e-300,
    }
    values = tuple(examples[attribute.name] for attribute in op.attributes)
    assert op.decode(*op.encode(values)) == values
    assert list(op.input_axes) == op.axes.split("->")[0].split(",")
    assert len(op.input_axes) == len(op.inputs)
    assert len(op.output_axes) == len(op.outputs)
