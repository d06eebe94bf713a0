"""The interface for reading data as uniform batches and presamples, and the reader of arrays."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, Protocol

import numpy as np
import scipy.sparse

from keras_swift.src._state import SavedState
from keras_swift.src._types import IntArray
from keras_swift.src.data.arrays import ArraySource, Data
from keras_swift.src.data.leaves import present_leaves
from keras_swift.src.data.permutations import Permutations

# The most batches drawn together, and the most bytes they may have. After a training step Python's
# code has left the processor's caches, so drawing a batch costs several times what it costs right
# after another one. The batches themselves should not fill the caches.
TOGETHER = 8
TOGETHER_BYTES = 4_000_000


@dataclasses.dataclass(frozen=True)
class Examples:
    """Some examples of the data.

    Attributes:
        data: tuple `(x, y, sample_weight)` of NumPy structures with one first
            axis (tensors for `x` and `y` if they are kept on a device);
            `sample_weight` may be `None`, and so may `x` and `y` if the
            rows are gathered by index later.
        indices: int64 array, which examples they are; `None` for a stream whose examples are not
            recognised.
        batches: float, how many batches they amount to: `r` for a presample of `r` batches.
            Defaults to 1.0.
    """

    data: Data
    indices: IntArray | None
    batches: float = 1.0

    def __len__(self) -> int:
        rows = self.data[0] if self.indices is None else self.indices
        return len(present_leaves(rows)[0])

    @property
    def mean_length(self) -> float:
        """float, the mean number of examples in each of the batches."""
        return len(self) / self.batches


@dataclasses.dataclass(frozen=True)
class ItemForm:
    """What is known beforehand of all batches.

    Attributes:
        fixed_size: int, how many examples every batch has, or `None` if they may differ.
        sparse: list of bool, whether each leaf of `(x, y)` came as a sparse array.
        has_one_shape: bool, whether all have one shape, except for the number of examples.
        element_spec: what a `tf.data` source says of its items; `None` for other sources.
    """

    fixed_size: int | None
    sparse: list[bool]
    has_one_shape: bool
    element_spec: Any = None


@dataclasses.dataclass(frozen=True)
class ReaderState(SavedState):
    """The position of a reader.

    Attributes:
        uniform: the position among the uniform batches, `None` if it is not known.
        presample: the position among the presamples, likewise.
    """

    uniform: Any
    presample: Any


class Reader(Protocol):
    """Uniform batches and presamples of the data, whatever its source.

    Attributes:
        form: `ItemForm`.
        batch_size: int, `b`; of a stream, the rows of its first batch.
        num_batches: int, how many batches an epoch has by default.
        is_open_ended: bool, whether a pass may end before the steps of an epoch, and it is not
            known when.
    """

    form: ItemForm
    batch_size: int
    num_batches: int
    is_open_ended: bool

    @property
    def source(self) -> ArraySource | None:
        """The arrays; `None` for a stream."""

    @property
    def together(self) -> int:
        """How many uniform batches may be drawn ahead."""

    @property
    def pass_length(self) -> float:
        """How many batches a pass has, infinity while that is not known."""

    def goes_on(self, steps: int, are_waiting: bool) -> bool:
        """Whether a pass goes on.

        Args:
            steps: int, how many steps of it were taken.
            are_waiting: bool, whether batches for later steps have already been read.
        """

    def first(self, count: int) -> Data:
        """The first `count` examples, repeated if there are fewer; changes no state."""

    def specimens(self, count: int) -> list[Examples]:
        """Up to `count` batches, of the shapes that all batches have; changes no state."""

    def uniform(self, by_index: bool = False) -> Examples:
        """The next uniform batch; with `by_index`, without `x` and `y`."""

    def take_back(self, count: int) -> None:
        """Makes `uniform` return the last `count` examples again; at most those drawn together."""

    def presample_size(self, ratio: float) -> int:
        """The presample size `B` for a presample ratio."""

    def presample(self, size: int) -> Examples:
        """The next presample."""

    def begin_epoch(self) -> None:
        """Called when an epoch begins."""

    def end_epoch(self) -> None:
        """Called when an epoch ends."""

    def restart(self) -> None:
        """Makes the next uniform batch begin a new pass."""

    def identity(self) -> Any:
        """Identifies the data: equal if and only if they are the same, but for accidents."""

    def state(self) -> ReaderState:
        """State for `restore`."""

    def restore(self, state: ReaderState) -> None:
        """Restores what `state` returned."""

    def close(self) -> None:
        """Stops workers and threads, and frees copies of the data."""


class ArrayReader:
    """Reads batches and presamples from permutations of arrays.

    It keeps two permutations: a uniform epoch is one whole permutation, as
    in `model.fit`; presamples go through the other one across epochs.

    Args:
        source: `ArraySource`.
        batch_size: int, `b`.
        generators: two `np.random.Generator`.
        shuffle: bool, whether the data is permuted.

    Attributes:
        most_together: int, how many batches may be drawn ahead, given the memory they take.
    """

    def __init__(
        self,
        source: ArraySource,
        batch_size: int,
        generators: list[np.random.Generator],
        shuffle: bool,
    ) -> None:
        self.source = source
        self.batch_size = min(batch_size, source.size)
        self.num_batches = self.pass_length = math.ceil(source.size / self.batch_size)
        self.is_open_ended = False
        self.form = ItemForm(
            # The last batch of an epoch may be smaller.
            fixed_size=None if source.size % self.batch_size else self.batch_size,
            sparse=[scipy.sparse.issparse(leaf) for leaf in present_leaves((source.x, source.y))],
            has_one_shape=True,
        )
        size: int = sum(leaf.nbytes for leaf in present_leaves(self.first(self.batch_size)))
        self.most_together = max(1, min(TOGETHER, TOGETHER_BYTES // max(1, size)))
        orders = [generator if shuffle else None for generator in generators]
        self._uniform = Permutations(source.size, orders[0])
        self._presample = Permutations(source.size, orders[1])

    def goes_on(self, steps: int, are_waiting: bool) -> bool:
        return steps < self.pass_length

    def presample_size(self, ratio: float) -> int:
        """The presample size `B` for a presample ratio."""
        # Rounded first, so that 1.1 * 10 makes 11 and not 12.
        wanted = math.ceil(round(ratio * self.batch_size, 6))
        if wanted > self.source.size:
            warnings.warn(
                f"`presample` asks for {wanted} examples a step, the data have "
                f"{self.source.size}: every step scores all of them.",
                stacklevel=5,
            )
        return min(wanted, self.source.size)

    def first(self, count: int) -> Data:
        """The first `count` examples, repeated if there are fewer; changes no state."""
        return self.source.take(np.arange(count) % self.source.size)

    def specimens(self, count: int) -> list[Examples]:
        """One batch of the first examples, in a list; changes no state."""
        return [self.examples(np.arange(self.batch_size))]

    def uniform(self, by_index: bool = False) -> Examples:
        """The next uniform batch, smaller at a pass's end; with `by_index`, without `x` and `y`."""
        return self.examples(self._uniform.take(self.batch_size, across=False), by_index)

    @property
    def size(self) -> int:
        """int, the number of examples."""
        return self.source.size

    def identity(self) -> Any:
        return self.source.identity()

    @property
    def is_within_pass(self) -> bool:
        """Whether the current permutation of uniform batches has been read in part."""
        return self._uniform.left < self.size

    def examples(self, indices: IntArray, by_index: bool = False) -> Examples:
        """The examples at these indices; with `by_index`, without `x` and `y`."""
        return Examples(self.source.take(indices, only_weights=by_index), indices)

    def uniform_indices(self, count: int) -> IntArray:
        """The next `count` indices of the permutation; fewer at its end."""
        return self._uniform.take(count, across=False)

    def presample(self, size: int) -> Examples:
        """The next presample."""
        presample = self.examples(self._presample.take(size))
        return dataclasses.replace(presample, batches=size / self.batch_size)

    @property
    def together(self) -> int:
        """How many uniform batches may be drawn ahead."""
        return min(self.most_together, math.ceil(self._uniform.left / self.batch_size))

    def take_back(self, count: int) -> None:
        """Makes `uniform` return the last `count` examples again; at most those drawn together."""
        self._uniform.step_back(count)

    def begin_epoch(self) -> None:
        """Called when an epoch begins."""

    def end_epoch(self) -> None:
        """Called when an epoch ends."""

    def restart(self) -> None:
        """Makes the next uniform batch begin a new permutation."""
        self._uniform.restart()

    def state(self) -> ReaderState:
        return ReaderState(self._uniform.state(), self._presample.state())

    def restore(self, state: ReaderState) -> None:
        self._uniform.restore(state.uniform)
        if self.form.fixed_size is not None and self._uniform.left % self.form.fixed_size:
            # The position was saved with another batch size.
            self._uniform.restart()
        self._presample.restore(state.presample)

    def close(self) -> None:
        """Frees copies of the arrays."""
        self.source.leave_device()
