"""Per-example features of a data set, the inputs of a `SwiftSampler`.

This file computes the named features of `feature_table`, accepts a user's own features, and makes
sure that nothing depends on the batch size of scoring.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np

from keras_swift.src._types import Array, ArrayTree, FloatArray
from keras_swift.src.data import arrays
from keras_swift.src.data.arrays import ArraySource, select
from keras_swift.src.data.held import check_ends
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.data.streams import check_stream_arguments, is_stream
from keras_swift.src.records.columns import TrainingRecord
from keras_swift.src.records.examples import ArrayExamples, Examples
from keras_swift.src.records.growing import GrowingRows
from keras_swift.src.records.identity import Identity
from keras_swift.src.records.known_reader import KnownReader
from keras_swift.src.records.outputs import classes_of, is_one_class
from keras_swift.src.rules import check, shown
from keras_swift.src.scoring.compiled import build
from keras_swift.src.scoring.examples import check_examples
from keras_swift.src.scoring.labels import label_check
from keras_swift.src.scoring.scorer import Scorer
from keras_swift.src.swift.feature_table import (
    FEATURES,
    IN_CLASS,
    NAMES,
    RECORDED_NAMES,
    Feature,
    Features,
    check_column,
    check_finite,
    is_values,
    named_features,
    rank_in_class,
    recorded_column,
)
from keras_swift.src.validation import check_model


def compute_features(
    model: keras.Model,
    x: Any,
    y: Any = None,
    features: Features = NAMES,
    *,
    record: TrainingRecord | None = None,
    batch_size: int = 128,
    verbose: int | Literal["auto"] = "auto",
) -> dict[str, FloatArray]:
    """Scores every example of a data set with a model's current weights.

    Makes at most one forward pass, in inference mode; the model is not changed.
    For outputs with a time axis each feature is the mean over the unmasked steps.
    With several processes on JAX, each passes its own part of the data and gets
    the features of that part; ranks in a class are those within it.

    - `"loss"`: the example's loss, without sample weights and regularisation.
    - `"renormed_entropy"`: the entropy of the predicted distribution with the
      target class `y` removed and the rest renormalised, in nats,
      `-sum_{j != y} q_j log q_j` with `q_j = p_j / sum_{k != y} p_k`. Small
      with a large loss means that the model is confident in another class. For
      classifiers with three classes or more.
    - `"gradient_norm"`: the bound of the norm of the example's gradient that
      `ImportanceTraining` scores with.
    - `"mean_loss"`, `"mean_margin"`, `"share_wrong"`, `"mean_probability"`:
      means over a whole training, from its `record`. The margin is the
      probability of the label minus the largest of any other class, from -1
      to 1; wrong is a margin that is not above 0. All but the loss are for classifiers.
    - `"last_loss"`: from the same `record`, the loss when the example was last
      trained on.
    - a feature of the record with the suffix `"_in_class"`: its rank, from 0 to
      1, among the examples with the same label. For classifiers with one label
      per example.
    - a callable `(y_true, y_pred) -> (n,)` in `keras.ops`, named after
      itself;
    - an array of shape `(n,)`, values that are computed already.

    Args:
        model: a compiled `keras.Model`.
        x: inputs, an array, or a list or dict of arrays, first axis `n`; or a
            stream that ends (`PyDataset`, `tf.data.Dataset`, `DataLoader` or
            other iterable of batches), of any size: it is read once and not
            held, and its examples are known as for `find_suspects`.
        y: targets, likewise; `None` with a stream, which has its own.
        features: names, callables and arrays, in a sequence, or in a mapping
            from the names to give them. Defaults to the first three.
        record: a record of the training, for the names that need one: any
            object with arrays `loss`, `mean_loss`, `mean_margin`, `share_wrong`
            and `mean_probability`, shape `(n,)`. `search` and `find_suspects` make
            one and return it as `record`. Defaults to `None`.
        batch_size: int, examples in a forward pass. Defaults to 128. Streams
            have their own batches.
        verbose: `"auto"` or 1 for a progress bar, 0 for silence.

    Returns:
        A dict from name to float64 array, shape `(n,)`, in the order of
        `features`. The dict of a stream has an attribute `ids`, shape `(n,)`:
        the ids that the stream yielded, or uint64 hashes of its examples, in
        the order in which they were read. It is `None` for a `PyDataset`
        without ids, whose examples are in the order of batches and rows.

    Raises:
        ValueError: for an unknown name, a feature that does not suit the model
            or needs a `record`, an array of another length, labels outside the
            model's classes, or data or values that are not finite.
        TypeError: if `x` and `y` are neither arrays nor a stream that ends.

    Example:

        features = compute_features(model, x, y)
        hardest = np.argsort(features["loss"])[::-1]
    """
    check_model(model)
    check(batch_size=batch_size, verbose=verbose)
    named = named_features(features)
    if is_stream(x):
        check_stream_arguments(x, y, None, None, 0.0)
        return _features_of_stream(model, x, named, verbose)
    source = arrays.ArraySource(x, y)
    needs_loss = any(isinstance(f, str) and f in NAMES for f in named.values())
    check_examples(model, source, batch_size, needs_loss)
    return features_of(model, source, named, record, batch_size, verbose)


def features_of(
    model: keras.Model,
    source: arrays.ArraySource,
    named: Mapping[str, Feature],
    record: TrainingRecord | None = None,
    batch_size: int = 128,
    verbose: int | Literal["auto"] = 0,
) -> dict[str, FloatArray]:
    """The features of examples that were checked to fit the model.

    Args:
        model, record, batch_size, verbose: as for `compute_features`.
        source: `ArraySource` of the examples.
        named: the features, as `named_features` returns them.
    """
    batch_size = min(batch_size, source.size)
    columns: dict[str, FloatArray] = {}
    scored = {}
    for name, feature in named.items():
        if isinstance(feature, str) and feature in RECORDED_NAMES:
            columns[name] = _recorded(feature, record, model, source)
        elif is_values(feature):
            columns[name] = check_column(name, feature, source.size)
        else:
            scored[name] = feature
    if scored:
        scorer = FeatureScorer(model, scored, *source.specimen())
        columns.update(score_all(scorer, ArrayExamples(source), batch_size, verbose))
    check_finite(columns, named)
    return {name: columns[name] for name in named}


def _recorded(
    name: str, record: TrainingRecord | None, model: keras.Model, source: arrays.ArraySource
) -> FloatArray:
    """A feature from a record of training."""
    if record is None:
        raise ValueError(
            f"Feature {name!r} needs a record of the model's training. Received: record=None. "
            "Pass `record`, such as the `record` of `search`'s result or of `find_suspects`; or "
            f"use {', '.join(map(repr, NAMES))}, which need only a trained model."
        )
    base = name.removesuffix(IN_CLASS)
    try:
        column = recorded_column(record, base)
    except AttributeError as error:
        raise TypeError(
            f"`record` must have an array for each example, {error.name!r}, for the feature "
            f"{name!r}. Received: record={shown(record)}. Pass the `record` of `search`'s result "
            "or of `find_suspects`."
        ) from error
    if column.shape != (source.size,):
        raise ValueError(
            "`record` must be of the training on `x` and `y`, one number for each example. "
            f"Received: shape {column.shape} for {source.size} examples."
        )
    if base == name:
        return column
    build(model, *source.specimen())
    classes = classes_of(source.y) if is_one_class(model) else None
    if classes is None:
        raise ValueError(
            f"Feature {name!r} is for classifiers with one label per example. Received: a model "
            f"with other outputs or targets. Use {base!r}."
        )
    return rank_in_class(column, classes)


class FeatureScorer:
    """Computes the features of batches with one compiled forward pass.

    Args:
        model: a compiled `keras.Model`; built from `x` and `y` if it is not.
        features: mapping from names to entries of `NAMES` or callables.
        x, y: NumPy structures, a batch of at least one example.
    """

    def __init__(
        self, model: keras.Model, features: Mapping[str, Any], x: ArrayTree, y: ArrayTree
    ) -> None:
        check_model(model)
        losses = build(model, x, y)
        outputs = losses.outputs
        self._check_labels = label_check(losses.y_pred, outputs, losses.matching)
        quantities: list[Any] = []
        self._keys: dict[str, str] = {}
        for name, feature in features.items():
            if isinstance(feature, str):
                feature = FEATURES[feature].compute(model, outputs, y)
            if callable(feature):
                self._keys[name] = f"custom_{len(quantities)}"
            else:
                self._keys[name] = feature
            quantities.append(feature)
        self._scorer = Scorer(model, tuple(quantities))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features."""
        return tuple(self._keys)

    def __call__(self, x: ArrayTree, y: ArrayTree) -> dict[str, FloatArray]:
        """Scores a batch; a dict from name to float64 array, shape `(n,)`."""
        scores = self._scorer(x, y)
        results: dict[str, FloatArray] = {}
        for name, key in self._keys.items():
            column = np.asarray(scores[key], np.float64)
            if not key.startswith("custom_") and scores["valid"].shape[1] == 1:
                # The scorer's mean includes masked steps, which must not count.
                valid = np.asarray(scores["valid"][:, 0], np.float64)
                column = np.divide(column, valid, out=np.zeros_like(column), where=valid > 0)
            results[name] = column
        return results

    def rows(self, x: ArrayTree, y: ArrayTree) -> FloatArray:
        """Scores a batch that was not checked; a float64 array, shape `(n, features)`.

        Raises:
            ValueError: for targets outside the model's classes.
        """
        self._check_labels(y)
        return np.stack(list(self(x, y).values()), axis=1)


