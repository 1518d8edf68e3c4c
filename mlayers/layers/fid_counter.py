# SPDX-License-Identifier: Apache-2.0
"""A table that counts how often each feature id has been seen in training."""

from typing import Any

import keras
from keras import ops

from mlayers.layers import _checks
from mlayers.layers._layer import Layer, register

_INDEX_64 = ("int64", "uint64")
_INTEGERS = ("int8", "int16", "int32", "uint8", "uint16", "uint32", *_INDEX_64)
_LARGEST_TABLE = 2**31 - 1  # so that 32-bit ids reach all of it


@register
class FidCounter(Layer):
    """Counts ids while a model trains, up to a threshold, and gives the counts of the ids it sees.

    A training step first adds every occurrence in the batch, repeated ones too, `counts =
    min(counts + step * occurrences, threshold)`, then looks up: the result includes the occurrence
    itself, as that of `mlayers.fid_counter` does. Inference only looks up. The counts are a weight
    that no optimizer touches; they are saved with the model.

    Like a `BatchNormalization`, a layer with `trainable=False` is frozen: it looks up and does not
    count. A negative `step` counts down without end, for `threshold` is an upper limit. No count is
    ever above it: where it is negative, counts start there instead of at 0.

    An id outside 0 … num_ids - 1 is counted nowhere, and its result is 0: -1 can stand for padding.

    The counts, and the result, are float32 under every dtype policy: bfloat16 cannot tell 256 from
    257, nor float16 2048 from 2049. (float32 holds whole numbers up to 2**24, where a count in
    steps of 1 stops.) The next layer may cast them: float16 ends at 65504, so under that policy
    keep `threshold` below, or take a logarithm first.

    Args:
        num_ids: number of ids, from 1 to 2**31 - 1. A training step goes over all their counts.
        threshold: the value at which counting stops, a finite number.
        step: what one occurrence adds, a finite number.
        **kwargs: `name`, `dtype`, `trainable` and other arguments of `keras.layers.Layer`.

    Call arguments:
        ids: an integer tensor, of any integer dtype. (JAX makes int64 arrays int32, and cuts them
            off, unless it is told otherwise.)
        training: whether to count; where nobody gives it, nothing is counted.

    Input shape: any.

    Output shape: that of the ids.

    Raises:
        TypeError: `ids` are not integers.
        ValueError: an argument is out of its range.

    Source: `layer_ops.fid_counter` in Monolith, which trains its counters: its gradient is a rule
    by which SGD counts, and they are a slice of an embedding. To port such a model as it is:

        counters = keras.layers.Embedding(num_ids, 1, embeddings_initializer="zeros")
        counts = mlayers.fid_counter(counters(ids), threshold)
        # and train the counters by keras.optimizers.SGD(learning_rate=1.0), the rest as you like

    There a stored counter may pass the threshold within one batch, and inference counts the
    occurrence that it looks up.

    Example:
        >>> import keras, numpy as np
        >>> counter = FidCounter(num_ids=10, threshold=3)
        >>> for ids in ([7, 7], [2, -1], [7, 7]):
        ...     counts = counter(np.array(ids), training=True)
        >>> keras.ops.convert_to_numpy(counts).tolist()
        [3.0, 3.0]
        >>> keras.ops.convert_to_numpy(counter(np.array([2, 5, -1]))).tolist()
        [1.0, 0.0, 0.0]
    """

    def __init__(self, num_ids: int, threshold: float, step: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_ids = _checks.dim("FidCounter", "num_ids", num_ids)
        if self.num_ids > _LARGEST_TABLE:
            raise _checks.refuse("FidCounter", "num_ids", f"must be <= {_LARGEST_TABLE}", num_ids)
        self.threshold = _checks.finite("FidCounter", "threshold", threshold)
        self.step = _checks.finite("FidCounter", "step", step)
        self.counts: Any = None

    def build(self, ids_shape: Any) -> None:
        """Makes the table."""
        self.counts = self.add_weight(
            name="counts",
            shape=(self.num_ids,),
            initializer=keras.initializers.Constant(min(0.0, self.threshold)),
            dtype="float32",
            trainable=False,
            autocast=False,
        )
        self.built = True

    def call(self, ids: Any, training: bool | None = None) -> Any:
        """Counts the ids, if `training`, and looks them up."""
        ids = ops.convert_to_tensor(ids)
        dtype = _check_integers(ids)
        # Signed, and wide enough for num_ids; an unsigned id that is too large turns negative.
        ids = ops.cast(ids, "int64" if dtype in _INDEX_64 else "int32")
        known = ops.logical_and(ids >= 0, ids < self.num_ids)
        rows = ops.where(known, ids, 0)
        counts = ops.convert_to_tensor(self.counts)
        if training and self.trainable:
            seen = ops.reshape(ops.cast(known, "float32"), (-1,))
            occurrences = ops.segment_sum(seen, ops.reshape(rows, (-1,)), num_segments=self.num_ids)
            counts = ops.minimum(counts + self.step * occurrences, self.threshold)
            self.counts.assign(counts)
        # As a column: Keras' take of a table with one axis does not become ONNX on torch.
        return ops.where(known, ops.take(counts[:, None], rows, axis=0)[..., 0], 0.0)

    def compute_output_shape(self, ids_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the ids."""
        return tuple(ids_shape)

    def compute_output_spec(self, ids: Any, training: bool | None = None) -> Any:
        """Returns the shape of the ids, and float32."""
        _check_integers(ids)
        return keras.KerasTensor(self.compute_output_shape(ids.shape), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor arguments, ready for JSON."""
        return {
            **super().get_config(),
            "num_ids": self.num_ids,
            "threshold": self.threshold,
            "step": self.step,
        }


def _check_integers(ids: Any) -> str:
    dtype = str(keras.backend.standardize_dtype(ids.dtype))
    if dtype not in _INTEGERS:
        raise TypeError(
            f"FidCounter: 'ids' must have an integer dtype. Received: ids.dtype={dtype}"
        )
    return dtype
