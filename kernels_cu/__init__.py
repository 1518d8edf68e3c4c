# SPDX-License-Identifier: Apache-2.0
"""The room for the CUDA kernels: one `X.cu` per op, named as `mlayers/ops/X.py`.

None is written yet, so CuPy arrays are refused with a TypeError and GPU tensors of a framework run
the composition.
"""
