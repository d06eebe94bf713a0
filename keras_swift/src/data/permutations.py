"""Random orders of the examples, one after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src._types import IntArray


@dataclasses.dataclass(frozen=True)
class PermutationState(SavedState):
    """The state of `Permutations`.

    Attributes:
        order: int array, the current order, or `None`.
        position: int, how many of its indices were taken.
        generator: dict, the generator's state, or `None`.
    """

    order: IntArray | None
    position: int
    generator: Mapping[str, Any] | None


class Permutations:
    """Yields the indices of all examples in one random order after another.

    Args:
        size: int, the number of examples.
        generator: `np.random.Generator`; `None` for the order of the data, each time.
    """

    def __init__(self, size: int, generator: np.random.Generator | None) -> None:
        self.size = size
        self._generator = generator
        self._order: IntArray | None = None
        self._next = 0

    def take(self, count: int, across: bool = True) -> IntArray:
        """The next `count` indices; fewer at the end of an order unless `across`."""
        taken: list[IntArray] = []
        while count > 0:
            order = self._order
            if order is None or self._next == self.size:
                if taken and not across:
                    break
                order = self._renew()
            part = order[self._next : self._next + count]
            self._next += len(part)
            count -= len(part)
            taken.append(part)
        return np.concatenate(taken)

    def _renew(self) -> IntArray:
        self._next = 0
        self._order = order = (
            np.arange(self.size)
            if self._generator is None
            else self._generator.permutation(self.size)
        )
        return order

    @property
    def left(self) -> int:
        """int, how many indices are left in this order, or in the next one if it has ended."""
        ended = self._order is None or self._next == self.size
        return self.size if ended else self.size - self._next

    def step_back(self, count: int) -> None:
        """Makes `take` return the last `count` indices again; these must be of one order."""
        self._next -= count

    def upcoming(self, count: int) -> list[int]:
        """The indices that `take` returns next, up to `count`, all of one order."""
        order = self._order
        if order is None or self._next == self.size:
            order = self._renew()
        indices: list[int] = order[self._next : self._next + count].tolist()
        return indices

    def restart(self, size: int | None = None) -> None:
        """Makes the next `take` begin a new order, of `size` examples if that is given."""
        self.size = self.size if size is None else size
        self._order, self._next = None, 0

    def state(self) -> PermutationState:
        generator = None if self._generator is None else self._generator.bit_generator.state
        return PermutationState(self._order, self._next, generator)

    def restore(self, state: PermutationState) -> None:
        self._order, self._next = state.order, state.position
        if self._generator is not None and state.generator is not None:
            self._generator.bit_generator.state = state.generator
