# SPDX-License-Identifier: Apache-2.0
"""`check_layer`: everything a good Keras 3 layer does, one check at a time.

A check takes `make_layer`, which makes a new layer and passes its keyword arguments on (name,
dtype), and `inputs`, NumPy arrays in the structure the layer takes. CHECKS are quick and meant
for many option sets; SLOW_CHECKS compile or export and are meant for one rich option set. The
checks that put the layer into a model live in `check_model`.
"""

import copy
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from support import check_model
from support.frameworks import float64_allowed, to_numpy, value_and_grads, weight_gradients

MakeLayer = Callable[..., keras.layers.Layer]


def check_layer(check: str, make_layer: MakeLayer, inputs: Any) -> None:
    """Run one check, by its name in CHECKS or SLOW_CHECKS."""
    keras.utils.set_random_seed(0)
    {**CHECKS, **SLOW_CHECKS}[check](make_layer, inputs)


def shapes_of(inputs: Any) -> Any:
    return keras.tree.map_structure(lambda x: tuple(x.shape), inputs)


def tensors_of(inputs: Any, dtype: str = "float32") -> Any:
    """Tensors of a dtype; integers stay what they are."""
    return keras.tree.map_structure(
        lambda x: keras.ops.convert_to_tensor(x, dtype=None if x.dtype.kind in "iu" else dtype),
        inputs,
    )


def built(make_layer: MakeLayer, inputs: Any, **kwargs: Any) -> keras.layers.Layer:
    """A built layer whose weights are all off their initial values (variances stay positive)."""
    layer = make_layer(**kwargs)
    layer.build(shapes_of(inputs))
    check_model.shake_weights(layer)
    return layer


def check_close(found: Any, expected: Any, **tolerance: float) -> None:
    """Same structure, same shapes, close values."""
    keras.tree.assert_same_structure(found, expected)
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        assert tuple(one.shape) == tuple(other.shape)
        np.testing.assert_allclose(
            np.asarray(to_numpy(one), "float64"),
            np.asarray(to_numpy(other), "float64"),
            **(tolerance or {"rtol": 1e-5, "atol": 1e-6}),
        )


def build_creates_everything(make_layer: MakeLayer, inputs: Any) -> None:
    layer = make_layer()
    layer.build(shapes_of(inputs))
    unbuilt = [child.path for child in layer._flatten_layers() if not child.built]
    assert not unbuilt
    paths = [variable.path for variable in layer.variables]
    layer(tensors_of(inputs), training=True)
    assert [variable.path for variable in layer.variables] == paths


def config_round_trips(make_layer: MakeLayer, inputs: Any) -> None:
    layer = built(make_layer, inputs)
    config = layer.get_config()
    before = copy.deepcopy(config)
    expected = layer(tensors_of(inputs))
    for source in (config, config, json.loads(json.dumps(config))):
        restored = type(layer).from_config(source)
        assert restored.get_config() == before
        restored.build(shapes_of(inputs))
        restored.set_weights(layer.get_weights())
        check_close(restored(tensors_of(inputs)), expected)
        assert len(restored.losses) == len(layer.losses)
    assert config == before
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert again.get_config() == before


def symbolic_calls_agree_with_eager_ones(make_layer: MakeLayer, inputs: Any) -> None:
    layer = built(make_layer, inputs)
    eager = layer(tensors_of(inputs))
    assert layer.compute_output_shape(shapes_of(inputs)) == shapes_of(eager)
    batch = keras.tree.flatten(inputs)[0].shape[0]
    for size in (batch, None):
        symbolic = keras.tree.map_structure(
            lambda x, size=size: keras.KerasTensor((size, *x.shape[1:]), x.dtype.name), inputs
        )
        for answer in (layer(symbolic), layer.compute_output_spec(symbolic)):
            keras.tree.assert_same_structure(answer, eager)
            for spec, tensor in zip(
                keras.tree.flatten(answer), keras.tree.flatten(eager), strict=True
            ):
                assert isinstance(spec, keras.KerasTensor)
                assert spec.shape == (size, *tensor.shape[1:])
                assert spec.dtype == keras.backend.standardize_dtype(tensor.dtype)


def weight_paths_are_stable(make_layer: MakeLayer, inputs: Any) -> None:
    first, second = (built(make_layer, inputs, name="part") for _ in range(2))
    paths = [variable.path for variable in first.variables]
    assert paths == [variable.path for variable in second.variables]
    assert len(set(paths)) == len(paths)
    assert all(path.startswith("part/") for path in paths)


def training_is_accepted(make_layer: MakeLayer, inputs: Any) -> None:
    layer = built(make_layer, inputs)
    tensors = tensors_of(inputs)
    inference = layer(tensors)
    check_close(layer(tensors, training=False), inference)
    check_close(layer(tensors, training=None), inference)
    state = [to_numpy(variable.value) for variable in layer.non_trainable_variables]
    layer(tensors, training=True)
    for variable, before in zip(layer.non_trainable_variables, state, strict=True):
        assert not np.array_equal(to_numpy(variable.value), before), variable.path


