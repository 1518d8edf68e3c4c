# SPDX-License-Identifier: Apache-2.0
"""What LHUCTower is told about its gates, and what feeds them: checked, and worked out."""

from collections.abc import Callable, Mapping
from typing import Any

from keras import ops

from mlayers.layers import _checks

_FLAGS = ("gate_last", "stop_gradient", "identity_start")
NAMES = ("gate_scale", "gate_on", "gate_dropout", *_FLAGS)


def check(options: Mapping[str, Any], n_layers: int) -> dict[str, Any]:
    """Checks the options of `NAMES` for a tower of `n_layers`."""
    scale = _checks.finite("LHUCTower", "gate_scale", options["gate_scale"])
    if scale <= 0:
        raise _checks.refuse("LHUCTower", "gate_scale", "must be > 0", scale)
    on = options["gate_on"]
    if on not in ("output", "input"):
        raise _checks.refuse("LHUCTower", "gate_on", "must be 'output' or 'input'", on)
    dropout = _checks.fraction("LHUCTower", "gate_dropout", options["gate_dropout"])
    if dropout == 1:
        raise _checks.refuse("LHUCTower", "gate_dropout", "must be < 1", dropout)
    flags = {name: _checks.flag("LHUCTower", name, options[name]) for name in _FLAGS}
    if not flags["gate_last"] and n_layers == 1:
        rule = "must be True for a tower of one layer, which would have no gate"
        raise _checks.refuse("LHUCTower", "gate_last", rule, flags["gate_last"])
    return {"gate_scale": scale, "gate_on": on, "gate_dropout": dropout, **flags}


def check_identity_start(gate_scale: float, lhuc_params: Callable[[str], Any]) -> None:
    """Checks that gates with these options can start at 1 and be trained away from it."""
    if gate_scale <= 1:
        rule = "must be False with gate_scale <= 1: no gate would reach 1"
    elif gate_scale != 2 and not lhuc_params("use_bias"):
        rule = "must be False without lhuc_use_bias, unless gate_scale is 2: logits start at 0"
    elif lhuc_params("use_weight_norm") and not lhuc_params("use_learnable_weight_norm"):
        rule = (
            "must be False with lhuc_use_weight_norm and without lhuc_use_learnable_weight_norm: "
            "a kernel with columns of length 1 has no logits of 0"
        )
    else:
        return
    raise _checks.refuse("LHUCTower", "identity_start", rule, True)


def gated_widths(
    output_dims: list[int], gate_on: str, gate_last: Any
) -> list[tuple[str, int | None]]:
    """Returns for each gate how wide it must be, and what that is; `None` is not known yet."""
    widths: list[tuple[str, int | None]] = [
        (f"output_dims[{i}]", width) for i, width in enumerate(output_dims)
    ]
    if gate_on == "input":
        widths = [("inputs.shape[-1]", None), *widths[:-1]]
    return widths if gate_last else widths[:-1]


def dims(given: Any, widths: list[tuple[str, int | None]]) -> list[list[int | None]]:
    """Returns the widths of each gate's layers.

    Args:
        given: `lhuc_output_dims` as the user has them.
        widths: those of `gated_widths`.
    """
    if given is None or given in ([], ()):
        return [[width] for _, width in widths]
    if not isinstance(given, list | tuple) or not (
        all(isinstance(gate, list | tuple) for gate in given)
        or not any(isinstance(gate, list | tuple) for gate in given)
    ):
        rule = "must be a list of integers or a list of lists of integers"
        raise _checks.refuse("LHUCTower", "lhuc_output_dims", rule, given)
    if not isinstance(given[0], list | tuple):
        hidden = _checks.dims("LHUCTower", "lhuc_output_dims", given)
        return [[*hidden, width] for _, width in widths]
    if len(given) != len(widths):
        rule = f"must have one entry per gated layer ({len(widths)})"
        raise _checks.refuse("LHUCTower", "lhuc_output_dims", rule, given)
    gates: list[list[int | None]] = []
    for i, (gate, (what, width)) in enumerate(zip(given, widths, strict=True)):
        name = f"lhuc_output_dims[{i}]"
        if gate and gate[-1] is None:  # as get_config has it
            gates.append([*(_checks.dim("LHUCTower", name, dim) for dim in gate[:-1]), width])
        else:
            gates.append([*_checks.dims("LHUCTower", name, gate)])
            check_width(i, gates[i], what, width)
    return gates


def check_width(index: int, gate: list[int | None], what: str, width: int | None) -> None:
    """Checks that a gate is as wide as what it multiplies."""
    if width is not None and gate[-1] != width:
        rule = f"must end in {what}={width}"
        raise _checks.refuse("LHUCTower", f"lhuc_output_dims[{index}]", rule, gate)


def split_shapes(shapes: Any, stop_gradient: Any) -> tuple[Any, Any]:
    """Returns the shapes of the dense input and of what feeds the gates."""
    dense_shape, lhuc_shape = _pair(shapes, _is_shape, "inputs.shape")
    _check_leading_axes(dense_shape, lhuc_shape)
    if stop_gradient and not _is_shape(shapes):
        widths = dense_shape[-1], lhuc_shape[-1]
        return dense_shape, (*lhuc_shape[:-1], None if None in widths else sum(widths))
    return dense_shape, lhuc_shape


def split(inputs: Any, stop_gradient: Any) -> tuple[Any, Any]:
    """Returns the dense input and what feeds the gates."""
    dense_input, lhuc_input = _pair(inputs, is_tensor, "inputs")
    _check_leading_axes(tuple(dense_input.shape), tuple(lhuc_input.shape))
    if not stop_gradient:
        return dense_input, lhuc_input
    detached = ops.stop_gradient(dense_input)
    if is_tensor(inputs):
        return dense_input, detached
    return dense_input, ops.concatenate([lhuc_input, detached], axis=-1)


def is_tensor(inputs: Any) -> bool:
    """Whether this is one tensor, and not a pair of them."""
    return not isinstance(inputs, list | tuple | dict)


def _is_shape(shape: Any) -> bool:
    return all(size is None or isinstance(size, int) for size in shape)


def _check_leading_axes(dense_shape: Any, lhuc_shape: Any) -> None:
    leading = zip(dense_shape[:-1], lhuc_shape[:-1], strict=False)
    if not 1 < len(dense_shape) == len(lhuc_shape) or any(
        a is not None and b is not None and a != b for a, b in leading
    ):
        raise ValueError(
            "LHUCTower: 'inputs' must be two tensors with the same leading axes, at least one. "
            f"Received: inputs.shape={(tuple(dense_shape), tuple(lhuc_shape))}"
        )


def _pair(inputs: Any, is_one: Any, name: str) -> tuple[Any, Any]:
    """Returns the tower's and the gates' input (or its shape), of one for both or of a pair."""
    if is_one(inputs):
        return inputs, inputs
    if not isinstance(inputs, list | tuple) or len(inputs) != 2 or not all(map(is_one, inputs)):
        length = f"{len(inputs)} entries" if isinstance(inputs, list | tuple) else type(inputs)
        raise ValueError(
            f"LHUCTower: 'inputs' must be one tensor or a pair (dense_input, lhuc_input). "
            f"Received: {name} with {length}"
        )
    return inputs[0], inputs[1]
