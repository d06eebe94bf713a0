"""Data sets held in memory as arrays, where every example is needed by its index."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_swift.src._pages import read_on
from keras_swift.src._types import ArrayTree
from keras_swift.src.data.leaves import present_leaves
from keras_swift.src.data.read import as_numpy
from keras_swift.src.data.streams import is_dataset, is_endless, is_stream

# A data set is held in memory up to this many bytes.
HELD_BYTES = 2 * 2**30


def held(data: Any, argument: str = "validation_data") -> tuple[ArrayTree, ...]:
    """Data as a tuple of arrays `(x, y)` or `(x, y, sample_weight)`.

    Args:
        data: such a tuple, or a `PyDataset`, `tf.data.Dataset` or
            `DataLoader`, which is read once.
        argument: str, its name in errors. Defaults to `"validation_data"`.

    Raises:
        TypeError: for a generator, and anything else that is not data.
        ValueError: for a data set without an end, without targets, empty, or
            larger than `HELD_BYTES`.
    """
    if isinstance(data, tuple | list):
        if len(data) not in (2, 3):
            raise ValueError(
                f"`{argument}` must be `(x, y)` or `(x, y, sample_weight)`. Received: "
                f"{len(data)} parts."
            )
        return tuple(data)
    batches, size = [], 0
    for batch in _batches(data, argument):
        parts = _parts(batch)
        if parts[1] is None:
            raise ValueError(
                f"`{argument}` must yield targets with its inputs. Received: batches without."
            )
        size += sum(leaf.nbytes for leaf in present_leaves(parts))
        if size > HELD_BYTES:
            larger = "A sampler that was found on a part trains on all of a stream: "
            larger += "`SwiftTraining(model, result.sampler)`. "
            raise ValueError(
                f"`{argument}` is held in memory, up to {HELD_BYTES / 2**30:g} GiB. Received: "
                "more. Take a part of it (`dataset.take(...)`), or pass memory-mapped arrays. "
                + (larger if argument == "x" else "")
                + read_on("swift_sampler.md#limits")
            )
        batches.append(parts)
    if not batches:
        raise ValueError(f"`{argument}` must hold at least one batch. Received: none.")
    count = 2 if batches[0][2] is None else 3
    return tuple(
        keras.tree.map_structure(
            lambda *leaves: np.concatenate(leaves), *(batch[part] for batch in batches)
        )
        for part in range(count)
    )


def held_examples(
    x: Any, y: ArrayTree, sample_weight: ArrayTree
) -> tuple[ArrayTree, ArrayTree, ArrayTree]:
    """Examples as arrays `(x, y, sample_weight)`; those of a data set in the order of a pass.

    Args:
        x: structure of arrays; or a `PyDataset`, `tf.data.Dataset` or
            `DataLoader` of batches, with the same batches in every pass.
        y, sample_weight: structures of arrays; `None` with a data set, which
            has its own.

    Raises:
        TypeError: for a generator.
        ValueError: for a data set that cannot be held, comes in another order
            at each pass, or is given beside `y` or `sample_weight`.
    """
    if not is_stream(x):
        return x, y, sample_weight
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise ValueError(
                f"`{name}` must not be given with a data set, which brings its own targets and "
                f"weights. Received: x of type {type(x).__name__}."
            )
    found = held(x, "x")
    first = _parts(next(iter(_batches(x, "x"))))
    same = all(
        # NaN is refused later, by an error of its own; strings have none to compare.
        np.array_equal(again, whole[: len(again)], equal_nan=again.dtype.kind in "fc")
        for again, whole in zip(present_leaves(first), present_leaves(found), strict=True)
    )
    if not same:
        raise ValueError(
            "`x` must be the same examples in the same order at each pass: features and draws "
            f"belong to examples with an index. Received: a {type(x).__name__} whose first batch "
            "changes. Leave shuffling and augmentation out of it; draws come in random order "
            "anyway."
        )
    x, y, sample_weight = (*found, None)[:3]
    return x, y, sample_weight


def _parts(batch: Any) -> tuple[ArrayTree, ArrayTree, ArrayTree]:
    """`(x, y, sample_weight)` of NumPy arrays; what is missing is `None`."""
    if isinstance(batch, tuple | list) and len(batch) == 4:
        # The ids, which are not needed where examples have an index.
        batch = tuple(batch[:3])
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    x, y, sample_weight = (
        None if part is None else keras.tree.map_structure(as_numpy, part)
        for part in (x, y, sample_weight)
    )
    return x, y, sample_weight


def _batches(data: Any, argument: str) -> Iterable[Any]:
    """The batches of one pass over a data set."""
    check_ends(data, argument)
    if isinstance(data, keras.utils.PyDataset):
        return (data[index] for index in range(data.num_batches or 0))
    batches: Iterable[Any] = iter(data)
    return batches


def check_ends(data: Any, argument: str) -> None:
    """Raises unless `data` is a data set that has an end and can be read again.

    Raises:
        TypeError: for a generator, and anything else that is not a data set.
        ValueError: for a data set without an end.
    """
    is_generator = isinstance(data, types.GeneratorType) or hasattr(data, "__next__")
    # Some `PyDataset`s are generators too, such as those of Keras' `ImageDataGenerator`.
    if is_generator and not is_dataset(data):
        raise TypeError(
            f"`{argument}` must be data that has an end and can be read again. "
            f"Received: {type(data).__name__}, which may never end and can be read only "
            "once. Pass arrays, a `PyDataset` or a `tf.data.Dataset`."
        )
    if not is_stream(data):
        raise TypeError(
            f"`{argument}` must be `(x, y)` or a data set of such batches. Received: "
            f"{type(data).__name__}."
        )
    endless = data.num_batches is None if is_dataset(data) else is_endless(data)
    if endless:
        raise ValueError(
            f"`{argument}` must have an end. Received: "
            f"{type(data).__name__} without one. Take a finite number of its batches."
        )
