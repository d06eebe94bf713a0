"""The float type that scores are computed in, which may differ from that of training.

This file decides which layers compute in it, restores every layer's own
policy, and measures whether a lower precision is faster.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import keras
import numpy as np

from keras_swift.src._keras import flatten_layers
from keras_swift.src._types import FloatArray, ScoringDtype
from keras_swift.src.scoring.activations import output_layers

# A scoring pass faster than this (seconds) is not worth a second compilation.
WORTH_TIMING = 1e-3
# The lower precision must take at most this share of the time of the model's own type.
CLEARLY_FASTER = 0.8
_ROUNDS = 4

_POLICIES: dict[str | None, str] = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
# Cheap layers whose inputs may be large whole numbers or far from zero, where
# eight bits of precision would change what they mean.
_KEPT = (
    keras.Model,
    keras.layers.Embedding,
    keras.layers.Normalization,
    keras.layers.Rescaling,
    keras.layers.Discretization,
    keras.layers.CategoryEncoding,
    keras.layers.Hashing,
    keras.layers.HashedCrossing,
    keras.layers.IntegerLookup,
)


def layers_to_change(model: keras.Model, dtype: ScoringDtype | None) -> list[keras.Layer]:
    """The layers that compute in another type when scores are computed in `dtype`.

    The layers that produce the model's predictions keep their type, so that
    the softmax and the closed forms of the score are computed in float32: for
    a probability near 1, rounding would leave nothing of the score. In a
    subclassed model the last layer is not known, and all layers change.

    Args:
        model: a built `keras.Model`.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`, or `None` for none.

    Returns:
        A list of layers: those of a plain or a mixed policy, with float32
        variables, that compute in another type than `dtype`.
    """
    if dtype is None:
        return []
    last = output_layers(model)
    return [
        layer
        for layer in flatten_layers(model)
        if layer.dtype_policy.name in _POLICIES.values()
        and layer.dtype_policy.name != _POLICIES[dtype]
        and not isinstance(layer, _KEPT)
        and not any(layer is other for other in last)
    ]


@contextlib.contextmanager
def computing_in(dtype: ScoringDtype | None, layers: list[keras.Layer]) -> Iterator[None]:
    """A context in which `layers` compute in `dtype`; their variables stay float32.

    For tracing a function: what is compiled in the context keeps the type.
    """
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = _POLICIES[dtype]
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy


def faster(own: Callable[[], FloatArray], lower: Callable[[], FloatArray]) -> bool:
    """Whether a scoring function in lower precision is clearly the faster one.

    Both are called in turn, and the least of four times counts: a busy machine
    disturbs it least.

    Args:
        own: function of no arguments that returns scores, compiled already.
        lower: the same in lower precision. It may fail: not every layer of a
            user computes in every type.

    Returns:
        A bool; `False` without trying `lower` if `own` takes less than a
        millisecond; `False` too if the scores of `lower` are not finite.
    """
    slow = _least_seconds(own)
    if slow < WORTH_TIMING:
        return False
    try:
        if not np.isfinite(lower()).all():
            return False
    except Exception:  # Each framework raises its own error for types that do not fit.
        return False
    seconds = [(_least_seconds(own, 1), _least_seconds(lower, 1)) for _ in range(_ROUNDS)]
    slow, fast = np.min(seconds, axis=0)
    return bool(fast <= CLEARLY_FASTER * slow)


def _least_seconds(function: Callable[[], object], times: int = _ROUNDS) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
