# SPDX-License-Identifier: Apache-2.0
"""FidCounter: training counts as NumPy's bincount does, everything else looks up."""

import json
from functools import partial

import keras
import numpy as np
import pytest

import mlayers
from mlayers.layers import FidCounter, fold_weight_norm
from support import programs
from support.check_layer import CHECKS, check_layer
from support.check_model import OneLayerModel, functional
from support.frameworks import BACKEND, float64_allowed, to_numpy

RNG = np.random.default_rng(5)
NUM_IDS = 20
THRESHOLD = 6.0
IDS = RNG.integers(0, 8, (23, 3)).astype("int32")  # 8 of 20 ids: most are seen many times
STRAY = np.array([[0, 19], [-1, 20], [-20, 2**31 - 1], [7, -(2**31)]], "int32")

# All but those that need a gradient or an output in the compute dtype.
UNFIT = ("gradients_reach_everything", "dtype_policies_are_followed")
FIT = [name for name in CHECKS if name not in UNFIT]


def expected_counts(ids, times=1, step=1.0, threshold=THRESHOLD):
    return np.minimum(np.bincount(ids.ravel(), minlength=NUM_IDS) * times * step, threshold)


def counts_of(layer):
    return to_numpy(layer.counts.value)


def call(layer, ids, **kwargs):
    return to_numpy(layer(np.asarray(ids), **kwargs))


@pytest.mark.parametrize("check", [*FIT, "exported_model_predicts_the_same"])
def test_is_a_good_keras_layer(check):
    check_layer(check, partial(FidCounter, 100, threshold=50, step=0.5), IDS)


def make_model(kind, jit_compile=False, **options):
    """A counter and one unit on its counts."""
    layer = FidCounter(NUM_IDS, threshold=THRESHOLD, **options)
    model = keras.Sequential(
        [keras.Input(IDS.shape[1:], dtype="int32"), layer, keras.layers.Dense(1)]
    )
    if kind == "functional":
        model = keras.Model(model.inputs, model.outputs[0])
    if kind == "subclassed":
        model = OneLayerModel(model)
    model.compile("sgd", "mse", jit_compile=jit_compile)
    return model


def counter_in(model):
    (layer,) = (part for part in model._flatten_layers() if isinstance(part, FidCounter))
    return layer


def fit(model, epochs=1):
    # Three batches, the last one smaller.
    model.fit(IDS, np.ones((len(IDS), 1)), batch_size=10, epochs=epochs, verbose=0)


@pytest.mark.parametrize(
    ("kind", "jit_compile"),
    [
        ("functional", False),
        ("functional", True),
        ("subclassed", False),
        # torch.compile takes half a minute.
        *([] if BACKEND == "torch" else [("subclassed", True)]),
    ],
)
def test_an_epoch_counts_and_a_loaded_model_goes_on(kind, jit_compile, tmp_path):
    model = make_model(kind, jit_compile, step=0.5)
    fit(model)
    counts = counts_of(counter_in(model))
    np.testing.assert_array_equal(counts, expected_counts(IDS, step=0.5))
    assert 0 < (counts == THRESHOLD).sum() < (counts > 0).sum()  # some are saturated, some not
    before = model.predict(IDS, verbose=0)
    model.evaluate(IDS, np.ones((len(IDS), 1)), verbose=0)
    np.testing.assert_array_equal(counts_of(counter_in(model)), counts)

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(counts_of(counter_in(loaded)), counts)
    np.testing.assert_allclose(loaded.predict(IDS, verbose=0), before, rtol=1e-5)
    fit(loaded)
    expected = expected_counts(IDS, times=2, step=0.5)
    np.testing.assert_array_equal(counts_of(counter_in(loaded)), expected)
    np.testing.assert_array_equal(counts_of(counter_in(model)), counts)


