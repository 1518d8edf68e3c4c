# SPDX-License-Identifier: Apache-2.0
"""Ops on KerasTensors: a node of a functional model, with shape inference and nothing else.

The node calls the op again when the model runs, so a saved model holds the op's name and
attributes, not its implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from mlayers.op import OPS, Op, Shape
from mlayers.ops._front_door import call, output_shapes


def record(op: Op, tensors: Sequence[Any], values: tuple[Any, ...]) -> Any:
    """Add `op` to the graph that `tensors` belong to."""
    return OpNode(op.name, values)(*tensors)


@keras.saving.register_keras_serializable(package="mlayers")
class OpNode(keras.Operation):  # type: ignore[misc]
    """One call of one op in a functional model.

    Args:
        op: the op's name, such as `"ffm"`.
        values: its attributes in declared order.
        name: the node's name.
    """

    def __init__(self, op: str, values: Sequence[Any], name: str | None = None) -> None:
        super().__init__(name=name)
        if op not in OPS:
            raise ValueError(f"OpNode: 'op' must be one of {', '.join(OPS)}. Received: {op!r}")
        self.op = OPS[op]
        self.values = tuple(
            attribute.check(op, value)
            for attribute, value in zip(self.op.attributes, values, strict=True)
        )

    def call(self, *tensors: Any) -> Any:
        """Compute the op."""
        return call(self.op, tensors, self.values)

    def compute_output_spec(self, *tensors: Any) -> Any:
        """Shapes and dtype of the result."""
        shapes = output_shapes(self.op, [tuple(t.shape) for t in tensors], self.values)
        specs = tuple(_spec(shape, tensors[0]) for shape in shapes)
        return specs if len(specs) > 1 else specs[0]

    def get_config(self) -> dict[str, Any]:
        """What from_config needs."""
        return {"op": self.op.name, "values": list(self.values), "name": self.name}


def _spec(shape: Shape, like: Any) -> Any:
    return keras.KerasTensor(shape, dtype=keras.backend.standardize_dtype(like.dtype))
