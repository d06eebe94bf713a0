"""Draws rows from a pool, the next batches of a stream and earlier ones, in groups of one shape.

As many rows are drawn as were just read, and cut into batches as long as those that were read.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from keras_swift.src._types import Array, FloatArray, IntArray
from keras_swift.src.data.arrays import Data
from keras_swift.src.data.leaves import all_leaves, packed, present_leaves
from keras_swift.src.records.known import Known

# From the places of some entries of the pool, and the number `m` of rows to draw from them, to
# `(positions, weights)`: int and float64 arrays of shape `(m,)`. Positions count the rows of these
# entries, one after another.
DrawRows: TypeAlias = Callable[[list[int], int], tuple[IntArray, FloatArray]]


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows of one shape that were drawn from a pool.

    Attributes:
        data: the drawn rows, `(x, y, sample_weight)`, first axis `m`.
        pool: int array, shape `(k,)`, the numbers of the pool's examples of this shape.
        positions: int array, shape `(m,)`, the drawn rows, into `pool`.
        indices: int array, shape `(m,)`, the drawn rows, into the memory that users see.
        weights: float64 array, shape `(m,)`, their importance weights.
        length: int, how many numbers a row of the first input has.
    """

    data: Data
    pool: IntArray
    positions: IntArray
    indices: IntArray
    weights: FloatArray
    length: int


def drawn_batches(
    batches: Sequence[Known], draw: DrawRows, earlier: Sequence[Known] = ()
) -> list[tuple[Group, slice]]:
    """The drawn batches, to train on in place of those that were read.

    Args:
        batches: sequence of `Known` that were just read, from `joined_by_shape`; as many rows of
            each shape are drawn.
        draw: function that draws, called once for each shape. Places count `earlier` first.
        earlier: sequence of `Known`, whose rows may be drawn as well. Defaults to none.

    Returns:
        A list with a group and a slice of its draws for each batch, in the order of reading.
    """
    pool = [*earlier, *batches]
    found: dict[int, tuple[Group, slice]] = {}
    for new in batches:
        places = [place for place, known in enumerate(pool) if known.shape == new.shape]
        group = _drawn_group([pool[place] for place in places], draw(places, len(new.numbers)))
        ends = np.cumsum([0, *new.sizes]).tolist()
        for place, rows in zip(new.places, itertools.pairwise(ends), strict=True):
            found[place] = group, slice(*rows)
    return [found[place] for place in sorted(found)]


def _drawn_group(batches: list[Known], drawn: tuple[IntArray, FloatArray]) -> Group:
    positions, weights = drawn
    numbers = np.concatenate([batch.numbers for batch in batches])
    indices = np.concatenate([batch.indices for batch in batches])[positions]
    data = _rows_of(batches, positions)
    return Group(data, numbers, positions, indices, weights, row_length(data))


def _rows_of(batches: list[Known], positions: IntArray) -> Data:
    """The rows at these positions of the batches, as if they were joined; only these are copied."""
    ends = np.cumsum([len(batch.numbers) for batch in batches])
    order = np.argsort(positions, kind="stable")
    begins = np.searchsorted(positions[order], [0, *ends])

    def gathered(leaves: Sequence[Array | None]) -> Array | None:
        present = [leaf for leaf in leaves if leaf is not None]
        if not present:
            return None
        dtype = np.result_type(*{leaf.dtype for leaf in present})
        rows = np.empty((len(positions), *present[0].shape[1:]), dtype)
        for number, leaf in enumerate(present):
            places = order[begins[number] : begins[number + 1]]
            rows[places] = leaf[positions[places] - (ends[number] - len(leaf))]
        return rows

    # All have as many leaves, `None`s included, because their structure is the same.
    columns = zip(*(all_leaves(batch.data) for batch in batches), strict=True)
    data: Data = packed(batches[0].data, map(gathered, columns))
    return data


def row_length(data: Data) -> int:
    """How many numbers a row of the first input has."""
    leaves = present_leaves(data[0])
    return math.prod(leaves[0].shape[1:]) if leaves else 1
