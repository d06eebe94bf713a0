"""One compiled loss of a model, and why it may have no value for an example.

The last activation of its output is read off the model's graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import keras
from keras import ops

from keras_swift.src._keras import history_of, number_of_calls
from keras_swift.src._types import ArrayTree, Path, Tensor
from keras_swift.src.scoring.structures import follow
from keras_swift.src.validation import UnfitData

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
Reduces = Literal["mean", "sum", "masked_mean", "weighted_mean"]


class NoExampleLoss(UnfitData):
    """A loss has no value for a single example."""


class UnweightedLoss(UnfitData):
    """A loss does not multiply the loss of each example by its weight."""


@dataclasses.dataclass(frozen=True)
class OwnCall:
    """How a loss with a `__call__` of its own combines examples and weights, as tests have shown.

    Attributes:
        reduces: `"mean"` or `"sum"` over the examples; `"masked_mean"`, which divides by the
            unmasked share of the entries; or `"weighted_mean"`, which divides by the weights.
        rank: int, how many axes the weights need after the axis of the examples.
        full: bool, whether these axes have the lengths of the mask; else they have length 1.
    """

    reduces: Reduces = "mean"
    rank: int = 0
    full: bool = False


@dataclasses.dataclass(frozen=True)
class OutputLoss:
    """One compiled loss: the path to its output, and its part in the total.

    Attributes:
        path: tuple of keys and positions that leads to the output, or to the
            structure of outputs that one loss compares.
        loss: `keras.losses.Loss`.
        weight: float, the output's entry of `loss_weights`.
        activation: str, one of `PULLED_BACK`, or `None` where the last layer
            is not known (a subclassed model).
        own_call: `OwnCall`, or `None` for a loss with the `__call__` of `keras.losses.Loss`.
        refusal: why there is no loss of an example, raised where one is asked for; or `None`.
    """

    path: Path
    loss: keras.losses.Loss
    weight: float
    activation: Activation | None
    own_call: OwnCall | None = None
    refusal: UnfitData | None = None

    def check(self) -> None:
        """Raises if there is no loss of an example."""
        if self.refusal is not None:
            raise self.refusal

    def of(self, structure: ArrayTree) -> ArrayTree:
        """This output's part of a structure of predictions or targets."""
        return follow(self.path, structure)


def has_own_call(loss: keras.losses.Loss) -> bool:
    """Whether a loss computes in a `__call__` of its own, so that its `call` says little."""
    return type(loss).__call__ is not keras.losses.Loss.__call__


@dataclasses.dataclass(frozen=True)
class ExampleLosses:
    """The loss of one output and its gradient, for each example of a batch.

    Attributes:
        losses: float tensor, shape `(B,)`.
        gradient: float tensor of the shape of the output, or `(B, d)` for a
            loss of several outputs with `d` entries together: the gradient
            of the loss with respect to the last pre-activation, times the
            loss weight.
        valid: float tensor, shape `(B,)`, the unmasked share of the entries.
        axes: tuple of ints, the shape of one example's loss values.
        masked: bool, whether the output carries a mask.
    """

    losses: Tensor
    gradient: Tensor
    valid: Tensor
    axes: tuple[int, ...]
    masked: bool


def to_rank(tensor: Tensor, rank: int) -> Tensor:
    """The tensor with `rank` axes: axes of length 1 are added or removed at its end."""
    while len(tensor.shape) > rank and tensor.shape[-1] == 1:
        tensor = ops.squeeze(tensor, axis=-1)
    while len(tensor.shape) < rank:
        tensor = ops.expand_dims(tensor, axis=-1)
    return tensor


def over_axes(reduce: Callable[..., Tensor], tensor: Tensor) -> Tensor:
    """Reduces all axes but the first."""
    axes = tuple(range(1, len(tensor.shape)))
    return reduce(tensor, axis=axes) if axes else tensor


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
