"""The gate decides, step by step, between a uniform and an importance batch."""

# The decay of the running mean in Algorithm 1 of the paper.
MOMENTUM = 0.9


def variance_gain(tau, ratio):
    """How many times larger a uniform batch would have the same variance, `k`.

    `k = 1 / (1 / tau**2 + 1 / r)`: importance sampling divides the second
    moment by `tau**2`, and cannot know more than the presample of `r` batches
    it draws from.

    Args:
        tau: float, the variance reduction.
        ratio: float, the presample ratio `r`, above 1.

    Returns:
        A float, 1 or more: less than a uniform batch's worth counts as one.

    Example:
        >>> variance_gain(2.0, 4)
        2.0
    """
    return max(1.0, 1.0 / (1.0 / max(tau, 1.0) ** 2 + 1.0 / ratio))


class Gate:
    """Opens when the measured variance reduction pays for the presample.

    Keeps the running mean `tau <- a tau + (1 - a) tau_new` with `a = 0.9`,
    from 0 (Katharopoulos and Fleuret 2018, Algorithm 1). The gate is open
    while the mean is above the threshold.

    A measurement that stands for several steps counts that often: with
    `a**steps` in place of `a`, the mean is what it would be had the same
    value been measured at each of them.

    Args:
        presample_size: int, `B`.
        batch_size: int, `b`.
        tau_threshold: float, 0 or more; 0 keeps the gate open from the first
            step. Defaults to `None`, the paper's `(B + 3b) / (3b)`, which
            takes a backward pass to cost two forward passes.
        highest_scale: float, the largest factor of the learning rate while
            the gate is open. Defaults to 1.0.

    Example:
        >>> gate = Gate(presample_size=96, batch_size=32)
        >>> gate.tau_threshold, gate.is_open
        (2.0, False)
        >>> gate.update(4.0, steps=10)
        >>> gate.is_open
        True
    """

    def __init__(self, presample_size, batch_size, tau_threshold=None, highest_scale=1.0):
        if tau_threshold is None:
            tau_threshold = (presample_size + 3 * batch_size) / (3 * batch_size)
        self.tau_threshold = tau_threshold
        self.ratio = presample_size / batch_size
        self.highest_scale = highest_scale
        self.tau = 0.0

    @property
    def is_open(self):
        """bool, whether the next batch is drawn by importance."""
        return self.tau_threshold == 0 or self.tau > self.tau_threshold

    @property
    def rate_scale(self):
        """float, what the learning rate is to be multiplied by now."""
        gain = variance_gain(self.tau, self.ratio) if self.is_open else 1.0
        return max(1.0, min(gain, self.highest_scale))

    def update(self, tau, steps=1):
        """Takes in a measured `tau` that stands for `steps` steps."""
        kept = MOMENTUM**steps
        self.tau = kept * self.tau + (1.0 - kept) * tau

    def measured(self):
        """The numbers for the history, a dict of floats: `tau`."""
        return {"tau": float(self.tau)}

    def state(self):
        """What `restore` brings back; plain values."""
        return {"tau": float(self.tau)}

    def restore(self, state):
        self.tau = state["tau"]
