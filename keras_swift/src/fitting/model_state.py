"""Saves and restores everything a training run changes in a model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_swift.src._types import Array


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """Every variable of a built model, its optimizer and its metrics, each once.

    `model.variables` includes the states of random layers, so a restored
    model drops out the same units again.
    """
    found = [*model.variables, *model.metrics_variables]
    if model.optimizer is not None:
        found += model.optimizer.variables
    return list({id(variable): variable for variable in found}.values())


def read_variables(model: keras.Model) -> list[Array]:
    """Copies of the values of `variables_of(model)`."""
    values = []
    for variable in variables_of(model):
        array = np.array(keras.ops.convert_to_numpy(variable.value))
        # Types NumPy knows only by extension (bfloat16) fit into float32, which can be saved.
        values.append(array.astype(np.float32) if array.dtype.kind == "V" else array)
    return values


def write_variables(model: keras.Model, values: list[Array]) -> None:
    """Writes values into the variables they were read from.

    Raises:
        ValueError: if the model has other variables.
    """
    variables = variables_of(model)
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [value.shape for value in values]:
        raise ValueError(
            "The model's variables must be those the values were read from. Received: "
            f"{len(shapes)} variables for {len(values)} values, or other shapes."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


# What a call of `fit` sets, besides variables.
_ATTRIBUTES = ("history", "stop_training", "train_function")


class Unchanged:
    """Restores a model at the end of `with Unchanged(model): ...`, also after an error.

    Args:
        model: a built, compiled `keras.Model`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._values = read_variables(self._model)
        self._attributes = {
            name: getattr(self._model, name) for name in _ATTRIBUTES if hasattr(self._model, name)
        }

    def __exit__(self, *exception: Any) -> None:
        write_variables(self._model, self._values)
        for name in _ATTRIBUTES:
            if name in self._attributes:
                setattr(self._model, name, self._attributes[name])
            elif hasattr(self._model, name):
                delattr(self._model, name)
