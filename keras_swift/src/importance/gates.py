"""The variance gain of draws by importance, and what follows from it.

Gates decide, step by step, between a uniform batch and one drawn by fresh scores. For remembered
scores the gain is measured, and sets how large the steps may be.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import keras

from keras_swift.src._keras import has_schedule, innermost
from keras_swift.src._state import SavedState

# The decay of the running mean in Algorithm 1 of the paper.
MOMENTUM = 0.9
# Presample ratios to choose from; few, because compiling backends compile for each size.
RATIOS = (2, 3, 5)
# The cost of scoring an example in float32 over that of training on it: scoring is one forward
# pass, and a training step costs as much as three.
COST_RATIO = 1 / 3
# The share of the realised gain's running mean that a new measurement replaces.
NEW = 0.5


@dataclasses.dataclass(frozen=True)
class PublishedGateState(SavedState):
    """The running mean of the paper's gate."""

    tau: float


@dataclasses.dataclass(frozen=True)
class CostGateState(SavedState):
    """The running mean of a `CostGate`, and the weight of the measurements in it."""

    tau: float
    weight: float


class Gate(Protocol):
    """The interface of a gate for `ImportanceSampler`.

    Attributes:
        tau: float, the running mean of the variance reduction.
    """

    tau: float

    @property
    def is_open(self) -> bool:
        """Whether the next batch is drawn by importance."""

    @property
    def ratio(self) -> float:
        """The presample ratio `B / b` of the next batch, if it is drawn by importance."""

    @property
    def gain(self) -> float:
        """The variance gain `k` of a batch drawn by importance, 1 or more; see `variance_gain`."""

    def update(self, tau: float, steps: int = 1) -> None:
        """Adds a measured variance reduction that stands for `steps` steps."""

    def state(self) -> SavedState:
        """State for `restore`."""

    def restore(self, state: Any) -> None:
        """Restores what `state` returned."""


def variance_gain(tau: float, ratio: float) -> float:
    """The variance gain `k`: a uniform batch `k` times as large has the same variance.

    `k = 1 / (1 / tau**2 + 1 / r)`: importance sampling divides the second
    moment by `tau**2`, and cannot do better than the presample of `r` batches
    it draws from.

    Args:
        tau: float, the variance reduction.
        ratio: float, the presample ratio `r`, above 1.

    Returns:
        A float, 1 or more: values below 1 are raised to 1.

    Example:
        >>> variance_gain(2.0, 4)
        2.0
    """
    return max(1.0, 1.0 / (1.0 / max(tau, 1.0) ** 2 + 1.0 / ratio))


class PublishedGate:
    """The paper's rule: open while the running mean of `tau` is above a threshold.

    Args:
        presample_size: int, `B`.
        batch_size: int, `b`.
        tau_threshold: float, 0 or more; 0 keeps the gate open from the first
            step. Defaults to `None`, the paper's `(B + 3b) / (3b)`, which
            assumes that a backward pass costs two forward passes.

    Example:
        >>> gate = PublishedGate(presample_size=96, batch_size=32)
        >>> gate.tau_threshold, gate.is_open
        (2.0, False)
        >>> gate.update(4.0, steps=10)
        >>> gate.is_open
        True

    Reference:
        Katharopoulos and Fleuret, ICML 2018, Algorithm 1 and section 3.3.
    """

    def __init__(
        self, presample_size: int, batch_size: int, tau_threshold: float | None = None
    ) -> None:
        if tau_threshold is None:
            tau_threshold = (presample_size + 3 * batch_size) / (3 * batch_size)
        self.tau_threshold = tau_threshold
        self.ratio = presample_size / batch_size
        self.tau = 0.0

    def update(self, tau: float, steps: int = 1) -> None:
        """Adds a measured `tau` that stands for `steps` steps.

        Computes `tau <- a tau + (1 - a) tau_new` with `a = 0.9`, from 0 (Algorithm 1), and with
        `a**steps` for several steps, as if the same value had been measured at each of them.
        """
        kept = MOMENTUM**steps
        self.tau = kept * self.tau + (1.0 - kept) * tau

    @property
    def is_open(self) -> bool:
        """Whether the next batch is drawn by importance."""
        return self.tau_threshold == 0 or self.tau > self.tau_threshold

    @property
    def gain(self) -> float:
        """The variance gain of the running mean."""
        return variance_gain(self.tau, self.ratio)

    def state(self) -> PublishedGateState:
        """State for `restore`."""
        return PublishedGateState(float(self.tau))

    def restore(self, state: PublishedGateState) -> None:
        """Restores what `state` returned."""
        self.tau = state.tau


