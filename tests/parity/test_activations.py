# SPDX-License-Identifier: Apache-2.0
"""The activations against the original, kinks included: value and gradient, eager and compiled."""

import keras
import numpy as np
import pytest

from mlayers import activations
from support import parity
from support.frameworks import value_and_grads

CASES = parity.cases("activations")


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("case", CASES)
def test_activation(case, compiled):
    activation = activations.get(case.facts["identifier"])
    value, (grad,) = value_and_grads(activation, [case["x0"]], case["upstream"], compiled=compiled)
    np.testing.assert_allclose(value, case["default/y"], **parity.TOLERANCE)
    np.testing.assert_allclose(grad, case["default/gx0"], **parity.TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_activation_restored_from_its_config(case):
    restored = activations.get(activations.serialize(activations.get(case.facts["identifier"])))
    value = keras.ops.convert_to_numpy(restored(keras.ops.convert_to_tensor(case["x0"])))
    np.testing.assert_allclose(value, case["default/y"], **parity.TOLERANCE)
