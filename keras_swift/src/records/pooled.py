"""Draws from a pool: the rows of the next batches of a stream, within groups of one shape.

As many rows are drawn as were read, and cut into batches as long as those that were read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from keras_swift.src._types import FloatArray, IntArray
from keras_swift.src.data.arrays import Data
from keras_swift.src.data.leaves import present_leaves, structure_key
from keras_swift.src.data.stream_reader import joined
from keras_swift.src.records.known_reader import Known

# From the places of some batches in the pool: which of their rows are drawn, one after another, and
# with what weights; int and float64 arrays of shape `(m,)`.
DrawRows: TypeAlias = Callable[[list[int]], tuple[IntArray, FloatArray]]


@dataclasses.dataclass(frozen=True)
class Group:
    """The rows of a pool that have one shape, which are drawn together.

    Attributes:
        data: the rows, `(x, y, sample_weight)`, first axis `m`.
        numbers: int array, shape `(m,)`, which examples they are.
        indices: int array, shape `(m,)`, where these are in the memory that users see.
        positions: int array, shape `(m,)`, the drawn rows.
        weights: float64 array, shape `(m,)`, their importance weights.
        length: int, how many numbers a row of the first input has.
    """

    data: Data
    numbers: IntArray
    indices: IntArray
    positions: IntArray
    weights: FloatArray
    length: int


def drawn_batches(batches: Sequence[Known], draw: DrawRows) -> list[tuple[Group, slice]]:
    """The batches that are trained on in place of those that were read.

    Args:
        batches: sequence of `Known`, the pool.
        draw: called once for each group of one shape.

    Returns:
        A list with a group and a slice of its draws for each batch.
    """
    by_shape: dict[str, list[int]] = {}
    for place, batch in enumerate(batches):
        by_shape.setdefault(_shape_of(batch), []).append(place)
    found: dict[int, tuple[Group, slice]] = {}
    for places in by_shape.values():
        some = [batches[place] for place in places]
        data = joined([batch.data for batch in some])
        numbers = np.concatenate([batch.numbers for batch in some])
        indices = np.concatenate([batch.indices for batch in some])
        group = Group(data, numbers, indices, *draw(places), row_length(data))
        end = 0
        for place, batch in zip(places, some, strict=True):
            found[place] = group, slice(end, end + len(batch.numbers))
            end += len(batch.numbers)
    return [found[place] for place in range(len(batches))]


def row_length(data: Data) -> int:
    """How many numbers a row of the first input has."""
    leaves = present_leaves(data[0])
    return math.prod(leaves[0].shape[1:]) if leaves else 1


def _shape_of(batch: Known) -> str:
    """What batches must have in common to be joined."""
    leaves = [(leaf.shape[1:], leaf.dtype.kind) for leaf in present_leaves(batch.data)]
    return f"{structure_key(batch.data)} {leaves}"
