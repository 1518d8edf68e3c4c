# SPDX-License-Identifier: Apache-2.0
"""Whether an installed wheel works: the compiled kernels against the formulas, and JAX's bridge.

Run far from the checkout: `python -P check_wheel.py`.
"""

import os
from importlib.util import find_spec
from pathlib import Path

if find_spec("jax"):
    os.environ["KERAS_BACKEND"] = "jax"

import numpy as np

import mlayers


def check(what: str, holds: bool) -> None:
    """Ends the run with 1 if something does not hold."""
    print(f"{'ok' if holds else 'FAILED':<8}{what}")
    if not holds:
        raise SystemExit(1)


def main() -> None:
    """Checks the parts of the wheel, one op in NumPy and, where it is installed, one in JAX."""
    folder = Path(mlayers.__file__).resolve().parent
    checkout = Path(__file__).resolve().parents[2]
    check(f"mlayers is installed, in {folder}", checkout not in folder.parents)
    for framework in ("jax", "tensorflow", "torch"):
        library = folder / "bridges" / f"libmlayers_{framework}.so.1"
        check(f"{library.name} is there", library.is_file())
    mlayers.show_config()
    kernels = mlayers.show_config(mode="dict")["cpu kernels"]
    check("the CPU kernels are on", kernels["state"] == "on")

    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(64, n * 8)).astype("float32") for n in (3, 5))
    pairs = left.reshape(64, 3, 1, 8) * right.reshape(64, 1, 5, 8)
    multiply, dot = pairs.reshape(64, -1), pairs.sum(-1).reshape(64, -1)
    check("ffm, multiply", np.array_equal(mlayers.ffm(left, right, 8), multiply))
    check("ffm, dot", np.allclose(mlayers.ffm(left, right, 8, "dot"), dot, atol=1e-5))
    grads = mlayers.ffm_grad(np.ones_like(multiply), left, right, 8)
    grad = np.broadcast_to(right.reshape(64, 1, 5, 8).sum(2), (64, 3, 8)).reshape(64, -1)
    check("ffm_grad", np.allclose(grads[0], grad, atol=1e-5))

    if find_spec("jax"):
        import jax

        out = jax.jit(lambda x, y: mlayers.ffm(x, y, 8))(left, right)
        check("ffm under jax.jit", np.array_equal(np.asarray(out), multiply))
        state = mlayers.show_config(mode="dict")["bridges"]["jax"]
        check(f"the bridge to JAX: {state}", state.startswith("kernels"))


if __name__ == "__main__":
    main()