class CostGate:
    """Open while the variance gain exceeds the cost of a step, `k > 1 + f r`.

    A step drawn from `r` batches costs `1 + f r` uniform steps and is worth
    `k` of them. The ratio is the one with the highest `k / (1 + f r)`.

    Args:
        ratios: the presample ratios to choose from; if empty, the gate never
            opens.
        cost_ratio: float, `f`, the cost of scoring an example over that of
            training on it. Defaults to a third.

    Example:
        >>> gate = CostGate((2, 3, 5), cost_ratio=0.1)
        >>> gate.update(1.2, steps=100)
        >>> gate.is_open
        False
        >>> gate.update(3.0, steps=100)
        >>> gate.is_open, gate.ratio, round(gate.gain, 2)
        (True, 5, 3.21)
    """

    def __init__(self, ratios: tuple[float, ...], cost_ratio: float = COST_RATIO) -> None:
        self._ratios = ratios
        self._cost_ratio = cost_ratio
        self.tau = self._weight = 0.0

    def update(self, tau: float, steps: int = 1) -> None:
        """Adds a measured `tau` that stands for `steps` steps.

        Unlike the paper's, the mean does not start from 0 but from the first measurement, so that
        it estimates `tau` from the first step on.
        """
        kept = self._weight * MOMENTUM**steps
        new = 1.0 - MOMENTUM**steps
        self._weight = kept + new
        self.tau = (kept * self.tau + new * tau) / self._weight

    def state(self) -> CostGateState:
        """State for `restore`."""
        return CostGateState(float(self.tau), float(self._weight))

    def restore(self, state: CostGateState) -> None:
        """Restores what `state` returned."""
        self.tau, self._weight = state.tau, state.weight

    @property
    def ratio(self) -> float:
        """The ratio with the highest `k / (1 + f r)`; 1 if there is none to choose from."""
        return max(self._ratios, key=self._worth, default=1.0)

    @property
    def is_open(self) -> bool:
        """Whether the next batch is drawn by importance."""
        return bool(self._ratios) and self._worth(self.ratio) > 1.0

    @property
    def gain(self) -> float:
        """The variance gain of the running mean, at this ratio."""
        return variance_gain(self.tau, self.ratio)

    def stay_shut(self) -> None:
        """Keeps the gate shut for good, because the data gives no presamples."""
        self._ratios = ()

    def _worth(self, ratio: float) -> float:
        return variance_gain(self.tau, ratio) / (1.0 + self._cost_ratio * ratio)


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
    never above 1. With a floor of 0, examples of score 0 are never drawn,
    and `k` is too small by their share.

    Attributes:
        value: float, the running mean; it starts from 1.0, so that it grows as the gain is
            confirmed.
        is_measured: bool, whether there was a measurement.
        ahead: float, by how many uniform steps at the optimizer's own rate the steps that were
            drawn by importance have brought the training forward.

    Example:
        >>> gain = RealisedGain()
        >>> gain.update(weights=1.0, uniform=3.0, drawn=1.0, inverse=1.0)
        >>> gain.value
        2.0
    """

    def __init__(self) -> None:
        self.value = 1.0
        self.is_measured = False
        self.ahead = 0.0

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
