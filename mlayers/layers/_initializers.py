# SPDX-License-Identifier: Apache-2.0
"""Initializers for layers that are made together from one description.

A Keras initializer object draws the same numbers every time it is called, so one object handed to
several layers of a shape would start them all from one kernel: the layers get copies that differ.
"""

from typing import Any

import keras
import numpy as np


def fresh(initializer: Any, *position: int) -> Any:
    """Returns a copy of an initializer with numbers of its own.

    Args:
        initializer: an initializer. Any other callable is returned as it is, and so is one whose
            config has no seed: it draws nothing, or says too little about itself to be copied.
        *position: where the copy is used. Without it an integer seed is kept; with it the copy gets
            a seed derived from the two, so that a seeded model stays reproducible. Without a seed
            every copy draws a new one.
    """
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if "seed" not in config:
        return initializer
    seed = config["seed"]
    if isinstance(seed, dict):  # a SeedGenerator: its draws differ already, and a copy's would not
        return initializer
    if position and seed is not None:
        sequence = np.random.SeedSequence(abs(seed), spawn_key=position)
        config["seed"] = int(sequence.generate_state(1)[0])
    return type(initializer).from_config(config)


def distinct(initializers: list[Any]) -> list[Any]:
    """Returns copies for the layers of a stack: no two of them alike, even if the originals are."""
    copies, seen = [], []
    for index, initializer in enumerate(initializers):
        is_known = isinstance(initializer, keras.initializers.Initializer)
        config = keras.initializers.serialize(initializer) if is_known else None
        copies.append(fresh(initializer, index) if config in seen else fresh(initializer))
        seen.append(config)
    return copies
