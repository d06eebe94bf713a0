"""Numbers the examples of a stream by 64-bit keys, made from their contents or the user's ids.

This file decides which bytes of an example make its key, and how keys are looked up.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash

from keras_swift.src._types import Array, IntArray
from keras_swift.src.data.leaves import is_text, present_leaves
from keras_swift.src.data.read import StreamBatch
from keras_swift.src.records.growing import GrowingRows

# The key of a row covers its first `WHOLE` bytes and, after them, `PIECE` bytes in every `EVERY`.
# Where these are does not depend on the length, so padding a row does not change its key.
WHOLE = 2048
PIECE, EVERY = 64, 4096
# The largest share of a table's slots that is taken, and the factor by which a full table grows.
LOAD, GROWTH = 0.5, 1.5
# The slots that are looked into at a time, after the first.
PROBES = 8


def content_keys(batches: Sequence[StreamBatch]) -> Array:
    """A hash of each row of the inputs and targets of some batches, one batch after another.

    Trailing zero bytes do not count: a sequence keeps its key however far it is padded with zeros.
    In a row of more than 2048 bytes, the first 2048 count and, after them, 64 in every 4096.

    Args:
        batches: sequence of `(x, y)` or `(x, y, sample_weight)`, of `n` examples together.

    Returns:
        uint64 array, shape `(n,)`.

    Example:
        >>> x, y = np.array([[3, 1, 0], [3, 1, 0], [4, 0, 0]]), np.array([0, 0, 1])
        >>> keys = content_keys([(x, y)])
        >>> (keys[0] == keys[1], keys[0] == keys[2])
        (np.True_, np.False_)
        >>> padded = np.pad(x, ((0, 0), (0, 2)))
        >>> bool((keys == content_keys([(padded, y)])).all())
        True
    """
    leaves = [present_leaves(batch[:2]) for batch in batches]
    if len({tuple(map(is_text, own)) for own in leaves}) > 1:
        # Batches of several forms.
        return np.concatenate([content_keys([batch]) for batch in batches])
    keys: Array | None = None
    for column in zip(*leaves, strict=True):
        own = _text_keys(column) if is_text(column[0]) else _number_keys(column)
        # Mixed before it is added, so that swapping the contents of two arrays changes the key.
        keys = own if keys is None else _mixed(keys) + own
    if keys is None:
        raise RuntimeError("a batch has no inputs")
    return keys


def id_keys(ids: Array) -> Array:
    """A key for each id, a uint64 array of shape `(b,)`: unique for integers, hashes of strings.

    Args:
        ids: array of integers or strings, shape `(b,)`.
    """
    if ids.dtype.kind in "iu":
        return _mixed(ids.astype(np.int64).view(np.uint64))
    return _text_keys([ids])


class KeyTable:
    """Numbers keys in the order in which they are first seen: 0, 1, 2, ...

    A hash table with open addressing and linear probing, in arrays: each key takes 8 bytes, and 4
    for each of its two to three slots, but no Python object.

    Args:
        expected: int, how many keys to make room for. Defaults to 0.

    Example:
        >>> table = KeyTable()
        >>> table.numbers(np.array([7, 9, 7], np.uint64)).tolist(), len(table)
        ([0, 1, 0], 2)
        >>> table.numbers(np.array([5, 9], np.uint64)).tolist()
        [2, 1]
    """

    def __init__(self, expected: int = 0) -> None:
        self._rows = GrowingRows(0, (), 0, np.uint64)
        self._slots = np.full(_slots_for(max(expected, 64)), -1, np.int32)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def keys(self) -> Array:
        """uint64 array, shape `(n,)`, the keys in the order of their numbers."""
        return self._rows.values

    def find(self, keys: Array) -> IntArray:
        """The numbers of these keys, shape `(b,)`; -1 for those that have none."""
        found = np.full(len(keys), -1, np.int64)
        known = self.keys
        if not len(known):
            return found
        homes = self._homes(keys)
        # Most keys are at home. For the others NumPy looks into eight slots at once.
        numbers = self._slots[homes]
        full = numbers >= 0
        same = full & (known[numbers] == keys)
        found[same] = numbers[same]
        left, ahead = np.flatnonzero(full & ~same), np.arange(1, 1 + PROBES)
        while len(left):
            numbers = self._slots[(homes[left, None] + ahead) % len(self._slots)]
            empty = numbers < 0
            same = ~empty & (known[numbers] == keys[left, None])
            # A search ends at the key's own slot, or at the first empty one.
            rows, ends = np.arange(len(left)), (same | empty).argmax(axis=1)
            there = same[rows, ends]
            found[left[there]] = numbers[rows, ends][there]
            left, ahead = left[~there & ~empty[rows, ends]], ahead + PROBES
        return found

    def numbers(self, keys: Array) -> IntArray:
        """The numbers of these keys, shape `(b,)`; new keys get the next ones."""
        found = self.find(keys)
        new = np.flatnonzero(found < 0)
        if len(new):
            keys, before = keys[new], len(self)
            ranks = np.arange(len(keys))
            if len(np.unique(keys)) < len(keys):
                keys, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
                # `np.unique` sorts by key; numbers follow the order in which the keys come.
                ranks = np.argsort(np.argsort(first))
                found[new] = before + ranks[inverse]
            else:
                found[new] = before + ranks
            self._add(keys, before + ranks, before + len(keys))
        return found

    def place(self, keys: Array, numbers: IntArray, count: int) -> None:
        """Stores keys under given numbers; among equal keys the first counts.

        Args:
            keys: uint64 array, shape `(b,)`.
            numbers: int array, shape `(b,)`, none of them in use.
            count: int, how many numbers are in use afterwards.
        """
        unknown = self.find(keys) < 0
        different, first = np.unique(keys[unknown], return_index=True)
        self._add(different, numbers[unknown][first], count)

    def restore(self, keys: Array) -> None:
        """Replaces the contents by these keys, which are in the order of their numbers."""
        self._rows = GrowingRows(0, (), 0, np.uint64)
        self._slots = np.full(_slots_for(max(len(keys), 64)), -1, np.int32)
        self._add(keys, np.arange(len(keys)), len(keys))

    def _add(self, keys: Array, numbers: IntArray, count: int) -> None:
        self._rows.resize(count)
        self.keys[numbers] = keys
        if count > LOAD * len(self._slots):
            kept = self._slots[self._slots >= 0].astype(np.int64)
            self._slots = np.full(int(GROWTH * _slots_for(count)), -1, np.int32)
            self._insert(self.keys[kept], kept)
        self._insert(keys, numbers)

    def _homes(self, keys: Array) -> IntArray:
        # The upper half of the key, scaled to the slots without a division.
        upper = keys >> np.uint64(32)
        homes: IntArray = ((upper * np.uint64(len(self._slots))) >> np.uint64(32)).astype(np.int64)
        return homes

    def _insert(self, keys: Array, numbers: IntArray) -> None:
        slots = self._homes(keys)
        while len(numbers):
            empty = self._slots[slots] < 0
            # If several keys want one slot, NumPy keeps the last; the others probe on.
            self._slots[slots[empty]] = numbers[empty]
            rest = self._slots[slots] != numbers
            numbers, slots = numbers[rest], (slots[rest] + 1) % len(self._slots)


def _slots_for(count: int) -> int:
    return int(count / LOAD) + 1


def _mixed(keys: Array) -> Array:
    """A one-to-one mix of the bits of 64-bit integers (the finalizer of splitmix64)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = keys ^ (keys >> np.uint64(31))
    return mixed


