"""Checks of models and targets, and errors that name the data where these do not fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_swift.src._keras import check_release, flatten_layers, own_methods
from keras_swift.src._keras_losses import explains_loss
from keras_swift.src._types import ArrayTree


class UnfitData(ValueError):
    """Data, model, loss and score do not fit one another; the message says where."""


def check_model(
    model: Any, any_batches: bool = True, *, trains: bool = False, name: str = "model"
) -> None:
    """Raises unless `model` is a compiled Keras model.

    Args:
        model: what was given.
        any_batches: bool, whether it must take batches of any size in any
            order. Defaults to `True`.
        trains: bool, whether it must be able to train. Defaults to `False`.
        name: str, the argument's name in errors. Defaults to `"model"`.

    Raises:
        ImportError: if Keras lacks what this package relies on.
        TypeError: if it is not a Keras model.
        ValueError: if it is not compiled, or not as asked for.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`{name}` must be a `keras.Model`. Received: {type(model).__module__}."
            f"{type(model).__qualname__}."
        )
    if not model.compiled:
        raise ValueError(
            f"`{name}` must be compiled before it is trained. Received: a model that is not. Call "
            "`model.compile(optimizer=..., loss=...)` first."
        )
    if trains and model.optimizer is None and "train_step" not in own_methods(model):
        raise ValueError(
            f"`{name}` must be compiled with an optimizer, which trains it. Received: "
            "optimizer=None. Call `model.compile(optimizer=..., loss=...)`."
        )
    check_release(model)
    reason = why_own_batches(model)
    if any_batches and reason is not None:
        raise ValueError(reason)


def why_own_batches(model: keras.Model) -> str | None:
    """Why a model can be trained only on the batches it is given, or `None`."""
    stateful = [layer.name for layer in flatten_layers(model) if getattr(layer, "stateful", 0)]
    if stateful:
        return (
            "`model` must not carry state from one batch to the next, because scored and drawn "
            f"batches do not continue the last one. Received: stateful layers {stateful}. Use "
            "`stateful=False`."
        )
    fixed = [
        tensor.name
        for tensor in getattr(model, "inputs", None) or []
        if tensor.shape and tensor.shape[0] is not None
    ]
    # Keras builds a `Sequential` without `Input` for the size of its first batch, but it then takes
    # batches of any size.
    if fixed and not _takes_one_more(model):
        return (
            "`model` must take batches of any size, because a presample is larger than a batch. "
            f"Received: inputs of a fixed batch size, {fixed}. Use `keras.Input(shape)` in place "
            "of `batch_shape`."
        )
    return None


def _takes_one_more(model: keras.Model) -> bool:
    """Whether a model has an output for each row of a batch one larger than it was built for."""
    inputs = [
        keras.KerasTensor(
            (None if None in tensor.shape[:1] else tensor.shape[0] + 1,) + tuple(tensor.shape[1:]),
            dtype=tensor.dtype,
        )
        for tensor in model.inputs
    ]
    try:
        outputs = model.compute_output_spec(inputs[0] if len(inputs) == 1 else inputs)
    except Exception:  # Each layer and framework has its own error for shapes that do not fit.
        return False
    sizes = {leaf.shape[0] for leaf in keras.tree.flatten(outputs) if leaf is not None}
    return len(sizes) == 1 and sizes <= {tensor.shape[0] for tensor in inputs}


@contextlib.contextmanager
def explained(x: ArrayTree, y: ArrayTree) -> Iterator[None]:
    """A context that names the data in errors if the model, loss or score cannot process it.

    Frameworks name the operation that failed, not the argument.

    Args:
        x, y: NumPy structures, the examples in use.
    """
    try:
        yield
    except UnfitData:
        raise
    except Exception as error:
        ours = type(error).__module__.startswith("keras_swift.")
        if ours or explains_loss(error) or _out_of_memory(error):
            raise
        raise UnfitData(
            "`x` and `y` must fit the model, its loss and the score. Received: x of shape "
            f"{_shapes(x)}, y of shape {_shapes(y)}. They gave "
            f"{type(error).__name__}: {str(error).strip()[:600]}"
        ) from error


def _out_of_memory(error: Exception) -> bool:
    # TensorFlow and PyTorch have a class for it; JAX has one for all errors, with a code.
    named = type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError")
    coded = getattr(error, "error_code_string", None) == "RESOURCE_EXHAUSTED"
    return named or coded or isinstance(error, MemoryError)


def _shapes(structure: ArrayTree) -> Any:
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else ("n", *leaf.shape[1:]), structure
    )


def check_targets(y: ArrayTree) -> None:
    """Raises `ValueError` if there are no targets."""
    if y is None:
        raise ValueError(
            "`y` must be given: the model is trained on it. Received: y=None. "
            "To train on the input itself (an autoencoder), pass `y=x`."
        )
