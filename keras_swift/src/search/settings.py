"""The settings of a search, checked when they are put together."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from keras_swift.src.rules import check, check_if_given, one_of, plain

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
        numbers = ("max_trials", "finetune_epochs", "pretrain_epochs", "batch_size")
        for name in (*numbers, "confirm", "verbose"):
            check(**{name: getattr(self, name)})
        check_if_given(seed=self.seed)
        one_of(METHODS).check("method", self.method)
        # PyTorch's `DataLoader`, random generators and JSON do not accept NumPy's numbers.
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
