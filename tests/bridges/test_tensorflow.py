# SPDX-License-Identifier: Apache-2.0
"""The TensorFlow bridge: the kernels eagerly and in graphs, the composition in XLA."""

import os
import re
import resource
import threading

import numpy as np
import pytest

import mlayers
from mlayers.bridges import native
from mlayers.op import OPS
from support.bridge_calls import CALLS, arrays_of, call, gradients

if os.environ.get("KERAS_BACKEND") != "tensorflow":
    pytest.skip("KERAS_BACKEND is not tensorflow", allow_module_level=True)

import keras
import tensorflow as tf

names = pytest.mark.parametrize("name", CALLS)


def check(found, wanted):
    """Within float32's error for sums of values as large as the largest."""
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max(initial=1))


def graph(function):
    return tf.function(function, autograph=False)


def jit(function):
    return tf.function(function, autograph=False, jit_compile=True)


def eager(function):
    return function


def op(name):
    return lambda *tensors: call(name, *tensors)


def tensors_of(name, **kwargs):
    return [tf.constant(array) for array in arrays_of(name, **kwargs)]


def expected(name, *arrays):
    with mlayers.use_kernels("reference"):
        return call(name, *arrays)


def signature(name):
    """What a tf.function takes: an unknown batch."""
    op, shapes, _ = CALLS[name]
    return [
        tf.TensorSpec((None, *shape[1:]) if axes.startswith(("b", "...")) else shape)
        for axes, shape in zip(OPS[op].input_axes, shapes.values(), strict=True)
    ]


