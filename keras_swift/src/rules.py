"""What each argument must be: arguments of the same name are checked the same way everywhere.

This file decides which types and values are accepted, and how errors are worded. What depends on
other arguments, on the model or on the data is checked in `validation`, and where it is known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_swift.src._types import FloatArray, IntArray
from keras_swift.src.data.streams import is_stream

_INTEGERS = (int, np.integer)
_NUMBERS = (*_INTEGERS, float, np.floating)
_BOOLS = (bool, np.bool_)
SCORES = ("gradient_norm", "loss")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What an argument must be.

    Attributes:
        must: str, ends the sentence "`name` must be ...".
        kinds: tuple of types; a value of any other type is a `TypeError`.
        holds: function of a value of these types; if it returns false, that is a `ValueError`.
            Defaults to one that is always true.
        cure: str, a sentence for the end of the message. Defaults to `""`.
    """

    must: str
    kinds: tuple[Any, ...]
    holds: Callable[[Any], bool] = lambda value: True
    cure: str = ""

    def check(self, name: str, value: Any, end: str = "") -> None:
        """Raises unless `value` is what the argument `name` must be."""
        # Python counts a bool as an int.
        of_a_kind = isinstance(value, self.kinds) and (
            not isinstance(value, _BOOLS) or bool in self.kinds
        )
        if of_a_kind and self.holds(value):
            return
        cure = f" {self.cure}" if self.cure else ""
        raise (ValueError if of_a_kind else TypeError)(
            f"`{name}` must be {self.must}{end}. Received: {name}={shown(value)}.{cure}"
        )


def check(**arguments: Any) -> None:
    """Raises for the first argument that is not what its name asks for in `RULES`."""
    for name, value in arguments.items():
        RULES[name].check(name, value)


def check_if_given(**arguments: Any) -> None:
    """`check` for arguments that may be `None`."""
    for name, value in arguments.items():
        if value is not None:
            RULES[name].check(name, value, ", or None")


def plain(value: Any) -> Any:
    """A NumPy scalar as a Python one, because not every framework takes both; others unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def check_seed(seed: Any) -> None:
    """Raises unless `seed` is an int, a generator or `None`."""
    if not isinstance(seed, np.random.Generator):
        check_if_given(seed=seed)


def check_fit(arguments: Any) -> None:
    """Raises for arguments of `fit`, other than the training data, that Keras would not take.

    Args:
        arguments: an object with their names as attributes.
    """
    for names, check_them in ((_IN_FIT, check), (_OPTIONAL_IN_FIT, check_if_given)):
        check_them(**{name: getattr(arguments, name) for name in names})


def numbers(name: str, value: Any, shape: Sequence[int | None] | None) -> FloatArray:
    """An argument as a float64 array.

    Args:
        name: str, of the argument.
        value: what was given.
        shape: the length of each axis, `None` for any; or `None` for any shape.

    Raises:
        TypeError: if it does not hold numbers.
        ValueError: if it has another shape.
    """
    try:
        # NumPy would turn `None` into NaN.
        array = np.array("" if value is None else value, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be an array of numbers. Received: {name}={shown(value)}."
        ) from error
    if shape is None:
        return array
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, length) for length, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("n" if length is None else str(length) for length in shape)
        raise ValueError(
            f"`{name}` must have the shape ({wanted}{',' if len(shape) == 1 else ''}). "
            f"Received: {name} of shape {array.shape}."
        )
    return array


def int_array(name: str, value: Any) -> IntArray:
    """An argument as a vector of ints; anything else is a `TypeError`."""
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(
            f"`{name}` must be an int array of one dimension. Received: {name}={shown(value)}."
        )
    return array


def numbers_between(name: str, given: Any, low: float, high: float) -> FloatArray:
    """An argument as a read-only float64 vector; raises unless all numbers are in `[low, high]`."""
    array = numbers(name, given, (None,))
    # Written so that NaN fails too.
    if not np.all((array >= low) & (array <= high)):
        raise ValueError(
            f"`{name}` must be numbers from {low} to {high}. Received: {name}={shown(given)}."
        )
    array.setflags(write=False)
    return array


def one_of(choices: Iterable[str]) -> Rule:
    """A rule for a choice between strings."""
    listed = tuple(choices)
    return Rule(f"one of {', '.join(map(repr, listed))}", (str,), lambda value: value in listed)


@contextlib.contextmanager
def in_argument(name: str) -> Iterator[None]:
    """A context that adds to errors which argument the `x` or `y` that they name belongs to."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"In `{name}`: {error}") from error


def shown(value: Any) -> str:
    """A value as errors show it: an array by its shape, anything else in at most 80 characters."""
    shape = getattr(value, "shape", None)
    if shape is not None and not np.isscalar(value):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_presample(value: Any) -> bool:
    return value == "auto" if isinstance(value, str) else 1 < value < math.inf


def _are_class_weights(value: Mapping[Any, Any]) -> bool:
    return all(
        isinstance(label, _INTEGERS) and isinstance(weight, _NUMBERS) and math.isfinite(weight)
        for label, weight in value.items()
    )


def _is_frequency(value: Any) -> bool:
    epochs = [value] if isinstance(value, _INTEGERS) else list(value)
    return all(isinstance(epoch, _INTEGERS) and epoch >= 1 for epoch in epochs)


def _is_save_freq(value: Any) -> bool:
    return not value if isinstance(value, _BOOLS) else value >= 1


