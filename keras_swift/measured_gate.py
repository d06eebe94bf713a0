"""The gate of `presample="auto"`: what importance sampling would gain, against what it costs.

This file decides, from a few measured numbers, whether batches are drawn by importance and out of
how large a presample. It is arithmetic alone: `run_watch` measures.
"""

import math

from keras_swift.gate import MOMENTUM, variance_gain

# Few, because where the backend compiles each size is compiled on its own.
RATIOS = (2, 3, 5)
# The gate opens when importance sampling is predicted to end this much lower, and shuts when the
# prediction falls under the second number.
OPENS_ABOVE = 1.05
SHUTS_BELOW = 1.0
# Another ratio must be predicted to be this much better to be worth a change.
CHANGES_ABOVE = 1.02
# The decay of the loss is fitted over this last share of the run, in octaves of steps.
OCTAVES = 1.5
# How much of the last noise share the next one keeps.
KEPT = 0.5


def predicted_gain(ratio, tau, cost_ratio, noise_share, loss_decay, highest_scale=1.0):
    """Uniform training's loss over that of importance sampling, at equal cost.

    An importance step costs `1 + f r` uniform ones, so the part of the loss
    that falls with the number of steps, as `steps**-a`, is behind by
    `(1 + f r)**a`; the part that is gradient noise, the share `phi`, is `k`
    times smaller. With the learning rate times `m`, a step goes `m` times as
    far and makes `m` times the noise:

        1 / gain = (1 - phi) ((1 + f r) / m)**a + phi m / k

    Args:
        ratio: float, the presample ratio `r`.
        tau: float, the variance reduction.
        cost_ratio: float, `f`, scoring one example over training one.
        noise_share: float in [0, 1), `phi`, of the loss of uniform training.
        loss_decay: float, `a`, 0 or more.
        highest_scale: float, the largest `m` allowed; `m` is up to `k`.
            Defaults to 1.0, the rate as it is.

    Returns:
        A float; above 1, importance sampling is ahead.

    Example:
        >>> round(predicted_gain(2, 1e9, 0.25, 0.5, 1.0), 3)
        1.0
    """
    k = variance_gain(tau, ratio)
    scale = max(1.0, min(k, highest_scale))
    signal = (1.0 - noise_share) * ((1.0 + cost_ratio * ratio) / scale) ** loss_decay
    return 1.0 / (signal + noise_share * scale / k)


def uniform_noise_share(share, reduction):
    """The noise share that uniform training would have, from that under less noise.

    Args:
        share: float in [0, 1), the share of the present loss.
        reduction: float, how many times smaller the noise is now.

    Returns:
        A float in [0, 1).

    Example:
        >>> uniform_noise_share(0.5, 1.0), uniform_noise_share(0.5, 3.0)
        (0.5, 0.75)
    """
    return reduction * share / (1.0 - share + reduction * share)


def fitted_decay(points):
    """How fast the loss falls: `a` in `loss ~ steps**-a`, by least squares of the logarithms.

    Args:
        points: list of `(step, loss)`, losses above 0.

    Returns:
        A float, 0 or more, over the last `OCTAVES` octaves of steps, or
        `None` with fewer than three points there.

    Example:
        >>> round(fitted_decay([(100, 1.0), (200, 0.5), (250, 0.4)]), 3)
        1.0
    """
    last = points[-1][0] if points else 0
    recent = [(math.log(s), math.log(v)) for s, v in points if s >= last / 2**OCTAVES]
    if len(recent) < 3:
        return None
    count = len(recent)
    mean_x = sum(x for x, _ in recent) / count
    mean_y = sum(y for _, y in recent) / count
    spread = sum((x - mean_x) ** 2 for x, _ in recent)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in recent) / spread
    return max(0.0, -slope)


