"""Measures a run for `MeasuredGate`: the noise in its loss, and what scoring costs.

This file decides when a run is looked at, and how little that may cost: eight averaged copies of
the weights and two forward passes over a few hundred examples, rarer as the run gets longer.
"""

import contextlib
import math
import warnings

import keras
import numpy as np
from keras import ops

from keras_swift import backends
from keras_swift._keras import compile_loss
from keras_swift.importance.gate.cost_meter import CostMeter
from keras_swift.importance.gate.trends import FallWatch, RateWatch
from keras_swift.importance.resampling import sampling_probability, variance_reduction

# Weights averaged for one look.
SNAPSHOTS = 8
# Examples in a look, and at least two batches.
EXAMPLES = 256
# Steps between the first looks, for each batch that a look has examples: its
# two passes, at a third of a step a batch, are then 0.8 % of the time.
STEPS_A_BATCH = 80
# A look comes after another eighth of the run, but not more than this many
# first intervals later, nor after more than this share of what is left, down to
# some steps: near its end there is most to decide, and few looks to be paid.
LONGEST = 4
SHARE_LEFT = 0.25
SHORTEST = 64
# A look's `tau` counts as much as that of this many steps.
TAU_STEPS = 5
# What watching may cost, as a share of the time of the steps: of short steps the calls alone would
# cost more at the intervals above. Twice that near the end.
WATCH_SHARE = 0.01
# Steps from one reading of the learning rate to the next, but for that before a look, at least.
RATE_STEPS = 32