def stateless_call_is_pure(make_layer: MakeLayer, inputs: Any) -> None:
    layer = built(make_layer, inputs)
    tensors = tensors_of(inputs)
    trainable = [variable.value for variable in layer.trainable_variables]
    state = [variable.value for variable in layer.non_trainable_variables]
    for training in (False, True):
        before = layer.get_weights()
        outputs, updates = layer.stateless_call(trainable, state, tensors, training=training)
        for kept, weight in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(kept, weight)
        check_close(outputs, layer(tensors, training=training))
        for update, variable in zip(updates, layer.non_trainable_variables, strict=True):
            np.testing.assert_allclose(to_numpy(update), to_numpy(variable.value), rtol=1e-6)


def dtype_policies_are_followed(make_layer: MakeLayer, inputs: Any) -> None:
    reference = built(make_layer, inputs)
    expected = reference(tensors_of(inputs))
    scale = max(float(np.abs(to_numpy(y)).max()) for y in keras.tree.flatten(expected))
    policies = {
        "mixed_float16": ("float16", "float32", 1e-2),
        "mixed_bfloat16": ("bfloat16", "float32", 6e-2),
        "float64": ("float64", "float64", 1e-5),
    }
    for policy, (compute, variable_dtype, tolerance) in policies.items():
        with float64_allowed():
            layer = make_layer(dtype=policy)
            layer.build(shapes_of(inputs))
            layer.set_weights(reference.get_weights())
            outputs = layer(tensors_of(inputs, compute))
            for output in keras.tree.flatten(outputs):
                assert keras.backend.standardize_dtype(output.dtype) == compute, policy
            for variable in layer.variables:
                assert variable.dtype == variable_dtype, variable.path
            as_float = keras.tree.map_structure(lambda y: keras.ops.cast(y, "float32"), outputs)
            check_close(as_float, expected, rtol=tolerance, atol=tolerance * scale)


def any_batch_size_will_do(make_layer: MakeLayer, inputs: Any) -> None:
    layer = built(make_layer, inputs)
    expected = layer(tensors_of(inputs))
    model = check_model.functional(layer, inputs)
    for size in (keras.tree.flatten(inputs)[0].shape[0], 1, 0):
        part = keras.tree.map_structure(lambda x, size=size: x[:size], inputs)
        wanted = keras.tree.map_structure(lambda y, size=size: y[:size], expected)
        check_close(layer(tensors_of(part)), wanted)
        outputs = model([tensors_of(x) for x in keras.tree.flatten(part)])
        check_close(outputs, wanted if keras.tree.is_nested(outputs) else _only(wanted))


def _only(structure: Any) -> Any:
    (one,) = keras.tree.flatten(structure)
    return one


def _gradients(layer: keras.layers.Layer, inputs: Any) -> list[np.ndarray]:
    """Of the sum of all outputs: with respect to the inputs, then the trainable weights."""
    flat = keras.tree.flatten(inputs)
    state = [variable.value for variable in layer.non_trainable_variables]

    def total(*tensors: Any) -> Any:
        nested = keras.tree.pack_sequence_as(inputs, list(tensors[: len(flat)]))
        outputs, _ = layer.stateless_call(list(tensors[len(flat) :]), state, nested)
        return sum(keras.ops.sum(y) for y in keras.tree.flatten(outputs))

    weights = [to_numpy(variable.value) for variable in layer.trainable_variables]
    return value_and_grads(total, [*flat, *weights], np.ones((), "float32"))[1]


def gradients_reach_everything(make_layer: MakeLayer, inputs: Any) -> None:
    layer = built(make_layer, inputs)
    names = [f"input {i}" for i, _ in enumerate(keras.tree.flatten(inputs))]
    names += [variable.path for variable in layer.trainable_variables]
    for name, grad in zip(names, _gradients(layer, inputs), strict=True):
        assert np.isfinite(grad).all(), name
        assert np.any(grad != 0), name


def remat_changes_nothing(make_layer: MakeLayer, inputs: Any) -> None:
    plain = built(make_layer, inputs)
    with keras.RematScope(mode="full"):
        remat = make_layer()
        remat.build(shapes_of(inputs))
    remat.set_weights(plain.get_weights())
    check_close(remat(tensors_of(inputs)), plain(tensors_of(inputs)))
    pairs = zip(
        weight_gradients(remat, tensors_of(inputs)),
        weight_gradients(plain, tensors_of(inputs)),
        strict=True,
    )
    for (one, other), variable in zip(pairs, plain.trainable_variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=variable.path)


def _checks(*functions: Callable[[MakeLayer, Any], None]) -> dict[str, Any]:
    return {function.__name__: function for function in functions}


CHECKS = _checks(
    build_creates_everything,
    config_round_trips,
    symbolic_calls_agree_with_eager_ones,
    weight_paths_are_stable,
    training_is_accepted,
    stateless_call_is_pure,
    dtype_policies_are_followed,
    any_batch_size_will_do,
    gradients_reach_everything,
    remat_changes_nothing,
    check_model.saved_functional_model_predicts_the_same,
    check_model.saved_subclassed_model_predicts_the_same,
)
SLOW_CHECKS = _checks(
    check_model.exported_model_predicts_the_same,
    check_model.trains_without_jit,
    check_model.trains_with_jit,
)
