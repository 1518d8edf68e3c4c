# SPDX-License-Identifier: Apache-2.0
"""`pytest --kernels composition` runs the tests as MLAYERS_KERNELS=composition would."""

import os


def pytest_addoption(parser):
    parser.addoption("--kernels", help="sets MLAYERS_KERNELS before mlayers is imported")


def pytest_configure(config):
    if config.getoption("--kernels"):
        os.environ["MLAYERS_KERNELS"] = config.getoption("--kernels")
