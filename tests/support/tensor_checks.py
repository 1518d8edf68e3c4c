# SPDX-License-Identifier: Apache-2.0
"""What must hold for every op on tensors of the active backend. An op's test class inherits these.

They take the fixture `backend` (tests/ops/conftest.py), which skips where there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mlayers
from mlayers.op import OPS
from support.array_checks import ArrayChecks, as_tuple, check_results, reference
from support.op_examples import DTYPES, TOLERANCE, Example
from support.tensors import (
    COMPILERS,
    autodiff,
    compiler,
    dtype_allowed,
    has_kernel,
    is_tensor,
    keras_ops_can_be_traced,
    to_array,
    to_tensor,
)


class TensorChecks(ArrayChecks):
    """Tests on tensors, beside those on NumPy arrays."""

    def skip_untraceable(self, compile_with: str | None, dtype: str = "float32") -> None:
        """Old versions of torch compile a kernel, but not a composition."""
        op = OPS[self.name()]
        if compile_with and not (keras_ops_can_be_traced() or has_kernel(op, dtype)):
            pytest.skip("this torch cannot trace keras.ops, of which the composition is made")

    @pytest.mark.parametrize("compile_with", [None, *COMPILERS])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_tensors_agree_with_the_reference(self, backend, example, dtype, compile_with):
        self.skip_untraceable(compile_with, dtype)
        for fn, arrays in self.calls(example, dtype):
            expected = reference(fn, arrays, **example.attributes)

            def call(*tensors, fn=fn):
                return fn(*tensors, **example.attributes)

            with dtype_allowed(dtype):
                run = compiler(compile_with)(call) if compile_with else call
                found = as_tuple(run(*map(to_tensor, arrays)))
                check_results(tuple(map(to_array, found)), expected, dtype)

    @pytest.mark.parametrize("compile_with", [None, *COMPILERS])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_autodiff_agrees_with_the_reference(self, backend, example, dtype, compile_with):
        self.skip_untraceable(compile_with, dtype)
        arrays = self.gradient_arguments(example, dtype)
        expected = reference(type(self).gradient, arrays, **example.attributes)
        inputs = arrays[1:] if self.gradient_takes_upstream else arrays
        with dtype_allowed(dtype):
            upstream = to_tensor(arrays[0])
            found = self.autodiff(example, [to_tensor(a) for a in inputs], upstream, compile_with)
            check_results(tuple(map(to_array, found)), expected, dtype)

    def autodiff(self, example: Example, tensors: Any, upstream: Any, compile_with: Any) -> Any:
        """The framework's own gradients of sum(upstream * op)."""

        def call(*inputs):
            return type(self).function(*inputs, **example.attributes)

        return autodiff(call, tensors, upstream, compile_with)

    def test_frameworks_own_gradient_checker(self, backend, example):
        if not self.gradient_takes_upstream:
            pytest.skip("the gradient is a rule, not a derivative: the op's own tests hold it")
        with dtype_allowed("float64"):
            tensors = [to_tensor(a) for a in example.arrays("float64")]

            def call(*inputs):
                return type(self).function(*inputs, **example.attributes)

            if backend == "jax":
                from jax.test_util import check_grads

                check_grads(call, tensors, order=2, modes=["rev"], atol=1e-5, rtol=1e-5)
            elif backend == "torch":
                import torch

                leaves = [t.clone().requires_grad_() for t in tensors]
                assert torch.autograd.gradcheck(call, leaves)
                assert torch.autograd.gradgradcheck(call, leaves)
            else:
                self.check_tensorflow_gradients(call, tensors)

    def check_tensorflow_gradients(self, call: Any, tensors: Any) -> None:
        import tensorflow as tf

        def first_order(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = tf.reduce_sum(tf.sin(call(*inputs)))
            return tape.gradient(value, inputs)

        for position in range(len(tensors)):
            for fn in (call, lambda *a, p=position: first_order(*a)[p]):
                theory, numeric = tf.test.compute_gradient(fn, tensors, delta=1e-4)
                for one, other in zip(theory, numeric, strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("compile_with", [None, *COMPILERS])
    def test_empty_batch_of_tensors(self, backend, example, compile_with):
        self.skip_untraceable(compile_with)
        empty = example.with_batch(0)
        for fn, arrays in self.calls(empty):
            expected = reference(fn, arrays, **example.attributes)

            def call(*tensors, fn=fn):
                return fn(*tensors, **example.attributes)

            run = compiler(compile_with)(call) if compile_with else call
            found = as_tuple(run(*map(to_tensor, arrays)))
            check_results(tuple(map(to_array, found)), expected, "float32")

    def test_unknown_batch(self, backend, example):
        """Traced once with an unknown batch, right for every size."""
        self.skip_untraceable("whole")
        if backend == "torch":
            import torch

            torch.compiler.reset()
            call = torch.compile(
                lambda *t: type(self).function(*t, **example.attributes),
                fullgraph=True,
                dynamic=True,
                backend="aot_eager",
            )
        elif backend == "jax":
            call = self.jax_export(example)
        else:
            call = self.tensorflow_function(example)
        for size in (2, 3, 7):
            arrays = example.with_batch(size).arrays()
            expected = reference(type(self).function, arrays, **example.attributes)
            check_results(to_array(call(*map(to_tensor, arrays))), expected, "float32")

    def jax_export(self, example: Example) -> Any:
        import jax
        from jax import export

        shapes = [
            export.symbolic_shape(", ".join(["b", *map(str, s[1:])])) if n in example.batched else s
            for n, s in example.shapes.items()
        ]
        scope = shapes[0][0].scope if example.batched else None
        shapes = [
            export.symbolic_shape(", ".join(map(str, s)), scope=scope) if scope else s
            for s in shapes
        ]
        specs = [jax.ShapeDtypeStruct(s, "float32") for s in shapes]
        call = jax.jit(lambda *t: type(self).function(*t, **example.attributes))
        return export.export(call)(*specs).call

    def tensorflow_function(self, example: Example) -> Any:
        import tensorflow as tf

        signature = [
            tf.TensorSpec((None, *s[1:]) if n in example.batched else s, tf.float32)
            for n, s in example.shapes.items()
        ]
        return tf.function(
            lambda *t: type(self).function(*t, **example.attributes), input_signature=signature
        )

    def test_keras_tensors_become_a_model(self, backend, example, tmp_path):
        import keras

        import mlayers.layers  # noqa: F401  registers what a saved model refers to

        if set(example.batched) != set(example.shapes):
            pytest.skip("a functional model needs a batch axis on every input")
        inputs = [keras.Input(s[1:], dtype="float32") for s in example.shapes.values()]
        outputs = type(self).function(*inputs, **example.attributes)
        arrays = example.arrays()
        expected = reference(type(self).function, arrays, **example.attributes)
        assert outputs.shape == (None, *expected.shape[1:])
        model = keras.Model(inputs, outputs)
        model.save(tmp_path / "op.keras")
        for m in (model, keras.models.load_model(tmp_path / "op.keras")):
            found = m([to_tensor(a) for a in arrays])
            np.testing.assert_allclose(to_array(found), expected, **TOLERANCE["float32"])

    def test_keras_variables(self, backend, example):
        import keras

        arrays = example.arrays()
        expected = reference(type(self).function, arrays, **example.attributes)
        found = type(self).function(*map(keras.Variable, arrays), **example.attributes)
        check_results(to_array(found), expected, "float32")

    def test_jax_vmap(self, backend, example):
        if backend != "jax":
            pytest.skip("jax.vmap is JAX's")
        import jax

        stacks = [
            np.stack(pair) for pair in zip(example.arrays(), example.arrays(seed=1), strict=True)
        ]

        def call(*t):
            return type(self).function(*t, **example.attributes)

        found = jax.vmap(call)(*map(to_tensor, stacks))
        for index in range(2):
            expected = reference(call, [s[index] for s in stacks])
            check_results(to_array(found[index]), expected, "float32")
        grads = jax.vmap(jax.grad(lambda *t: call(*t).sum()))(*map(to_tensor, stacks))
        for index in range(2):
            expected = jax.grad(lambda *t: call(*t).sum())(*(to_tensor(s[index]) for s in stacks))
            np.testing.assert_allclose(grads[index], expected, rtol=1e-5, atol=1e-6)

    def test_inductor(self, backend, example):
        if backend != "torch" or example is not self.examples[0]:
            pytest.skip("inductor is torch's, and slow: the first example of each op goes through")
        self.skip_untraceable("inductor")
        arrays = self.gradient_arguments(example)
        expected = reference(type(self).gradient, arrays, **example.attributes)
        inputs = arrays[1:] if self.gradient_takes_upstream else arrays
        tensors = [to_tensor(a) for a in inputs]
        found = self.autodiff(example, tensors, to_tensor(arrays[0]), "inductor")
        check_results(tuple(map(to_array, found)), expected, "float32")

    @pytest.mark.parametrize("compile_with", [None, *COMPILERS])
    def test_bad_call_on_tensors(self, backend, bad, compile_with):
        """The class and the words are those of NumPy arrays, also while tracing."""
        if compile_with == "aot_eager" and bad.name.endswith(("numpy_scalar", "huge_int")):
            pytest.skip("dynamo fails on such a value with an error of its own")
        if compile_with and not keras_ops_can_be_traced():
            pytest.skip("this old dynamo fails on many wrong values with an error of its own")
        arguments = {**self.good, **bad.changes}
        with pytest.raises(bad.error) as expected:
            type(self).function(**arguments)
        arguments.update({name: to_tensor(arguments[name]) for name in self.examples[0].shapes})
        tensors = {name: t for name, t in arguments.items() if is_tensor(t)}
        rest = {name: value for name, value in arguments.items() if name not in tensors}

        def call(tensors):
            return type(self).function(**tensors, **rest)

        # With fullgraph=True torch.compile quotes the error in one of its own class.
        run = compiler(compile_with, fullgraph=False)(call) if compile_with else call
        with pytest.raises(bad.error) as caught:
            run(tensors)
        assert str(expected.value) in str(caught.value)

    def test_out_is_refused(self, backend, example):
        for fn, arrays in self.calls(example):
            with pytest.raises(TypeError, match="'out' is for NumPy and CuPy arrays"):
                fn(*map(to_tensor, arrays), **example.attributes, out=arrays[0])

    def test_numpy_and_tensor_do_not_mix(self, backend, example):
        arrays = example.arrays()
        if len(arrays) < 2:
            pytest.skip("the op takes one array")
        with pytest.raises(TypeError, match="must be arrays of one library"):
            type(self).function(arrays[0], to_tensor(arrays[1]), **example.attributes)

    @pytest.mark.parametrize("path", ["cython", "composition"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_forced_paths(self, backend, example, dtype, path):
        """The kernels serve every dtype when they are asked to: half types are widened for them."""
        for fn, arrays in self.calls(example, dtype):
            with mlayers.use_kernels("auto"):
                if path == "cython" and not has_kernel(OPS[fn.__name__], "float32"):
                    pytest.skip("this version of the framework cannot have the kernel")
            expected = reference(fn, arrays, **example.attributes)
            with dtype_allowed(dtype), mlayers.use_kernels(path):
                found = as_tuple(fn(*map(to_tensor, arrays), **example.attributes))
                check_results(tuple(map(to_array, found)), expected, dtype)

    def test_path_that_cannot_serve(self, backend, example):
        tensors = [to_tensor(a) for a in example.arrays()]
        with (
            mlayers.use_kernels("reference"),
            pytest.raises(RuntimeError, match="the path 'reference' is forced"),
        ):
            type(self).function(*tensors, **example.attributes)
