"""Numbers the examples of a stream by keys of 64 bits: of what they contain, or of the user's ids.

This file decides which bytes of an example make its key, and how keys are looked up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash

from keras_swift.src._types import Array, IntArray
from keras_swift.src.data.leaves import is_text, present_leaves
from keras_swift.src.data.read import Read
from keras_swift.src.records.growing import GrowingRows

# Of a longer row only its first bytes make the key, and a piece at every so many bytes after them.
# The places do not depend on the length, so padding a row does not change its key.
WHOLE = 2048
PIECE, EVERY = 64, 4096
# The share of the slots of a table that may be taken, and by how much a full one grows.
LOAD, GROWTH = 0.5, 1.5


def content_keys(read: Read) -> Array:
    """A hash of each row of the inputs and targets of a batch.

    Trailing zero bytes do not count: a sequence keeps its key however far it is padded. Of a row of
    more than 2048 bytes, the first 2048 count and 64 at every 4096 after them.

    Args:
        read: `Read`, a batch of `b` examples.

    Returns:
        uint64 array, shape `(b,)`.

    Example:
        >>> x = np.array([[3, 1, 0], [3, 1, 0], [4, 0, 0]])
        >>> keys = content_keys(Read((x, np.array([0, 0, 1]))))
        >>> (keys[0] == keys[1], keys[0] == keys[2])
        (np.True_, np.False_)
        >>> padded = Read((np.pad(x, ((0, 0), (0, 2))), np.array([0, 0, 1])))
        >>> bool((keys == content_keys(padded)).all())
        True
    """
    leaves = [_bytes_of_rows(leaf) for leaf in present_leaves(read.batch[:2])]
    hash_of = xxhash.xxh3_64_intdigest
    if len(leaves) == 1:
        keys = [hash_of(row) for row in leaves[0]]
    else:
        # The length of each part is in its own hash, so no two parts can be mistaken for one.
        keys = []
        for parts in zip(*leaves, strict=True):
            key = 0
            for part in parts:
                key = hash_of(part, key)
            keys.append(key)
    return np.array(keys, np.uint64)


def id_keys(ids: Array) -> Array:
    """A key for each id, shape `(b,)`: one of its own for each integer, a hash of a string.

    Args:
        ids: array of integers or strings, shape `(b,)`.
    """
    if ids.dtype.kind in "iu":
        return _mixed(ids.astype(np.int64).view(np.uint64))
    texts = [name if isinstance(name, bytes) else name.encode() for name in ids.tolist()]
    return np.array([xxhash.xxh3_64_intdigest(name) for name in texts], np.uint64)


class KeyTable:
    """Numbers keys in the order in which they are first seen: 0, 1, 2, ...

    An open hash table with linear probing, in arrays: 8 bytes for each key and 4 for each of two to
    three slots, without a Python object for any.

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
        left = np.arange(len(keys))
        slots, known = self._homes(keys), self.keys
        if not len(known):
            return found
        while len(left):
            numbers = self._slots[slots]
            taken = numbers >= 0
            same = taken & (known[numbers] == keys[left])
            found[left[same]] = numbers[same]
            goes_on = taken & ~same
            left, slots = left[goes_on], (slots[goes_on] + 1) % len(self._slots)
        return found

    def numbers(self, keys: Array) -> IntArray:
        """The numbers of these keys, shape `(b,)`; new keys get the next ones."""
        found = self.find(keys)
        new = np.flatnonzero(found < 0)
        if len(new):
            different, first, inverse = np.unique(keys[new], return_index=True, return_inverse=True)
            # In the order in which they come, not in that of the keys.
            ranks = np.argsort(np.argsort(first))
            before = len(self)
            found[new] = before + ranks[inverse]
            self._add(different, before + ranks, before + len(different))
        return found

    def place(self, keys: Array, numbers: IntArray, count: int) -> None:
        """Gives keys the numbers of the rows they stand for; of equal keys the first counts.

        Args:
            keys: uint64 array, shape `(b,)`.
            numbers: int array, shape `(b,)`, none of them given before.
            count: int, how many numbers have been given then.
        """
        unknown = self.find(keys) < 0
        different, first = np.unique(keys[unknown], return_index=True)
        self._add(different, numbers[unknown][first], count)

    def restore(self, keys: Array) -> None:
        """Makes it the table of these keys, in the order of their numbers."""
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
            # Of several keys for one slot the last is there; the others look further.
            self._slots[slots[empty]] = numbers[empty]
            rest = self._slots[slots] != numbers
            numbers, slots = numbers[rest], (slots[rest] + 1) % len(self._slots)


def _slots_for(count: int) -> int:
    return int(count / LOAD) + 1


def _mixed(keys: Array) -> Array:
    """A one-to-one mix of the bits of 64-bit integers (the finalizer of splitmix64)."""
    with np.errstate(over="ignore"):
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = keys ^ (keys >> np.uint64(31))
    return mixed


def _bytes_of_rows(leaf: Array) -> list[bytes]:
    """What counts of each row of an array, without the zero bytes at its end."""
    if is_text(leaf):
        return [_joined(row) for row in leaf.reshape(len(leaf), -1).tolist()]
    rows = np.ascontiguousarray(leaf).reshape(len(leaf), -1).view(np.uint8)
    width = rows.shape[1]
    if width > WHOLE:
        count = (width - WHOLE) // EVERY
        end = WHOLE + count * EVERY
        # Of the last piece there may be only a part.
        pieces = rows[:, WHOLE:end].reshape(len(rows), count, EVERY)[:, :, :PIECE]
        parts = [rows[:, :WHOLE], pieces.reshape(len(rows), -1), rows[:, end : end + PIECE]]
        rows = np.concatenate(parts, axis=1)
        width = rows.shape[1]
    whole = rows.tobytes()
    return [whole[start : start + width].rstrip(b"\0") for start in range(0, len(whole), width)]


def _joined(texts: list[Any]) -> bytes:
    return b"\0".join(t if isinstance(t, bytes) else str(t).encode() for t in texts)
