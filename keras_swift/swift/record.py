"""The loss and margin of each example over a training, for the features from training.

A snapshot of a trained network says little about wrong labels, because it has memorised them; the
course of its training says much.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from keras_swift._types import BoolArray, FloatArray, IntArray, State


class TrainingRecord(Protocol):
    """The read interface of a record: arrays of shape `(n,)`, NaN for examples never seen.

    Attributes:
        loss, margin: as last seen.
        mean_loss, mean_margin, share_wrong, mean_probability: means over all
            times an example was seen. The margin is the probability of the
            label minus the largest of any other class; wrong is a margin
            below 0.
    """

    @property
    def loss(self) -> FloatArray: ...

    @property
    def margin(self) -> FloatArray: ...

    @property
    def mean_loss(self) -> FloatArray: ...

    @property
    def mean_margin(self) -> FloatArray: ...

    @property
    def share_wrong(self) -> FloatArray: ...

    @property
    def mean_probability(self) -> FloatArray: ...


_LATEST = ("loss", "margin", "gradient_norm")


class ExampleRecord:
    """A `TrainingRecord` filled from arrays of losses, margins and probabilities.

    Args:
        size: int, how many examples there are.
    """

    def __init__(self, size: int) -> None:
        self.loss = np.full(size, np.nan)
        self.margin = np.full(size, np.nan)
        # As last seen, if it is recorded.
        self.gradient_norm = np.full(size, np.nan)
        self._seen = np.zeros(size)
        self._sums = {name: np.zeros(size) for name in ("loss", "margin", "wrong", "probability")}

    def add(
        self,
        indices: IntArray,
        loss: FloatArray,
        margin: FloatArray,
        probability: FloatArray,
        gradient_norm: FloatArray | None = None,
    ) -> None:
        """Adds one record of some examples.

        Args:
            indices: int array, shape `(k,)`; of a repeated example each record counts, and the
                last one is the latest.
            loss, margin, probability: float arrays, shape `(k,)`; NaN margins
                and probabilities for models that are not classifiers.
            gradient_norm: float array, shape `(k,)`. Defaults to `None`, not recorded.
        """
        if gradient_norm is not None:
            self.gradient_norm[indices] = gradient_norm
        self.loss[indices] = loss
        self.margin[indices] = margin
        np.add.at(self._seen, indices, 1)
        wrong = np.where(np.isnan(margin), np.nan, margin < 0)
        columns = {"loss": loss, "margin": margin, "wrong": wrong, "probability": probability}
        for name, column in columns.items():
            np.add.at(self._sums[name], indices, column)

    @property
    def seen(self) -> BoolArray:
        """bool array, shape `(n,)`: which examples have been seen."""
        return self._seen > 0

    def state(self) -> State:
        """State for `restore`, exact to the last bit."""
        latest = {name: getattr(self, name).copy() for name in _LATEST}
        sums = {name: total.copy() for name, total in self._sums.items()}
        return {"latest": latest, "sums": sums, "seen": self._seen.copy()}

    def restore(self, state: State) -> None:
        for name in _LATEST:
            getattr(self, name)[:] = state["latest"][name]
        for name, total in self._sums.items():
            total[:] = state["sums"][name]
        self._seen[:] = state["seen"]

    @property
    def mean_loss(self) -> FloatArray:
        return self._mean("loss")

    @property
    def mean_margin(self) -> FloatArray:
        return self._mean("margin")

    @property
    def share_wrong(self) -> FloatArray:
        return self._mean("wrong")

    @property
    def mean_probability(self) -> FloatArray:
        return self._mean("probability")

    def _mean(self, name: str) -> FloatArray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._sums[name] / self._seen


_NAMES = ("loss", "margin", "mean_loss", "mean_margin", "share_wrong", "mean_probability")


@dataclasses.dataclass(frozen=True)
class FinishedRecord:
    """A `TrainingRecord` that is complete: plain float64 arrays, shape `(n,)`."""

    loss: FloatArray
    margin: FloatArray
    mean_loss: FloatArray
    mean_margin: FloatArray
    share_wrong: FloatArray
    mean_probability: FloatArray

    @classmethod
    def of(cls, record: TrainingRecord) -> FinishedRecord:
        """The arrays of any record, copied."""
        return cls(**{name: np.array(getattr(record, name), np.float64) for name in _NAMES})

    def columns(self) -> dict[str, FloatArray]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in _NAMES}
