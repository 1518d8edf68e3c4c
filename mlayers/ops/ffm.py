# SPDX-License-Identifier: Apache-2.0
"""Field-aware interactions between every left and every right field (Monolith's FFM).

Axes: b batch, l left field, r right field, d dimension.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlayers.op import Op, Shape, declare
from mlayers.ops._attributes import Choice, PositiveInt
from mlayers.ops._errors import shape_error
from mlayers.ops._front_door import call
from mlayers.ops._shapes import check_grad, check_rank_2, check_same_batch

__all__ = ["ffm", "ffm_grad"]


def ffm(
    left: Any, right: Any, dim_size: int, int_type: str = "multiply", *, out: Any = None
) -> Any:
    """Multiply every left field with every right field, element by element or as a dot product.

    multiply: `out[b, (l·R + r)·D + d] = left[b, l·D + d] · right[b, r·D + d]`

    dot: `out[b, l·R + r] = Σ_d left[b, l·D + d] · right[b, r·D + d]`

    Args:
        left: (B, L·D), the L left fields of a row side by side, in float16, bfloat16, float32 or
            float64. Half types accumulate in float32.
        right: (B, R·D), the R right fields, of the same dtype and library.
        dim_size: D, the width of one field.
        int_type: `"multiply"` or `"dot"`.
        out: an array of NumPy or CuPy for the result; for calls with those.

    Returns:
        (B, L·R·D) for multiply, (B, L·R) for dot, in the inputs' dtype and library.

    Raises:
        ValueError: a rank other than 2, widths that are no multiples of `dim_size`, batch sizes
            that differ, `dim_size` below 1, an unknown `int_type`, `out` of another shape.
        TypeError: dtypes that differ or are not floating, arrays of two libraries or devices,
            something that is no array, a tensor of a framework that is not Keras' backend.

    Source:
        [Field-aware Factorization Machines](https://dl.acm.org/doi/10.1145/2959100.2959134);
        `layer_ops.ffm` in ByteDance Monolith.

    Example:
        >>> import numpy as np, mlayers
        >>> left = np.array([[1, 2, 3, 4]], "float32")  # L = 2 fields of D = 2
        >>> right = np.array([[10, 100]], "float32")  # R = 1 field
        >>> mlayers.ffm(left, right, dim_size=2).tolist()
        [[10.0, 200.0, 30.0, 400.0]]
        >>> mlayers.ffm(left, right, dim_size=2, int_type="dot").tolist()
        [[210.0, 430.0]]
    """
    return call(_FFM, (left, right), (dim_size, int_type), out)


def ffm_grad(
    grad: Any, left: Any, right: Any, dim_size: int, int_type: str = "multiply", *, out: Any = None
) -> Any:
    """The gradients of `ffm` with respect to `left` and `right`.

    Args:
        grad: the upstream gradient, shaped as the output of `ffm`.
        left: (B, L·D), as given to `ffm`.
        right: (B, R·D), as given to `ffm`.
        dim_size: D, the width of one field.
        int_type: `"multiply"` or `"dot"`.
        out: a tuple of two arrays of NumPy or CuPy for the results; for calls with those.

    Returns:
        `(left_grad, right_grad)`, shaped as `left` and `right`.

    Raises:
        ValueError: as `ffm`, or `grad` is not shaped as its output.
        TypeError: as `ffm`.

    Example:
        >>> import numpy as np, mlayers
        >>> left, right = np.array([[1, 2]], "float32"), np.array([[10, 100]], "float32")
        >>> left_grad, right_grad = mlayers.ffm_grad(np.ones_like(left), left, right, dim_size=2)
        >>> left_grad.tolist(), right_grad.tolist()
        ([[10.0, 100.0]], [[1.0, 2.0]])
    """
    return call(_FFM_GRAD, (grad, left, right), (dim_size, int_type), out)


def _shapes(left: Shape, right: Shape, dim_size: int, int_type: str, op: str = "ffm") -> Any:
    for name, shape in (("left", left), ("right", right)):
        check_rank_2(op, name, shape, "(batch, fields * dim_size)")
        if shape[1] % dim_size:
            rule = f"'{name}' must have a width that is a multiple of dim_size={dim_size}"
            raise shape_error(op, rule, **{name: shape})
    batch = check_same_batch(op, left=left, right=right)
    fields = (left[1] // dim_size) * (right[1] // dim_size)
    return ((batch, fields * (dim_size if int_type == "multiply" else 1)),)


def _grad_shapes(grad: Shape, left: Shape, right: Shape, dim_size: int, int_type: str) -> Any:
    (output,) = _shapes(left, right, dim_size, int_type, op="ffm_grad")
    check_grad("ffm_grad", "ffm", grad, output)
    return left, right


def _reference(left: Any, right: Any, dim_size: int, int_type: str) -> Any:
    left_bld = left.reshape(len(left), left.shape[1] // dim_size, dim_size)
    right_brd = right.reshape(len(right), right.shape[1] // dim_size, dim_size)
    axes = "bld,brd->blrd" if int_type == "multiply" else "bld,brd->blr"
    out = np.einsum(axes, left_bld, right_brd)
    return out.reshape(len(left), int(np.prod(out.shape[1:])))


def _grad_reference(grad: Any, left: Any, right: Any, dim_size: int, int_type: str) -> Any:
    left_bld = left.reshape(len(left), left.shape[1] // dim_size, dim_size)
    right_brd = right.reshape(len(right), right.shape[1] // dim_size, dim_size)
    axes = "blrd" if int_type == "multiply" else "blr"
    sizes = (len(left), left_bld.shape[1], right_brd.shape[1], dim_size)
    grad = grad.reshape(sizes[: len(axes)])
    left_grad_bld = np.einsum(f"{axes},brd->bld", grad, right_brd)
    right_grad_brd = np.einsum(f"{axes},bld->brd", grad, left_bld)
    return left_grad_bld.reshape(left.shape), right_grad_brd.reshape(right.shape)


def _composition(xp: Any, left: Any, right: Any, dim_size: int, int_type: str) -> Any:
    B, L, R, D = xp.shape(left)[0], left.shape[1] // dim_size, right.shape[1] // dim_size, dim_size
    if int_type == "multiply":
        out_blrd = xp.reshape(left, (B, L, 1, D)) * xp.reshape(right, (B, 1, R, D))
        return xp.reshape(out_blrd, (B, L * R * D))
    right_bdr = xp.transpose(xp.reshape(right, (B, R, D)), (0, 2, 1))
    return xp.reshape(xp.reshape(left, (B, L, D)) @ right_bdr, (B, L * R))


def _grad_composition(
    xp: Any, grad: Any, left: Any, right: Any, dim_size: int, int_type: str
) -> Any:
    B, L, R, D = xp.shape(left)[0], left.shape[1] // dim_size, right.shape[1] // dim_size, dim_size
    if int_type == "multiply":
        grad_blrd = xp.reshape(grad, (B, L, R, D))
        left_grad_bld = xp.sum(grad_blrd * xp.reshape(right, (B, 1, R, D)), axis=2)
        right_grad_brd = xp.sum(grad_blrd * xp.reshape(left, (B, L, 1, D)), axis=1)
    else:
        grad_blr = xp.reshape(grad, (B, L, R))
        left_grad_bld = grad_blr @ xp.reshape(right, (B, R, D))
        right_grad_brd = xp.transpose(grad_blr, (0, 2, 1)) @ xp.reshape(left, (B, L, D))
    return xp.reshape(left_grad_bld, (B, L * D)), xp.reshape(right_grad_brd, (B, R * D))


_ATTRIBUTES = (PositiveInt("dim_size"), Choice("int_type", ("multiply", "dot")))

_FFM_GRAD = declare(
    Op(
        name="ffm_grad",
        inputs=("grad", "left", "right"),
        outputs=("left_grad", "right_grad"),
        attributes=_ATTRIBUTES,
        axes="bo,bl,br->bl,br",
        shapes=_grad_shapes,
        reference=_grad_reference,
        composition=_grad_composition,
    )
)

# Measured on 2 cores, AVX-512, float32: composition / kernel, both compiled by torch 2.13: multiply
# 0.78 at (64,10,12,4), 0.52 at (256,10,12,16), 0.84 at (1024,10,12,16), but 1.8 at (2048,16,16,16)
# and 7.0 at (8192,16,16,16), whose outputs are large; dot 1.1, 0.92, 0.98, 0.89 and 0.85 there.
# On an H100 at (65536,16,16,16): multiply takes 435 us in float32 and 228 in bfloat16, XLA's fusion
# 432 and 330; dot takes 90 in float32, XLA's product 166. So there the kernel is never left out.
# In eager torch, in JAX on a CPU, in TensorFlow and NumPy the kernel is ahead everywhere, as is the
# gradient.
_FFM = declare(
    Op(
        name="ffm",
        inputs=("left", "right"),
        outputs=("out",),
        attributes=_ATTRIBUTES,
        axes="bl,br->bo",
        shapes=_shapes,
        reference=_reference,
        composition=_composition,
        gradient=_FFM_GRAD,
        fusible=lambda library, dim_size, int_type: library == "torch",
    )
)
