# SPDX-License-Identifier: Apache-2.0
"""Weight norm: the columns of a dense layer's kernel, scaled to given lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlayers.op import Op, Shape, declare
from mlayers.ops._errors import shape_error
from mlayers.ops._front_door import call
from mlayers.ops._shapes import agree, check_grad, check_rank_2

__all__ = ["weight_norm", "weight_norm_grad"]

# The smallest squared length that is divided by. It is applied before the square root, where the
# gradient of a column of zeros is 0; after it, as in keras.ops.normalize, that gradient is 0/0.
EPSILON = 1e-6


def weight_norm(kernel: Any, norm: Any, *, out: Any = None) -> Any:
    """Scale each column of a kernel to a length: `kernel · norm / max(‖column‖, 0.001)`.

    A dense layer with weight norm is `inputs @ weight_norm(kernel, norm)`: it learns direction and
    length of its columns apart from one another.

    Args:
        kernel: (input_dim, units), in float16, bfloat16, float32 or float64. Half types are
            computed in float32.
        norm: (units,), the lengths, of the same dtype and library.
        out: an array of NumPy or CuPy for the result; for calls with those.

    Returns:
        The scaled kernel, (input_dim, units), of the same dtype and library. A column shorter than
        0.001 gets less than its length, and a column of zeros stays one.

    Raises:
        ValueError: shapes that do not fit, `out` of another shape.
        TypeError: dtypes that differ or are not floating, arrays of two libraries or devices,
            something that is no array, a tensor of a framework that is not Keras' backend.

    Source:
        Salimans and Kingma, [Weight Normalization](https://arxiv.org/abs/1602.07868), with the
        epsilon of the `Dense` of ByteDance Monolith.

    Example:
        >>> import numpy as np, mlayers
        >>> kernel = np.array([[3, 0], [4, 0.5]], "float32")
        >>> mlayers.weight_norm(kernel, np.array([10, 2], "float32")).tolist()
        [[6.0, 0.0], [8.0, 2.0]]
    """
    return call(_WEIGHT_NORM, (kernel, norm), (), out)


def weight_norm_grad(grad: Any, kernel: Any, norm: Any, *, out: Any = None) -> Any:
    """The gradients of `weight_norm` with respect to `kernel` and `norm`.

    Args:
        grad: the upstream gradient, (input_dim, units).
        kernel: as given to `weight_norm`.
        norm: as given to `weight_norm`.
        out: a tuple of two arrays of NumPy or CuPy for the results; for calls with those.

    Returns:
        `(kernel_grad, norm_grad)`, shaped as `kernel` and `norm`. Of a column of zeros `norm_grad`
        is 0 and `kernel_grad` is `1000 · norm · grad`.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: as `weight_norm`.

    Example:
        >>> import numpy as np, mlayers
        >>> grad, kernel = np.array([[1.0], [0.0]]), np.array([[3.0], [4.0]])
        >>> kernel_grad, norm_grad = mlayers.weight_norm_grad(grad, kernel, np.array([5.0]))
        >>> kernel_grad.round(2).tolist(), norm_grad.round(2).tolist()
        ([[0.64], [-0.48]], [0.6])
    """
    return call(_WEIGHT_NORM_GRAD, (grad, kernel, norm), (), out)


def _check(op: str, kernel: Shape, norm: Shape) -> Shape:
    check_rank_2(op, "kernel", kernel, "(input_dim, units)")
    if not agree(norm, kernel[1:]):
        rule = f"'norm' must have one length for each column of 'kernel', shape ({kernel[1]},)"
        raise shape_error(op, rule, kernel=kernel, norm=norm)
    return kernel


def _shapes(kernel: Shape, norm: Shape) -> Any:
    return (_check("weight_norm", kernel, norm),)


def _grad_shapes(grad: Shape, kernel: Shape, norm: Shape) -> Any:
    check_grad("weight_norm_grad", "weight_norm", grad, _check("weight_norm_grad", kernel, norm))
    return kernel, norm


def _reference(kernel: Any, norm: Any) -> Any:
    return kernel * norm / np.sqrt(np.maximum((kernel**2).sum(0), EPSILON))


def _grad_reference(grad: Any, kernel: Any, norm: Any) -> Any:
    squares = (kernel**2).sum(0)
    length = np.sqrt(np.maximum(squares, EPSILON))
    norm_grad = (grad * kernel).sum(0) / length
    along = np.where(squares >= EPSILON, norm * norm_grad / length**2, 0)
    return grad * norm / length - kernel * along, norm_grad


def _floored_squares(xp: Any, kernel: Any) -> Any:
    squares = xp.sum(kernel * kernel, axis=0)
    # where: on torch keras.ops.maximum and clip compute the epsilon in float32. A NaN is not below
    # it, and stays.
    return xp.where(squares < EPSILON, xp.full_like(squares, EPSILON), squares)


def _composition(xp: Any, kernel: Any, norm: Any) -> Any:
    return kernel * (norm / xp.sqrt(_floored_squares(xp, kernel)))


def _grad_composition(xp: Any, grad: Any, kernel: Any, norm: Any) -> Any:
    squares = _floored_squares(xp, kernel)
    length = xp.sqrt(squares)
    norm_grad = xp.sum(grad * kernel, axis=0) / length
    is_long = xp.cast(squares > EPSILON, kernel.dtype)
    # The divisions come last: XLA computes what ends in one for each column. What does not, it
    # fuses with what is made of the result, and computes for each number there.
    along = norm_grad * norm * is_long / squares
    return grad * (norm / length) - kernel * along, norm_grad


# On a GPU a compiler fuses the formula with what is around it. On an H200, kernel of (8192, 8192),
# the formula's time over the op's, forward and with gradient: XLA 0.93 and 0.70, torch.compile 0.92
# and 0.94; in bfloat16 0.99 and 0.66, 0.86 and 0.97. Eagerly torch takes 2.4 and 3.3, 6.3 and 7.2.
# What the layers take, op or formula, and the figures: layers/_weight_norm.py.
_WEIGHT_NORM_GRAD = declare(
    Op(
        name="weight_norm_grad",
        inputs=("grad", "kernel", "norm"),
        outputs=("kernel_grad", "norm_grad"),
        attributes=(),
        axes="io,io,o->io,o",
        shapes=_grad_shapes,
        reference=_grad_reference,
        composition=_grad_composition,
        fusible=lambda library: library == "cuda",
    )
)

_WEIGHT_NORM = declare(
    Op(
        name="weight_norm",
        inputs=("kernel", "norm"),
        outputs=("out",),
        attributes=(),
        axes="io,o->io",
        shapes=_shapes,
        reference=_reference,
        composition=_composition,
        gradient=_WEIGHT_NORM_GRAD,
        fusible=lambda library: library == "cuda",
    )
)
