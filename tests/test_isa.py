# SPDX-License-Identifier: Apache-2.0
"""Every instruction set that this machine runs gives the same results, on any number of threads."""

import os
import subprocess
import sys

import numpy as np
import pytest

import mlayers
from mlayers import cython_cpu
from support.array_checks import check_results, reference
from support.op_examples import DTYPES

GENERATOR = np.random.default_rng(0)
DIMS = (1, 2, 3, 4, 7, 8, 10, 16, 24, 32, 33, 64, 100, 130)  # whole vectors, parts, and both
SEGMENTS = (((3, 0, 5, 8), 7), ((16,) * 4, 64), ((70, 30), 100), ((1,), 1), ((130,), 70))


@pytest.fixture(params=cython_cpu.isas(), autouse=True)
def isa(request):
    before, threads = cython_cpu.isa(), mlayers.get_num_threads()
    cython_cpu.use_isa(request.param)
    with mlayers.use_kernels("cython"):
        yield request.param
    cython_cpu.use_isa(before)
    mlayers.set_num_threads(threads)


def normal(*shape, dtype="float32"):
    return GENERATOR.standard_normal(shape).astype(DTYPES[dtype])


def check(fn, arrays, dtype, **attributes):
    """Against the reference, for sums of some hundred products."""
    tolerances = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 1e-4, "float64": 1e-11}
    tolerance = {"rtol": tolerances[dtype], "atol": tolerances[dtype] * 8}
    found = fn(*arrays, **attributes)
    check_results(found, reference(fn, arrays, **attributes), dtype, tolerance)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("int_type", ["multiply", "dot"])
@pytest.mark.parametrize(("left", "right"), [(1, 1), (3, 5), (9, 17)])
def test_ffm(dtype, int_type, left, right):
    for dim in DIMS:
        arrays = [normal(3, left * dim, dtype=dtype), normal(3, right * dim, dtype=dtype)]
        out = check(mlayers.ffm, arrays, dtype, dim_size=dim, int_type=int_type)
        upstream = normal(*out.shape, dtype=dtype)
        check(mlayers.ffm_grad, [upstream, *arrays], dtype, dim_size=dim, int_type=int_type)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 4, 8, 16])
def test_ffm_with_a_right_side_that_fills_vectors(dtype, dim):
    """Of 4, 8 or 16 numbers, up to one more of them than stay in registers."""
    sizes = {lanes * vectors for lanes in (4, 8, 16) for vectors in range(1, 18)}
    for size in sorted(size for size in sizes if size % dim == 0):
        left, right = normal(2, 3 * dim, dtype=dtype), normal(2, size, dtype=dtype)
        out = check(mlayers.ffm, [left, right], dtype, dim_size=dim)
        upstream = normal(*out.shape, dtype=dtype)
        check(mlayers.ffm_grad, [upstream, left, right], dtype, dim_size=dim)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("left", "right"),
    [(10, 8), (10, 12), (10, 200), (2, 1100)],
    ids=["registers", "rows", "fields", "too wide"],
)
@pytest.mark.parametrize("start", [0, 1, -1])
def test_ffm_into_an_output_beyond_the_caches(dtype, left, right, start):
    """Stored past them: out of registers, whole rows, some fields of one, fields too wide for any.

    The output starts so many numbers after the start of a line.
    """
    dim, itemsize = 16, np.dtype(dtype).itemsize
    batch = (33 << 20) // (left * right * dim * itemsize) + 1  # 32 MB at most count as a cache
    lefts = normal(batch, left, 1, dim, dtype=dtype)
    rights = normal(batch, 1, right, dim, dtype=dtype)
    size = batch * left * right * dim
    memory = np.full(size + 128, 7, dtype)
    first = (-memory.ctypes.data % 64) // itemsize + 64 + start
    out = memory[first : first + size].reshape(batch, -1)
    mlayers.ffm(lefts.reshape(batch, -1), rights.reshape(batch, -1), dim, out=out)
    np.testing.assert_array_equal(out, (lefts * rights).reshape(batch, -1))
    assert (memory[:first] == 7).all()
    assert (memory[first + size :] == 7).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("left", "right", "dim"), [(4, 5, 16), (5, 4, 8), (4, 20, 16), (3, 4, 10)])
