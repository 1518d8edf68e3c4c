# SPDX-License-Identifier: Apache-2.0
"""The product of a dense layer, with weight norm where it is cheapest."""

from typing import Any

import keras
from keras import ops

# The smallest squared column norm that is divided by. It is applied before the square root, where
# the gradient of a zero column is 0; after it, as in keras.ops.normalize, that gradient is 0/0.
_EPSILON = 1e-6


def normed_product(inputs: Any, kernel_io: Any, length_o: Any, dtype: str) -> Any:
    """Returns `inputs @ kernel`, (batch, ..., units), the columns of the kernel scaled.

    Args:
        inputs: (batch, ..., input_dim) in `dtype`.
        kernel_io: (input_dim, units) as it is stored.
        length_o: (units,), the lengths that the columns are scaled to; `None` is length 1.
        dtype: what the product is computed in.
    """
    scale_o = column_scale(kernel_io, length_o)
    if _output_is_smaller(inputs, kernel_io, dtype):
        return (inputs @ kernel_io) * scale_o
    return inputs @ ops.cast(kernel_io * scale_o, dtype)


def column_scale(kernel_io: Any, length_o: Any) -> Any:
    """Returns what the columns are multiplied by to have the given lengths; `None` is length 1."""
    squares_o = ops.sum(ops.square(kernel_io), axis=0)
    # where, and @ and * above: on torch keras.ops.matmul and maximum compute float64 in float32.
    scale_o = ops.rsqrt(ops.where(squares_o >= _EPSILON, squares_o, _EPSILON))
    return scale_o if length_o is None else scale_o * length_o


def _output_is_smaller(inputs: Any, kernel_io: Any, dtype: str) -> bool:
    """Whether scaling the output writes fewer numbers than scaling the kernel.

    Then it is the cheaper side: on one core, in a 512-256-128-1 tower of 64 rows, a training step
    takes 1.03 to 1.05 times as long with the kernel scaled, a prediction 1.06 times on JAX and
    TensorFlow and 0.98 on torch. Not in mixed precision, where a kernel as it is stored may not fit
    the smaller type.
    """
    if keras.backend.backend() == "torch":
        import torch

        if torch.compiler.is_exporting():  # where asking for the rows would fix their number
            return False
    rows = 1
    for size in inputs.shape[:-1]:
        if not isinstance(size, int):  # unknown, or a symbol of jax.export
            return False
        rows *= size
    stored = keras.backend.standardize_dtype(kernel_io.dtype)
    return bool(dtype == stored and rows < kernel_io.shape[0])
