# SPDX-License-Identifier: Apache-2.0
"""Each op's test class lists examples and bad calls; every check of support/ runs on all."""

import os

import pytest

from support import emulator, libraries

# The same in every environment, so only where no framework is tested.
LIBRARIES = ["numpy"]
if "KERAS_BACKEND" not in os.environ:
    LIBRARIES += [pytest.param("cupy", marks=pytest.mark.gpu)]
    LIBRARIES += ["emulated"] if emulator.IS_HERE else []


@pytest.fixture(params=LIBRARIES)
def library(request):
    """NumPy, CuPy, and CuPy with the kernels in the emulator, which needs no GPU."""
    with libraries.library(request.param) as found:
        yield found


@pytest.fixture
def backend():
    """The active Keras backend; tests of tensors take it, and skip where there is none."""
    if "KERAS_BACKEND" not in os.environ:
        pytest.skip("KERAS_BACKEND is not set: this environment tests NumPy arrays alone")
    return os.environ["KERAS_BACKEND"]


def pytest_generate_tests(metafunc):
    for argument, plural in (("example", "examples"), ("bad", "bad_calls")):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, getattr(metafunc.cls, plural), ids=str)
