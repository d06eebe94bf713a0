"""The gate of `presample="auto"`: what importance sampling would gain, against what it costs.

This file decides, from a few measured numbers, whether batches are drawn by importance and out of
how large a presample. It is arithmetic alone: `run_watch` measures.
"""

import math

from keras_swift.importance.gate.published import MOMENTUM, variance_gain

# Few, because where the backend compiles each size is compiled on its own.
RATIOS = (2, 3, 5)
# The gate opens when importance sampling is predicted to end this much lower, at this many looks
# one after the other: at one look the noise share may be that of a spike of the loss. It shuts when
# the prediction falls under the second number, or under 1 with less noise left than the third: not
# sooner, because shutting lets the noise come back that is missing, and runs that had become quiet
# ended in a spike of the loss. Nor does it then count lost steps by the fall of the loss.
OPENS_ABOVE = 1.05
AGREEING = 2
SHUTS_BELOW = 0.9
QUIET = 0.05
# Where the loss still falls by itself, this much of a run whose end is known is left to uniform
# training: it may come to rest on its own, and the noise is removed within a few hundred steps.
LATE = 0.25
# Another ratio must be predicted to be this much better to be worth a change.
CHANGES_ABOVE = 1.02
# The exponent in `steps**-a`, what lost steps cost the part of the loss that is not noise, while
# nothing is known of it, and at least.
LOST_STEPS = 0.15
# How much of the measured exponent counts. The averaged loss of uniform training falls faster than
# steps alone would make it: the noise that holds it up falls with it (`docs/performance.md`).
FALL_COUNTS = 0.5
# How much of the last noise share the next one keeps.
KEPT = 0.5
# One look proves nothing: the first ones fall into the steepest descent.
LOOKS = 3


def predicted_gain(
    ratio, tau, cost_ratio, noise_share, highest_scale=1.0, exponent=LOST_STEPS, share_left=1.0
):
    """Uniform training's loss at the end of a run over importance sampling's, at equal cost.

    An importance step costs `1 + f r` uniform ones. If the share `q` of the
    run that is left is drawn by importance, uniform training could have made
    `1 + q f r` times the steps meanwhile, and the part of the loss that falls
    with their number, as `steps**-a`, is behind by `(1 + q f r)**a`; the part
    that is gradient noise, the share `phi`, is `k` times smaller. With the
    learning rate times `m`, a step goes `m` times as far and makes `m` times
    the noise:

        1 / gain = (1 - phi) ((1 + q f r) / (1 - q + q m))**a + phi m / k

    Early in a run the lost steps count in full, near its end hardly: noise is
    best removed late, as a learning rate is best lowered late.

    Args:
        ratio: float, the presample ratio `r`.
        tau: float, the variance reduction.
        cost_ratio: float, `f`, scoring one example over training one.
        noise_share: float in [0, 1), `phi`, of the loss of uniform training.
        highest_scale: float, the largest `m` allowed; `m` is up to `k`.
            Defaults to 1.0, the rate as it is.
        exponent: float, `a`. Defaults to `LOST_STEPS`.
        share_left: float in [0, 1], `q`. Defaults to 1.0, for a run whose
            end is not known.

    Returns:
        A float; above 1, importance sampling is ahead.

    Example:
        >>> round(predicted_gain(2, 1e9, 0.25, 0.5), 3)
        1.28
    """
    k = variance_gain(tau, ratio)
    scale = max(1.0, min(k, highest_scale))
    behind = (1.0 + share_left * cost_ratio * ratio) / (1.0 + share_left * (scale - 1.0))
    signal = (1.0 - noise_share) * behind**exponent
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


