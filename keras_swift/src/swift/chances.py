"""How often the examples of a stream are to be drawn: by a reference model, or by known features.

A chance is the expected number of draws of an example in an epoch with as many draws as examples:
`n p`, 1 on average.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src._types import Array, FloatArray, IntArray
from keras_swift.src.records.growing import GrowingRows
from keras_swift.src.records.identity import Identity
from keras_swift.src.records.keys import KeyTable, id_keys
from keras_swift.src.records.known import Known
from keras_swift.src.records.known_reader import FEW, KnownReader
from keras_swift.src.swift.feature_table import Feature, check_column, is_values
from keras_swift.src.swift.features import FeatureScorer
from keras_swift.src.swift.sampler import SwiftSampler

NOT_KNOWN_AGAIN = (
    "The examples of `x` have other contents in each pass, so `reference` computes the features of "
    "all of them anew in each, and they are ranked within a pool of the next batches. To compute "
    "them once, yield `(x, y, sample_weight, ids)` with ids that stay with an example through "
    "shuffling and augmentation (`sample_weight` may be `None`)."
)


@dataclasses.dataclass(frozen=True)
class ChancesState(SavedState):
    """The state of `StreamChances`.

    Attributes:
        rows: float array, shape `(n, features)`, the features computed so far, by the examples'
            numbers, NaN where there are none yet; `None` if features were given, which do not
            change.
    """

    rows: FloatArray | None = None


class StreamChances(Protocol):
    """The chances of the rows of a pool, with the state that a resumed run needs."""

    def __call__(self, batches: Sequence[Known], known: KnownReader) -> list[FloatArray]:
        """The chances of the rows of each batch, float64 arrays of shape `(b,)`."""

    def state(self) -> ChancesState: ...

    def restore(self, state: ChancesState) -> None: ...


def chances_of(numbers: IntArray, chance: FloatArray) -> FloatArray:
    """The chances of these examples; 1, the mean, for those without a known one.

    Args:
        numbers: int array, shape `(b,)`, by `Identity.numbers`.
        chance: float array, shape `(n,)`, the chance of each number.

    Returns:
        A float64 array, shape `(b,)`.
    """
    found = np.ones(len(numbers))
    known = (numbers >= 0) & (numbers < len(chance))
    found[known] = chance[numbers[known]]
    return found


class ReferenceChances:
    """Chances by features that a reference model computes when an example is first read.

    An example is ranked among all examples read so far. Where contents do not identify examples, it
    is ranked within its pool, and its features are computed anew in each pass.

    Args:
        scorer: `FeatureScorer` of the reference model.
        probabilities: function from features to probabilities.
        identity: `Identity` of the examples.
    """

    def __init__(
        self,
        scorer: FeatureScorer,
        probabilities: Callable[[dict[str, FloatArray]], FloatArray],
        identity: Identity,
    ) -> None:
        self._scorer = scorer
        self._probabilities = probabilities
        self._identity = identity
        self._names = scorer.names
        self._rows = GrowingRows(0, (len(self._names),), np.nan, np.float64)
        # By number; valid until a new example is read.
        self._chance = np.ones(0)

    def __call__(self, batches: Sequence[Known], known: KnownReader) -> list[FloatArray]:
        """The chances of the rows of each batch."""
        share = known.known_share
        if self._identity.kind == "content" and share is not None and share < FEW:
            if self._identity.is_consistent:
                self._identity.forget(NOT_KNOWN_AGAIN)
        if not self._identity.is_consistent:
            self._rows = GrowingRows(0, (len(self._names),), np.nan, np.float64)
            return self._within(batches)
        self._rows.resize(max(self._identity.count, len(self._rows)))
        rows, is_new = self._rows.values, False
        for batch in batches:
            new = np.isnan(rows[batch.numbers, 0])
            if new.any():
                is_new = True
                rows[batch.numbers[new]] = self._scorer.rows(*batch.data[:2])[new]
        if is_new or len(self._chance) != len(rows):
            there = ~np.isnan(rows[:, 0])
            self._chance = np.ones(len(rows))
            self._chance[there] = self._probabilities_of(rows[there])
        return [chances_of(batch.numbers, self._chance) for batch in batches]

    def _within(self, batches: Sequence[Known]) -> list[FloatArray]:
        chance = self._probabilities_of(
            np.concatenate([self._scorer.rows(*b.data[:2]) for b in batches])
        )
        return np.split(chance, np.cumsum([len(batch.numbers) for batch in batches])[:-1])

    def _probabilities_of(self, rows: FloatArray) -> FloatArray:
        columns = {name: rows[:, k] for k, name in enumerate(self._names)}
        return len(rows) * self._probabilities(columns)

    def state(self) -> ChancesState:
        """State for `restore`."""
        return ChancesState(self._rows.values.copy())

    def restore(self, state: ChancesState) -> None:
        """Restores what `state` returned."""
        if state.rows is not None:
            self._rows.resize(len(state.rows))
            self._rows.values[:] = state.rows
        self._chance = np.ones(0)


class GivenChances:
    """Chances by features that are known for every example, found by its id.

    Args:
        chance: float array, shape `(n,)`.
        ids: array, shape `(n,)`, the id that each chance belongs to; `None` if ids are indices.
        identity: `Identity` of the examples.
    """

    def __init__(self, chance: FloatArray, ids: Array | None, identity: Identity) -> None:
        self._chance = chance
        self._identity = identity
        self._table: KeyTable | None = None
        if ids is not None:
            self._table = KeyTable(len(ids))
            self._table.numbers(id_keys(ids))
        # The index of each example, by its number.
        self._indices: IntArray = np.zeros(0, np.int64)

    def __call__(self, batches: Sequence[Known], known: KnownReader) -> list[FloatArray]:
        """The chances of the rows of each batch.

        Raises:
            ValueError: for examples without features.
        """
        if self._identity.count > len(self._indices):
            self._indices = self._found()
        return [self._chance[self._indices[batch.numbers]] for batch in batches]

    def _found(self) -> IntArray:
        ids = self._identity.ids
        if ids is None:
            # Without ids, the index of a `PyDataset`'s example counts batches and rows in order.
            order = self._identity.order()
            indices = np.full(self._identity.count, -1)
            if order is not None:
                indices[order[order >= 0]] = np.flatnonzero(order >= 0)
        elif self._table is not None:
            indices = self._table.find(id_keys(ids))
        else:
            indices = ids.astype(np.int64)
        bad = (indices < 0) | (indices >= len(self._chance))
        if bad.any():
            name = "" if ids is None else f", the first of the id {ids[int(bad.argmax())]}"
            raise ValueError(
                "`features` must have a number for each example of `x`. Received: "
                f"{len(self._chance)} numbers, and {int(bad.sum())} examples without{name}. Pass "
                "what `compute_features` returns for the same stream, or arrays whose index is the "
                "id that the stream yields."
            )
        return indices

    def state(self) -> ChancesState:
        """State for `restore`: features do not change."""
        return ChancesState()

    def restore(self, state: ChancesState) -> None:
        """Restores what `state` returned."""
        self._indices = np.zeros(0, np.int64)


def given_chances(
    sampler: SwiftSampler, wanted: Mapping[str, Feature], ids: Array | None, identity: Identity
) -> GivenChances:
    """Chances by arrays of features.

    Args:
        sampler: `SwiftSampler`.
        wanted: its features, by name.
        ids: array, shape `(n,)`, as for `GivenChances`.
        identity: `Identity` of the examples.

    Raises:
        ValueError: if some features are not arrays, or examples have no ids to find them by.
    """
    named = [name for name, f in wanted.items() if not is_values(f)]
    if named:
        raise ValueError(
            "`features` must be arrays for all features of the sampler, or for none, if `x` is a "
            f"stream. Received: no arrays for {named}."
        )
    if ids is None and identity.kind == "content":
        raise ValueError(
            "`x` must yield `(x, y, sample_weight, ids)` if `features` are arrays, with the index "
            "of each example as its id (`sample_weight` may be `None`). Received: a stream without "
            "ids. Or pass what `compute_features(model, x)` returns for this stream, or a "
            "`reference` model."
        )
    size = len(np.asarray(next(iter(wanted.values()))))
    columns = {name: check_column(name, column, size) for name, column in wanted.items()}
    return GivenChances(size * sampler.probabilities(columns), ids, identity)
