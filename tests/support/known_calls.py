# SPDX-License-Identifier: Apache-2.0
"""Whether a call is answered as one like it was, for the tests of NumPy and of eager torch."""

from mlayers.ops import _front_door


def is_known(monkeypatch, call):
    """Whether a call is served without a look at its shapes."""
    looks = []
    output_shapes = _front_door.output_shapes
    with monkeypatch.context() as patch:
        patch.setattr(
            _front_door, "output_shapes", lambda *args: looks.append(1) or output_shapes(*args)
        )
        call()
    return not looks