def score_all(
    scorer: FeatureScorer,
    examples: Examples,
    batch_size: int,
    verbose: int | Literal["auto"] = 0,
) -> dict[str, FloatArray]:
    """The features of examples, batch by batch; NaN where a stream did not give one again.

    Args:
        scorer: `FeatureScorer`.
        examples: `Examples`.
        batch_size, verbose: as for `compute_features`.
    """
    found = {name: np.full(examples.size, np.nan) for name in scorer.names}
    batches = -(-examples.size // batch_size)
    bar = keras.utils.Progbar(batches, unit_name="batch") if verbose else None
    for done, (places, x, y) in enumerate(examples.chunks(batch_size), start=1):
        for name, column in scorer(x, y).items():
            found[name][places] = column[: len(places)]
        if bar is not None:
            bar.update(done)
    return found


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


def _features_of_stream(
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
    other = [name for name, f in named.items() if is_values(f) or f in RECORDED_NAMES]
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
            found = scorer.rows(some_x, some_y)
            rows.resize(identity.count)
            rows.values[batch.numbers] = found[:size]
            if bar is not None:
                bar.update(step + 1)
        stream.end_epoch()
        order = identity.order()
        values = rows.values if order is None else rows.values[order]
        columns = {name: values[:, k].copy() for k, name in enumerate(named)}
        check_finite(columns, named)
        return FeaturesOfStream(columns, identity.ids)
