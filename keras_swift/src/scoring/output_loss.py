"""One compiled loss of a model, and why it may have no value for an example."""

from __future__ import annotations

import dataclasses
from typing import Literal

import keras

from keras_swift.src._types import ArrayTree, Path, Tensor
from keras_swift.src.scoring.activations import Activation
from keras_swift.src.validation import UnfitData

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
        for step in self.path:
            structure = structure[step]
        return structure


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
