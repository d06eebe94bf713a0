"""The features of a stream's examples, computed in one pass and kept with their ids."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np

from keras_swift.src._types import Array, FloatArray
from keras_swift.src.data.arrays import ArraySource, select
from keras_swift.src.data.held import check_ends
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.records.growing import GrowingRows
from keras_swift.src.records.identity import Identity
from keras_swift.src.records.known_reader import KnownReader
from keras_swift.src.scoring.examples import check_examples
from keras_swift.src.swift.feature_table import NAMES, Feature
from keras_swift.src.swift.features import FeatureScorer, check_finite


class FeaturesOfStream(dict[str, FloatArray]):
    """A dict from name to float64 array, shape `(n,)`, with the ids of the examples.

    Attributes:
        ids: array, shape `(n,)`: the ids that the stream yielded, or uint64 hashes of its examples
            if it yielded none; `None` for a `PyDataset` without ids, whose examples are in the
            order of batches and rows.
    """

    def __init__(self, columns: Mapping[str, FloatArray], ids: Array | None) -> None:
        super().__init__(columns)
        self.ids = ids


def features_of_stream(
    model: keras.Model,
    x: Any,
    named: Mapping[str, Feature],
    verbose: int | Literal["auto"],
) -> FeaturesOfStream:
    """The features of each example of a stream, read once.

    Args:
        model: a compiled `keras.Model`.
        x: a stream that ends.
        named: the features, by `named_features`; of `NAMES`, or callables.
        verbose: `"auto"` or 1 for a progress bar, 0 for silence.

    Raises:
        ValueError: for features that are arrays or need a record, and values that are not finite.
    """
    other = [name for name, f in named.items() if not callable(f) and f not in NAMES]
    if other:
        raise ValueError(
            f"`features` of a stream must be among {', '.join(map(repr, NAMES))}, or callables, "
            f"because its examples are found by their ids. Received: {other}. Those of a training "
            "are in the `record` of `find_suspects(model, x)`, in the order of its `ids`."
        )
    check_ends(x, "x")
    needs_loss = any(isinstance(feature, str) for feature in named.values())
    generators = np.random.default_rng(0).spawn(2)
    with contextlib.closing(StreamReader(x, None, generators, False, None, warns=False)) as stream:
        first = stream.first(stream.batch_size)
        check_examples(model, ArraySource(*first), stream.batch_size, needs_loss)
        scorer = FeatureScorer(model, named, *first[:2])
        identity = Identity(stream)
        known = KnownReader(stream, identity)
        rows = GrowingRows(0, (len(named),), np.nan, np.float64)
        bar = keras.utils.Progbar(stream.num_batches, unit_name="batch") if verbose else None
        for step in range(stream.num_batches):
            (batch,) = known.several(1, stream.num_batches - step)
            size = len(batch.numbers)
            # The last batch is padded, so that all batches have one compiled shape.
            padded = np.resize(np.arange(size), max(size, stream.batch_size))
            some_x, some_y, _ = select(batch.data, padded)
            scorer.check_labels(some_y)
            found = scorer(some_x, some_y)
            rows.resize(identity.count)
            rows.values[batch.numbers] = np.stack([found[name][:size] for name in named], axis=1)
            if bar is not None:
                bar.update(step + 1)
        stream.end_epoch()
        order = identity.order()
        values = rows.values if order is None else rows.values[order]
        columns = {name: values[:, k].copy() for k, name in enumerate(named)}
        check_finite(columns, named)
        return FeaturesOfStream(columns, identity.ids)
