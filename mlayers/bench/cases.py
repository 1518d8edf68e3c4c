# SPDX-License-Identifier: Apache-2.0
"""What the bench computes. A new op is one more function here, and its name in `OPS`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import mlayers

FFM_SHAPES = ((64, 10, 12, 4), (1024, 10, 12, 16), (8192, 16, 16, 16))  # (B, L, R, D)
INSIGHT_SHAPE = (1024, 64, 16, 64)  # (B, segments, columns of each, K)


@dataclass(frozen=True)
class Case:
    """One op with its attributes and sizes.

    `ours` takes arrays or tensors of any library. `numpy` is what a NumPy user would write, and
    computes on CuPy arrays too. `grad` is the gradient op: (upstream, inputs, out) for arrays of
    either.
    """

    op: str
    sizes: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    flops: int  # of the forward
    grad_flops: int
    ours: Callable[..., Any]
    grad: Callable[..., Any]
    numpy: Callable[..., Any]
    numpy_grad: Callable[..., Any] | None = None

    def bytes_moved(self, direction: str, itemsize: int) -> int:
        """Every input read once, every result written once."""
        inputs, output = sum(map(math.prod, self.inputs)), math.prod(self.output)
        numbers = {
            "forward": inputs + output,
            "gradient": output + 2 * inputs,
            "forward+backward": 2 * output + 3 * inputs,
        }
        return numbers[direction] * itemsize

    def operations(self, direction: str) -> int:
        """Floating-point operations."""
        return {
            "forward": self.flops,
            "gradient": self.grad_flops,
            "forward+backward": self.flops + self.grad_flops,
        }[direction]


def multiply(B: int, L: int, R: int, D: int) -> Case:
    """ffm, element by element."""

    def plain(left: Any, right: Any) -> Any:
        return (left.reshape(B, L, 1, D) * right.reshape(B, 1, R, D)).reshape(B, L * R * D)

    def plain_grad(up: Any, left: Any, right: Any) -> Any:
        up = up.reshape(B, L, R, D)
        return (
            np.einsum("blrd,brd->bld", up, right.reshape(B, R, D)).reshape(left.shape),
            np.einsum("blrd,bld->brd", up, left.reshape(B, L, D)).reshape(right.shape),
        )

    return _ffm("multiply", (B, L, R, D), B * L * R * D, D, plain, plain_grad)


def dot(B: int, L: int, R: int, D: int) -> Case:
    """ffm, as dot products."""

    def plain(left: Any, right: Any) -> Any:
        right_bdr = right.reshape(B, R, D).transpose(0, 2, 1)
        return (left.reshape(B, L, D) @ right_bdr).reshape(B, L * R)

    def plain_grad(up: Any, left: Any, right: Any) -> Any:
        up = up.reshape(B, L, R)
        return (
            (up @ right.reshape(B, R, D)).reshape(left.shape),
            (up.transpose(0, 2, 1) @ left.reshape(B, L, D)).reshape(right.shape),
        )

    return _ffm("dot", (B, L, R, D), 2 * B * L * R * D, 1, plain, plain_grad)


def _ffm(
    int_type: str, sizes: tuple[int, ...], flops: int, width: int, plain: Any, plain_grad: Any
) -> Case:
    B, L, R, D = sizes
    return Case(
        op=int_type,
        sizes=sizes,
        inputs=((B, L * D), (B, R * D)),
        output=(B, L * R * width),
        flops=flops,
        grad_flops=4 * B * L * R * D,
        ours=lambda left, right, **out: mlayers.ffm(left, right, D, int_type, **out),
        grad=lambda up, *inputs, **out: mlayers.ffm_grad(up, *inputs, D, int_type, **out),
        numpy=plain,
        numpy_grad=plain_grad,
    )


def insight(B: int, S: int, n: int, K: int) -> Case:
    """feature_insight."""
    return _insight("insight", B, S, n, K, aggregate=False)


def aggregate(B: int, S: int, n: int, K: int) -> Case:
    """feature_insight with aggregate."""
    return _insight("aggregate", B, S, n, K, aggregate=True)


def _insight(op: str, B: int, S: int, n: int, K: int, aggregate: bool) -> Case:
    segments = (n,) * S

    def plain(x: Any, weight: Any) -> Any:
        parts = [x[:, i : i + n] @ weight[i : i + n] for i in range(0, S * n, n)]
        if aggregate:
            return np.stack([(part**2).sum(axis=1) for part in parts], axis=1)
        return np.concatenate(parts, axis=1)

    product = 2 * B * S * n * K
    return Case(
        op=op,
        sizes=(B, S, n, K),
        inputs=((B, S * n), (S * n, K)),
        output=(B, S if aggregate else S * K),
        flops=product,
        grad_flops=(3 if aggregate else 2) * product,
        ours=lambda x, w, **out: mlayers.feature_insight(x, w, segments, aggregate, **out),
        grad=lambda up, *inputs, **out: mlayers.feature_insight_grad(
            up, *inputs, segments, aggregate, **out
        ),
        numpy=plain,
    )


def gate(*shape: int) -> Case:
    """lhuc_gate."""
    return Case(
        op="gate",
        sizes=shape,
        inputs=(shape, shape),
        output=shape,
        flops=20 * math.prod(shape),  # an exponential is about as much
        grad_flops=24 * math.prod(shape),
        ours=mlayers.lhuc_gate,
        grad=mlayers.lhuc_gate_grad,
        numpy=lambda hidden, logits: 2 * hidden / (1 + np.exp(-logits)),
    )


def norm(input_dim: int, units: int) -> Case:
    """weight_norm."""
    size = input_dim * units
    return Case(
        op="norm",
        sizes=(input_dim, units),
        inputs=((input_dim, units), (units,)),
        output=(input_dim, units),
        flops=3 * size,
        grad_flops=7 * size,
        ours=mlayers.weight_norm,
        grad=mlayers.weight_norm_grad,
        numpy=lambda kernel, lengths: (
            kernel * (lengths / np.sqrt(np.maximum((kernel * kernel).sum(0), 1e-6)))
        ),
    )


def counter(*shape: int) -> Case:
    """fid_counter."""
    return Case(
        op="counter",
        sizes=shape,
        inputs=(shape,),
        output=shape,
        flops=2 * math.prod(shape),
        grad_flops=math.prod(shape),
        ours=lambda counts, **out: mlayers.fid_counter(counts, 1000.0, **out),
        grad=lambda up, counts, **out: mlayers.fid_counter_grad(counts, 1000.0, **out),
        numpy=lambda counts: np.minimum(counts + counts.dtype.type(1), counts.dtype.type(1000)),
    )


OPS: dict[str, tuple[Callable[..., Case], Sequence[tuple[int, ...]]]] = {
    "multiply": (multiply, FFM_SHAPES),
    "dot": (dot, FFM_SHAPES),
    "insight": (insight, (INSIGHT_SHAPE,)),
    "aggregate": (aggregate, (INSIGHT_SHAPE,)),
    "gate": (gate, ((1024, 512),)),
    "norm": (norm, ((512, 512),)),
    "counter": (counter, ((1_000_000,),)),
}

# The same on a GPU: large enough that what a call costs besides is small, or 1/8 of that.
GPU_FFM_SHAPES = ((65536, 16, 16, 16), (8192, 16, 16, 16))
GPU_SHAPES: dict[str, Sequence[tuple[int, ...]]] = {
    "multiply": GPU_FFM_SHAPES,
    "dot": GPU_FFM_SHAPES,
    "insight": ((65536, 64, 16, 64),),
    "aggregate": ((65536, 64, 16, 64),),
    "gate": ((65536, 512),),
    "norm": ((8192, 8192),),
    "counter": ((100_000_000,),),
}

# For the growth plots: what is varied, and the cases that vary it.
GROWTH: dict[str, list[Case]] = {
    "multiply, B": [multiply(B, 10, 12, 16) for B in (16, 64, 256, 1024, 4096)],
    "multiply, L": [multiply(1024, L, 12, 16) for L in (1, 4, 16, 64)],
    "dot, R": [dot(1024, 10, R, 16) for R in (1, 4, 16, 64)],
    "dot, D": [dot(1024, 10, 12, D) for D in (1, 4, 16, 64, 256)],
    "insight, K": [insight(256, 16, 16, K) for K in (1, 4, 16, 64, 256)],
    "aggregate, K": [aggregate(256, 16, 16, K) for K in (1, 4, 16, 64, 256)],
}


def chosen(
    ops: Sequence[str], ffm_shapes: Sequence[tuple[int, ...]] | None, on_gpu: bool = False
) -> list[Case]:
    """The cases of these ops; `ffm_shapes` replace the shapes of ffm's."""
    cases = []
    for op in ops:
        make, shapes = OPS[op]
        if on_gpu:
            shapes = GPU_SHAPES[op]
        if op in ("multiply", "dot") and ffm_shapes:
            shapes = ffm_shapes
        cases += [make(*shape) for shape in shapes]
    return cases
