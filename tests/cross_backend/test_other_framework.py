# SPDX-License-Identifier: Apache-2.0
"""A tensor of a framework that is not Keras' active backend is refused, with the way to switch."""

import importlib.util
import os

import pytest

from support import programs

MAKE = {
    "jax": "import jax.numpy; ones = jax.numpy.ones((2, 2))",
    "tensorflow": "import tensorflow; ones = tensorflow.ones((2, 2))",
    "torch": "import torch; ones = torch.ones((2, 2))",
}
OTHERS = {"jax": ["tensorflow", "torch"], "tensorflow": ["torch"], "torch": ["jax"]}
PAIRS = [(active, other) for active, others in OTHERS.items() for other in others]


@pytest.mark.parametrize(("active", "other"), PAIRS)
def test_tensor_of_another_framework(active, other):
    if importlib.util.find_spec(active) is None or importlib.util.find_spec(other) is None:
        reason = f"needs {active} and {other}"
        (pytest.fail if os.environ.get("MLAYERS_REQUIRE_ALL") == "1" else pytest.skip)(reason)
    program = (
        f"{MAKE[other]}\n"
        "import numpy, mlayers\n"
        "def words(*arrays):\n"
        "    try:\n"
        "        mlayers.ffm(*arrays, 1)\n"
        "    except TypeError as error:\n"
        "        print(error)\n"
        "words(ones, ones)\n"
        "words(ones, numpy.ones((2, 2), 'float32'))\n"
    )
    both, mixed = programs.output("-c", program, KERAS_BACKEND=active).splitlines()
    rule = (
        f"ffm: 'left' is a {other} tensor, but Keras runs on the {active} backend; set the "
        f"environment variable KERAS_BACKEND={other} before Keras is imported to switch."
    )
    assert both == f"{rule} Received: left='{other}', right='{other}'"
    assert mixed == f"{rule} Received: left='{other}', right='numpy'"