@pytest.mark.parametrize("start", [0, 1, -1])
def test_ffm_gradients_beyond_the_caches(dtype, left, right, dim, start):
    """Stored past them or not, they are what a few rows at a time get; nothing beside them changes.

    They start so many numbers after, and before, the start of a line.
    """
    itemsize = np.dtype(dtype).itemsize
    batch = (33 << 20) // (left * right * dim * itemsize) + 1  # rows, of an upstream of 33 MB
    shapes = (batch, left * dim), (batch, right * dim)
    arrays = [normal(*shape, dtype=dtype) for shape in shapes]
    grad = np.resize(normal(1009, left * right * dim, dtype=dtype), (batch, left * right * dim))
    memories, out = [], []
    for shape, first in zip(shapes, (start, -start), strict=True):
        size = shape[0] * shape[1]
        memory = np.full(size + 128, 7, dtype)
        first += (-memory.ctypes.data % 64) // itemsize + 64
        memories.append((memory[:first], memory[first + size :]))
        out.append(memory[first : first + size].reshape(shape))
    mlayers.ffm_grad(grad, *arrays, dim, out=tuple(out))
    for i in range(0, batch, 997):
        few = [array[i : i + 997] for array in (grad, *arrays)]
        for found, expected in zip(out, mlayers.ffm_grad(*few, dim), strict=True):
            np.testing.assert_array_equal(found[i : i + 997], expected)
    assert all((beside == 7).all() for pair in memories for beside in pair)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("aggregate", [False, True])
@pytest.mark.parametrize(("sizes", "units"), SEGMENTS)
def test_feature_insight(dtype, aggregate, sizes, units):
    arrays = [normal(130, sum(sizes), dtype=dtype) / 8, normal(sum(sizes), units, dtype=dtype) / 8]
    options = {"segment_sizes": sizes, "aggregate": aggregate}
    out = check(mlayers.feature_insight, arrays, dtype, **options)
    upstream = normal(*out.shape, dtype=dtype) / 8
    check(mlayers.feature_insight_grad, [upstream, *arrays], dtype, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_elementwise(dtype):
    hidden, logits = normal(1001, dtype=dtype), normal(1001, dtype=dtype) * 4
    check(mlayers.lhuc_gate, [hidden, logits], dtype)
    check(mlayers.lhuc_gate_grad, [hidden, hidden, logits], dtype)
    counters = np.arange(1001).astype(DTYPES[dtype])
    for fn in (mlayers.fid_counter, mlayers.fid_counter_grad):
        check(fn, [counters], dtype, counter_threshold=500.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9, 1), (6, 37), (33, 600), (5000, 70)])