def test_the_result_includes_the_batch():
    layer = FidCounter(5, threshold=3)
    np.testing.assert_array_equal(call(layer, [[1, 1], [4, 1]], training=True), [[3, 3], [1, 3]])
    np.testing.assert_array_equal(call(layer, [[1, 4], [0, 2]]), [[3, 1], [0, 0]])
    np.testing.assert_array_equal(call(layer, 4, training=True), 2)  # any rank, even 0
    assert call(layer, np.zeros((2, 0, 3), "int32"), training=True).shape == (2, 0, 3)
    np.testing.assert_array_equal(counts_of(layer), [0, 3, 0, 0, 2])


def test_one_occurrence_is_that_of_the_op():
    layer = FidCounter(5, threshold=2.25, step=0.75)
    expected = np.zeros(5, "float32")
    for _ in range(4):
        expected = mlayers.fid_counter(expected, 2.25, step=0.75)
        np.testing.assert_array_equal(call(layer, np.arange(5), training=True), expected)


@pytest.mark.parametrize(
    ("threshold", "step", "after_two"), [(3.0, -1.0, -2.0), (-2.0, 1.0, -2.0), (-2.0, -1.0, -4.0)]
)
def test_the_threshold_is_an_upper_limit_whatever_the_signs(threshold, step, after_two):
    layer = FidCounter(3, threshold, step)
    start = min(0, threshold)
    np.testing.assert_array_equal(call(layer, [0, 1]), [start, start])
    call(layer, [0, 0], training=True)
    np.testing.assert_array_equal(counts_of(layer), [after_two, start, start])


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_ids_out_of_range_count_nowhere_and_give_0(jit):
    layer = FidCounter(NUM_IDS, threshold=THRESHOLD)
    if jit:
        model = functional(layer, STRAY)
        model.compile("sgd", "mse", jit_compile=True)
        model.fit(STRAY, STRAY, verbose=0, batch_size=4)
        found = model.predict(STRAY, verbose=0)
    else:
        found = call(layer, STRAY, training=True)
    np.testing.assert_array_equal(found, [[1, 1], [0, 0], [0, 0], [1, 0]])
    np.testing.assert_array_equal(counts_of(layer), expected_counts(np.array([0, 19, 7])))


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_dtype(dtype):
    largest = np.iinfo(dtype).max
    layer = FidCounter(300, threshold=9)
    last = min(largest, 299)
    with float64_allowed():  # and int64 in JAX
        found = call(layer, np.array([last, 0, last, largest], dtype), training=True)
    count = 3 if largest < 300 else 2
    np.testing.assert_array_equal(found, [count, 1, count, count if largest < 300 else 0])
    assert counts_of(layer).sum() == count + 1


def test_a_wide_id_is_not_cut_off():
    with float64_allowed():
        np.testing.assert_array_equal(
            call(FidCounter(5, 9), np.array([1, 2**32 + 1, -(2**32) + 1]), training=True), [1, 0, 0]
        )


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_other_ids_are_refused(dtype):
    for ids in (np.ones(3, dtype), keras.Input((3,), dtype=dtype)):
        with pytest.raises(TypeError, match=rf"FidCounter: 'ids' must .*Received: .*{dtype}"):
            FidCounter(5, 9)(ids)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float16", "float64"]
)
def test_counts_are_float32_under_every_policy(policy):
    with float64_allowed():
        layer = FidCounter(3, threshold=5000, dtype=policy)
        found = layer(np.zeros(2049, "int32"), training=True)
        assert layer.counts.dtype == "float32"
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        assert layer(keras.Input((3,), dtype="int32")).dtype == "float32"
    assert to_numpy(found)[0] == 2049


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_trains_in_mixed_precision(policy):
    ids = keras.Input(IDS.shape[1:], dtype="int32")
    layer = FidCounter(NUM_IDS, THRESHOLD, dtype=policy)
    model = keras.Model(ids, keras.layers.Dense(1, dtype=policy)(layer(ids)))
    model.compile("sgd", "mse")  # with float16, Keras scales the loss
    fit(model)
    np.testing.assert_array_equal(counts_of(layer), expected_counts(IDS))
    assert np.isfinite(model.predict(IDS, verbose=0)).all()


