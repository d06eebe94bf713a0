"""The table of features: what each known name means. To add a feature, add an entry.

This file also decides what else a feature may be, and what it is called.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import keras
import numpy as np

from keras_swift.src._types import Array, ArrayTree, FloatArray, IntArray, Tensor
from keras_swift.src.records.columns import TrainingRecord
from keras_swift.src.records.outputs import label_outputs
from keras_swift.src.rules import in_argument, numbers
from keras_swift.src.swift.ranks import cumulative_rank
from keras_swift.src.swift.renormed_entropy import renormed_entropy

# A known name, a function `(y_true, y_pred) -> (n,)`, or computed values.
Feature: TypeAlias = str | Callable[[ArrayTree, ArrayTree], Tensor] | Array | Sequence[float]
Features: TypeAlias = Sequence[Feature] | Mapping[str, Feature]


@dataclasses.dataclass(frozen=True)
class NamedFeature:
    """What a known name means.

    Attributes:
        source: `"model"`, one forward pass of a trained model; `"record"`, a record of its
            training.
        doubtful_end: 1.0 if a high value casts doubt on a label, -1.0 if a low one does.
        compute: for `"record"`, a function from the record to a float array, shape `(n,)`; for
            `"model"`, a function `(model, outputs, y)` of the model, its list of `OutputLoss` and
            some targets that returns a quantity for `Scorer`.
    """

    source: Literal["model", "record"]
    doubtful_end: float
    compute: Callable[..., Any]


HIGH, LOW = 1.0, -1.0
# A feature of a record is also known by its rank within the labelled class, under this suffix.
IN_CLASS = "_in_class"
FEATURES: dict[str, NamedFeature] = {
    "loss": NamedFeature("model", HIGH, lambda model, outputs, y: "loss"),
    "renormed_entropy": NamedFeature("model", LOW, renormed_entropy),
    "gradient_norm": NamedFeature("model", HIGH, lambda model, outputs, y: "gradient_norm"),
    "last_loss": NamedFeature("record", HIGH, lambda record: record.loss),
    "mean_loss": NamedFeature("record", HIGH, lambda record: record.mean_loss),
    "mean_margin": NamedFeature("record", LOW, lambda record: record.mean_margin),
    "share_wrong": NamedFeature("record", HIGH, lambda record: record.share_wrong),
    "mean_probability": NamedFeature("record", LOW, lambda record: record.mean_probability),
}
NAMES = tuple(name for name, feature in FEATURES.items() if feature.source == "model")
RECORDED = tuple(name for name, feature in FEATURES.items() if feature.source == "record")
RECORDED_NAMES = (*RECORDED, *(name + IN_CLASS for name in RECORDED))
# The mean margin finds wrong labels best; examples that a network never learned are better left out
# by their last loss (docs/swift_sampler.md).
DEFAULTS = ("mean_margin", "last_loss")


def is_values(feature: Feature) -> bool:
    """Whether a feature is given as its values, not as a name or a function."""
    return not isinstance(feature, str) and not callable(feature)


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


def doubtful_end(name: str) -> float:
    """1 if a high value of a feature casts doubt on a label, -1 if a low one does."""
    feature = FEATURES.get(name.removesuffix(IN_CLASS))
    return HIGH if feature is None else feature.doubtful_end


def recorded_column(record: TrainingRecord, name: str) -> FloatArray:
    """The feature of a record with this name, before ranks in a class; a copy."""
    return np.array(FEATURES[name].compute(record), np.float64)


def default_features(model: keras.Model) -> tuple[str, ...]:
    """The features that best show which examples to leave out, among those that suit the model."""
    return DEFAULTS if label_outputs(model) is not None else ("mean_loss", "last_loss")


def rank_in_class(values: FloatArray, classes: IntArray) -> FloatArray:
    """Ranks among the examples of the same class, float64 in `(0, 1]`."""
    ranks = np.empty(len(values))
    for label in np.unique(classes):
        members = classes == label
        ranks[members] = cumulative_rank(values[members])
    return ranks


def check_column(name: str, feature: Feature, size: int) -> FloatArray:
    """A computed feature as a float64 array; raises if its type or shape is wrong."""
    with in_argument("features"):
        return numbers(name, feature, (size,))


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
