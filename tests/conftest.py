# SPDX-License-Identifier: Apache-2.0
"""`pytest --kernels composition` runs the tests as MLAYERS_KERNELS=composition would."""

import os


def pytest_addoption(parser):
    parser.addoption("--kernels", help="sets MLAYERS_KERNELS before mlayers is imported")


def pytest_configure(config):
    if config.getoption("--kernels"):
        os.environ["MLAYERS_KERNELS"] = config.getoption("--kernels")


def pytest_terminal_summary(terminalreporter):
    """What the CUDA compiler said of each kernel: registers, for the architectures in order."""
    found = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "registers":
                kernel, dtype, architecture, registers = value
                by_dtype = found.setdefault((kernel, dtype), {})
                by_dtype[architecture] = max(registers, by_dtype.get(architecture, 0))
    if found:
        terminalreporter.section("registers of the CUDA kernels")
    for (kernel, dtype), used in sorted(found.items()):
        words = ", ".join(f"{architecture} {used[architecture]}" for architecture in sorted(used))
        terminalreporter.write_line(f"{kernel:<26} {dtype:<9} {words}")