class Schedule:
    """Says at which steps weights are averaged, and after which the run is looked at.

    Args:
        first: int, steps before the first look.

    Example:
        >>> schedule = Schedule(16)
        >>> [step for step in range(1, 33) if schedule.is_due(step)]
        [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32]
    """

    def __init__(self, first):
        self._first = self._length = first
        self._began = self._taken = 0

    def begin(self, step):
        """Begins the present interval anew."""
        self._began, self._taken = step, 0

    def is_due(self, step):
        """Whether weights are to be averaged before this step; counts it if so."""
        due = step >= self.next
        self._taken += due
        return due

    def ends(self, step):
        """Whether these weights, if they are due, are the last before a look."""
        return self._taken == SNAPSHOTS - 1 and step >= self.next

    @property
    def is_at_half(self):
        """bool, whether an interval begins or is at its middle."""
        return self._taken % (SNAPSHOTS // 2) == 0

    @property
    def next(self):
        """int, the step before which weights are to be averaged next."""
        return self._began + (self._taken + 1) * self._length // SNAPSHOTS

    def state(self):
        return {"began": self._began, "taken": self._taken, "length": self._length}

    def restore(self, state):
        self._began, self._taken, self._length = (state[n] for n in ("began", "taken", "length"))

    def is_complete(self, step, steps_left=math.inf, least=0.0):
        """Whether the run is to be looked at now; begins the next interval if so.

        Args:
            step: int, the present one.
            steps_left: int, how many are to come. Defaults to infinity.
            least: float, steps of an interval, at least, or half as many near
                the end. Defaults to 0.0.
        """
        if self._taken < SNAPSHOTS:
            return False
        self.begin(step)
        length = max(self._first, min(step // 8, LONGEST * self._first), least)
        self._length = int(min(length, max(SHORTEST, SHARE_LEFT * steps_left, least / 2)))
        return True


def examples_to_watch(supply):
    """The next examples of a supply, enough for a look; it gives them again later.

    Returns:
        A tuple `(x, y, sample_weight)` of NumPy structures.
    """
    batches = min(max(2, math.ceil(EXAMPLES / supply.batch_size)), supply.largest_ratio)
    with supply.unchanged():
        return supply.presample(int(batches * supply.batch_size)).data


def _with_a_share(total, values):
    """The sum so far, `None` at first, and these values' share of the mean; nested lists."""

    def share(value):
        if not _is_float(value):
            # Random states are as they are last; a copy, because a step may take them.
            return ops.copy(value)
        return ops.stop_gradient(value) / SNAPSHOTS

    def joined(before, value):
        return ops.cast(before, value.dtype) + share(value) if _is_float(value) else share(value)

    if total is None:
        return [[share(value) for value in part] for part in values]
    return [
        [joined(*pair) for pair in zip(*parts, strict=True)]
        for parts in zip(total, values, strict=True)
    ]


def _is_float(value):
    return "float" in keras.backend.standardize_dtype(value.dtype)


def _tensors(total):
    return [[ops.convert_to_tensor(value) for value in part] for part in total]


def _plain(value):
    """A NumPy array of a type that files know."""
    return ops.convert_to_numpy(ops.cast(value, "float32") if _is_float(value) else value)


class RunWatch:
    """Looks at a run now and then, and lets the gate decide.

    The loss of a few hundred fixed training examples is computed under the
    present weights and under their mean over eight moments since the last
    look. The mean lacks most of the gradient noise, so the two tell how much
    of the loss is noise.

    Args:
        model: `keras.Model`.
        score: function `(data, values) -> (scores, losses)`, float arrays of
            shape `(n,)`; `values` as for `Scorer`.
        gate: `MeasuredGate`.
        batch_size: int, `b`.
        examples: tuple `(x, y, sample_weight)` of NumPy structures.
        cost_ratio: float, `f` where it is not to be measured. Defaults to
            `None`.

    Attributes:
        load: function that loads a number of examples, to be timed at every
            look; `None`, the default, where whoever loads batches has that
            timed.
    """

    def __init__(self, model, score, gate, batch_size, examples, cost_ratio=None):
        self._model, self._score, self._gate = model, score, gate
        self._examples = examples
        self.load = None
        self._count = len(keras.tree.flatten(examples)[0])
        self._schedule = Schedule(max(SHORTEST, STEPS_A_BATCH * self._count // batch_size))
        self._meter = CostMeter(batch_size)
        self._rate = RateWatch(lambda: backends.active().learning_rate(model))
        self._fall = FallWatch()
        self._epoch_begins = True
        self._next_rate = 0
        self._cost_ratio = cost_ratio
        self._compile_sum()
        self._warned = False

    def _compile_sum(self):
        # Compiled, because it comes often and its many small operations would each be dispatched.
        self._sum = backends.active().compile_sum(_with_a_share, self._model)
        self._compiled_for = compile_loss(self._model)
        self._total = None
        self._smallest = None

    def timing(self, part, count):
        """A context whose time counts as scoring or loading `count` examples."""
        return contextlib.nullcontext() if self._fixed else self._meter.timing(part, count)

    @property
    def _fixed(self):
        return self._cost_ratio is not None

    def pause(self):
        """What comes next is not training."""
        self._meter.pause()
        self._epoch_begins = True

    def follow_rate(self, step):
        """Reads the learning rate before a look and once an epoch, in short ones more seldom.

        For a callback, which is called when the step before is over for good.
        `before_step` reads what was not read: on TensorFlow it is called while
        the count of steps, and with it a schedule, may have moved on.
        """
        begins = self._epoch_begins and step >= self._next_rate
        if (begins or self._schedule.ends(step)) and self._rate.follow(step):
            self._epoch_begins, self._next_rate = False, step + RATE_STEPS

    def steps_until_due(self, step):
        """For how many steps from this one `before_step` has nothing to do."""
        return min(self._schedule.next, self._meter.over_at) - step

    def before_step(self, step, captured, steps_left=math.inf):
        """Called between steps; averages, looks and decides where it is time to.

        Args:
            step: int, steps trained so far.
            captured: the model's values as `backends` captured them, or
                `None`.
            steps_left: int, how many are to come. Defaults to infinity, for
                a run whose end is not known.
        """
        self.follow_rate(step)
        if self._meter.is_over(step):
            self._wait(captured)
            self._meter.end(step)
        if self._compiled_for is not compile_loss(self._model):
            # Compiled anew, perhaps with other variables to train.
            self._compile_sum()
            self._schedule.begin(step)
        if not self._schedule.is_due(step):
            return
        with self._meter.watching():
            self._add(captured)
        # Nothing is left to the clock where the cost is given.
        least = 0.0 if self._fixed else self._meter.look / WATCH_SHARE
        if self._schedule.is_complete(step, steps_left, least):
            if not self._fixed:
                self._wait(captured)
            with self._meter.watching():
                self._look(step, captured, steps_left)
            self._meter.look_ends()
        if not self._fixed and (self._schedule.is_at_half or self._meter.was_interrupted):
            self._wait(captured)
            self._meter.begin(step)

    def _wait(self, captured):
        """Where steps run asynchronously, waits for the last one."""
        variables = self._model.trainable_variables
        if not variables:
            return
        if self._smallest is None:
            sizes = [math.prod(variable.shape) for variable in variables]
            self._smallest = sizes.index(min(sizes))
        value = captured[0][self._smallest] if captured else variables[self._smallest].value
        ops.convert_to_numpy(ops.stop_gradient(value))

    def _add(self, captured):
        """Takes the present values into the mean that `_look` uses."""
        self._total = self._sum(self._total, captured)

    def _look(self, step, captured, steps_left):
        # First, so that a look that fails leaves nothing for the next.
        mean, self._total = tuple(_tensors(self._total)), None
        with self.timing("score", self._count):
            scores, losses = self._score(self._examples, captured)
        if not np.isfinite(scores).all():
            # Nothing can be told of such a run; training goes on as in `model.fit`.
            return
        _, averaged = self._score(self._examples, mean)
        if self.load is not None:
            with self.timing("load", self._count):
                self.load(self._count)
        if not self._gate.is_open:
            tau = variance_reduction(sampling_probability(scores))
            self._gate.update(tau, steps=TAU_STEPS)
        cost_ratio = self._cost_ratio if self._fixed else self._meter.ratio
        loss, averaged_loss = float(losses.mean()), float(averaged.mean())
        finite = math.isfinite(loss) and math.isfinite(averaged_loss)
        if self._gate.is_open:
            # It goes on with what was measured when it opened.
            self._fall.clear()
        elif finite and averaged_loss > 0:
            self._fall.follow(step, averaged_loss)
        self._gate.observe(
            loss,
            averaged_loss,
            cost_ratio,
            decay=self._rate.decay(step),
            fall=self._fall.exponent(),
            share_left=1.0 if math.isinf(steps_left) else steps_left / (step + steps_left),
        )
        if self._gate.noise_share is None and finite and not self._warned:
            self._warned = True
            warnings.warn(
                "`presample='auto'` tells noise by its share of the loss, which takes a loss above "
                f"0. Received: {loss:.4g}, and {averaged_loss:.4g} under averaged weights. Batches "
                "are uniform while that lasts; pass a number for the paper's rule.",
                stacklevel=2,
            )

    def state(self):
        """What `restore` brings back: where the interval is, and the sum so far."""
        total = self._total and [[_plain(v) for v in part] for part in _tensors(self._total)]
        return {
            "schedule": self._schedule.state(),
            "rate": self._rate.state(),
            "fall": self._fall.state(),
            "total": total,
        }

    def restore(self, state):
        self._schedule.restore(state["schedule"])
        self._rate.restore(state["rate"])
        self._fall.restore(state["fall"])
        self._next_rate = 0
        total = state["total"]
        self._total = total and _tensors(total)
        self.pause()
