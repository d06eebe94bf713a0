"""What `search` checks and settles about the objective and the validation data."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def validation_size(validation_data: Any) -> int | None:
    """How many examples there are, or `None` where that is not known."""
    if not isinstance(validation_data, tuple | list):
        return None
    return len(keras.tree.flatten(validation_data[0])[0])


def find_objective(
    model: keras.Model, validation_data: Any, batch_size: int, objective: Any
) -> Any:
    """The objective as KerasTuner's, checked against what the model reports."""
    import keras_tuner

    if isinstance(validation_data, tuple | list):
        rows = [
            None if part is None else keras.tree.map_structure(lambda a: a[:batch_size], part)
            for part in validation_data
        ]
        weights = rows[2] if len(rows) > 2 else None
        reported = model.evaluate(
            rows[0],
            rows[1],
            sample_weight=weights,
            batch_size=batch_size,
            verbose=0,
            return_dict=True,
        )
    else:
        reported = model.evaluate(validation_data, steps=1, verbose=0, return_dict=True)
    if objective is None:
        accuracies = [name for name in reported if name.endswith("accuracy")]
        if "accuracy" in accuracies or accuracies:
            name = "accuracy" if "accuracy" in accuracies else accuracies[0]
            return keras_tuner.Objective(f"val_{name}", "max")
        return keras_tuner.Objective("val_loss", "min")
    # The base class reads strings and lists; the seed keeps it off the global generator.
    parsed = keras_tuner.Oracle(objective=objective, max_trials=1, seed=1).objective
    logged = [*reported, *(f"val_{name}" for name in reported)]
    wanted = getattr(parsed, "name_to_direction", {parsed.name: parsed.direction})
    missing = [name for name in wanted if name not in logged]
    if missing:
        raise ValueError(
            f"`objective` must be among what the model reports: {sorted(logged)}. "
            f"Received: {missing}. Compile the model with that metric."
        )
    return parsed


def check_classes(y: Any, validation_data: Any) -> None:
    """Raises if classes of the training data are missing from the validation data."""
    if not isinstance(validation_data, tuple | list) or keras.tree.is_nested(y):
        return
    found = [_classes(np.asarray(labels)) for labels in (y, validation_data[1])]
    if found[0] is None or found[1] is None:
        return
    missing = np.setdiff1d(found[0], found[1])
    if len(missing):
        shown = ", ".join(str(int(label)) for label in missing[:10])
        raise ValueError(
            f"`validation_data` must have examples of every class of `y`. Received: {len(missing)} "
            f"of {len(found[0])} classes missing from it: {shown}"
            f"{', ...' if len(missing) > 10 else ''}. A sampler judged on it would drop them. Hold "
            "out a stratified share, and shuffle the data before `validation_split`."
        )


def _classes(labels: np.ndarray) -> np.ndarray | None:
    """The classes among targets, or `None` where targets are not one class an example."""
    if labels.dtype.kind in "iub" and (labels.ndim == 1 or labels.shape[1:] == (1,)):
        return np.unique(labels).astype(np.int64)
    if labels.ndim == 2 and labels.shape[1] > 1:
        if np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=1) == 1):
            return np.unique(labels.argmax(axis=1))
    return None