def first(function, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = tf.reduce_sum(function(*tensors) ** 2)
    return tape.gradient(value, tensors)


def second(function, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = tf.add_n([tf.reduce_sum(g**2) for g in first(function, tensors)])
    return tape.gradient(value, tensors, unconnected_gradients="zero")


def nodes(function, *tensors):
    """Every node of a traced function, those of the functions it calls too."""
    definition = function.get_concrete_function(*tensors).graph.as_graph_def()
    inner = [node for f in definition.library.function for node in f.node_def]
    return [*definition.node, *inner]


def saved(name, folder):
    class Served(tf.Module):
        @tf.function(input_signature=signature(name), autograph=False)
        def __call__(self, *tensors):
            return call(name, *tensors)

    tf.saved_model.save(Served(), folder)
    return folder


def test_it_is_in_use():
    mlayers.ffm(tf.ones((2, 2)), tf.ones((2, 2)), 1)
    assert native.state("tensorflow").startswith("kernels on the CPU")


@names
def test_graph_calls_the_kernels_without_python(name):
    found = nodes(graph(lambda *t: first(op(name), t)), *tensors_of(name))
    called = {node.attr["op"].s.decode() for node in found if node.op == "MlayersCall"}
    assert called == {CALLS[name][0], f"{CALLS[name][0]}_grad"}
    assert not [node.op for node in found if "PyFunc" in node.op]


@names
@pytest.mark.parametrize("outer", [eager, graph, jit])
@pytest.mark.parametrize("inner", ["op", "graph", "jit", "saved model"])
def test_value_and_derivatives(name, inner, outer, tmp_path):
    """Whatever is traced first, run eagerly, compiled or loaded: the same two derivatives."""
    tensors = tensors_of(name)
    if inner == "saved model":
        function = tf.saved_model.load(saved(name, tmp_path))
    else:
        function = {"op": eager, "graph": graph, "jit": jit}[inner](op(name))
    value, gradient, curvature = outer(
        lambda *t: (function(*t), first(function, t), second(function, t))
    )(*tensors)
    check(value, expected(name, *arrays_of(name)))
    for one, other in zip(gradient, gradients(name, *arrays_of(name)), strict=True):
        check(one, other)
    with mlayers.use_kernels("composition"):
        for one, other in zip(curvature, second(op(name), tensors), strict=True):
            check(one, other)


@names
@pytest.mark.parametrize("outer", [graph, jit])
def test_unknown_batch(name, outer):
    traced = tf.function(op(name), input_signature=signature(name), autograph=False)
    out = traced.get_concrete_function().output_shapes
    assert out.as_list()[1:] == list(expected(name, *arrays_of(name)).shape[1:])
    run = outer(traced)
    for batch in (0, 1, 5):
        found = run(*tensors_of(name, batch=batch))
        check(found, expected(name, *arrays_of(name, batch=batch)))
        first(run, tensors_of(name, batch=batch))


@names
def test_half_types_take_the_kernel(name):
    tensors = [tf.cast(t, "float16") for t in tensors_of(name)]
    assert "MlayersCall" in {node.op for node in nodes(graph(op(name)), *tensors)}
    assert call(name, *tensors).dtype == tf.float16


def test_reals_reach_the_kernel_exactly():
    counter = np.arange(6) / 7
    for run in (eager, graph):
        found = run(lambda t: mlayers.fid_counter(t, 0.7, 0.1))(tf.constant(counter))
        assert np.array_equal(found, mlayers.fid_counter(counter, 0.7, 0.1))


@pytest.mark.parametrize("gradient", [False, True])
def test_errors_at_run_time_carry_the_words_of_the_front_door(gradient):
    left, right = np.ones((3, 8), "f"), np.ones((4, 12), "f")
    with pytest.raises(ValueError, match="same batch size") as words:
        mlayers.ffm(left, right, 4)
    function = lambda *t: first(op("multiply"), t) if gradient else call("multiply", *t)  # noqa: E731
    run = tf.function(function, input_signature=signature("multiply"), autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(str(words.value))):
        run(left, right)


@names
@pytest.mark.parametrize("outer", [eager, graph, jit])
def test_vectorized_map_and_jacobian(name, outer):
    stacks = [np.stack([arrays_of(name, seed=s)[i] for s in range(3)])
              for i in range(len(CALLS[name][1]))]  # fmt: skip
    found = outer(lambda *t: tf.vectorized_map(lambda s: call(name, *s), t))(
        *map(tf.constant, stacks)
    )
    for seed in range(3):
        check(found[seed], expected(name, *arrays_of(name, seed=seed)))
    if name == "counter":
        return  # its gradient is a rule, whatever the upstream

    def jacobian(tensor, *others):
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = call(name, tensor, *others)
        return tape.jacobian(value, tensor)

    with mlayers.use_kernels("composition"):
        wanted = jacobian(*tensors_of(name))
    check(outer(jacobian)(*tensors_of(name)), wanted)


@pytest.mark.parametrize("outer", [graph, jit])
def test_loop_body(outer):
    left, right = tf.random.normal((3, 8)), tf.random.normal((3, 1))

    def power(right):
        with tf.GradientTape() as tape:
            tape.watch(right)
            body = lambda i, x: (i + 1, mlayers.ffm(x, right, 1))  # noqa: E731
            value = tf.while_loop(lambda i, x: i < 3, body, [0, left], maximum_iterations=3)[1]
        return value, tape.gradient(value, right)

    value, gradient = outer(power)(right)
    check(value, left * right**3)
    total = tf.reduce_sum(left, 1, keepdims=True)
    check(gradient, 3 * total * right**2)


@pytest.mark.parametrize("outer", [eager, graph, jit])
def test_upstream_gradients_that_are_sparse_or_missing(outer):
    def sparse(left, right):
        with tf.GradientTape() as tape:
            tape.watch(left)
            value = tf.gather(mlayers.ffm(left, right, 4), [0, 2, 0])
        return tape.gradient(value, left)

    def missing(left, right):
        with tf.GradientTape() as tape:
            tape.watch(left)
            _, right_grad = mlayers.ffm_grad(tf.ones((8, 24)), left, right, 4)
        return tape.gradient(right_grad, left)

    for function in (sparse, missing):
        with mlayers.use_kernels("composition"):
            wanted = function(*tensors_of("multiply"))
        check(outer(function)(*tensors_of("multiply")), wanted)


def test_tf_data():
    data = tf.data.Dataset.from_tensor_slices(tuple(arrays_of("dot"))).batch(3).map(op("dot"))
    found = np.concatenate([batch.numpy() for batch in data])
    check(found, expected("dot", *arrays_of("dot")))


def ffm_model(**compile_options):
    keras.utils.set_random_seed(0)
    left, right = keras.Input((8,)), keras.Input((12,))
    fields = mlayers.ffm(keras.layers.Dense(8)(left), right, 4)
    model = keras.Model([left, right], keras.layers.Dense(1)(fields))
    model.compile("sgd", "mse", **compile_options)
    return model


def test_keras_fit():
    arrays, losses = arrays_of("multiply"), []
    for options in ({"jit_compile": j} for j in (True, False, "auto")):
        history = ffm_model(**options).fit(arrays, np.ones((8, 1)), epochs=3, verbose=0)
        losses.append(history.history["loss"])
    eagerly = ffm_model(run_eagerly=True).fit(arrays, np.ones((8, 1)), epochs=3, verbose=0)
    for found in losses:
        check(found, eagerly.history["loss"])


def test_many_threads_and_no_leak():
    left, right = tf.ones((512, 64)), tf.ones((512, 64))  # an output of 2 MB
    run = graph(lambda: tf.reduce_sum(mlayers.ffm(left, right, 4)))
    found = []

    def work():
        found.extend(float(run()) + float(mlayers.ffm(left, right, 4)[0, 0]) for _ in range(100))

    def all_threads():
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    all_threads()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    all_threads()
    assert set(found) == {512 * 1024 + 1.0}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # of 1.6 GB, in KB