class MeasuredGate:
    """Opens while importance sampling is predicted to pay, at the ratio that pays most.

    Shut until `observe` has seen three looks, and until two in a row agree,
    so it opens at the fourth at the earliest; what cannot be measured (a loss
    that is not above 0, say) keeps it shut.

    Args:
        ratios: tuple of ascending floats above 1, the presample ratios to
            choose from. Defaults to `RATIOS`.
        highest_scale: float, the largest factor of the learning rate while
            the gate is open. Defaults to 1.0.

    Attributes:
        tau: float, running mean of the variance reduction; `None` before the
            first measurement.
        ratio: the present ratio, 0 while shut.
        cost_ratio, noise_share, gain: what was last measured and
            the predicted gain of the best ratio; `None` before.
        exponent: float, what lost steps are taken to cost, `a`.
    """

    def __init__(self, ratios=RATIOS, highest_scale=1.0):
        self.ratios = tuple(ratios)
        self.highest_scale = highest_scale
        self.ratio = 0
        self.tau = None
        self.cost_ratio = self.noise_share = self.gain = None
        self.exponent = LOST_STEPS
        self._looks = self._agreeing = 0
        self._decay = self._share_left = 1.0

    @property
    def is_open(self):
        """bool, whether the next batch is drawn by importance."""
        return self.ratio > 0

    @property
    def rate_scale(self):
        """float, what the learning rate is to be multiplied by now."""
        gain = variance_gain(self.tau, self.ratio) if self.is_open else 1.0
        return max(1.0, min(gain, self.highest_scale))

    def stay_shut(self):
        """Where there are no presamples to be had."""
        self.ratios, self.ratio = (), 0

    def update(self, tau, steps=1):
        """Takes in a `tau` that stands for `steps` steps."""
        kept = 0.0 if self.tau is None else MOMENTUM**steps
        self.tau = kept * (self.tau or 0.0) + (1.0 - kept) * tau

    def observe(self, loss, averaged_loss, cost_ratio, *, decay=1.0, fall=None, share_left=1.0):
        """Takes in a look at the run and decides.

        Args:
            loss: float, of some training examples under the present weights.
            averaged_loss: float, theirs under the weights averaged since the
                last look: what is left of the loss without the noise.
            cost_ratio: float, `f`, or `None` where it is not known yet, or
                not anew since the last look.
            decay: float in [0, 1], what the learning rate is on its way to be
                multiplied by. Noise is in proportion to it, and what a
                schedule removes anyway is not worth paying for. Defaults to
                1.0.
            fall: float, the exponent with which the averaged loss of uniform
                training falls, or `None` where it is not known, or not anew.
                Defaults to `None`.
            share_left: float in [0, 1], of the run. Defaults to 1.0, for a
                run whose end is not known.
        """
        # A run that is resumed begins to measure it anew.
        self.cost_ratio = self.cost_ratio if cost_ratio is None else cost_ratio
        self._decay, self._share_left = decay, share_left
        if fall is not None:
            self.exponent = max(LOST_STEPS, FALL_COUNTS * fall)
        if not all(math.isfinite(value) and value > 0 for value in (loss, averaged_loss)):
            # Of a negative loss there is no share.
            self.noise_share = self.gain = None
            self.ratio = self._looks = self._agreeing = 0
            return
        share = min(0.99, max(0.0, 1.0 - averaged_loss / loss))
        if self.is_open:
            reduction = variance_gain(self.tau, self.ratio) / self.rate_scale
            share = uniform_noise_share(share, reduction)
        kept = 0.0 if self.noise_share is None else KEPT
        self.noise_share = kept * (self.noise_share or 0.0) + (1.0 - kept) * share
        self._looks += 1
        self._decide()

    def _decide(self):
        unknown = None in (self.tau, self.cost_ratio) or self._looks < LOOKS
        if unknown or not self.ratios:
            self.ratio, self._agreeing, self.gain = 0, 0, None
            return
        gains = {ratio: self.gain_of(ratio) for ratio in self.ratios}
        best = max(gains, key=gains.get)
        self.gain = gains[best]
        if not self.is_open:
            self._agreeing = self._agreeing + 1 if self.gain > OPENS_ABOVE else 0
            self.ratio = best if self._agreeing >= AGREEING and not self._waits else 0
        elif self._gain_of_staying() < (1.0 if self._coming_share < QUIET else SHUTS_BELOW):
            self.ratio = self._agreeing = 0
        elif self.gain > CHANGES_ABOVE * gains[self.ratio]:
            self.ratio = best

    @property
    def _waits(self):
        # A share of 1 is that of a run whose end is not known.
        return self.exponent > LOST_STEPS and LATE < self._share_left < 1.0

    @property
    def _coming_share(self):
        return uniform_noise_share(self.noise_share, self._decay)

    def gain_of(self, ratio):
        """float, the predicted gain of a ratio by what was measured last."""
        return predicted_gain(
            ratio,
            self.tau,
            self.cost_ratio,
            self._coming_share,
            self.highest_scale,
            self.exponent,
            self._share_left,
        )

    def _gain_of_staying(self):
        measured = (self.tau, self.cost_ratio, self._coming_share, self.highest_scale)
        return max(predicted_gain(ratio, *measured) for ratio in self.ratios)

    def measured(self):
        """The numbers for the history, NaN for what is not known yet.

        Returns:
            A dict of floats: `tau`, `cost_ratio`, `noise_share`,
            `loss_exponent`, `predicted_gain`.
        """
        numbers = {
            "tau": self.tau,
            "cost_ratio": self.cost_ratio,
            "noise_share": self.noise_share,
            "loss_exponent": self.exponent,
            "predicted_gain": self.gain,
        }
        return {
            name: float("nan") if value is None else float(value) for name, value in numbers.items()
        }

    def state(self):
        """What `restore` brings back; plain values."""
        return {name: getattr(self, name) for name in self._STATE}

    def restore(self, state):
        for name in self._STATE:
            setattr(self, name, state[name])
        if self.ratio not in self.ratios:
            # Of another batch size.
            self.ratio = 0

    _STATE = (
        "ratio",
        "tau",
        "cost_ratio",
        "noise_share",
        "exponent",
        "gain",
        "_looks",
        "_agreeing",
        "_decay",
        "_share_left",
    )
