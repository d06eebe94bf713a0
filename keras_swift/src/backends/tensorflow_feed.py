"""Feeds a training run's batches to `model.fit` on TensorFlow, one by one or gathered by index."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_swift.src._types import Array, ArrayTree, Tensor
from keras_swift.src.backends.base import Fed
from keras_swift.src.data.leaves import present_leaves, with_leaves


def pipeline(dataset: Fed, model: keras.Model, fetches_ahead: bool) -> Any:
    """A `tf.data` dataset without a prefetch, which would run steps ahead.

    Args:
        dataset: `Fed`.
        model: `keras.Model` that will be trained on it.
        fetches_ahead: bool, whether the model's strategy fetches items before their steps.
    """
    # TensorFlow never frees the functions that a pipeline calls, nor what they refer to, so they
    # hold a weak reference. The caller of `fit` holds the dataset meanwhile.
    dataset = weakref.proxy(dataset)
    strategy = model.distribute_strategy
    several = strategy.num_replicas_in_sync > 1
    # `tf.data` would stack the arrays of a list into one tensor.
    specimens = [keras.tree.lists_to_tuples(item) for item in dataset.specimens(2)]
    example = specimens[0]
    # An array that is `None` here is `None` in every item.
    leaves = [tf.convert_to_tensor(leaf) for leaf in present_leaves(example)]
    shapes = _shapes(dataset, model, specimens)
    dtypes = [leaf.dtype for leaf in leaves]
    # Batches drawn together must be for the steps that follow, one by one. Where a strategy fetches
    # ahead, it is not known which step a batch is for.
    together = model.steps_per_execution == 1 and not (several or fetches_ahead)
    arrays = dataset.arrays_to_gather_from() if together else None
    if arrays is not None:
        data = _gathered(dataset, keras.tree.lists_to_tuples(arrays), example, dtypes, shapes)
    else:
        data = _items(dataset, example, dtypes, shapes)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    # The pipeline cannot be serialised for another worker.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    data = data.with_options(options)
    return strategy.experimental_distribute_dataset(data) if several else data


def _shapes(dataset: Fed, model: keras.Model, specimens: list[ArrayTree]) -> list[list[int | None]]:
    """The shape of each leaf of an item, `None` for axes that may differ between items.

    These are the axes that differ between two items, as in Keras' own data sets; those that the
    model or the source leaves open, because a third item may have another length than the first
    two; and those as long as one of the latter, because targets and masks have the length of their
    inputs.

    Raises:
        ValueError: if only some items have weights.
    """
    example, other = specimens[0], specimens[-1]
    shapes = [tuple(np.shape(leaf)) for leaf in present_leaves(example)]
    others = [tuple(np.shape(leaf)) for leaf in present_leaves(other)]
    if len(others) != len(shapes):
        raise ValueError(
            "The batches of a stream must all have weights, their third part, or none: "
            "TensorFlow wants one structure. Received: some with and some without. Give all "
            "of them weights, of 1 where an example has none."
        )
    lengths = set() if dataset.form.has_one_shape else _open_lengths(dataset, model, example)
    return [
        [
            # If the batch size is known, steps of recurrent layers take less time.
            dataset.form.fixed_size,
            *(
                size if size == second and size not in lengths else None
                for size, second in zip(shape[1:], another[1:], strict=True)
            ),
        ]
        for shape, another in zip(shapes, others, strict=True)
    ]


def _open_lengths(dataset: Fed, model: keras.Model, example: ArrayTree) -> set[int]:
    """The lengths, in this item, of the axes that its model or its source leaves open."""
    given = [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or []]
    spec = [getattr(leaf, "shape", None) for leaf in keras.tree.flatten(dataset.form.element_spec)]
    found: set[int] = set()
    for shapes, leaves in ((given, present_leaves(example[0])), (spec, present_leaves(example))):
        for shape, leaf in zip(shapes, leaves, strict=False):
            # Some shapes have no known rank.
            if shape is None or getattr(shape, "rank", 0) is None or len(shape) != leaf.ndim:
                continue
            found |= {leaf.shape[axis] for axis in range(1, leaf.ndim) if shape[axis] is None}
    # Length 1 stays known: losses drop the last axis of targets only if they know that it is 1.
    return found - {1}


def _items(
    dataset: Fed, example: ArrayTree, dtypes: list[tf.DType], shapes: list[list[int | None]]
) -> tf.data.Dataset:
    """The items of a dataset, each made on request."""

    def item(index: Array) -> list[Array]:
        return _of_types(present_leaves(dataset[int(index)]), dtypes)

    # Sparse again if they came sparse: then the gradient of the first layer is sparse too.
    sparse = [*dataset.form.sparse, *[False] * len(dtypes)]

    def load(index: Tensor) -> ArrayTree:
        tensors = _called(item, index, dtypes, shapes)
        leaves = [
            tf.sparse.from_dense(tensor) if as_sparse else tensor
            for tensor, as_sparse in zip(tensors, sparse, strict=False)
        ]
        return with_leaves(example, leaves)

    if not dataset.is_open_ended:
        return tf.data.Dataset.range(dataset.num_batches).map(load)

    def goes_on(index: Tensor) -> Tensor:
        return tf.reshape(tf.numpy_function(lambda _: dataset.goes_on(), [index], tf.bool), ())

    # Keras continues in one iterator from epoch to epoch, until it ends.
    return tf.data.Dataset.range(2**62).take_while(goes_on).map(load)


def _gathered(
    dataset: Fed,
    arrays: tuple[ArrayTree, ArrayTree],
    example: ArrayTree,
    dtypes: list[tf.DType],
    shapes: list[list[int | None]],
) -> tf.data.Dataset:
    """The items of a dataset, whose rows are gathered by index from copies of the arrays.

    TensorFlow calls Python once for all batches drawn together, and gathers
    the rows itself, as in `model.fit`.
    """
    count = len(present_leaves(arrays))
    with tf.device("CPU:0"):
        # The arrays are a data set of their own: if `gather` captured them, its graph would keep
        # them in memory until Python's garbage collector runs.
        whole = tf.data.Dataset.from_tensors(
            tuple(
                tf.convert_to_tensor(array, dtype)
                for array, dtype in zip(present_leaves(arrays), dtypes, strict=False)
            )
        )
    dtypes = [tf.int64, *dtypes[count:]]
    shapes = [
        [None, shape[0], *shape[1:]] for shape in ([dataset.form.fixed_size], *shapes[count:])
    ]

    def batches(_: Array) -> list[Array]:
        rows = [keras.tree.flatten(batch) for batch in dataset.next_batches()]
        return _of_types([np.stack(parts) for parts in zip(*rows, strict=True)], dtypes)

    def gather(told: tuple[Tensor, ...], arrays: tuple[Tensor, ...]) -> ArrayTree:
        indices, *weights = told
        rows = [tf.gather(array, indices) for array in arrays]
        return with_leaves(example, [*rows, *weights])

    number = dataset.num_batches
    told = (
        tf.data.Dataset.range(number)
        .map(lambda index: tuple(_called(batches, index, dtypes, shapes)))
        .unbatch()
        .take(number)
    )
    data = tf.data.Dataset.zip((told, whole.repeat())).map(gather)
    return data.apply(tf.data.experimental.assert_cardinality(number))


def _of_types(arrays: list[Array], dtypes: list[tf.DType]) -> list[Array]:
    return [
        np.asarray(array, dtype.as_numpy_dtype) for array, dtype in zip(arrays, dtypes, strict=True)
    ]


def _called(
    function: Callable[[Array], list[Array]],
    index: Tensor,
    dtypes: list[tf.DType],
    shapes: list[list[int | None]],
) -> list[Tensor]:
    tensors: list[Tensor] = tf.numpy_function(function, [index], dtypes)
    for tensor, shape in zip(tensors, shapes, strict=True):
        tensor.set_shape(shape)
    return tensors