def test_weight_norm(dtype, shape):
    kernel = normal(*shape, dtype=dtype) / 4
    norm = np.linspace(32, 64, shape[1]).astype(DTYPES[dtype])  # or results of many rows are small
    arrays = [kernel, norm]
    check(mlayers.weight_norm, arrays, dtype)
    upstream = normal(*shape, dtype=dtype) / 8
    check(mlayers.weight_norm_grad, [upstream, *arrays], dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gate_over_the_whole_range(dtype):
    logits = np.linspace(-800, 800, 40001).astype(dtype)
    logits = np.append(logits, [np.inf, -np.inf, np.nan, 0, -0.0]).astype(dtype)
    found = mlayers.lhuc_gate(np.ones_like(logits), logits)
    with np.errstate(over="ignore"):
        expected = 2 / (1 + np.exp(-logits.astype(np.longdouble)))
    unit, tiny = np.finfo(dtype).eps, np.finfo(dtype).smallest_subnormal
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    fits = np.isnan(expected) | (np.abs(found - expected) <= 4 * unit * expected + 4 * tiny)
    assert fits.all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_are_converted_exactly(dtype):
    """Every number of a half type goes through float and comes back; sums round to nearest even."""
    every = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype])
    same = mlayers.ffm(np.ones((1, 1), every.dtype), every[None], 1)[0]
    np.testing.assert_array_equal(same.astype("float32"), every.astype("float32"))
    one, few = every[: 1 << 14, None], np.linspace(0.99, 1.01, 7).astype(DTYPES[dtype])[:, None]
    for factor in few:
        with np.errstate(invalid="ignore", over="ignore"):
            expected = (one.astype("float32") * factor.astype("float32")).astype(one.dtype)
        found = mlayers.ffm(np.broadcast_to(factor, one.shape), one, 1)
        np.testing.assert_array_equal(found.astype("float32"), expected.astype("float32"))


@pytest.mark.parametrize("aggregate", [False, True])
def test_threads_change_no_bit(aggregate):
    left, right = normal(3000, 96), normal(3000, 128)
    x, weight, sizes = normal(500, 480), normal(480, 70), (16,) * 25 + (80,)
    narrow = x[:, :400].copy(), weight[:400]

    def everything():
        out = mlayers.ffm(left, right, 16)
        scores = mlayers.ffm(left, right, 16, "dot")
        insight = mlayers.feature_insight(x, weight, sizes, aggregate)
        return [
            out, scores, insight,
            *mlayers.ffm_grad(out, left, right, 16),
            *mlayers.ffm_grad(scores, left, right, 16, "dot"),
            *mlayers.feature_insight_grad(insight, x, weight, sizes, aggregate),
            *mlayers.feature_insight_grad(insight[:, :25], *narrow, sizes[:25], True),
            mlayers.lhuc_gate(out, out),
            mlayers.weight_norm(left, left[0]),
            *mlayers.weight_norm_grad(left, left, left[0]),
            *mlayers.weight_norm_grad(weight.T, x.T[:70, :480], weight[:, 0]),
        ]  # fmt: skip

    mlayers.set_num_threads(1)
    alone = everything()
    for threads in (2, 5):
        mlayers.set_num_threads(threads)
        for one, other in zip(everything(), alone, strict=True):
            np.testing.assert_array_equal(one, other)


def test_reused_large_output():
    """Larger than the last cache it is stored past it; the numbers are the same."""
    left, right = normal(2300, 16 * 15), normal(2300, 16 * 15)
    fresh = mlayers.ffm(left, right, 15)  # 35 MB, no whole vectors
    reused = np.ones(fresh.size + 1, "float32")[1:].reshape(fresh.shape)  # not aligned to lines
    np.testing.assert_array_equal(mlayers.ffm(left, right, 15, out=reused), fresh)
    rows = slice(1000, 1010)
    check_results(
        fresh[rows], reference(mlayers.ffm, [left[rows], right[rows]], dim_size=15), "float32"
    )


def show(**environment):
    return subprocess.run(
        [sys.executable, "-P", "-c", "import mlayers; mlayers.show_config()"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_variable_chooses(isa):
    assert f"{isa} (of {', '.join(cython_cpu.isas())})" in show(MLAYERS_ISA=isa).stdout


@pytest.mark.parametrize("wrong", ["avx1024", ""])
def test_unknown_name_is_refused(wrong):
    done = show(MLAYERS_ISA=wrong)
    assert done.returncode != 0
    assert f"MLAYERS_ISA: must be 'auto' or one of {', '.join(cython_cpu.isas())}" in done.stderr
    assert f"Received: {wrong!r}" in done.stderr


def test_use_isa_refuses_another_name():
    with pytest.raises(ValueError, match=r"use_isa: 'name' must be one of .* Received: 'sse9'"):
        cython_cpu.use_isa("sse9")
