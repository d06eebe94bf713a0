"""A stream of batches that is dealt anew at each pass."""

import numpy as np


class Dealt:
    """An iterable of batches of 32 in a new order at each pass.

    Args:
        orders: int arrays, the order of each pass; the last one is repeated.
        form: function of rows that returns the item.

    Attributes:
        passes: int, how many were begun.
        whole: list of the orders of those that were read to their last batch.
    """

    def __init__(self, orders, form):
        self.orders, self.form, self.passes, self.whole = orders, form, 0, []

    def __len__(self):
        return -(-len(self.orders[0]) // 32)

    def __iter__(self):
        order = self.orders[min(self.passes, len(self.orders) - 1)]
        self.passes += 1
        for start in range(0, len(order), 32):
            if start + 32 >= len(order):
                self.whole.append(order)
            yield self.form(order[start : start + 32])


def shuffled(n, passes=30):
    """Orders of `n` rows, one for each pass."""
    generator = np.random.default_rng(1)
    return [generator.permutation(n) for _ in range(passes)]
