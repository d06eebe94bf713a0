"""The validation data of a search: the model is scored on it example by example.

This file decides the objective, a trial's value of it on each validation example, and the standard
error of the difference of two trials.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_swift.src._types import ArrayTree, FloatArray
from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.data.leaves import as_fed
from keras_swift.src.records.outputs import LabelScorer, classes_of, is_one_class, label_outputs
from keras_swift.src.records.recorder import LARGER_BATCH

if TYPE_CHECKING:
    import keras_tuner

# The number of parts of the validation data for a metric without values for single examples.
BLOCKS = 10
# The name of the mean probability of the label, as in the logs of `fit`.
LABEL_PROBABILITY = "label_probability"
# The mean probability of the label at equal confidence. The logits of each output are divided by
# one temperature for all examples, at which the largest probability is `CONFIDENCE` on average:
# samplers that leave out doubtful examples make a model more confident whether or not it knows
# more.
TEMPERED_PROBABILITY = "tempered_probability"
CONFIDENCE = 0.95
TEMPERATURES = [2.0 ** (step / 4) for step in range(-16, 25)]
# The name of the share of labels that are more probable than any other class.
LABEL_ACCURACY = "label_accuracy"
OURS = (LABEL_PROBABILITY, TEMPERED_PROBABILITY, LABEL_ACCURACY)


class Judge:
    """Judges the model, in its current state, on the validation data.

    Args:
        model: a built, compiled `keras.Model`.
        validation_data: tuple of arrays `(x, y)` or `(x, y, sample_weight)`.
        batch_size: int.
    """

    def __init__(
        self, model: keras.Model, validation_data: tuple[ArrayTree, ...], batch_size: int
    ) -> None:
        self.data = validation_data
        self._model = model
        self._batch_size = batch_size
        self._source = ArraySource(*validation_data)
        self._specimen = self._source.specimen()
        self._scorer = LabelScorer(model, *self._specimen)

    @functools.cached_property
    def _tempered_scorer(self) -> LabelScorer:
        return LabelScorer(self._model, *self._specimen, temperatures=TEMPERATURES)

    @property
    def is_classifier(self) -> bool:
        """Whether every output is class probabilities or logits."""
        return self._scorer.labels is not None

    def logs(self) -> dict[str, float]:
        """The model's logs on the validation data, names without `val_`."""
        return self._evaluated(self.data)

    def _evaluated(self, data: tuple[ArrayTree, ...]) -> dict[str, float]:
        x, y, sample_weight = (*as_fed(data), None)[:3]
        found = self._model.evaluate(
            x,
            y,
            sample_weight=sample_weight,
            batch_size=self._batch_size,
            verbose=0,
            return_dict=True,
        )
        return {name: float(value) for name, value in found.items()}

    def judge(self, objective: keras_tuner.Objective) -> tuple[dict[str, float], FloatArray | None]:
        """The logs, and the objective's value on each validation example.

        Args:
            objective: `keras_tuner.Objective`.

        Returns:
            A dict with names that begin with `val_`, and a float64 array whose
            mean is the objective (except for regularisation and for metrics
            that are not means): one value for each example, or for each of
            `BLOCKS` parts of the data if the objective has no values for single
            examples; `None` if it does not depend on the validation data.
        """
        logs = {f"val_{name}": value for name, value in self.logs().items()}
        names = getattr(objective, "name_to_direction", {objective.name: ""})
        values = self._values(f"val_{TEMPERED_PROBABILITY}" in names)
        for name in OURS:
            if name in values:
                logs[f"val_{name}"] = float(np.mean(values[name]))
        if not all(name.startswith("val_") for name in names):
            return logs, None
        name = objective.name.removeprefix("val_")
        if name in values:
            return logs, values[name]
        return logs, self._block_values(objective, values)

    def _values(self, tempered: bool) -> dict[str, FloatArray]:
        """Values for single examples, by the name of the metric that is their mean."""
        scorer = self._tempered_scorer if tempered else self._scorer
        size = self._source.size
        batch_size = min(size, LARGER_BATCH * self._batch_size)
        parts = []
        for start in range(0, size, batch_size):
            rows = np.minimum(np.arange(start, start + batch_size), size - 1)
            scores = scorer(*self._source.take(rows))
            parts.append({k: v[: min(batch_size, size - start)] for k, v in scores.items()})
        scores = {
            name: np.concatenate([part[name] for part in parts]).astype(np.float64)
            for name in parts[0]
        }
        values = {"loss": scores["loss"]}
        labels = self._scorer.labels
        if labels is not None:
            share = np.array([label.output.weight for label in labels])
            share = share / share.sum()
            weight = scores["weight"] / np.maximum(scores["weight"].mean(axis=0), 1e-30)
            values[LABEL_PROBABILITY] = (scores["probability"] * weight) @ share
            values[LABEL_ACCURACY] = (scores["right"] * weight) @ share
            if tempered:
                curves = scores["tempered"], scores["confidence"]
                of_outputs = [
                    at_confidence(curves[0][:, k], curves[1][:, k], w)
                    for k, w in enumerate(weight.T)
                ]
                values[TEMPERED_PROBABILITY] = (np.stack(of_outputs, axis=1) * weight) @ share
        return values

    def _block_values(
        self, objective: keras_tuner.Objective, values: dict[str, FloatArray]
    ) -> FloatArray:
        """The objective on each of `BLOCKS` parts; a part has every tenth example."""
        found = []
        for block in range(min(BLOCKS, self._source.size)):
            rows = np.arange(block, self._source.size, BLOCKS)
            logs = self._evaluated(self._source.take(rows))
            for name in values.keys() - {"loss"}:
                logs[name] = float(values[name][rows].mean())
            found.append(objective.get_value({f"val_{name}": v for name, v in logs.items()}))
        return np.array(found, np.float64)


