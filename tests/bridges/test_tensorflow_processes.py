# SPDX-License-Identifier: Apache-2.0
"""The TensorFlow bridge in new processes: what is imported when, and models served there."""

import os

import numpy as np
import pytest

import mlayers
from support import programs

if os.environ.get("KERAS_BACKEND") != "tensorflow":
    pytest.skip("KERAS_BACKEND is not tensorflow", allow_module_level=True)

import keras
import tensorflow as tf


@pytest.mark.parametrize("imports", ["mlayers, tensorflow as tf", "tensorflow as tf, mlayers"])
def test_saved_model(imports, tmp_path):
    class Served(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 8)), tf.TensorSpec((None, 12))])
        def __call__(self, left, right):
            return mlayers.ffm(left, right, 4)

    tf.saved_model.save(Served(), tmp_path)
    program = f"""
import {imports}
model = tf.saved_model.load({str(tmp_path)!r})
left, right = tf.ones((2, 8)), tf.ones((2, 12))
for call in (model, tf.function(model), tf.function(model, jit_compile=True)):
    with tf.GradientTape() as tape:
        tape.watch(left)
        total = tf.reduce_sum(call(left, right))
    print(float(total), float(tf.reduce_sum(tape.gradient(total, left))))
"""
    assert programs.output("-c", program).split() == ["48.0"] * 6


def test_keras_export_is_served_without_this_package(tmp_path):
    left, right = keras.Input((8,)), keras.Input((12,))
    model = keras.Model([left, right], mlayers.ffm(keras.layers.Dense(8)(left), right, 4))
    model.predict([np.ones((2, 8)), np.ones((2, 12))], verbose=0)
    model.export(tmp_path, verbose=False)
    program = f"""
import sys, tensorflow as tf
model = tf.saved_model.load({str(tmp_path)!r})
print(model.serve([tf.ones((2, 8)), tf.ones((2, 12))]).shape, "mlayers" in sys.modules)
"""
    assert programs.output("-c", program) == "(2, 24) False"


def test_import_of_tensorflow_is_left_as_it_was():
    program = """
import importlib.util, sys, mlayers
finders = list(sys.meta_path)
(ours,) = (f for f in finders if getattr(f, "_mlayers_waits_for", "") == "tensorflow")
for _ in range(2):
    assert importlib.util.find_spec("tensorflow").loader.name == "tensorflow"
assert "tensorflow" not in sys.modules and sys.meta_path == finders
import tensorflow as tf
assert ours not in sys.meta_path
assert "exec_module" not in vars(tf.__spec__.loader)
from mlayers.bridges import tensorflow
assert tensorflow.load.cache_info().currsize == 1
"""
    programs.output("-c", program)


def test_two_devices():
    """Also that the import starts no device: they could not be divided afterwards."""
    program = """
import mlayers, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
call = lambda: mlayers.ffm(tf.ones((1, 2)), tf.ones((1, 1)), 1)
values = strategy.experimental_local_results(tf.function(lambda: strategy.run(call))())
print(*(value.numpy().tolist() for value in values))
"""
    assert programs.output("-c", program) == "[[1.0, 1.0]] [[1.0, 1.0]]"


def test_an_import_that_fails_can_be_repeated(tmp_path):
    """The finder stays until a TensorFlow has run; its failure is the importer's, unchanged."""
    (tmp_path / "tensorflow.py").write_text("raise ImportError('broken')")
    program = f"""
import sys, mlayers
sys.path.insert(0, {str(tmp_path)!r})
for _ in range(2):
    try:
        import tensorflow
    except ImportError as error:
        print(error)
sys.path.remove({str(tmp_path)!r})
sys.path_importer_cache.clear()
import tensorflow
from mlayers.bridges import tensorflow
print(tensorflow.load.cache_info().currsize)
"""
    assert programs.output("-c", program).split() == ["broken", "broken", "1"]
