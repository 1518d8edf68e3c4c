# SPDX-License-Identifier: Apache-2.0
"""CPU kernels: one `X.pyx` per op, each exporting `KERNELS`, name -> C function in a capsule.

Kernels check nothing; `mlayers.ops` has. They are called through `_call.run`, and know neither
NumPy nor any framework.
"""
