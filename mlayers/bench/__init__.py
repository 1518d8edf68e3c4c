# SPDX-License-Identifier: Apache-2.0
"""``python -m mlayers bench``: the project's speedometer.

cli.py         the command: options, a process for each framework, files
cases.py       what is computed: ops, shapes, and what they cost in bytes and operations
frameworks.py  how a framework makes tensors, compiles and differentiates
rows.py        a row: one case in one framework, everything that it is compared with
cpu.py         what cli.py asks for on the CPU: NumPy and the frameworks
gpu.py         the same on a GPU (``bench --gpu``): CuPy and the frameworks
tower.py       LHUCTower beside the same tower of stock Keras layers
timing.py      calls in turns, medians and spread
machine.py     bandwidth, peak memory, what machine this is
report.py      rows as a table
pictures.py    rows as pictures
"""

from mlayers.bench.cli import add_parser

__all__ = ["add_parser"]