def _number_keys(leaves: Sequence[Array]) -> Array:
    """A hash of each row of some arrays of numbers, of the bytes that `_words_of_rows` selects.

    Two sums of the row's 32-bit words times 64-bit factors, of which the upper halves are kept:
    with random factors, two rows share a key with probability 2^-64 ("multilinear hashing", Lemire
    and Kaser 2014, Strongly universal string hashing is fast). Zeros add nothing, so trailing ones
    do not count, and one call hashes many batches, also of different widths.
    """
    words = [_words_of_rows(leaf) for leaf in leaves]
    width = max(part.shape[1] for part in words)
    joint = words[0] if len(words) == 1 else np.concatenate([_padded(w, width) for w in words])
    first, second = (np.einsum("ij,j->i", joint, factor) for factor in _factors(width))
    upper = np.uint64(32)
    keys: Array = ((first >> upper) << upper) | (second >> upper)
    return keys


def _factors(words: int) -> tuple[Array, Array]:
    """Two uint64 arrays of shape `(words,)`; a shorter pair is the beginning of a longer one."""
    whole = _all_factors(1 << (words - 1).bit_length())
    return whole[0, :words], whole[1, :words]


@functools.lru_cache(maxsize=8)
def _all_factors(words: int) -> Array:
    # The sequence of the splitmix64 generator, from seed 0.
    steps = np.arange(1, 2 * words + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.ascontiguousarray(_mixed(steps).reshape(words, 2).T)


def _words_of_rows(leaf: Array) -> Array:
    """The bytes of each row that make its key, as uint32 words; the last is padded with zeros."""
    count = len(leaf)
    rows = np.ascontiguousarray(leaf).reshape(count, -1).view(np.uint8)
    width = rows.shape[1]
    if width > WHOLE:
        pieces = (width - WHOLE) // EVERY
        end = WHOLE + pieces * EVERY
        # The last piece may be cut short by the end of the row.
        between = rows[:, WHOLE:end].reshape(count, pieces, EVERY)[:, :, :PIECE]
        parts = [rows[:, :WHOLE], between.reshape(count, -1), rows[:, end : end + PIECE]]
        rows = np.concatenate(parts, axis=1)
    width = rows.shape[1]
    return _padded(rows, max(4, width + -width % 4)).view(np.uint32)


def _padded(rows: Array, width: int) -> Array:
    """The rows with zeros behind them, as wide as this."""
    short = width - rows.shape[1]
    return np.pad(rows, ((0, 0), (0, short))) if short else rows


def _text_keys(leaves: Sequence[Array]) -> Array:
    """A hash of each row of some arrays of strings, or of objects that are strings."""
    hash_of = xxhash.xxh3_64_intdigest
    rows = [row for leaf in leaves for row in leaf.reshape(len(leaf), -1).tolist()]
    return np.array([hash_of(_joined(row).rstrip(b"\0")) for row in rows], np.uint64)


def _joined(texts: list[Any]) -> bytes:
    return b"\0".join(t if isinstance(t, bytes) else str(t).encode() for t in texts)
