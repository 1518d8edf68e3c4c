# SPDX-License-Identifier: Apache-2.0
"""Ops on TensorFlow tensors: the kernels behind one TF op, `MlayersCall` (tensorflow.c).

Eagerly the op is called and nothing else. In a graph it is one branch of a Case, because a graph
does not know where it will run: XLA may compile it at any later time (a tf.function that calls it,
a SavedModel that is loaded), and has no kernel for `MlayersCall`. The Case branches on TensorFlow's
`DeviceIndex`, which answers 0 on a CPU and is a constant of XLA's compiler, so that XLA compiles
the other branch alone, the composition. So does a GPU run it.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mlayers.bridges import native
from mlayers.op import OPS, Op, Shape

_registered: Any = None  # TensorFlow's generated module, with the wrapper `mlayers_call`


# --- what native.py asks for ---


@functools.cache
def load() -> None:
    """Register the op with TensorFlow and give it the kernels; leaves the devices untouched.

    Raises:
        Unavailable: no compiled library, or TensorFlow does not take the op.
    """
    native.start("tensorflow", _open_library)
    tf.RegisterGradient("MlayersCall")(_gradient_of_node)
    _let_loops_be_vectorized()


def probe(dtype: str) -> None:
    """Test the op on a small array; raises Unavailable."""
    x = np.arange(6, dtype=tf.as_dtype(dtype).as_numpy_dtype).reshape(2, 3)
    with tf.device("CPU"):
        (found,) = _kernel(native.PROBE, (3,))([tf.constant(x)])
        native.check_probe(found.numpy(), 3, x)


def state() -> str:
    """What `show_config()` says."""
    return "kernels on the CPU, through the op MlayersCall; composition in XLA and on other devices"


def serves(op: Op, tensors: Sequence[Any]) -> bool:
    """Whether a kernel may run on these tensors: of a dtype it has, and not on a GPU."""
    if tensors[0].dtype.name not in native.DTYPES:
        return False
    return not tf.executing_eagerly() or _cpu_is_all() or all("CPU" in t.device for t in tensors)


def path(tensors: Sequence[Any]) -> str:
    """Whose kernels run: those of the CPU; on a GPU the composition serves."""
    return "cython"


def run(op: Op, tensors: Sequence[Any], values: tuple[Any, ...]) -> Sequence[Any]:
    """Compute `op` on checked tensors that it serves."""
    if tf.executing_eagerly():
        return _native(op, tensors, values)
    return _in_graph(op, tensors, values)


# --- the op ---


def _open_library(path: str) -> Any:
    global _registered
    try:
        _registered = tf.load_op_library(path)
    except (tf.errors.OpError, OSError, RuntimeError) as error:
        raise native.Unavailable(f"TensorFlow does not open {path}: {error}") from error
    return ctypes.CDLL(path)


@functools.cache
def _cpu_is_all() -> bool:
    return all(device.device_type == "CPU" for device in tf.config.list_logical_devices())


@functools.lru_cache(maxsize=1024)
def _kernel(op: Op, values: tuple[Any, ...]) -> Callable[..., Sequence[Any]]:
    """`MlayersCall` with the attributes of one op, a function of a list of tensors."""
    ints, floats = op.encode(values)
    return functools.partial(
        _registered.mlayers_call,
        op=op.name,
        ints=list(ints),
        floats=[struct.unpack("=q", struct.pack("=d", number))[0] for number in floats],
        M=len(op.outputs),
    )


def _gradient_of_node(node: Any, *upstreams: Any) -> Sequence[Any]:
    """The gradient of a `MlayersCall` that was called eagerly."""
    op = OPS[tf.compat.as_str(node.get_attr("op"))]
    floats = [struct.unpack("=d", struct.pack("=q", b))[0] for b in node.get_attr("floats")]
    return _gradient(op, node.inputs, op.decode(node.get_attr("ints"), floats), upstreams)


def _gradient(
    op: Op, tensors: Sequence[Any], values: tuple[Any, ...], upstreams: Sequence[Any]
) -> Sequence[Any]:
    """The gradients of the inputs: an op; for an op without one what TensorFlow derives."""
    if op.gradient is None:
        return _derived(op, tensors, values, upstreams)
    inputs = _gradient_inputs(op, tensors, upstreams)
    if native.gradient_takes_kernel(op.gradient, "tensorflow", inputs, values):
        return run(op.gradient, inputs, values)
    return _composed(op.gradient, inputs, values)


def _gradient_inputs(op: Op, tensors: Sequence[Any], upstreams: Sequence[Any]) -> Sequence[Any]:
    named = dict(zip(op.inputs, tensors, strict=True))
    named["grad"] = tf.convert_to_tensor(upstreams[0])  # it may come as IndexedSlices
    return [named[name] for name in op.gradient.inputs] if op.gradient else []


def _derived(
    op: Op, tensors: Sequence[Any], values: tuple[Any, ...], upstreams: Sequence[Any]
) -> Sequence[Any]:
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = _composed(op, tensors, values)
    weights = [
        tf.zeros_like(output) if upstream is None else upstream
        for output, upstream in zip(outputs, upstreams, strict=True)
    ]
    found: Sequence[Any] = tape.gradient(outputs, list(tensors), output_gradients=weights)
    return found


def _let_loops_be_vectorized() -> None:
    """Tell `tf.vectorized_map` and `jacobian` that `DeviceIndex` is the same in every iteration.

    The rest they can do: vectorize the composition, and loop over `MlayersCall`. TensorFlow offers
    no public way to say it; where this one is missing or taken, the loops are as TensorFlow has
    them, and the jacobian of an op with several outputs needs `experimental_use_pfor=False`.
    """
    try:
        from tensorflow.python.ops.parallel_for.pfor import RegisterPFor, wrap

        def convert(node: Any) -> Any:
            return [wrap(tf.raw_ops.DeviceIndex(device_names=node.get_attr("device_names")), False)]

        RegisterPFor("DeviceIndex")(convert)
    except (ImportError, KeyError):
        return


# --- in a graph ---


def _in_graph(op: Op, tensors: Sequence[Any], values: tuple[Any, ...]) -> Sequence[Any]:
    # A model that Keras exports is to be served without this package: it may hold no op of ours.
    if native.called_from("keras.src.export"):
        from mlayers.bridges import composition

        return composition.run(op, tensors, values)
    # A gradient may be made in another graph than its forward: what the next gradient will close
    # over must be tensors of the graph at hand, which identity makes of them.
    results: Sequence[Any] = _graph_function(op, values)(*map(tf.identity, tensors))
    return results


@functools.lru_cache(maxsize=1024)
def _graph_function(op: Op, values: tuple[Any, ...]) -> Callable[..., Any]:
    """The Case in a custom gradient: TensorFlow's own would compute that of both branches."""
    branches = (_branch(_native, op, values), _branch(_composed, op, values))

    def function(*tensors: Any) -> tuple[Sequence[Any], Callable[..., Any]]:
        shapes = op.shapes(*(tuple(t.shape) for t in tensors), **op.named(values))

        def gradient(*upstreams: Any) -> Sequence[Any]:
            for upstream, shape in zip(upstreams, shapes, strict=True):
                if isinstance(upstream, tf.Tensor):
                    upstream.set_shape(shape)  # its maker may not know even the rank
            # A SavedModel stores custom gradients, but not the custom gradients in those, and
            # loses second derivatives with them. So it is given a composed gradient.
            if op.gradient and native.called_from(
                "tensorflow.python.saved_model", function="_trace_gradient_functions"
            ):
                return _composed(op.gradient, _gradient_inputs(op, tensors, upstreams), values)
            return _gradient(op, tensors, values, upstreams)

        return _choose(branches, tensors, shapes), gradient

    decorated: Callable[..., Any] = tf.custom_gradient(function)
    return decorated


