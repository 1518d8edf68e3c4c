# SPDX-License-Identifier: Apache-2.0
"""The matrix products of dense layers: weight norm at its cheapest, layers of one input joined."""

from collections.abc import Sequence
from typing import Any

from keras import ops

# The smallest squared column norm that is divided by. It is applied before the square root, where
# the gradient of a zero column is 0; after it, as in keras.ops.normalize, that gradient is 0/0.
_EPSILON = 1e-6


def products(inputs: Any, layers: Sequence[Any]) -> list[Any]:
    """Returns what each layer makes of the same inputs, up to and excluding its activation.

    Args:
        inputs: (batch, ..., input_dim).
        layers: built `Dense` layers with equal options and units; several are computed in one
            product, their kernels side by side.
    """
    first = layers[0]
    kernel_io = _join([layer.kernel for layer in layers])
    if not first.allow_kernel_norm:
        outputs = inputs @ ops.cast(kernel_io, first.compute_dtype)
    else:
        lengths = [layer.trainable_kernel_norm for layer in layers]
        scale_o = column_scale(kernel_io, None if lengths[0] is None else _join(lengths))
        if _scales_outputs(first, inputs, kernel_io):
            outputs = (inputs @ kernel_io) * scale_o
        else:
            outputs = inputs @ ops.cast(kernel_io * scale_o, first.compute_dtype)
    if first.bias is not None:
        outputs = outputs + _join([layer.bias for layer in layers])
    return [outputs] if len(layers) == 1 else list(ops.split(outputs, len(layers), axis=-1))


def column_scale(kernel_io: Any, length_o: Any) -> Any:
    """Returns what the columns are multiplied by to have the given lengths; `None` is length 1."""
    squares_o = ops.sum(ops.square(kernel_io), axis=0)
    # where, and @ and * above: on torch keras.ops.matmul and maximum compute float64 in float32.
    scale_o = ops.rsqrt(ops.where(squares_o >= _EPSILON, squares_o, _EPSILON))
    return scale_o if length_o is None else scale_o * length_o


def _scales_outputs(layer: Any, inputs: Any, kernel_io: Any) -> bool:
    """Whether to scale `inputs @ kernel` rather than the kernel: whichever has fewer numbers.

    Not in mixed precision, where the kernel as it is stored may not fit the smaller type.
    """
    rows = 1
    for size in inputs.shape[:-1]:
        if size is None:
            return False
        rows *= size
    return bool(layer.compute_dtype == layer.variable_dtype and rows < kernel_io.shape[0])


def _join(variables: Sequence[Any]) -> Any:
    if len(variables) == 1:
        return ops.convert_to_tensor(variables[0])
    return ops.concatenate([ops.convert_to_tensor(v) for v in variables], axis=-1)
