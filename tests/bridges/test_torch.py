# SPDX-License-Identifier: Apache-2.0
"""The native torch bridge: every op is a torch op, under everything torch does to its ops."""

import dataclasses
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

if os.environ.get("KERAS_BACKEND") != "torch":
    pytest.skip("the torch bridge needs KERAS_BACKEND=torch", allow_module_level=True)

import keras
import torch
from mlayers.cython_cpu import _probe, core
from torch.fx.experimental.proxy_tensor import make_fx

import mlayers
import mlayers.bridges.torch
from mlayers import dispatch
from mlayers.bridges import native
from mlayers.op import OPS
from support import programs
from support.tensors import keras_ops_can_be_traced
from support.torch_cases import FFM, assert_close, every_case, every_forward, targets

bridge = mlayers.bridges.torch


def test_every_op_is_native():
    assert FFM(*FFM.tensors()).shape
    line = "kernels on the CPU, as torch.ops.mlayers; "
    assert native.state("torch").startswith(line)
    has_lists = {op.name for op in OPS.values() if any(a.kind == "int[]" for a in op.attributes)}
    # Before 2.10 torch cannot hand a list to a kernel, and the state says so.
    missing = has_lists if torch.__version__ < torch.torch_version.TorchVersion("2.10") else set()
    assert set(bridge._refused) == missing
    assert set(OPS) - missing <= {name for name, op in bridge._overloads.items() if op}
    for name in missing:
        assert f"{name} composed: " in native.state("torch")


@every_case
def test_kernel_runs_without_python(case):
    assert "CPU: registered at mlayers/bridges/torch.cpp" in torch._C._dispatch_dump(
        f"mlayers::{case.op.name}"
    )
    called = []
    with torch.inference_mode():
        arguments = (*case.tensors(), *case.codes())
        sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_filename))
        try:
            case.overload(*arguments)
        finally:
            sys.setprofile(None)
    assert not [file for file in called if "mlayers" in file and file != __file__]


@every_case
def test_compiled_graph_holds_the_op_alone(case):
    graphs = []

    def keep(module, inputs):
        graphs.append(module.graph)
        return module.forward

    torch.compiler.reset()
    run = torch.compile(lambda *t: case(*t), backend=keep, fullgraph=True, dynamic=True)
    assert_close(run(*case.tensors()), case(*case.tensors()))
    found = targets(graphs[0])
    assert [t for t in found if isinstance(t, torch._ops.OpOverload)] == [case.overload]
    # Unpacking a tuple, and attributes that dynamo makes symbolic, which the op takes as they are.
    assert {t.__name__ for t in found} - {"getitem", "sym_float"} == {case.overload.__name__}


@every_forward
def test_backward_graph_holds_the_gradient_op(case):
    def step(*tensors):
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        return torch.autograd.grad(case(*leaves).sum(), leaves)

    found = targets(make_fx(step, tracing_mode="symbolic")(*case.tensors()).graph)
    assert case.overload in found
    assert getattr(torch.ops.mlayers, case.op.gradient.name).default in found


@every_case
def test_opcheck(case):
    tensors = [tensor.requires_grad_() for tensor in case.tensors()]
    torch.library.opcheck(case.overload, (*tensors, *case.codes()))


LAYOUTS = {
    "transposed": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
    "strided": lambda t: torch.stack([t, t], dim=-1)[..., 0],
    "offset": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "unaligned": lambda t: torch.frombuffer(
        bytearray(b"\0" + t.numpy().tobytes()), dtype=t.dtype, offset=1
    ).view(t.shape),
    "negated": lambda t: torch.complex(t, -t).conj().imag,  # the negative bit of a view
}


@every_case
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout(case, layout):
    laid_out = [LAYOUTS[layout](tensor) for tensor in case.tensors()]
    assert_close(case(*laid_out), case(*case.tensors()))


@every_case
def test_expanded_inputs(case):
    expanded = [t[:1].expand(t.shape) for t in case.tensors()]  # strides of 0, as of .sum()
    assert_close(case(*expanded), case(*(t.contiguous() for t in expanded)))


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, left, right):
        return self.function(left, right)


@pytest.mark.parametrize("strict", [True, False])
def test_exported_program_holds_the_op(tmp_path, strict):
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Module(FFM), tuple(FFM.tensors()), strict=strict,
        dynamic_shapes=({0: batch}, {0: batch}),
    )  # fmt: skip
    assert FFM.overload in targets(program.graph)
    torch.export.save(program, tmp_path / "program.pt2")
    larger = [torch.cat([t, t]) for t in FFM.tensors()]
    assert_close(torch.export.load(tmp_path / "program.pt2").module()(*larger), FFM(*larger))
    if strict and not keras_ops_can_be_traced():
        return
    with mlayers.use_kernels("composition"):
        composed = torch.export.export(Module(FFM), tuple(FFM.tensors()), strict=strict)
    assert FFM.overload not in targets(composed.graph)


