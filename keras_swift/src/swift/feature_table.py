"""The table of features: what each known name means. To add a feature, add an entry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from keras_swift.src._types import Array, ArrayTree, Tensor
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
