# SPDX-License-Identifier: Apache-2.0
"""Interactions between two groups of embedded features."""

from functools import partial
from typing import Any

import keras
from keras import ops as keras_ops

from mlayers import activations as activations_lib
from mlayers import ops
from mlayers.layers import _checks
from mlayers.layers._layer import Layer, call_child, register
from mlayers.layers.mlp import MLP


@register
class GroupInt(Layer):
    """Multiplies every field of a left group with every field of a right group.

    With `"multiply"` an interaction is the elementwise product of two embeddings, with `"dot"`
    their dot product. Attention scales each product by the output of an MLP that sees it:
    `product * mlp(product)`.

    Args:
        interaction_type: `"multiply"` or `"dot"`.
        use_attention: whether to scale the products; only with `"multiply"`.
        attention_units: widths of the layers of the attention MLP; the last must be 1.
        activation: of all its layers but the last.
        initializer: of its kernels; `None` is glorot normal.
        regularizer: of its kernels.
        out_type: `"concat"`, `"stack"` or `None`, see below.
        keep_list: whether to put a single output tensor into a list.
        use_weight_norm: whether to normalise the kernels of the attention MLP, see `Dense`.
        **kwargs: `name`, `dtype`, `trainable` and other arguments of `keras.layers.Layer`.

    Input shape: a pair `(left_fields, right_fields)` of lists of L and R tensors `(batch, dim)`.

    Output shape, the left field varying slowest:

    | `out_type` | multiply | dot |
    |---|---|---|
    | `"concat"` | `(batch, L * R * dim)` | `(batch, L * R)` |
    | `"stack"` | `(batch, L * R, dim)` | `(batch, L * R, 1)` |
    | `None` | list of L * R `(batch, dim)` | list of L * R `(batch, 1)` |

    Raises:
        ValueError: an argument is out of its range; the inputs are no pair of lists; a field is not
            of rank 2, or not as wide as the first one.

    Source: Monolith, `native_training/layers/feature_cross.py`; Rendle, Factorization Machines,
    ICDM 2010; attention as in Xiao et al., https://arxiv.org/abs/1708.04617.

    Example:
        >>> import numpy as np
        >>> user, item, context = (np.ones((2, 4), "float32") for _ in range(3))
        >>> tuple(GroupInt(out_type="stack")(([user], [item, context])).shape)
        (2, 2, 4)
    """

    def __init__(
        self,
        interaction_type: str = "multiply",
        use_attention: bool = False,
        attention_units: Any = None,
        activation: Any = "relu",
        initializer: Any = None,
        regularizer: Any = None,
        out_type: str | None = "concat",
        keep_list: bool = False,
        use_weight_norm: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if interaction_type not in ("multiply", "dot"):
            rule = "must be 'multiply' or 'dot'"
            raise _checks.refuse("GroupInt", "interaction_type", rule, interaction_type)
        if out_type not in ("concat", "stack", None):
            raise _checks.refuse(
                "GroupInt", "out_type", "must be 'concat', 'stack' or None", out_type
            )
        self.interaction_type = interaction_type
        self.use_attention = _checks.flag("GroupInt", "use_attention", use_attention)
        self.attention_units = self._check_attention_units(attention_units)
        self.initializer = _checks.initializer(
            "GroupInt", "initializer", "glorot_normal" if initializer is None else initializer
        )
        self.regularizer = _checks.regularizer("GroupInt", "regularizer", regularizer)
        self.out_type = out_type
        self.keep_list = _checks.flag("GroupInt", "keep_list", keep_list)
        self.use_weight_norm = _checks.flag("GroupInt", "use_weight_norm", use_weight_norm)
        # A maker, not a layer: without attention a layer here would be a child that is never built.
        self._make_activation = partial(
            activations_lib.get, _checks.activation("GroupInt", "activation", activation)
        )
        self._attention_mlp = (
            MLP(
                self.attention_units,
                activations=self._make_activation(),
                initializers=self.initializer,
                kernel_regularizer=self.regularizer,
                use_weight_norm=bool(self.use_weight_norm),
                **self._child_options("attention_mlp"),
            )
            if self.use_attention
            else None
        )

    def build(self, input_shape: Any) -> None:
        """Builds the attention MLP, if there is one."""
        n_left, n_right, dim = _check_fields(input_shape)
        if self._attention_mlp is not None:
            self._attention_mlp.build((input_shape[0][0][0], n_left * n_right, dim))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Computes the interactions; `training` is for the attention MLP."""
        shapes = keras.tree.map_structure(lambda field: tuple(field.shape), inputs)
        n_left, n_right, dim = _check_fields(shapes)
        left_fields, right_fields = inputs
        out_bo = ops.ffm(
            keras_ops.concatenate(left_fields, axis=1),
            keras_ops.concatenate(right_fields, axis=1),
            dim_size=dim,
            int_type=self.interaction_type,
        )
        if self.out_type == "concat" and self._attention_mlp is None:
            return [out_bo] if self.keep_list else out_bo

        n_pairs, width = n_left * n_right, dim if self.interaction_type == "multiply" else 1
        out_bpd = keras_ops.reshape(out_bo, (-1, n_pairs, width))
        if self._attention_mlp is not None:
            weight_bp1 = call_child(self._attention_mlp, out_bpd, training=training)
            out_bpd = keras_ops.multiply(out_bpd, weight_bp1)
        if self.out_type is None:
            return list(keras_ops.unstack(out_bpd, n_pairs, axis=1))
        if self.out_type == "concat":
            out_bpd = keras_ops.reshape(out_bpd, (-1, n_pairs * width))
        return [out_bpd] if self.keep_list else out_bpd

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """Fields have no axis but the batch that a mask could be of."""

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the outputs."""
        n_left, n_right, dim = _check_fields(input_shape)
        batch = input_shape[0][0][0]
        n_pairs, width = n_left * n_right, dim if self.interaction_type == "multiply" else 1
        if self.out_type is None:
            return [(batch, width)] * n_pairs
        concat = self.out_type == "concat"
        shape = (batch, n_pairs * width) if concat else (batch, n_pairs, width)
        return [shape] if self.keep_list else shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, ready for JSON."""
        units = self.attention_units
        return {
            **super().get_config(),
            "interaction_type": self.interaction_type,
            "use_attention": self.use_attention,
            "attention_units": None if units is None else list(units),
            "activation": activations_lib.serialize(self._make_activation()),
            "initializer": keras.initializers.serialize(self.initializer),
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "out_type": self.out_type,
            "keep_list": self.keep_list,
            "use_weight_norm": self.use_weight_norm,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "GroupInt":
        """Returns a layer of this config."""
        given = config.get("interaction_type", "multiply")
        # Keras' reader of .h5 files takes the word for the name of a function, and gives that.
        config = {**config, "interaction_type": getattr(given, "__name__", given)}
        layer: GroupInt = super().from_config(config)
        return layer

    def _check_attention_units(self, units: Any) -> list[int] | None:
        if self.use_attention and self.interaction_type != "multiply":
            raise _checks.refuse(
                "GroupInt", "use_attention", "needs interaction_type='multiply'", True
            )
        if units is None and not self.use_attention:
            return None
        checked = _checks.dims("GroupInt", "attention_units", units)
        if self.use_attention and checked[-1] != 1:
            raise _checks.refuse("GroupInt", "attention_units", "must end in 1", units)
        return checked


FFM = GroupInt  # the other name that Monolith has for it


def _check_fields(input_shape: Any) -> tuple[int, int, int]:
    """Returns the numbers of left and right fields and their width."""
    if not _is_list(input_shape) or len(input_shape) != 2 or not all(map(_is_fields, input_shape)):
        rule = "must be a pair (left_fields, right_fields) of lists of tensors"
        raise _checks.refuse("GroupInt", "inputs", rule, input_shape)
    left_shapes, right_shapes = input_shape
    fields = [(f"left_fields[{i}]", tuple(shape)) for i, shape in enumerate(left_shapes)]
    fields += [(f"right_fields[{i}]", tuple(shape)) for i, shape in enumerate(right_shapes)]
    first = fields[0][1]
    for name, shape in fields:
        if len(shape) != 2 or shape[1] is None:
            rule = "must have rank 2, (batch, dim), and a known dim"
            raise _checks.refuse("GroupInt", name, rule, shape)
        if shape[1] != first[1]:
            rule = f"must be as wide as left_fields[0], which is {first}"
            raise _checks.refuse("GroupInt", name, rule, shape)
        if None not in (shape[0], first[0]) and shape[0] != first[0]:
            rule = f"must have the batch size of left_fields[0], which is {first}"
            raise _checks.refuse("GroupInt", name, rule, shape)
    return len(left_shapes), len(right_shapes), first[1]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_fields(shapes: Any) -> bool:
    return _is_list(shapes) and len(shapes) > 0 and all(map(_is_list, shapes))