def test_a_frozen_layer_does_not_count():
    layer = FidCounter(NUM_IDS, THRESHOLD, trainable=False)
    np.testing.assert_array_equal(call(layer, [3], training=True), [0])
    layer.trainable = True
    np.testing.assert_array_equal(call(layer, [3], training=True), [1])
    assert not layer.trainable_variables
    model = make_model("functional")
    counter_in(model).trainable = False
    model.compile("sgd", "mse")
    fit(model)
    assert not counts_of(counter_in(model)).any()


@pytest.mark.skipif(BACKEND != "jax", reason="JAX's stateless calls inside jit")
def test_a_stateless_call_inside_jit():
    import jax

    layer = FidCounter(NUM_IDS, THRESHOLD)
    layer.build(IDS.shape)
    step = jax.jit(lambda state, ids: layer.stateless_call([], state, ids, training=True))
    state = [layer.counts.value]
    for _ in range(2):
        outputs, state = step(state, IDS)
    np.testing.assert_array_equal(state[0], expected_counts(IDS, times=2))
    np.testing.assert_array_equal(outputs, np.asarray(state[0])[IDS])
    assert not counts_of(layer).any()


FOUR_DEVICES = """
import json, sys
import jax, keras, numpy as np
from mlayers.layers import FidCounter
ids = np.asarray(json.loads(sys.argv[1]), "int32")
seen = {"devices": len(jax.devices())}
for name in ("one", "four"):
    if name == "four":
        distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(0)
    layer, inputs = FidCounter(20, 6), keras.Input(ids.shape[1:], dtype="int32")
    model = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    model.compile("sgd", "mse", jit_compile=True)
    history = model.fit(ids, np.ones((len(ids), 1)), batch_size=8, shuffle=False, verbose=0)
    seen[name] = [np.asarray(layer.counts.value).tolist(), history.history["loss"]]
    seen[name + " held by"] = len(layer.counts.value.devices())
print(json.dumps(seen))
"""


@pytest.mark.skipif(BACKEND != "jax", reason="keras.distribution")
def test_a_batch_split_over_four_devices_counts_as_on_one():
    ids = IDS[:16]
    flags = "--xla_force_host_platform_device_count=4"
    seen = programs.result("-c", FOUR_DEVICES, json.dumps(ids.tolist()), XLA_FLAGS=flags)
    assert (seen["devices"], seen["one held by"], seen["four held by"]) == (4, 1, 4)
    np.testing.assert_array_equal(seen["one"][0], expected_counts(ids))
    assert seen["four"][0] == seen["one"][0]
    np.testing.assert_allclose(seen["four"][1], seen["one"][1], rtol=1e-5)


def test_a_folded_model_keeps_the_counts():
    model = make_model("functional")
    fit(model)
    copy = counter_in(fold_weight_norm(model))
    np.testing.assert_array_equal(counts_of(copy), expected_counts(IDS))


def test_params():
    template = FidCounter.params()
    template.set(num_ids=4, threshold=2, step=0.5)
    assert template.instantiate().get_config().items() >= {"num_ids": 4, "step": 0.5}.items()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("num_ids", value) for value in (0, -1, 2.5, "5", None, True, 2**31)),
        *(("threshold", value) for value in (np.inf, -np.inf, np.nan, 1e39, "9", None, True)),
        *(("step", value) for value in (np.inf, np.nan, -1e39, "1", None, False)),
    ],
)
def test_constructor_refuses(argument, value):
    with pytest.raises(ValueError, match=rf"^FidCounter: '{argument}' must .*Received: "):
        FidCounter(**{"num_ids": 5, "threshold": 9, argument: value})
