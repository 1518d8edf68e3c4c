# SPDX-License-Identifier: Apache-2.0
"""torch and JAX on a GPU: the kernels run there, on the framework's stream, with no copy, no wait.

MLAYERS_REQUIRE_GPU=1 KERAS_BACKEND=torch pytest -m gpu
MLAYERS_REQUIRE_GPU=1 KERAS_BACKEND=jax pytest -m gpu
MLAYERS_REQUIRE_GPU=1 pytest -m gpu            CuPy, through the tests of tests/ops
"""

import os

import numpy as np
import pytest

import mlayers
from mlayers.op import OPS
from support import cuda_cases, libraries
from support.op_examples import DTYPES, TOLERANCE

BACKEND = os.environ.get("KERAS_BACKEND")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        BACKEND not in ("torch", "jax"), reason="torch and JAX are what run kernels on a GPU"
    ),
]

CASES = [
    *cuda_cases.ffm(64, 10, 12, 16, "multiply"),
    *cuda_cases.ffm(65, 7, 5, 3, "multiply"),
    *cuda_cases.ffm(64, 10, 12, 16, "dot"),
    *cuda_cases.insight(1000, (16, 5, 0, 20), 70, False),
    *cuda_cases.insight(1000, (16, 5, 0, 20), 70, True),
    *cuda_cases.elementwise(33, 65),
    *cuda_cases.norm(300, 70),
]
COMPILED = {"torch": "inductor", "jax": "jit"}.get(BACKEND)


@pytest.fixture
def gpu():
    """Kernels, and a framework that puts tensors on the GPU by itself."""
    libraries.need_gpu()
    if BACKEND == "torch":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        seen = torch.cuda.is_available()
    else:
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
        seen = jax.default_backend() == "gpu"
    if not seen:
        libraries.stop(f"{BACKEND} sees no GPU")
    from support import tensors

    return tensors


def call_of(case):
    op, _, values = case
    return lambda *tensors: getattr(mlayers, op)(*tensors, **OPS[op].named(values))


@pytest.mark.parametrize("compiler", [None, COMPILED])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=cuda_cases.identity)
def test_kernels_agree_with_the_reference(gpu, case, dtype, compiler):
    arrays = cuda_cases.arrays(case, dtype)
    with gpu.dtype_allowed(dtype), mlayers.use_kernels("cupy"):
        call = gpu.compiler(compiler)(call_of(case)) if compiler else call_of(case)
        found = call(*map(gpu.to_tensor, arrays))
        found = found if isinstance(found, tuple) else (found,)
        for one, other in zip(found, cuda_cases.reference(case, arrays), strict=True):
            scale = TOLERANCE[dtype]["atol"] * max(1.0, np.abs(other).max(initial=0.0))
            np.testing.assert_allclose(
                gpu.to_array(one).astype("f8"), other, rtol=TOLERANCE[dtype]["rtol"], atol=scale
            )


@pytest.mark.parametrize("compiler", [None, COMPILED])
@pytest.mark.parametrize("case", CASES[::2], ids=cuda_cases.identity)
def test_gradients_are_the_kernels(gpu, case, compiler):
    """The framework's own differentiation, compiled and not, ends in the gradient op."""
    op, _, values = case
    arrays = cuda_cases.arrays(case, "float32")
    upstream = np.random.default_rng(2).standard_normal(cuda_cases.reference(case, arrays)[0].shape)
    gradient = OPS[op].gradient
    named = dict(zip(OPS[op].inputs, arrays, strict=True), grad=upstream.astype("float32"))
    inputs = [named[name] for name in gradient.inputs]
    expected = cuda_cases.reference((gradient.name, (), values), inputs)
    with mlayers.use_kernels("cupy"):
        tensors = [gpu.to_tensor(array) for array in arrays]
        found = gpu.autodiff(call_of(case), tensors, gpu.to_tensor(named["grad"]), compiler)
    for one, other in zip(found, expected, strict=True):
        scale = 1e-5 * max(1.0, np.abs(other).max(initial=0.0))
        np.testing.assert_allclose(gpu.to_array(one), other, rtol=1e-5, atol=scale)


