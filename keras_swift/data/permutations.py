"""Random orders of the examples, one after the other."""

import numpy as np


class Permutations:
    """Goes through the examples in one random order after the other.

    With no generator the order is that of the data.
    """

    def __init__(self, size, generator):
        self._size = size
        self._generator = generator
        self._order = None
        self._next = 0

    def take(self, count, across=True):
        """The next `count` indices; fewer at the end where not `across` orders."""
        taken = []
        while count > 0:
            if self._order is None or self._next == self._size:
                if taken and not across:
                    break
                self._renew()
            part = self._order[self._next : self._next + count]
            self._next += len(part)
            count -= len(part)
            taken.append(part)
        return np.concatenate(taken)

    def _renew(self):
        self._next = 0
        self._order = (
            np.arange(self._size)
            if self._generator is None
            else self._generator.permutation(self._size)
        )

    @property
    def left(self):
        """int, how many indices the present order has left, or the next if it has none."""
        ended = self._order is None or self._next == self._size
        return self._size if ended else self._size - self._next

    def step_back(self, count):
        """Lets `take` give the last `count` indices again, which have to be of one order."""
        self._next -= count

    def upcoming(self, count):
        """The indices that `take` gives next, up to `count` of what is settled already."""
        if self._order is None or self._next == self._size:
            self._renew()
        return self._order[self._next : self._next + count].tolist()

    def restart(self, size=None):
        """Lets the next `take` begin a new order, of another size if it has changed."""
        self._size = self._size if size is None else size
        self._order, self._next = None, 0

    def state(self):
        state = None if self._generator is None else self._generator.bit_generator.state
        return self._order, self._next, state

    def restore(self, state):
        self._order, self._next, generator = state
        if self._generator is not None:
            self._generator.bit_generator.state = generator