class MeasuredGate:
    """Opens while importance sampling is predicted to pay, at the ratio that pays most.

    Shut until `observe` has seen three probes; what cannot be measured (a
    loss that is not above 0, say) keeps it shut.

    Args:
        ratios: tuple of ascending floats above 1, the presample ratios to
            choose from. Defaults to `RATIOS`.
        highest_scale: float, the largest factor of the learning rate while
            the gate is open. Defaults to 1.0.

    Attributes:
        tau: float, running mean of the variance reduction; `None` before the
            first measurement.
        ratio: the present ratio, 0 while shut.
        cost_ratio, noise_share, loss_decay, gain: what was last measured and
            the predicted gain of the best ratio; `None` before.
    """

    def __init__(self, ratios=RATIOS, highest_scale=1.0):
        self.ratios = tuple(ratios)
        self.highest_scale = highest_scale
        self.ratio = 0
        self.tau = None
        self.cost_ratio = self.noise_share = self.loss_decay = self.gain = None
        self._points = []

    @property
    def is_open(self):
        """bool, whether the next batch is drawn by importance."""
        return self.ratio > 0

    @property
    def rate_scale(self):
        """float, what the learning rate is to be multiplied by now."""
        gain = variance_gain(self.tau, self.ratio) if self.is_open else 1.0
        return max(1.0, min(gain, self.highest_scale))

    def update(self, tau, steps=1):
        """Takes in a `tau` that stands for `steps` steps."""
        kept = 0.0 if self.tau is None else MOMENTUM**steps
        self.tau = kept * (self.tau or 0.0) + (1.0 - kept) * tau

    def observe(self, step, loss, averaged_loss, cost_ratio):
        """Takes in a probe and decides.

        Args:
            step: int, steps trained so far.
            loss: float, of the probe examples under the present weights.
            averaged_loss: float, theirs under the weights averaged since the
                last probe: what is left of the loss without the noise.
            cost_ratio: float, `f`, or `None` where it is not known yet.
        """
        self.cost_ratio = cost_ratio
        if not all(math.isfinite(value) and value > 0 for value in (loss, averaged_loss)):
            # Negative losses have no share and no decay.
            self.noise_share = self.loss_decay = self.gain = None
            self.ratio, self._points = 0, []
            return
        share = min(0.99, max(0.0, 1.0 - averaged_loss / loss))
        if self.is_open:
            reduction = variance_gain(self.tau, self.ratio) / self.rate_scale
            share = uniform_noise_share(share, reduction)
        kept = 0.0 if self.noise_share is None else KEPT
        self.noise_share = kept * (self.noise_share or 0.0) + (1.0 - kept) * share
        self._points.append((step, averaged_loss))
        self._points = [point for point in self._points if point[0] >= step / 2**OCTAVES]
        self.loss_decay = fitted_decay(self._points)
        self._decide()

    def _decide(self):
        if None in (self.tau, self.cost_ratio, self.loss_decay) or not self.ratios:
            self.ratio, self.gain = 0, None
            return
        gains = {ratio: self.gain_of(ratio) for ratio in self.ratios}
        best = max(gains, key=gains.get)
        self.gain = gains[best]
        if self.gain < SHUTS_BELOW or (not self.is_open and self.gain <= OPENS_ABOVE):
            self.ratio = 0
        elif not self.is_open or self.gain > CHANGES_ABOVE * gains[self.ratio]:
            self.ratio = best

    def gain_of(self, ratio):
        """float, the predicted gain of a ratio by what was measured last."""
        return predicted_gain(
            ratio,
            self.tau,
            self.cost_ratio,
            self.noise_share,
            self.loss_decay,
            self.highest_scale,
        )

    def measured(self):
        """The numbers for the history, NaN for what is not known yet.

        Returns:
            A dict of floats: `tau`, `cost_ratio`, `noise_share`,
            `loss_decay`, `predicted_gain`.
        """
        numbers = {
            "tau": self.tau,
            "cost_ratio": self.cost_ratio,
            "noise_share": self.noise_share,
            "loss_decay": self.loss_decay,
            "predicted_gain": self.gain,
        }
        return {
            name: float("nan") if value is None else float(value) for name, value in numbers.items()
        }

    def state(self):
        """What `restore` brings back; plain values."""
        names = ("ratio", "tau", "cost_ratio", "noise_share", "loss_decay", "gain")
        return {
            **{name: getattr(self, name) for name in names},
            "points": [list(point) for point in self._points],
        }

    def restore(self, state):
        for name in ("ratio", "tau", "cost_ratio", "noise_share", "loss_decay", "gain"):
            setattr(self, name, state[name])
        self._points = [tuple(point) for point in state["points"]]
