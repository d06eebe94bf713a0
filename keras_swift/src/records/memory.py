"""A store of what training computed for each example: score, loss, margin and label probability.

A training step computes the outputs from which all of these follow, so remembering them costs no
forward pass. `importance.step_records` and `records.recorder` fill it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src._types import Array, BoolArray, FloatArray, IntArray
from keras_swift.src.records.growing import GrowingRows, as_items
from keras_swift.src.rules import Rule, check, int_array, shown

COLUMNS = ("score", "loss", "margin", "probability")


@dataclasses.dataclass(frozen=True)
class MemoryState(SavedState):
    """The state of an `ExampleMemory`: latest numbers, sums and counts, a row for each example."""

    latest: FloatArray
    sums: FloatArray
    counts: IntArray


class ExampleMemory:
    """The latest numbers of every example, by its index in the data.

    Takes 16 bytes for each example, and with `averages` 20 more.

    Args:
        size: int, `n`, the number of examples.
        averages: bool, whether means over all records are kept too. Defaults to `False`.

    Attributes:
        ids: array, shape `(n,)`, for a stream: the ids that it yielded, or uint64 hashes of the
            examples if it yielded none; `None` for arrays, and for a `PyDataset` that keeps its
            examples in their places, whose order is that of batches and rows.

    Example:
        >>> memory = ExampleMemory(3)
        >>> memory.record(np.array([2, 0]), np.array([[0.5, 1.0, -1.0, 0.3], [0.1, 0.2, 2.0, 0.9]]))
        >>> memory.wrong.tolist()
        [0.0, nan, 1.0]
    """

    def __init__(self, size: int, averages: bool = False) -> None:
        check(size=size, averages=averages)
        self._rows = GrowingRows(size, (len(COLUMNS),), np.nan, np.float32)
        # Sums of loss, margin, probability and the number of wrong predictions.
        self._sum_rows = GrowingRows(size if averages else 0, (4,), 0.0, np.float32)
        self._count_rows = GrowingRows(size if averages else 0, (), 0, np.int32)
        self._averages = averages
        self.ids: Array | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def _latest(self) -> FloatArray:
        return self._rows.values

    @property
    def _sums(self) -> FloatArray:
        return self._sum_rows.values

    @property
    def _counts(self) -> IntArray:
        return self._count_rows.values

    def __repr__(self) -> str:
        return f"<ExampleMemory of {len(self)} examples, {self.known_share:.0%} seen>"

    @property
    def score(self) -> FloatArray:
        """float32 array, shape `(n,)`: the score when the example was last trained on.

        Here and below, NaN for examples that have not been seen.
        """
        return self._latest[:, 0]

    @property
    def loss(self) -> FloatArray:
        """float32 array, shape `(n,)`: the loss at that time, without regularisation."""
        return self._latest[:, 1]

    @property
    def margin(self) -> FloatArray:
        """float32 array, shape `(n,)`: probability of the label minus the largest other one.

        From -1 to 1; NaN for models that are not classifiers.
        """
        return self._latest[:, 2]

    @property
    def probability(self) -> FloatArray:
        """float32 array, shape `(n,)`: the predicted probability of the label.

        NaN for models that are not classifiers.
        """
        return self._latest[:, 3]

    @property
    def wrong(self) -> FloatArray:
        """float32 array, shape `(n,)`: 1 if a class other than the label was predicted, else 0.

        NaN for models that are not classifiers.
        """
        wrong = (self.margin <= 0).astype(np.float32)
        wrong[np.isnan(self.margin)] = np.nan
        return wrong

    @property
    def seen(self) -> BoolArray:
        """bool array, shape `(n,)`: which examples have a score."""
        return np.isfinite(self.score)

    @property
    def has_averages(self) -> bool:
        """bool, whether means over all records are kept."""
        return self._averages

    @property
    def known_share(self) -> float:
        """float, 0 to 1, the share of examples that have a score."""
        return float(self.seen.mean()) if len(self) else 0.0

    @property
    def mean_loss(self) -> FloatArray:
        """float64 array, shape `(n,)`: the mean loss over all times the example was trained on.

        Here and in the other means, NaN for examples that have not been seen.

        Raises:
            ValueError: if the memory keeps no averages.
        """
        return self._mean(0)

    @property
    def mean_margin(self) -> FloatArray:
        """float64 array, shape `(n,)`: the mean margin over all times it was trained on."""
        return self._mean(1)

    @property
    def mean_probability(self) -> FloatArray:
        """float64 array, shape `(n,)`: the mean probability of the label over these times."""
        return self._mean(2)

    @property
    def share_wrong(self) -> FloatArray:
        """float64 array, shape `(n,)`: the share of these times with a wrong prediction, 0 to 1."""
        return self._mean(3)

    def record(self, indices: IntArray, values: FloatArray) -> None:
        """Stores what a step computed for its examples.

        Args:
            indices: int array, shape `(k,)`. Of a repeated example the last row is the latest, and
                all rows count in the averages.
            values: float array, shape `(k, 4)`: score, loss, margin and probability; or `(k, 2)`,
                only score and loss. Rows with a score that is not finite are left out.

        Raises:
            TypeError: if `indices` is not an int vector.
            ValueError: if an index is outside the memory, or `values` has another shape.
        """
        self._check(indices, values)
        finite = np.isfinite(values[:, 0])
        if not finite.all():
            indices, values = indices[finite], values[finite]
        if not len(indices):
            return
        latest = np.full((len(indices), len(COLUMNS)), np.nan, np.float32)
        latest[:, : values.shape[1]] = values
        if values.shape[1] < len(COLUMNS):
            latest[:, 2:] = self._latest[indices, 2:]
        as_items(self._latest)[indices] = as_items(latest)
        if self._averages:
            self._add(indices, latest)

    def _add(self, indices: IntArray, latest: FloatArray) -> None:
        """Adds these rows, with the columns `COLUMNS`, to the sums."""
        rows = np.concatenate([latest[:, 1:], latest[:, 2:3] <= 0], axis=1)
        rows[np.isnan(rows[:, 1]), 3] = np.nan
        # Repeated indices would be added once. Sorting them by whole numbers that end in their
        # places takes a tenth of the time of a stable `argsort`, and keeps the order as it does.
        bits = len(indices).bit_length()
        keys = np.sort((indices.astype(np.int64) << bits) | np.arange(len(indices)))
        order, ordered = keys & ((1 << bits) - 1), keys >> bits
        firsts = np.flatnonzero(np.diff(ordered, prepend=-1))
        recorded = ordered[firsts]
        self._counts[recorded] += np.diff(firsts, append=len(ordered)).astype(np.int32)
        sums = as_items(self._sums)
        added = sums[recorded].view(np.float32).reshape(-1, 4)
        rows = as_items(rows)[order].view(np.float32).reshape(-1, 4)
        added += np.add.reduceat(rows, firsts, axis=0, dtype=np.float64)
        sums[recorded] = as_items(added)

    def _check(self, indices: IntArray, values: FloatArray) -> None:
        """Raises for the arguments that `record` refuses."""
        found = int_array("indices", indices)
        if len(found) and not 0 <= found.min() <= found.max() < len(self):
            raise ValueError(
                f"`indices` must be from 0 to {len(self) - 1}. Received: {found.min()} to "
                f"{found.max()}."
            )
        if np.shape(values) not in ((len(found), 2), (len(found), len(COLUMNS))):
            raise ValueError(
                f"`values` must have a row for each index and the columns {COLUMNS}, or the first "
                f"two of them. Received: values={shown(values)} for {len(found)} indices."
            )

    def resize(self, size: int) -> None:
        """Changes the number of examples to `size`; those that remain keep their numbers."""
        check(size=size)
        self._rows.resize(size)
        if self._averages:
            self._sum_rows.resize(size)
            self._count_rows.resize(size)

    def arranged(self, order: IntArray) -> ExampleMemory:
        """The latest numbers of the same examples in another order.

        Args:
            order: int array, shape `(n,)`, the present index of each example, or -1 for one that
                was not seen, whose numbers are NaN.
        """
        order = int_array("order", order)
        found = ExampleMemory(len(order))
        there = (order >= 0) & (order < len(self))
        found.record(np.flatnonzero(there), self._latest[order[there]])
        return found

    def state(self) -> MemoryState:
        """State for `restore`, exact to the last bit."""
        return MemoryState(self._latest.copy(), self._sums.copy(), self._counts.copy())

    def restore(self, state: MemoryState) -> None:
        """Restores what `state` returned."""
        Rule("what `state` returned", (MemoryState,)).check("state", state)
        self.resize(len(state.latest))
        self._latest[:] = state.latest
        self._sums[:], self._counts[:] = state.sums, state.counts

    def _mean(self, column: int) -> FloatArray:
        if not self._averages:
            raise ValueError(
                "Means over training are kept by `ExampleMemory(size, averages=True)`. Received: "
                "a memory of only the latest numbers."
            )
        with np.errstate(invalid="ignore", divide="ignore"):
            mean: FloatArray = self._sums[:, column] / self._counts
        return mean
