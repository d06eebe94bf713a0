"""The settings of a search, checked when they are put together."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

import numpy as np

from keras_swift.src.validation import check_positive_integer

# How a search chooses its samplers.
METHODS = ("bayesian", "random")
Method: TypeAlias = Literal["bayesian", "random"]


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """The arguments of `search` that are numbers or names, under their names there.

    Raises:
        TypeError, ValueError: for an argument of another kind or range.
    """

    max_trials: int
    finetune_epochs: int
    pretrain_epochs: int
    batch_size: int
    confirm: int
    method: Method
    seed: int | None
    verbose: int | Literal["auto"]

    def __post_init__(self) -> None:
        for name in ("max_trials", "finetune_epochs", "batch_size"):
            check_positive_integer(name, getattr(self, name))
        for name in ("pretrain_epochs", "confirm"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(f"`{name}` must be an int. Received: {value!r}")
            if value < 0:
                raise ValueError(f"`{name}` must not be negative. Received: {value}")
        if self.method not in METHODS:
            raise ValueError(f"`method` must be one of {METHODS}. Received: {self.method!r}")
