# SPDX-License-Identifier: Apache-2.0
"""Each op's test class lists examples and bad calls; every check of support/ runs on all."""

import os

import pytest


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
