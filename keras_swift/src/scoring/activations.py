"""The last activation of an output, read off the model's graph."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import keras

from keras_swift.src._keras import history_of, number_of_calls

Activation: TypeAlias = Literal["linear", "softmax", "sigmoid", "tanh", "relu"]
# The activations through which a gradient with respect to the output is propagated back.
PULLED_BACK: tuple[Activation, ...] = ("linear", "softmax", "sigmoid", "tanh", "relu")
_MOVING = (
    keras.layers.Flatten,
    keras.layers.Permute,
    keras.layers.Reshape,
)
_WITH_ACTIVATION = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.Activation,
)


def output_activation(tensor: keras.KerasTensor) -> Activation:
    """Names the activation that produced a functional model's output.

    Layers that only move or pass on values are skipped. A layer without an
    activation, or with one that is not in `PULLED_BACK`, counts as
    `"linear"`: the gradient is then that with respect to its output.

    Args:
        tensor: `KerasTensor`, an output of a functional model.

    Returns:
        One of `PULLED_BACK`.
    """
    *passed, layer = _last_layers(tensor)
    moved = any(isinstance(other, _MOVING) for other in passed)
    if isinstance(layer, keras.layers.TimeDistributed):
        layer = layer.layer
    name = _activation_name(layer)
    # A softmax runs over one axis, and a reshape loses its position.
    return "linear" if moved and name == "softmax" else name


def _last_layers(tensor: keras.KerasTensor) -> list[Any]:
    """The layers that only pass an output's values on, then the one that produced it."""
    layer, _, index = history_of(tensor)
    passed = []
    while True:
        if isinstance(layer, keras.Model) and getattr(layer, "outputs", None):
            layer, _, index = history_of(layer.outputs[index])
        elif isinstance(layer, (*_MOVING, keras.layers.Dropout)) and number_of_calls(layer) == 1:
            passed.append(layer)
            layer, _, index = history_of(layer.input)
        else:
            return [*passed, layer]


def _activation_name(layer: Any) -> Activation:
    """The name of a layer's, or of a `keras.ops` operation's, activation."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax" if layer.axis == -1 else "linear"
    if isinstance(layer, keras.layers.ReLU):
        plain = layer.max_value is None and not layer.negative_slope and not layer.threshold
        return "relu" if plain else "linear"
    if isinstance(layer, _WITH_ACTIVATION):
        for name in PULLED_BACK:
            if layer.activation is getattr(keras.activations, name):
                return name
        return "linear"
    if not isinstance(layer, keras.Layer):
        operation = type(layer).__name__.lower()
        if operation in PULLED_BACK and getattr(layer, "axis", -1) == -1:
            return operation
    return "linear"
