# SPDX-License-Identifier: Apache-2.0
"""Run as a program: what JAX's GPU path does, as support.jax_emulated has it. Prints JSON.

XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m support.jax_cuda_cases WHAT
"""

import json
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from mlayers.kernels_cu import driver

import mlayers
from mlayers.bridges import jax as jax_bridge
from mlayers.bridges import jax_cuda
from mlayers.op import OPS
from support import emulator, jax_emulated
from support.array_checks import as_tuple, reference
from support.bridge_calls import CALLS
from support.op_examples import DTYPES

# The small calls; and those that take several launches and memory besides their results.
CASES = {
    **CALLS,
    "wide": ("ffm", {"left": (3, 8), "right": (3, 2080)}, {"dim_size": 4}),
    "insight in parts": (
        "feature_insight",
        {"input_embedding": (300, 6), "weight": (6, 72)},
        {"segment_sizes": (2, 0, 4)},
    ),
    "aggregate in parts": (
        "feature_insight",
        {"input_embedding": (300, 6), "weight": (6, 72)},
        {"segment_sizes": (2, 4), "aggregate": True},
    ),
}
ORDERS = dict(zip(DTYPES, ("forward", "reverse", "random", "reverse"), strict=True))


def arrays_of(name, dtype="float32", seed=0, batch=None):
    """The inputs and an upstream gradient."""
    op, shapes, attributes = CASES[name]
    generator = np.random.default_rng(seed)
    shapes = [
        (batch, *shape[1:]) if batch is not None and axes.startswith(("b", "...")) else shape
        for axes, shape in zip(OPS[op].input_axes, shapes.values(), strict=True)
    ]
    (out,) = OPS[op].shapes(*shapes, **{**defaults(op), **attributes})
    return [generator.standard_normal(s).astype(DTYPES[dtype]) for s in (*shapes, out)]


def defaults(op):
    return {"ffm": {"int_type": "multiply"}, "feature_insight": {"aggregate": False}}.get(op, {})


def function_of(name):
    """From inputs and an upstream gradient to the result and the gradients."""
    op, _, attributes = CASES[name]

    def function(*tensors):
        out, pullback = jax.vjp(lambda *t: getattr(mlayers, op)(*t, **attributes), *tensors[:-1])
        return (out, *pullback(tensors[-1]))

    return function


def expected(name, arrays):
    op, _, attributes = CASES[name]
    *inputs, upstream = arrays
    gradient = OPS[op].gradient
    named = dict(zip(OPS[op].inputs, inputs, strict=True), grad=upstream)
    out = reference(getattr(mlayers, op), inputs, **attributes)
    upstreams = [named[argument] for argument in gradient.inputs]
    return (out, *as_tuple(reference(getattr(mlayers, gradient.name), upstreams, **attributes)))


def error(found, wanted):
    """The largest difference, in units of the largest number, or of 1 where all are smaller."""
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        if other.size:
            difference = np.abs(np.asarray(one, "float64") - other).max()
            worst = max(worst, float(difference / max(1, np.abs(other).max())))
    return worst


def targets(compiled):
    return sorted(set(re.findall(r'custom_call_target="([^"]*)"', compiled.as_text())))


def every_case(provider):
    seen = {}
    for dtype in DTYPES:
        jax.config.update("jax_enable_x64", dtype == "float64")
        jax_bridge.probe(dtype)
        for name in CASES:
            arrays = arrays_of(name, dtype)
            tensors, wanted = [jnp.asarray(a) for a in arrays], expected(name, arrays)
            compiled = jax.jit(function_of(name)).lower(*tensors).compile()
            before = provider.count("launches").value
            with emulator.order(ORDERS[dtype]):
                found = jax.block_until_ready(compiled(*tensors))
                launches = provider.count("launches").value - before
                eager = function_of(name)(*tensors)
                jax.block_until_ready(eager)
            seen[f"{name} {dtype}"] = {
                "targets": targets(compiled),
                "dtypes": sorted({r.dtype.name for r in (*found, *eager)}),
                "launches": launches,
                "jit": error(found, wanted),
                "eager": error(eager, wanted),
            }
    jax.config.update("jax_enable_x64", False)
    return seen


def texts():
    """The programs, as XLA receives them."""
    return {name: jax.jit(function_of(name)).lower(*arrays_of(name)).as_text() for name in CASES}


def mapped():
    seen = {}
    for name in CALLS:
        several = [arrays_of(name, seed=seed) for seed in range(3)]
        stacks = [np.stack(arrays) for arrays in zip(*several, strict=True)]
        wanted = [expected(name, arrays) for arrays in several]
        compiled = jax.jit(jax.vmap(function_of(name))).lower(*stacks).compile()
        found = compiled(*stacks)
        seen[name] = {
            "targets": targets(compiled),
            "folds": OPS[CALLS[name][0]].folds([True] * (len(stacks) - 1)),
            "error": error(found, [np.stack(w) for w in zip(*wanted, strict=True)]),
        }
    return seen


def empty():
    arrays = {name: arrays_of(name, batch=0) for name in CALLS}
    return {n: error(jax.jit(function_of(n))(*a), expected(n, a)) for n, a in arrays.items()}


