"""Where a run is going: its learning rate, and the loss of its averaged weights.

Both are judged by the second half of the run so far, long enough that one drop is not taken for the
beginning of a collapse.
"""

import collections

import numpy as np


class RateWatch:
    """Says where the learning rate is going, whatever moves it.

    Judged by the second half of the run so far, so that one drop of a rate that
    falls in steps is not taken for the beginning of a collapse.

    Args:
        read: function of no arguments that returns the present rate, or
            `None` where it cannot be known.
    """

    def __init__(self, read):
        self._read = read
        # Of steps and rates, back to the middle of the run.
        self._seen = collections.deque()

    def follow(self, step):
        """Before a step: reads the rate, unless that was done before.

        Returns:
            A bool, whether it is known.
        """
        seen = self._seen
        if seen and seen[-1][0] == step:
            return True
        rate = self._read()
        if rate is None:
            return False
        if len(seen) > 1 and step - seen[-2][0] < step // 64:
            # Finer than needed.
            seen.pop()
        seen.append((step, rate))
        while len(seen) > 1 and 2 * seen[1][0] <= step:
            seen.popleft()
        return True

    def decay(self, step):
        """What the rate will be multiplied by in as many steps again, if it goes on like this.

        A rate that has risen counts as constant, and so does one that is not
        known.

        Returns:
            A float in [0, 1].
        """
        self.follow(step)
        if len(self._seen) < 2:
            return 1.0
        (then, before), (now, rate) = self._seen[0], self._seen[-1]
        fall = min(1.0, rate / before) if before > 0 else 1.0
        return fall ** (now / (now - then))

    def state(self):
        return {"seen": list(self._seen)}

    def restore(self, state):
        self._seen = collections.deque(tuple(pair) for pair in state["seen"])


class FallWatch:
    """Says how fast the loss of the averaged weights falls with the number of steps.

    Only what was seen under uniform batches says what a uniform step is worth.
    """

    def __init__(self):
        # Of steps and losses, back to the middle of the run.
        self._seen = collections.deque()

    def follow(self, step, averaged_loss):
        """After a look at uniform training; `averaged_loss` is a float above 0."""
        self._seen.append((step, averaged_loss))
        while 2 * self._seen[0][0] < step:
            self._seen.popleft()

    def clear(self):
        """Begins anew, after steps that were not uniform."""
        self._seen.clear()

    def exponent(self):
        """The `a` of `steps**-a` that fits best.

        Returns:
            A float, negative where the loss rises; `None` before there are
            three looks to judge by.
        """
        if len(self._seen) < 3:
            return None
        steps, losses = np.log(np.array(self._seen, np.float64)).T
        return -float(np.polyfit(steps, losses, 1)[0])

    def state(self):
        return {"seen": list(self._seen)}

    def restore(self, state):
        self._seen = collections.deque(tuple(pair) for pair in state["seen"])
