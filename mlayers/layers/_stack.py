# SPDX-License-Identifier: Apache-2.0
"""What MLP and LHUCTower have in common: dense layers in a row that share one set of options."""

from typing import Any

import keras

from mlayers.layers import _checks, _options
from mlayers.layers._initializers import distinct
from mlayers.layers._layer import Layer
from mlayers.layers.dense import Dense


class DenseStack(Layer):
    """Checks, keeps and serialises the arguments; makes dense layers and batch norms from them.

    The arguments are documented by the subclasses, which have them in their own constructors.
    """

    use_bias: bool
    use_weight_norm: bool
    use_learnable_weight_norm: bool
    kernel_regularizer: Any
    bias_regularizer: Any
    enable_batch_normalization: bool
    batch_normalization_momentum: float
    batch_normalization_renorm: bool
    batch_normalization_renorm_clipping: dict[str, float] | None
    batch_normalization_renorm_momentum: float

    def __init__(
        self, output_dims: Any, initializers: Any, options: dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        owner = type(self).__name__
        self.output_dims = _checks.dims(owner, "output_dims", output_dims)
        self.n_layers = len(self.output_dims)
        self.initializers = self._initializer_per_layer(initializers)
        self._kernel_initializers = distinct(self.initializers)
        for name, value in _options.check(owner, options).items():
            setattr(self, name, value)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "output_dims": list(self.output_dims),
            "initializers": [
                None if i is None else keras.initializers.serialize(i) for i in self.initializers
            ],
            **_options.serialize({name: getattr(self, name) for name in _options.NAMES}),
        }

    def _initializer_per_layer(self, initializers: Any) -> list[Any]:
        """One for all, or a list, which may be short: the default (`None`) is for the others."""
        if not isinstance(initializers, list | tuple):
            initializers = [initializers] * self.n_layers
        padding = [None] * (self.n_layers - len(initializers))
        owner = type(self).__name__
        padded = _checks.per_layer(owner, "initializers", [*initializers, *padding], self.n_layers)
        return [_checks.initializer(owner, "initializers", i) for i in padded]

    def _activation_per_layer(self, activations: Any) -> list[Any]:
        """`None` is relu; one activation is for all layers but the last; a list has one each."""
        owner = type(self).__name__
        if isinstance(activations, list | tuple):
            activations = _checks.per_layer(owner, "activations", activations, self.n_layers)
            return [_checks.activation(owner, "activations", a) for a in activations]
        activations = "relu" if activations is None else activations
        hidden = _checks.activation(owner, "activations", activations)
        return [hidden] * (self.n_layers - 1) + [None]

    def _make_dense(self, name: str, index: int, cls: type[Dense] = Dense, **options: Any) -> Dense:
        defaults = {
            "units": self.output_dims[index],
            "use_bias": self.use_bias,
            "kernel_initializer": self._kernel_initializers[index],
            "kernel_regularizer": self.kernel_regularizer,
            "bias_regularizer": self.bias_regularizer,
            "allow_kernel_norm": self.use_weight_norm,
            "kernel_norm_trainable": self.use_learnable_weight_norm,
            **self._child_options(name),
        }
        return cls(**{**defaults, **options})

    def _make_batch_norm(self, name: str) -> Any:
        return keras.layers.BatchNormalization(
            momentum=self.batch_normalization_momentum,
            renorm=bool(self.batch_normalization_renorm),
            renorm_clipping=self.batch_normalization_renorm_clipping,
            renorm_momentum=self.batch_normalization_renorm_momentum,
            **self._child_options(name),
        )