def at_confidence(
    probability: FloatArray,
    confidence: FloatArray,
    weight: FloatArray,
    wanted: float = CONFIDENCE,
) -> FloatArray:
    """The label's probability at the temperature of a wanted mean confidence.

    Args:
        probability: float array, shape `(n, k)`, of the label at `k` rising temperatures.
        confidence: float array, shape `(n, k)`, the largest probability.
        weight: float array, shape `(n,)`, of each example in the mean.
        wanted: float, the mean confidence. If it lies outside those of all temperatures, the
            nearest is taken. Defaults to 0.95.

    Returns:
        A float array, shape `(n,)`, interpolated between two temperatures.

    Example:
        >>> p = np.array([[1.0, 0.8, 0.5], [0.0, 0.1, 0.4]])
        >>> at_confidence(p, np.maximum(p, 1 - p), np.ones(2), wanted=0.75).round(2).tolist()
        [0.7, 0.2]
    """
    mean = weight @ confidence / weight.sum()
    # The confidence falls with the temperature, and `np.interp` needs rising numbers.
    place = np.interp(-wanted, -mean, np.arange(len(mean)))
    low = int(place)
    high = min(low + 1, len(mean) - 1)
    found: FloatArray = probability[:, low] + (place - low) * (
        probability[:, high] - probability[:, low]
    )
    return found


def difference_noise(first: FloatArray | None, second: FloatArray | None) -> float:
    """The standard error of the difference of two objectives, judged on the same examples.

    Args:
        first, second: float arrays of one shape `(k,)`, as `Judge.judge`
            returns them, or `None`.

    Returns:
        A float; NaN if it cannot be known.

    Example:
        >>> difference_noise(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0]))
        0.0
    """
    if first is None or second is None or len(first) != len(second) or len(first) < 2:
        return float("nan")
    return float(np.std(first - second, ddof=1) / np.sqrt(len(first)))


def find_objective(
    judge: Judge,
    objective: str | keras_tuner.Objective | Sequence[str | keras_tuner.Objective] | None,
) -> keras_tuner.Objective:
    """The objective as a `keras_tuner.Objective`, checked against what the model reports.

    Raises:
        ValueError: for a metric that the model does not report, or of which it is not known whether
            more of it is better.
    """
    import keras_tuner

    reported = list(judge.logs())
    if objective is None:
        if judge.is_classifier:
            return keras_tuner.Objective(f"val_{TEMPERED_PROBABILITY}", "max")
        return keras_tuner.Objective("val_loss", "min")
    if judge.is_classifier:
        reported += OURS
    given = objective if isinstance(objective, list | tuple) else [objective]
    # KerasTuner does not know the direction of our metrics.
    names = [f"val_{name}" for name in OURS]
    given = [
        keras_tuner.Objective(one, "max") if isinstance(one, str) and one in names else one
        for one in given
    ]
    # The base class parses strings and lists; a seed keeps it from using the global generator.
    wanted: Any = given if isinstance(objective, list | tuple) else given[0]
    try:
        parsed = keras_tuner.Oracle(objective=wanted, max_trials=1, seed=1).objective
    except ValueError as error:
        raise ValueError(
            f"`objective` must be a metric of which it is known whether more of it is better. "
            f"Received: objective={objective!r}. {error}"
        ) from error
    logged = [*reported, *(f"val_{name}" for name in reported)]
    directions = getattr(parsed, "name_to_direction", {parsed.name: parsed.direction})
    missing = [name for name in directions if name not in logged]
    if missing:
        raise ValueError(
            f"`objective` must be among what the model reports: {sorted(logged)}. "
            f"Received: {missing}. Compile the model with that metric."
        )
    return parsed


def check_classes(model: keras.Model, y: ArrayTree, validation_y: ArrayTree) -> None:
    """Raises if a classifier's training data has classes that the validation data lacks."""
    if not is_one_class(model):
        return
    found = [classes_of(labels) for labels in (y, validation_y)]
    if found[0] is None or found[1] is None:
        return
    (output,) = label_outputs(model) or ()
    missing = np.setdiff1d(found[0], found[1])
    missing = missing[missing != output.ignored] if output.ignored is not None else missing
    if len(missing):
        shown = ", ".join(str(int(label)) for label in missing[:10])
        raise ValueError(
            f"`validation_data` must have examples of every class of `y`. Received: {len(missing)} "
            f"of {len(np.unique(found[0]))} classes missing from it: {shown}"
            f"{', ...' if len(missing) > 10 else ''}. A sampler judged on it would drop them. Hold "
            "out a stratified share, and shuffle the data before `validation_split`."
        )
