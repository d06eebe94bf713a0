"""The realised variance gain of steps drawn by importance, which sets how large they may be."""

from __future__ import annotations

from typing import Any

import keras

from keras_swift.src._keras import has_schedule, innermost

# The share of the running mean that a new measurement replaces.
NEW = 0.5


class RealisedGain:
    """A running mean of the measured variance gain `k`.

    A batch drawn with weights `w`, whose scores turn out to be `s`, has
    `1 / k` of the second moment of a uniform one, with

        k = sum(w s**2) sum(w) / (sum(w c s**2) sum(w / c)),

    where `c` is `w`; while batches are uniform, `w` is 1 and `c` the weights
    that they would have had. The sums with `s` are unbiased estimates of
    second moments, whatever the probabilities were computed from, so `k`
    accounts for stale scores. The other two sums have the expectation 1 for
    each example; using their realised values removes the noise that comes
    from which examples were drawn. Where all scores are the same, `k` is
    never above 1.

    Attributes:
        value: float, the running mean; it starts from 1.0, so that it grows as the gain is
            confirmed.
        is_measured: bool, whether there was a measurement.

    Example:
        >>> gain = RealisedGain()
        >>> gain.update(weights=1.0, uniform=3.0, drawn=1.0, inverse=1.0)
        >>> gain.value
        2.0
    """

    def __init__(self) -> None:
        self.value = 1.0
        self.is_measured = False

    def update(self, weights: float, uniform: float, drawn: float, inverse: float) -> None:
        """Adds the sums over the examples of some steps, as in `Moments`; ignores sums of 0."""
        if uniform > 0 and drawn > 0 and inverse > 0:
            self.value += NEW * (uniform * weights / (drawn * inverse) - self.value)
            self.is_measured = True


def step_power(optimizer: Any) -> float:
    """The power of the variance gain by which the learning rate of a step may grow.

    A batch with the noise of one `k` times as large allows a step `k` times
    as large with stochastic gradient descent. Optimizers that divide by a
    running size of the gradient, as Adam does, divide by its noise too:
    their step may be `sqrt(k)` times as large. Below its best learning rate
    even Adam gains more from `k`, so it gets `k` if the rate follows a
    schedule: steps that are too large at first do no lasting harm, because
    the rate decays.

    Args:
        optimizer: `keras.optimizers.Optimizer`, or one that wraps it.

    Returns:
        1.0 for `keras.optimizers.SGD`, and for any optimizer whose rate
        follows a schedule; else 0.5.

    Example:
        >>> step_power(keras.optimizers.SGD(0.1)), step_power(keras.optimizers.Adam())
        (1.0, 0.5)

    Reference:
        Malladi, Lyu, Panigrahi and Arora, "On the SDEs and Scaling Rules for
        Adaptive Gradient Algorithms", NeurIPS 2022, arXiv 2205.10287.
    """
    optimizer = innermost(optimizer)
    whole = isinstance(optimizer, keras.optimizers.SGD) or has_schedule(optimizer)
    return 1.0 if whole else 0.5
