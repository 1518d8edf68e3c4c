# SPDX-License-Identifier: Apache-2.0
"""Which blocks of weight_norm.cu to start."""

from __future__ import annotations

from mlayers.kernels_cu.plan import Launch, Plan, cover

SECTOR, LINE = 32, 128  # bytes that the device's memory moves at once, and that a warp asks for
WIDE, TALL = 1024, 2048

Shape = tuple[int, ...]


def weight_norm(itemsize: int, kernel: Shape, norm: Shape) -> Plan:
    """The scaled kernel."""
    return _plan("weight_norm", itemsize, ("kernel", "norm", "out"), kernel)


def weight_norm_grad(itemsize: int, grad: Shape, kernel: Shape, norm: Shape) -> Plan:
    """The gradients."""
    arrays = ("grad", "kernel", "norm", "kernel_grad", "norm_grad")
    return _plan("weight_norm_grad", itemsize, arrays, kernel)


def _plan(name: str, itemsize: int, arrays: tuple[str, ...], kernel: Shape) -> Plan:
    """How wide the blocks are, and of how many threads.

    A block of few columns leaves others to more multiprocessors; one of many moves memory in longer
    rows. us on an H200, float32, forward and gradient, by columns x groups of a block that reads
    downwards twice, and as chosen here, with the way back upwards:

        kernel        32 x 32      32 x 8       8 x 128      8 x 32       chosen
        (512, 512)    4.5, 5.0     4.1, 6.9     5.2, 7.5     2.8, 3.8     2.7, 3.6
        (128, 64)     3.6, 3.7     2.1, 2.9     4.0, 6.2     2.5, 2.6     2.3, 2.4
        (2048, 1024)  10.7, 14.4   17.5, 34.4   9.6, 15.2    8.3, 12.4    7.5, 11.9
        (8192, 512)   33.1, 73.5   66.6, 251    19.3, 34.5   21.1, 73.0   19.0, 33.3
        (4096, 4096)  56.1, 88.2   92.6, 184    73.6, 124    70.3, 107    49.9, 79.2
        (8192, 8192)  214, 333     251, 449     309, 520     321, 542     211, 329
    """
    I, O = kernel  # noqa: E741
    across = (SECTOR if O <= WIDE else LINE) // itemsize
    groups = 32 if I <= TALL and O <= WIDE else 1024 // across
    constants = (("ACROSS", across), ("GROUPS", groups))
    launch = Launch(name, (cover(O, across), 1), across * groups, (*arrays, I, O))
    return Plan((launch,), constants)