def without_kernel():
    """Shapes that have none; and an exported program, which may run anywhere."""
    seen = {}
    for name in CALLS:
        arrays = arrays_of(name)
        wanted, function = expected(name, arrays), jax.jit(function_of(name))
        with mock.patch.object(jax_cuda, "plan", return_value=None) as planned:
            compiled = function.lower(*arrays).compile()
        assert planned.called
        seen[f"{name} unplanned"] = {
            "targets": targets(compiled),
            "error": error(compiled(*arrays), wanted),
        }
        exported = export.export(function)(*arrays)
        op, _, attributes = CASES[name]
        with mlayers.use_kernels("auto"):
            forward = jax.jit(partial(getattr(mlayers, op), **attributes)).lower(*arrays[:-1])
        seen[f"{name} auto"] = targets(forward.compile())
        seen[f"{name} exported"] = {
            "targets": re.findall(r"@mlayers\w*", exported.mlir_module()),
            "error": error(export.deserialize(exported.serialize()).call(*arrays), wanted),
        }
    return seen


def again(provider):
    """What a program does when it runs for the second time, on data of its own."""
    name = "aggregate in parts"
    function = jax.jit(function_of(name))
    jax.block_until_ready(function(*arrays_of(name)))
    before = {n: provider.count(n).value for n in ("calls", "launches")}
    with mock.patch.object(driver, "function") as asked:
        arrays = arrays_of(name, seed=1)
        found = jax.block_until_ready(function(*arrays))
    return {
        "asked": asked.call_count,
        "error": error(found, expected(name, arrays)),
        **{n: provider.count(n).value - before[n] for n in before},
    }


def threads_at_once(provider):
    """The first calls of a kernel at the same time, on several devices."""
    left = np.random.default_rng(0).standard_normal((4, 14)).astype("float32")
    wanted = reference(mlayers.ffm, [left, left], dim_size=7)
    function = jax.jit(lambda x: mlayers.ffm(x, x, 7))
    begin = threading.Barrier(8)
    errors = []

    def work(device):
        begin.wait()
        found = [function(jax.device_put(left, device)) for _ in range(20)]
        errors.extend(error([f], [wanted]) for f in found)

    before = len(provider.loaded)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, jax.devices() * 2))
    return {
        "loaded": sorted(device for _, device in provider.loaded[before:]),
        "errors": [len(errors), max(errors)],
    }


def words_of(call):
    """What XLA says where a call fails."""
    try:
        jax.block_until_ready(call())
    except jax.errors.JaxRuntimeError as problem:
        return str(problem)
    return None


def failures(provider):
    """Compilation and launch fail; the same program works when they no longer do."""
    x, seen = jnp.ones((4, 11)), {}
    function = jax.jit(lambda x: mlayers.ffm(x, x, 11))  # of a size that nobody else has
    for name, words in {"compiler": "expected a ';'", "long": "é" * 2000, "odd": "\udc80"}.items():
        provider.broken = words
        seen[name] = words_of(lambda: function(x))
    provider.broken = ""
    with mock.patch.object(driver, "function", side_effect=KeyboardInterrupt):
        seen["interrupt"] = words_of(lambda: function(x))
    provider.count("refuse").value = 1
    seen["launch"] = words_of(lambda: function(x))
    provider.count("refuse").value = 0
    seen["after"] = words_of(lambda: function(x))
    return seen


def malformed():
    """Programs that jax_cuda.py would not write."""
    x = jnp.ones(8)
    named = ("fid_counter", "float32", ())
    attributes = {
        "code": json.dumps([*named, jax_cuda._version(*named)], separators=(",", ":")),
        "kernels": "fid_counter",
        "launches": [1, 1, 256, 0, 5, 2, 0, 3, 0, 0, 8, 1, 0, 1, 0],
    }

    def call(**changes):
        given = {**attributes, **changes}
        given["launches"] = np.array(given["launches"], given.pop("dtype", "int64"))
        return words_of(lambda: jax.ffi.ffi_call(jax_cuda.TARGET, x)(x, **given))

    launches = attributes["launches"]
    return {
        "right": call(),
        "dtype": call(dtype="int32"),
        "old": call(code=json.dumps([*named, "0123456789abcdef"])),
        "cut": call(launches=launches[:-1]),
        "many": call(launches=[1, 1, 256, 0, 33, *[0, 0] * 33]),
        "negative": call(launches=[1, 1, 256, 0, -1]),
        "no name": call(kernels=" "),
        "long name": call(kernels="k" * 128),
        "unknown name": call(kernels="fid_clock"),
        "unknown code": call(code="fid"),
        "no such input": call(launches=[*launches[:5], 2, 1, *launches[7:]]),
        "no such output": call(launches=[*launches[:7], 3, 1, *launches[9:]]),
    }


def main(what):
    provider = jax_emulated.install()
    if what == "texts":
        seen = texts()
    elif what == "devices":
        from support import jax_devices  # not before it is asked for: it takes Keras seconds

        jax_devices.main()
        return
    else:
        seen = {
            "cases": every_case(provider),
            "mapped": mapped(),
            "empty": empty(),
            "without kernel": without_kernel(),
            "again": again(provider),
            "threads": threads_at_once(provider),
            "failures": failures(provider),
            "malformed": malformed(),
            "texts": texts(),
        }
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
