"""The read interface of a training record, from which features are computed.

A snapshot of a trained network says little about wrong labels, because it has memorised them; the
course of its training says much.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from keras_swift.src._types import FloatArray, IntArray


class TrainingRecord(Protocol):
    """The read interface of a record: arrays of shape `(n,)`, NaN for examples never seen.

    Attributes:
        loss, margin: as last seen.
        mean_loss, mean_margin, share_wrong, mean_probability: means over all
            times an example was seen. The margin is the probability of the
            label minus the largest of any other class; wrong is a margin
            that is not above 0.
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
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.array(getattr(record, name), np.float64) for name in names})

    def arranged(self, order: IntArray | None, entries: int = 1) -> FinishedRecord:
        """The record of the same examples in another order.

        Args:
            order: int array, shape `(n,)`, the present index of each example, or -1 for one that
                was not seen, whose numbers are NaN; `None` for the present order.
            entries: int, how many consecutive numbers an example has in each array. Defaults to 1.
        """
        if order is None:
            return self
        arranged = {}
        for name, column in self.columns().items():
            rows = column.reshape(-1, entries)
            there = (order >= 0) & (order < len(rows))
            found = np.full((len(order), entries), np.nan)
            found[there] = rows[order[there]]
            arranged[name] = found.reshape(-1)
        return FinishedRecord(**arranged)

    def columns(self) -> dict[str, FloatArray]:
        """The arrays by name."""
        return dict(vars(self))