@pytest.mark.parametrize("order", ["mlayers, torch", "torch, mlayers"])
def test_exported_program_is_served_where_mlayers_is_imported(tmp_path, order):
    path = str(tmp_path / "program.pt2")
    torch.export.save(torch.export.export(Module(FFM), tuple(FFM.tensors())), path)
    shapes = [tuple(t.shape) for t in FFM.tensors()]
    served = (
        f"import {order}, sys\n"
        f"model = torch.export.load({path!r}).module()\n"
        f"print(model(*(torch.ones(s) for s in {shapes})).sum().item(), 'keras' in sys.modules)"
    )
    expected = FFM(*(torch.ones(s) for s in shapes)).sum().item()
    assert python(served) == f"{expected} False"


def test_exported_keras_model_runs_without_us(tmp_path):
    if '"torch"' not in keras.Model.export.__doc__:
        pytest.skip("this Keras exports no torch programs")
    left, right = keras.Input((8,)), keras.Input((12,))
    model = keras.Model([left, right], mlayers.ffm(left, right, 4))
    model.export(tmp_path / "model.pt2", format="torch", verbose=False)
    program = (
        "import sys, torch\n"
        f"model = torch.export.load({str(tmp_path / 'model.pt2')!r}).module()\n"
        "print(model([torch.ones(1, 8), torch.ones(1, 12)]).sum().item(), 'mlayers' in sys.modules)"
    )
    assert python(program) == "24.0 False"


def python(program):
    return programs.output("-c", program).splitlines()[-1]


@pytest.mark.parametrize(
    "call",
    [
        "torch.compile(f, fullgraph=True, backend='aot_eager')(a, a)",
        "torch.vmap(f)(a[None], a[None])",
        "torch.func.vmap(torch.func.grad(lambda *t: f(*t).sum()))(a[None], a[None])",
        "make_fx(f, tracing_mode='symbolic')(a, a)",
    ],
)
def test_the_very_first_call_may_be_anywhere(call):
    program = (
        "import torch, mlayers\nfrom mlayers.bridges import native\n"
        "from torch.fx.experimental.proxy_tensor import make_fx\n"
        "a, f = torch.ones(2, 4), lambda *t: mlayers.ffm(*t, 2)\n"
        f"{call}\nprint(native.state('torch')[:18])"
    )
    assert python(program) == "kernels on the CPU"


def test_direct_misuse_gets_the_front_doors_words():
    left, right = torch.ones(2, 7), torch.ones(2, 8)
    with pytest.raises(ValueError, match="'left' must have a width") as expected:
        mlayers.ffm(left, right, 4)
    with pytest.raises(RuntimeError, match="'left' must have a width") as found:
        torch.ops.mlayers.ffm(left, right, 4, 0)
    assert str(found.value).splitlines()[0] == str(expected.value)
    with torch._subclasses.FakeTensorMode(), pytest.raises(ValueError, match="must have a width"):
        torch.ops.mlayers.ffm(torch.ones(2, 7), torch.ones(2, 8), 4, 0)
    with pytest.raises(RuntimeError, match="ffm: input 0 must have dtype float16, bfl"):
        torch.ops.mlayers.ffm(torch.ones(2, 8).int(), right, 4, 0)
    with pytest.raises(RuntimeError, match="ffm: inputs must have one dtype"):
        torch.ops.mlayers.ffm(torch.ones(2, 8).double(), right, 4, 0)


@every_case
def test_half_types_take_the_kernel(case):
    halves = case.tensors(torch.bfloat16)
    assert case.overload in targets(make_fx(lambda *t: case(*t))(*halves).graph)


def test_op_declared_later_and_op_without_a_kernel(monkeypatch):
    core().register("probe_late", _probe.PROBE)
    late, missing = (dataclasses.replace(native.PROBE, name=n) for n in ("probe_late", "probe_no"))
    try:
        for op in (late, missing):
            monkeypatch.setitem(OPS, op.name, op)

            def call(x, op=op):
                return dispatch.run(op, "torch", [x], (3,), [x.shape])[0]

            x = torch.ones(2)
            if op is missing and not keras_ops_can_be_traced():
                continue
            assert torch.compile(call, fullgraph=True, backend="aot_eager")(x).tolist() == [3, 3]
            assert call(x).tolist() == [3, 3]
        assert bridge.serves(late, [x])
        assert not bridge.serves(missing, [x])
        assert "probe_no composed: probe_no: there is no kernel" in bridge.state()
    finally:
        bridge._refused.pop("probe_no", None)


def test_many_threads_at_once():
    leaves = [t.requires_grad_() for t in FFM.tensors()]
    expected = torch.autograd.grad(FFM(*leaves).sum(), leaves)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            work = [threads.submit(lambda: torch.autograd.grad(FFM(*leaves).sum(), leaves))
                    for _ in range(50)]  # fmt: skip
            for one in work:
                assert_close(one.result(), expected)


def test_gradient_of_the_gradient_of_an_eager_call():
    left, right = torch.randn(3, 4).requires_grad_(), torch.randn(3, 4).requires_grad_()
    out = mlayers.ffm(left, right, 2)
    (grad,) = torch.autograd.grad(out.square().sum(), left, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), left)
    blocks = right.detach().reshape(3, 2, 2).square().sum(1)
    torch.testing.assert_close(second, 2 * torch.cat([blocks, blocks], 1))
    assert out.grad_fn.name() == "ffmBackward"
