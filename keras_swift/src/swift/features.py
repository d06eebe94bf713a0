"""Per-example features of a data set, the inputs of a `SwiftSampler`.

This file computes the named features of `feature_table`, accepts a user's own features, and makes
sure that nothing depends on the batch size of scoring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_swift.src._types import ArrayTree, FloatArray, IntArray
from keras_swift.src.data import arrays
from keras_swift.src.data.streams import check_stream_arguments, is_stream
from keras_swift.src.records.columns import TrainingRecord
from keras_swift.src.records.examples import ArrayExamples
from keras_swift.src.records.outputs import classes_of, is_one_class, label_outputs
from keras_swift.src.rules import check, in_argument, numbers, shown
from keras_swift.src.scoring.compiled import build
from keras_swift.src.scoring.examples import check_examples
from keras_swift.src.scoring.labels import label_check
from keras_swift.src.scoring.scorer import Scorer
from keras_swift.src.swift.feature_table import (
    DEFAULTS,
    FEATURES,
    HIGH,
    IN_CLASS,
    NAMES,
    RECORDED_NAMES,
    Feature,
    Features,
)
from keras_swift.src.swift.ranks import cumulative_rank
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
        from keras_swift.src.swift.stream_features import features_of_stream

        check_stream_arguments(x, y, None, None, 0.0)
        return features_of_stream(model, x, named, verbose)
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
        elif isinstance(feature, str) or callable(feature):
            scored[name] = feature
        else:
            columns[name] = check_column(name, feature, source.size)
    if scored:
        scorer = FeatureScorer(model, scored, *source.specimen())
        columns.update(_score_all(scorer, source, batch_size, verbose))
    check_finite(columns, named)
    return {name: columns[name] for name in named}


def check_finite(columns: Mapping[str, FloatArray], named: Mapping[str, Feature]) -> None:
    """Raises for columns with numbers that are not finite."""
    for name, column in columns.items():
        bad = ~np.isfinite(column)
        if bad.any():
            if bad.all() and isinstance(named[name], str) and named[name] in RECORDED_NAMES:
                raise ValueError(
                    f"Feature {name!r} is for classifiers. Received: a model whose loss is not of "
                    'class probabilities. Use "mean_loss", "last_loss", "loss" or "gradient_norm".'
                )
            raise ValueError(
                f"`features` must be finite. Received: {int(bad.sum())} of {len(column)} numbers "
                f"of {name!r} that are not, the first at index {int(bad.argmax())}. Check that "
                "example, and whether the model has diverged."
            )


def doubtful_end(name: str) -> float:
    """1 if a high value of a feature casts doubt on a label, -1 if a low one does."""
    feature = FEATURES.get(name.removesuffix(IN_CLASS))
    return HIGH if feature is None else feature.doubtful_end


def default_features(model: keras.Model) -> tuple[str, ...]:
    """The features that best show which examples to leave out, among those that suit the model."""
    return DEFAULTS if label_outputs(model) is not None else ("mean_loss", "last_loss")


def recorded_column(record: TrainingRecord, name: str) -> FloatArray:
    """The feature of a record with this name, before ranks in a class; a copy."""
    return np.array(FEATURES[name].compute(record), np.float64)


def rank_in_class(values: FloatArray, classes: IntArray) -> FloatArray:
    """Ranks among the examples of the same class, float64 in `(0, 1]`."""
    ranks = np.empty(len(values))
    for label in np.unique(classes):
        members = classes == label
        ranks[members] = cumulative_rank(values[members])
    return ranks


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

    Attributes:
        check_labels: function that raises for targets outside the model's classes.
    """

    def __init__(
        self, model: keras.Model, features: Mapping[str, Any], x: ArrayTree, y: ArrayTree
    ) -> None:
        check_model(model)
        losses = build(model, x, y)
        outputs = losses.outputs
        self.check_labels = label_check(losses.y_pred, outputs, losses.matching)
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


def named_features(features: Features) -> dict[str, Feature]:
    """Features as a dict from the name that each is given to a known name, callable or array.

    Raises:
        TypeError: if `features` is neither a sequence nor a mapping of them.
        ValueError: for unknown or repeated names, or none at all.
    """
    if isinstance(features, str) or not isinstance(features, Sequence | Mapping):
        raise TypeError(
            "`features` must be a sequence of names, callables and arrays, or a mapping from "
            f'names to them. Received: {features!r}. Write ("loss",) for a single one.'
        )
    items: list[tuple[str, Feature]]
    if isinstance(features, Mapping):
        items = list(features.items())
    else:
        items = []
        for position, feature in enumerate(features):
            name = feature if isinstance(feature, str) else getattr(feature, "__name__", "<")
            # A lambda or an array has no name of its own.
            items.append((f"feature_{position}" if name.startswith("<") else name, feature))
    if not items:
        raise ValueError("`features` must name at least one feature. Received: none.")
    for _, feature in items:
        if isinstance(feature, str) and feature not in (*NAMES, *RECORDED_NAMES):
            known = ", ".join(map(repr, (*NAMES, *RECORDED_NAMES)))
            raise ValueError(
                f"`features` must be among {known}, or callables or arrays. Received: {feature!r}"
            )
    named = dict(items)
    if len(named) < len(items):
        raise ValueError(
            f"`features` must have different names. Received: {[name for name, _ in items]}. "
            "Pass a mapping from names to features."
        )
    return named


def check_column(name: str, feature: Feature, size: int) -> FloatArray:
    """A computed feature as a float64 array; raises if its type or shape is wrong."""
    with in_argument("features"):
        return numbers(name, feature, (size,))


def _score_all(
    scorer: FeatureScorer,
    source: arrays.ArraySource,
    batch_size: int,
    verbose: int | Literal["auto"],
) -> dict[str, FloatArray]:
    """Features of every example, batch by batch."""
    batches = -(-source.size // batch_size)
    bar = keras.utils.Progbar(batches, unit_name="batch") if verbose else None
    parts = []
    for places, x, y in ArrayExamples(source).chunks(batch_size):
        parts.append({name: column[: len(places)] for name, column in scorer(x, y).items()})
        if bar is not None:
            bar.update(len(parts))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
