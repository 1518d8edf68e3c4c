# SPDX-License-Identifier: Apache-2.0
"""Every CUDA kernel on a GPU in every dtype, each array in memory of its own, against float64.

For NVIDIA's compute-sanitizer, which sees a wrong address only outside of what was allocated, and
CuPy and torch hand out pieces of larger memory. In tests/, so that `support` is found:

    compute-sanitizer --tool memcheck --error-exitcode 1 python -P -m support.every_kernel
    compute-sanitizer --tool racecheck --error-exitcode 1 python -P -m support.every_kernel
"""

from __future__ import annotations

import sys

import cupy
import numpy as np
from mlayers.kernels_cu import driver, plan

from mlayers.op import OPS
from support import cuda_cases
from support.op_examples import DTYPES, TOLERANCE


def run(case: cuda_cases.Case, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The results of the kernels on the current device."""
    op, shapes, values = case
    declared, dtype = OPS[op], arrays[0].dtype
    chosen = plan(op, dtype.name, shapes, values)
    assert chosen is not None, "there is no kernel for these shapes"
    taken = []

    def allocate(size: int) -> int:
        taken.append(cupy.cuda.Memory(max(size, 1)))
        return taken[-1].ptr

    pointers = []
    for array in arrays:
        pointers.append(allocate(array.nbytes))
        cupy.cuda.runtime.memcpy(pointers[-1], array.ctypes.data, array.nbytes, 1)
    results = [np.empty(s, dtype) for s in declared.shapes(*shapes, **declared.named(values))]
    pointers += [allocate(result.nbytes) for result in results]
    device = cupy.cuda.Device().id
    driver.run(declared, dtype.name, chosen, pointers, allocate, device, 0)
    cupy.cuda.runtime.deviceSynchronize()
    for result, pointer in zip(results, pointers[len(arrays) :], strict=True):
        cupy.cuda.runtime.memcpy(result.ctypes.data, pointer, result.nbytes, 2)
    return results


def main() -> int:
    """Check all; the number of wrong results is printed and decides."""
    wrong = 0
    for case in cuda_cases.SMALL:
        for dtype in DTYPES:
            arrays = cuda_cases.arrays(case, dtype)
            expected = cuda_cases.reference(case, arrays)
            for one, other in zip(run(case, arrays), expected, strict=True):
                atol = TOLERANCE[dtype]["atol"] * max(1.0, np.abs(other).max(initial=0.0))
                rtol = TOLERANCE[dtype]["rtol"]
                if not np.allclose(one.astype("f8"), other, rtol=rtol, atol=atol):
                    wrong += 1
                    print("wrong:", cuda_cases.identity(case), dtype)
    print(f"{len(cuda_cases.SMALL) * len(DTYPES)} calls, {wrong} results wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
