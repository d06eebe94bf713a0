"""Checks of arguments, all made before any data is read."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Literal

import keras
import numpy as np

from keras_swift.src._keras import check_release, explains_loss, flatten_layers
from keras_swift.src._types import ArrayTree

SCORES = ("gradient_norm", "loss", "full_gradient_norm")
# The presample ratio of the paper's gate if only its threshold is given.
PRESAMPLE = 3.0
SCORING_DTYPES = ("auto", "float32", "bfloat16", "float16")


class UnfitData(ValueError):
    """Data, model, loss and score do not fit; the error names which, and the cure."""


class UnfitType(UnfitData, TypeError):
    """The model cannot compute in a type."""


def check_model(model: Any, any_batches: bool = True) -> None:
    """Raises unless `model` is a compiled Keras model.

    Args:
        any_batches: bool, whether it must take batches of any size in any
            order. Defaults to `True`.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a `keras.Model`. Received: {type(model).__module__}."
            f"{type(model).__qualname__}."
        )
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled before it is trained. Received: a model that is not. Call "
            "`model.compile(optimizer=..., loss=...)` first."
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
    # Keras builds a `Sequential` without `Input` for the size of its first batch, and goes on with
    # any other.
    if fixed and not _takes_one_more(model):
        return (
            "`model` must take batches of any size, because a presample is larger than a batch. "
            f"Received: inputs of a fixed batch size, {fixed}. Use `keras.Input(shape)` in place "
            "of `batch_shape`."
        )
    return None


def _takes_one_more(model: keras.Model) -> bool:
    """Whether a model puts out one row more for a batch larger by one than it was built for."""
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


def chosen_presample(
    presample: float | Literal["auto"] | None, tau_threshold: float | None
) -> float | Literal["auto"]:
    """Resolves `presample=None`: `"auto"`, or the paper's ratio if a threshold is given."""
    if presample is not None:
        return presample
    return "auto" if tau_threshold is None else PRESAMPLE


def check_settings(
    presample: Any, tau_threshold: Any, score: Any, floor: Any, cost_ratio: Any = None
) -> None:
    """Raises for settings outside their ranges."""
    presample = chosen_presample(presample, tau_threshold)
    if isinstance(presample, str) and presample == "auto":
        if tau_threshold is not None:
            raise ValueError(
                '`tau_threshold` is for a presample of a given size; `presample="auto"` uses what '
                f"it measures. Received: tau_threshold={tau_threshold!r}. Give "
                "`presample=3.0` with it, or leave it out."
            )
    elif cost_ratio is not None:
        raise ValueError(
            '`cost_ratio` is for the gate of `presample="auto"`. Received: '
            f"cost_ratio={cost_ratio!r} with presample={presample!r} and "
            f"tau_threshold={tau_threshold!r}. Leave it out, or the others."
        )
    elif not _is_number(presample) or not 1 < presample < math.inf:
        raise ValueError(
            f"`presample` must be greater than 1 and finite. Received: presample={presample!r}. "
            "Use 3.0 to score three batches for each batch trained, or 'auto'."
        )
    if cost_ratio is not None and not (_is_number(cost_ratio) and 0 < cost_ratio < math.inf):
        raise ValueError(
            "`cost_ratio` must be greater than 0 and finite, or None. Received: "
            f"cost_ratio={cost_ratio!r}. It is the cost of scoring an example over that of "
            "training on it: about 0.3 if both use the same float type."
        )
    if tau_threshold is not None and not (
        _is_number(tau_threshold) and 0 <= tau_threshold < math.inf
    ):
        raise ValueError(
            "`tau_threshold` must be 0 or more and finite, or None. Received: "
            f"tau_threshold={tau_threshold!r}. Use 0 to draw every batch by importance, None for "
            "the paper's threshold."
        )
    if not _is_number(floor) or not 0 <= floor < 1:
        raise ValueError(
            f"`floor` must be in [0, 1). Received: floor={floor!r}. It is the uniform share of "
            "the draws: 0.1 bounds the weights by 10."
        )
    check_score(score)


def check_positive_integer(name: str, value: Any) -> None:
    """Raises unless `value` is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def check_score(score: Any) -> None:
    """Raises unless `score` is a known name or a callable."""
    if not callable(score) and score not in SCORES:
        raise ValueError(
            f"`score` must be one of {', '.join(repr(name) for name in SCORES)}, or a callable "
            f"`(y_true, y_pred) -> (n,)` in `keras.ops`. Received: score={score!r}."
        )


@contextlib.contextmanager
def explained(x: ArrayTree, y: ArrayTree) -> Iterator[None]:
    """Names the data in the error if the user's model, loss or score cannot process it.

    Frameworks name the operation that failed, not the argument.

    Args:
        x, y: NumPy structures, the examples in use.
    """
    try:
        yield
    except UnfitData:
        raise
    except Exception as error:
        if explains_loss(error) or _out_of_memory(error):
            raise
        raise UnfitData(
            "`x` and `y` must fit the model, its loss and the score. Received: x of shape "
            f"{_shapes(x)}, y of shape {_shapes(y)}. They gave "
            f"{type(error).__name__}: {str(error).strip()[:600]}"
        ) from error


def _out_of_memory(error: Exception) -> bool:
    named = type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError")
    return named or isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _shapes(structure: ArrayTree) -> Any:
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else ("n", *leaf.shape[1:]), structure
    )


def check_score_inputs(score_inputs: Any) -> None:
    """Raises unless `score_inputs` is a function or `None`."""
    if score_inputs is not None and not callable(score_inputs):
        raise TypeError(
            "`score_inputs` must be a function of the inputs of a presample, or None. Received: "
            f"{type(score_inputs).__name__}. For every second pixel: `lambda x: x[:, ::2, ::2]`."
        )


def check_scoring_dtype(dtype: Any) -> None:
    """Raises unless `dtype` is a type for scoring."""
    if dtype is not None and not (isinstance(dtype, str) and dtype in SCORING_DTYPES):
        raise ValueError(
            f"`scoring_dtype` must be one of {', '.join(repr(name) for name in SCORING_DTYPES)}, "
            f"or None for the layers' own. Received: scoring_dtype={dtype!r}. Use 'auto' to have "
            "bfloat16 where it is measured to be faster."
        )


def check_rate_scaling(scale_learning_rate: Any, model: keras.Model) -> None:
    """Raises unless the model's learning rate can be scaled."""
    if scale_learning_rate not in (False, True, None):
        raise ValueError(
            "`scale_learning_rate` must be True, False, or None to follow `presample`. "
            f"Received: scale_learning_rate={scale_learning_rate!r}."
        )
    if scale_learning_rate and getattr(model, "optimizer", None) is None:
        raise ValueError(
            "`scale_learning_rate` needs a model that was compiled with an optimizer. Received: "
            "one without. Leave it False."
        )


def check_easing(ease_off: Any) -> None:
    """Raises unless this is a bool or `None`."""
    if ease_off not in (False, True, None):
        raise ValueError(
            "`ease_off` must be True, False, or None to follow `presample`. Received: "
            f"ease_off={ease_off!r}."
        )


def check_targets(y: ArrayTree) -> None:
    """Raises if there are none."""
    if y is None:
        raise ValueError(
            "`y` must be given: a search trains the model on it. Received: y=None. "
            "To train on the input itself (an autoencoder), pass `y=x`."
        )
