"""The gate decides, step by step, between a uniform and an importance batch."""

# The decay of the running mean in Algorithm 1 of the paper.
MOMENTUM = 0.9


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

    Example:
        >>> gate = Gate(presample_size=96, batch_size=32)
        >>> gate.tau_threshold, gate.is_open
        (2.0, False)
        >>> gate.update(4.0, steps=10)
        >>> gate.is_open
        True
    """

    def __init__(self, presample_size, batch_size, tau_threshold=None):
        if tau_threshold is None:
            tau_threshold = (presample_size + 3 * batch_size) / (3 * batch_size)
        self.tau_threshold = tau_threshold
        self.tau = 0.0

    @property
    def is_open(self):
        """bool, whether the next batch is drawn by importance."""
        return self.tau_threshold == 0 or self.tau > self.tau_threshold

    def update(self, tau, steps=1):
        """Takes in a measured `tau` that stands for `steps` steps."""
        kept = MOMENTUM**steps
        self.tau = kept * self.tau + (1.0 - kept) * tau

    def state(self):
        """What `restore` brings back; plain values."""
        return {"tau": float(self.tau)}

    def restore(self, state):
        self.tau = state["tau"]
