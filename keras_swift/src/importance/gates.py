"""Gates decide, step by step, between a uniform batch and one drawn by fresh scores."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from keras_swift.src._state import SavedState

# The decay of the running mean in Algorithm 1 of the paper.
MOMENTUM = 0.9
# Presample ratios to choose from; few, because compiling backends compile for each size.
RATIOS = (2, 3, 5)
# The cost of scoring an example in float32 over that of training on it: scoring is one forward
# pass, and a training step costs as much as three.
COST_RATIO = 1 / 3


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


class _RunningTau:
    """`tau <- a tau + (1 - a) tau_new` with `a = 0.9`, from 0 (Algorithm 1).

    A measurement that stands for several steps counts as that many: with
    `a**steps` in place of `a`, the mean is as if the same value had been
    measured at each of them.
    """

    def __init__(self) -> None:
        self.tau = 0.0

    def update(self, tau: float, steps: int = 1) -> None:
        """Adds a measured `tau` that stands for `steps` steps."""
        kept = MOMENTUM**steps
        self.tau = kept * self.tau + (1.0 - kept) * tau


class PublishedGate(_RunningTau):
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
        super().__init__()
        if tau_threshold is None:
            tau_threshold = (presample_size + 3 * batch_size) / (3 * batch_size)
        self.tau_threshold = tau_threshold
        self.ratio = presample_size / batch_size

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


class CostGate(_RunningTau):
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
        super().__init__()
        self._ratios = ratios
        self._cost_ratio = cost_ratio
        self._weight = 0.0

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