def _are_callbacks(value: Any) -> bool:
    listed = keras.tree.flatten(value)
    return all(hasattr(one, "set_model") and not isinstance(one, type) for one in listed)


def _are_objectives(value: Any) -> bool:
    listed = value if isinstance(value, list | tuple) else [value]
    return bool(listed) and all(
        isinstance(one, str) or hasattr(one, "name") and hasattr(one, "direction") for one in listed
    )


def _is_validation_data(value: Any) -> bool:
    if is_stream(value):
        return True
    parts = value if isinstance(value, list | tuple) else (value,)
    leaves = [leaf for leaf in keras.tree.flatten(value) if leaf is not None]
    return len(parts) in (1, 2, 3) and bool(leaves) and all(hasattr(x, "shape") for x in leaves)


COUNT = Rule("a positive integer", _INTEGERS, lambda value: value >= 1)
COUNT_OR_ZERO = Rule("an int of 0 or more", _INTEGERS, lambda value: value >= 0)
_SHARE = Rule("in [0, 1)", _NUMBERS, lambda value: 0 <= value < 1)
_FLAG = Rule("True or False", _BOOLS)
_FUNCTION = Rule("a function", (Callable,))
_PATH = Rule(
    "a path, a str or an `os.PathLike`", (str, os.PathLike), lambda value: str(value) != ""
)

RULES = {
    "averages": _FLAG,
    "backup_dir": dataclasses.replace(_PATH, must="the path of a folder"),
    "batch_size": COUNT,
    "callbacks": Rule("a `keras.callbacks.Callback` or a list of them", (object,), _are_callbacks),
    "class_weight": Rule(
        "a dict from class numbers to finite weights",
        (Mapping,),
        _are_class_weights,
        "For example, {0: 1.0, 1: 5.0} counts each example of class 1 five times.",
    ),
    "confirm": COUNT_OR_ZERO,
    "count": COUNT,
    "delete_checkpoint": _FLAG,
    "directory": _PATH,
    "double_checkpoint": _FLAG,
    "ease_off": _FLAG,
    "epochs": COUNT_OR_ZERO,
    "file": _PATH,
    "finetune_epochs": COUNT,
    "floor": dataclasses.replace(
        _SHARE, cure="It is the uniform share of the draws: 0.1 bounds the weights by 10."
    ),
    "initial_epoch": COUNT_OR_ZERO,
    "max_trials": COUNT,
    "objective": Rule(
        "the name of a metric, a `keras_tuner.Objective`, or a list of them",
        (object,),
        _are_objectives,
    ),
    "on_draw": dataclasses.replace(_FUNCTION, must="a function of a `Batch`"),
    "overwrite": _FLAG,
    "path": _PATH,
    "presample": Rule(
        "greater than 1 and finite, or 'auto'",
        (*_NUMBERS, str),
        _is_presample,
        "Use 3.0 to score three batches for each batch trained.",
    ),
    "pretrain_epochs": COUNT_OR_ZERO,
    "project_name": Rule("the name of a folder", (str,), lambda value: value != ""),
    "return_scores": _FLAG,
    "save_freq": Rule(
        "'epoch', a number of batches, 1 or more, or False",
        (*_BOOLS, *_INTEGERS, str),
        lambda value: value == "epoch" if isinstance(value, str) else _is_save_freq(value),
    ),
    "scale_learning_rate": _FLAG,
    "score": Rule(
        f"one of {', '.join(map(repr, SCORES))}, or a callable `(y_true, y_pred) -> (n,)` in "
        "`keras.ops`",
        (str, Callable),
        lambda value: callable(value) or value in SCORES,
    ),
    "score_inputs": Rule(
        "a function of the inputs of a presample",
        (Callable,),
        cure="For every second pixel: `lambda x: x[:, ::2, ::2]`.",
    ),
    "seed": COUNT_OR_ZERO,
    "segments": COUNT,
    "shuffle": Rule(
        "True, False or 'batch'",
        (*_BOOLS, str),
        lambda value: not isinstance(value, str) or value == "batch",
    ),
    "size": COUNT_OR_ZERO,
    "steps_per_epoch": COUNT,
    "tau_threshold": Rule(
        "0 or more and finite",
        _NUMBERS,
        lambda value: 0 <= value < math.inf,
        "Use 0 to draw every batch by importance, None for the paper's threshold.",
    ),
    "validation_batch_size": COUNT,
    "validation_data": Rule(
        "`(x, y)` or `(x, y, sample_weight)` of arrays, or a data set of such batches",
        (object,),
        _is_validation_data,
    ),
    "validation_freq": Rule(
        "a positive integer or a list of epochs, from 1",
        (*_INTEGERS, list, tuple, set, range),
        _is_frequency,
    ),
    "validation_split": _SHARE,
    "validation_steps": COUNT_OR_ZERO,
    "verbose": Rule(
        "'auto', 0, 1 or 2", (*_BOOLS, *_INTEGERS, str), lambda value: value in ("auto", 0, 1, 2)
    ),
    "warmup": COUNT,
}
_IN_FIT = (
    "epochs",
    "verbose",
    "validation_split",
    "shuffle",
    "initial_epoch",
    "validation_freq",
)
_OPTIONAL_IN_FIT = (
    "batch_size",
    "callbacks",
    "validation_data",
    "class_weight",
    "steps_per_epoch",
    "validation_steps",
    "validation_batch_size",
)