def _choose(
    branches: Sequence[Any], tensors: Sequence[Any], shapes: Sequence[Shape]
) -> Sequence[Any]:
    # The raw op, because tf.switch_case traces the branches anew at each call (10 ms against 1.5)
    # and differentiates them on the spot where tapes are nested.
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
    return tuple(
        tf.raw_ops.StatelessCase(
            branch_index=tf.raw_ops.DeviceIndex(device_names=["CPU"]),
            input=tensors,
            Tout=[tensors[0].dtype] * len(shapes),
            branches=[branch.get_concrete_function(*specs) for branch in branches],
            output_shapes=[tf.TensorShape(shape) for shape in shapes],
        )
    )


def _branch(how: Callable[..., Any], op: Op, values: tuple[Any, ...]) -> Any:
    def branch(*tensors: Any) -> Sequence[Any]:
        return tuple(how(op, tensors, values))

    branch.__name__ = f"{op.name}{how.__name__}"  # `ffm_native`: whoever reads a graph sees it
    return tf.function(branch, autograph=False)


def _native(op: Op, tensors: Sequence[Any], values: tuple[Any, ...]) -> Sequence[Any]:
    return _kernel(op, values)(tensors)


def _composed(op: Op, tensors: Sequence[Any], values: tuple[Any, ...]) -> Sequence[Any]:
    from mlayers.bridges import composition

    return composition.compose(op, tensors, values)
