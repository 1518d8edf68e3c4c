# SPDX-License-Identifier: Apache-2.0
"""Every CUDA kernel compiles for every architecture, with NVIDIA's compiler and no GPU."""

import pytest
from mlayers.kernels_cu import driver, plan

from mlayers import kernels_cu
from mlayers.op import OPS
from support import cuda_cases, nvrtc
from support.op_examples import DTYPES

pytest.importorskip("nvidia", reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc")

# Bytes of a thread's registers that may lie in memory: one block more on an SM was measured to be
# worth it (feature_insight_grad on an H100: 1057 against 1236 us, with 124 bytes).
SPILLED = 128
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")


def texts():
    """Each text that a typical call compiles, once."""
    found = {}
    for dtype in DTYPES:
        for op, shapes, values in cuda_cases.TYPICAL:
            constants = plan(op, dtype, shapes, values).constants
            key = (OPS[op].module, dtype, constants)
            found.setdefault(key, f"{key[0]}-{dtype}-{len(found)}")
    return [pytest.param(*key, id=name) for key, name in found.items()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("module", "dtype", "constants"), texts())
def test_compiles_with_little_spilling(record_property, module, dtype, constants, architecture):
    source = kernels_cu.source(module, dtype, constants)
    found = nvrtc.compile(source, architecture, driver.OPTIONS)
    assert sorted(found) == sorted(kernels_cu.kernels(module))
    for kernel, used in found.items():
        record_property("registers", (kernel, dtype, architecture, used["registers"]))
        assert used["spilled"] <= SPILLED, f"{kernel}: {used['spilled']} bytes of registers spill"


def test_compiler_is_heard():
    with pytest.raises(nvrtc.CompileError, match="expected"):
        nvrtc.compile("__global__ void f( { }", "sm_90", driver.OPTIONS)
