"""The given targets of each example, and which of them count.

Those of arrays are made from all targets at once; those of a stream are stored as its batches are
read, as compactly as classes and values allow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src._types import Array, ArrayTree, BoolArray, IntArray
from keras_swift.src.records.growing import GrowingRows
from keras_swift.src.records.known import Known
from keras_swift.src.records.targets import TargetOutput
from keras_swift.src.scoring.compiled import CompiledLosses


@dataclasses.dataclass(frozen=True)
class GivenTargets:
    """The given targets of some examples.

    Attributes:
        labels: for each output an array of the given classes or values, shape `(n, *entries)`.
        counted: for each output a bool array, shape `(n * targets,)`: which targets have a weight
            other than 0.
    """

    labels: tuple[Array, ...]
    counted: tuple[BoolArray, ...]

    @classmethod
    def of(
        cls,
        outputs: Sequence[TargetOutput],
        losses: CompiledLosses,
        y: ArrayTree,
        sample_weight: ArrayTree,
        size: int,
    ) -> GivenTargets:
        """The targets in `y` and which of them count.

        Args:
            outputs: sequence of `TargetOutput`.
            losses: `CompiledLosses` of the model.
            y, sample_weight: structures with first axis `n`; the weights may be `None`.
            size: int, `n`.
        """
        given, _ = losses.matching.aligned(y, losses.y_pred)
        labels = tuple(output.labels(given) for output in outputs)
        counted = tuple(_counted(output, losses, sample_weight, size) for output in outputs)
        return cls(labels, counted)


@dataclasses.dataclass(frozen=True)
class StoredTargetsState(SavedState):
    """The state of `StoredTargets`: two lists with an array for each output."""

    labels: list[Array]
    counted: list[Array]


class StoredTargets:
    """The targets of the examples of a stream, by their numbers.

    Takes 5 bytes for each class or value. If an example comes again, its first targets are kept.

    Args:
        outputs: sequence of `TargetOutput`.
        losses: `CompiledLosses` of the model.
    """

    def __init__(self, outputs: Sequence[TargetOutput], losses: CompiledLosses) -> None:
        self._outputs = tuple(outputs)
        self._losses = losses
        self._labels = [
            # The targets of other losses are not stored: only whether they count matters.
            GrowingRows(0, () if o.kind == "losses" else o.entries, 0, _stored_type(o))
            for o in self._outputs
        ]
        # 1 for a target that counts, 0 for one that does not, -1 where nothing was stored.
        self._counted = [GrowingRows(0, (o.size,), -1, np.int8) for o in self._outputs]

    def __len__(self) -> int:
        return len(self._counted[0])

    def add_batch(self, batch: Known) -> None:
        """Stores the targets of the examples of a batch that are new.

        Raises:
            ValueError: if there are more or fewer targets for an example than in other batches.
        """
        numbers, (_, y, sample_weight) = batch.numbers, batch.data
        size = max(len(self), int(numbers.max()) + 1)
        for rows in (*self._labels, *self._counted):
            rows.resize(size)
        new = self._counted[0].values[numbers, 0] < 0
        if not new.any():
            return
        found = GivenTargets.of(self._outputs, self._losses, y, sample_weight, len(numbers))
        for place, output in enumerate(self._outputs):
            counted = found.counted[place].reshape(len(numbers), -1)
            self._counted[place].values[numbers[new]] = counted[new]
            labels = found.labels[place]
            if output.kind == "losses":
                continue
            if labels.shape[1:] != output.entries:
                raise ValueError(
                    "All batches must have as many targets for an example, to be recorded. "
                    f"Received: targets of shape {labels.shape} after shape "
                    f"{('n', *output.entries)}. Pad them to one length."
                )
            self._labels[place].values[numbers[new]] = labels[new]

    def state(self) -> StoredTargetsState:
        """State for `restore`."""
        return StoredTargetsState(
            labels=[rows.values.copy() for rows in self._labels],
            counted=[rows.values.copy() for rows in self._counted],
        )

    def restore(self, state: StoredTargetsState) -> None:
        """Restores what `state` returned."""
        for stored, saved in ((self._labels, state.labels), (self._counted, state.counted)):
            for rows, values in zip(stored, saved, strict=True):
                rows.resize(len(values))
                rows.values[:] = values

    def given(self, order: IntArray | None = None) -> GivenTargets:
        """The stored targets.

        Args:
            order: int array, shape `(n,)`, the number of each example, or -1 for one that was not
                read, whose targets do not count. Defaults to `None`, the order of the numbers.
        """
        order = np.arange(len(self)) if order is None else order
        there = (order >= 0) & (order < len(self))
        labels, counted = [], []
        for place, output in enumerate(self._outputs):
            stored = self._labels[place].values
            dtype = np.int64 if stored.dtype == np.int32 else np.float64
            found = np.zeros((len(order), *stored.shape[1:]), dtype)
            found[there] = stored[order[there]]
            labels.append(found)
            counts = np.zeros((len(order), output.size), bool)
            counts[there] = self._counted[place].values[order[there]] > 0
            counted.append(counts.reshape(-1))
        return GivenTargets(tuple(labels), tuple(counted))


def _stored_type(output: TargetOutput) -> type[np.generic]:
    return np.int32 if output.kind in ("categorical", "binary") else np.float32


def _counted(
    output: TargetOutput, losses: CompiledLosses, sample_weight: ArrayTree, size: int
) -> BoolArray:
    """Which targets have a weight other than 0, a bool array of shape `(n * targets,)`."""
    everywhere = np.ones((size, *output.entries), bool)
    (weight,) = losses.matching.weights(sample_weight, losses.y_pred, [output.output.path])
    if weight is not None:
        positive = np.asarray(weight[:]) != 0
        while positive.ndim > everywhere.ndim and positive.shape[-1] == 1:
            positive = positive[..., 0]
        positive = positive.reshape(positive.shape + (1,) * (everywhere.ndim - positive.ndim))
        everywhere = everywhere & positive
    return everywhere.reshape(-1)
