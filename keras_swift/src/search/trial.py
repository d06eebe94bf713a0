"""A trial of a search: a sampler and its result."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from keras_swift.src._types import FloatArray
from keras_swift.src.swift.sampler import SwiftSampler

Direction: TypeAlias = Literal["max", "min"]
Status: TypeAlias = Literal["COMPLETED", "FAILED", "RUNNING"]


@dataclasses.dataclass(frozen=True)
class SearchTrial:
    """One candidate sampler and its result.

    Attributes:
        number: int, from 0, which is uniform.
        sampler: `SwiftSampler`.
        objective: float; NaN if the trial failed.
        seconds: float, training and validation; NaN if it failed.
        status: `"COMPLETED"`, `"FAILED"` or, in a search that still runs
            elsewhere, `"RUNNING"`.
        metrics: dict, the logs of the last epoch; empty if it failed.
        values: float array, the objective's value on each validation example, or
            on each of ten parts of the validation data if it has none for
            single examples. `None` if they are not known.
    """

    number: int
    sampler: SwiftSampler
    objective: float
    seconds: float
    status: Status = "COMPLETED"
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    values: FloatArray | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def parameters(self) -> FloatArray:
        """The sampler's numbers: knots, values, coefficients; ten by default."""
        return self.sampler.parameters


def signed(trial: SearchTrial, direction: Direction) -> float:
    """The objective, signed so that higher is better."""
    return trial.objective if direction == "max" else -trial.objective