def test_no_copy_and_no_wait(gpu):
    case = cuda_cases.ffm(4096, 10, 12, 16, "multiply")[0]
    tensors = [gpu.to_tensor(array) for array in cuda_cases.arrays(case, "float32")]
    with mlayers.use_kernels("cupy"):
        names = torch_kernels(case, tensors) if BACKEND == "torch" else jax_targets(case, tensors)
    assert any("ffm_multiply" in name or name == "mlayers_cuda" for name in names), names
    assert not [name for name in names if "Memcpy" in name or "copy" in name.lower()], names


def torch_kernels(case, tensors):
    """What a profiler sees on the device; waiting for it is an error meanwhile."""
    import torch

    leaves = [tensor.requires_grad_() for tensor in tensors]
    upstream = torch.ones_like(call_of(case)(*leaves))
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.autograd.grad(call_of(case)(*leaves), leaves, upstream)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    events = profile.events()
    return [e.name for e in events if e.device_type == torch.autograd.DeviceType.CUDA]


def jax_targets(case, tensors):
    """The custom calls and the copies of the compiled program; transfers are an error."""
    import re

    import jax

    def step(upstream, *inputs):
        return jax.vjp(call_of(case), *inputs)[1](upstream)

    upstream = call_of(case)(*tensors)
    compiled = jax.jit(step).lower(upstream, *tensors).compile()
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(compiled(upstream, *tensors))
    text = compiled.as_text()
    return re.findall(r'custom_call_target="([^"]+)"', text) + re.findall(r" (copy)\(", text)


def test_own_stream_is_used(gpu):
    if BACKEND != "torch":
        pytest.skip("JAX has one stream a device")
    import torch

    left = torch.ones(1 << 16, 160, device="cuda")
    right = torch.ones(1 << 16, 192, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # what comes later on this stream waits; another would not
        left.fill_(2)
        out = mlayers.ffm(left, right, 16)
    stream.synchronize()
    assert bool((out == 2).all())


def test_cuda_graph(gpu):
    if BACKEND != "torch":
        pytest.skip("CUDA graphs are recorded by torch")
    import torch

    left, right = torch.ones(64, 160, device="cuda"), torch.ones(64, 192, device="cuda")
    mlayers.ffm(left, right, 16)  # compiled before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = mlayers.ffm(left, right, 16)
    left.fill_(3)
    graph.replay()
    torch.cuda.synchronize()
    assert bool((out == 3).all())


@pytest.mark.slow
def test_more_than_2_31_elements(gpu):
    fields = 46341  # the output has 46341² > 2³¹ elements, 8.6 GB
    left = np.arange(fields, dtype="f")[None] / fields
    right = left[:, ::-1].copy() + 1
    with mlayers.use_kernels("cupy"):
        out = mlayers.ffm(gpu.to_tensor(left), gpu.to_tensor(right), 1).reshape(fields, fields)
    for i, j in ((0, 0), (fields - 1, fields - 1), (fields // 2, 7), (fields - 1, 0)):
        assert float(out[i, j]) == left[0, i] * right[0, j]


@pytest.mark.parametrize("jit", [True, False])
def test_tower_trains(gpu, jit):
    import keras

    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((512, n)).astype("f") for n in (32, 8)]
    label = (inputs[0][:, 0] * np.sign(inputs[1][:, 0]) > 0).astype("f")
    dense, scenario = keras.Input((32,)), keras.Input((8,))
    out = mlayers.layers.LHUCTower([64, 32, 1], lhuc_output_dims=[16])([dense, scenario])
    model = keras.Model([dense, scenario], out)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=jit)
    history = model.fit(inputs, label, batch_size=128, epochs=5, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    weight = model.trainable_variables[0].value
    device = str(weight.device) if BACKEND == "torch" else next(iter(weight.devices())).platform
    assert device.startswith(("cuda", "gpu"))
