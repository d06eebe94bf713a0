"""Algorithm 1 of the paper as a `PyDataset`: presample, score, resample.

The file decides which examples the next batch holds and what they weigh.
"""

import collections
import contextlib
import math
import warnings

import keras
import numpy as np

from keras_swift import backends
from keras_swift.batch import Batch, Promise, mask_correction
from keras_swift.checks import (
    check_model,
    check_positive_integer,
    check_scoring_dtype,
    check_settings,
    check_targets,
    check_weights,
    explained,
    label_check,
    symbolic_outputs,
)
from keras_swift.gate import Gate
from keras_swift.measured_gate import RATIOS, MeasuredGate
from keras_swift.resampling import check_scores, draw, sampling_probability, variance_reduction
from keras_swift.run_watch import EXAMPLES, RunWatch
from keras_swift.sampling_callback import SamplingCallback
from keras_swift.scoring import (
    Scorer,
    build,
    compiled_losses,
    explain_non_finite,
)
from keras_swift.sources import ArraySource, class_weights, select
from keras_swift.streams import check_stream_arguments, is_stream
from keras_swift.supply import ArraySupply, StreamSupply

# While the gate is shut, the batch is scored at every 16th step: at f = 0.3
# (scoring an example over training one) that costs 2 % of a step.
PROBE_INTERVAL = 16


class ImportanceDataset(keras.utils.PyDataset):
    """Batches drawn by how much they would change the model.

    Each item is a batch `(x, y, weights)`. While the gate is open, `B`
    examples are taken from a permutation of the data, scored by the model in
    one forward pass, and `b` of them drawn with replacement in proportion to
    the scores; the weights keep the weighted mean over the batch an unbiased
    estimate of the mean over the data. While the gate is shut, an item is the
    next uniform batch with weights of 1, and one batch in sixteen is scored to
    watch the variance reduction.

    `ImportanceTraining` builds and feeds this for you. Use it directly to call
    `model.fit` yourself:

        dataset = ImportanceDataset(model, x, y, batch_size=128, seed=0)
        model.fit(dataset, callbacks=[dataset.callback()])

    On JAX the callback is needed, elsewhere it only adds `tau`, `importance`
    and `presample` to the history. Keras' plain `metrics` ignore weights, so
    in direct use they describe the harder examples that were drawn: compile
    with `weighted_metrics`, or use `ImportanceTraining`, which weights them.

    Items are made in step with training: item *i* of an epoch is drawn when
    the model asks for it, whatever its index, and scored by the weights of
    that moment (on JAX off the CPU, where Keras pulls one batch ahead, of one
    step before; with `steps_per_execution=k`, of the start of each k steps).
    Indexing the dataset outside a loop shows the next
    batch and leaves the state as it was.

    Args:
        model: a compiled `keras.Model`.
        x: inputs: a NumPy array or tensor, or a list, tuple or dict of them,
            first axis `n`; `h5py` and memory-mapped arrays are read row by
            row, never whole. Or a source of batches `(x, y)` or
            `(x, y, sample_weight)`: a `PyDataset`, `tf.data.Dataset`, PyTorch
            `DataLoader`, grain dataset or generator. Of those a presample is
            the next `presample` batches, rounded, at least two.
        y: targets, likewise. Defaults to `None`, for sources of batches.
        sample_weight: weights of the examples in the loss, shape `(n,)`, or
            `(n, steps)` for one weight a step. They multiply the score and
            the weight. Defaults to `None`, 1 for all.
        batch_size: int, `b`. Defaults to `None`, 32; a source of batches
            brings its own.
        presample: float above 1, the presample ratio `B / b`, or `"auto"`: as
            large as is measured to pay, and none where it does not; see
            `ImportanceTraining`. Defaults to 3.0.
        tau_threshold: float, 0 or more: the gate opens above it. 0 keeps it
            open. Defaults to `None`, the paper's `(B + 3b) / (3b)`.
        score: `"gradient_norm"` (the upper bound of the gradient norm),
            `"loss"`, `"full_gradient_norm"` (the norm itself, example by
            example: exact, many times slower than training, for studies), or
            a callable `(y_true, y_pred) -> (n,)` in `keras.ops`. Defaults to `"gradient_norm"`.
        floor: float in [0, 1), the uniform share mixed into the
            probabilities; it bounds the weights by `1 / floor`. Defaults to
            0.1.
        seed: int, `np.random.Generator` or `None` (fresh entropy, the
            default). A seed fixes the permutations and the draws.
        shuffle: bool, whether the data are permuted (of a `PyDataset` the
            order of its batches; other sources keep theirs). Defaults to
            `True`.
        class_weight: dict from class number to weight, as in `model.fit`.
            Defaults to `None`.
        steps_per_epoch: int, the number of items. Defaults to `None`,
            `ceil(n / b)`, or the number of batches of the source.
        on_draw: callable that gets every `Batch` when it is drawn, before it
            is trained on. Defaults to `None`.
        scoring_dtype: the type that scores are computed in, whatever training
            uses: `"float32"`, `"bfloat16"`, `"float16"`, or `None`, that of
            the layers. Weights are exact for the scores that were computed,
            so the estimate stays unbiased. Defaults to `"auto"`: bfloat16
            where a short timing on the first presample finds it clearly
            faster. The last layer keeps its own type.
        cost_ratio: float above 0, the cost of scoring an example over that of
            training on it, for `presample="auto"` in place of the clock: then
            a seed repeats a run. Defaults to `None`, measured.

    Raises:
        TypeError: if the data are neither arrays nor a source of batches.
        ValueError: for a value outside the ranges above, a model that is not
            compiled, data of different lengths or labels outside the classes.

    Reference:
        Katharopoulos and Fleuret, "Not All Samples Are Created Equal: Deep
        Learning with Importance Sampling", ICML 2018, Algorithm 1.
    """

    def __init__(
        self,
        model,
        x,
        y=None,
        sample_weight=None,
        batch_size=None,
        presample=3.0,
        tau_threshold=None,
        *,
        score="gradient_norm",
        floor=0.1,
        seed=None,
        shuffle=True,
        class_weight=None,
        steps_per_epoch=None,
        on_draw=None,
        scoring_dtype="auto",
        cost_ratio=None,
    ):
        # Keras runs ahead of training where it feeds a `PyDataset` to
        # TensorFlow. With workers it does not, but fetches items in them:
        # `__getitem__` then hands out a promise that is kept in step.
        super().__init__(workers=2 if backends.active().PULLS_AHEAD else 1)
        check_model(model)
        backends.active().check_devices(model)
        check_settings(presample, tau_threshold, score, floor, cost_ratio)
        check_scoring_dtype(scoring_dtype)
        if batch_size is not None:
            check_positive_integer("batch_size", batch_size)
        if steps_per_epoch is not None:
            check_positive_integer("steps_per_epoch", steps_per_epoch)
        self.model = model
        generators = np.random.default_rng(seed).spawn(3)
        if is_stream(x):
            check_stream_arguments(x, y, sample_weight, batch_size, 0)
            self._supply = StreamSupply(x, class_weight, generators[:2], shuffle, steps_per_epoch)
        else:
            sample_weight = class_weights(y, class_weight, sample_weight)
            source = ArraySource(x, y, sample_weight)
            self._supply = ArraySupply(source, batch_size or 32, generators[:2], shuffle)
        self.batch_size = self._supply.batch_size
        self._ratio = None if presample == "auto" else presample
        ratios = tuple(ratio for ratio in RATIOS if ratio <= self._supply.largest_ratio)
        self.presample_size = self._supply.presample_size(self._ratio or max((1, *ratios[:1])))
        self._steps = steps_per_epoch
        self._floor = floor
        self._on_draw = on_draw
        first = self._supply.first(self.batch_size)
        with explained(*first[:2]):
            self._build()
        self._generator = generators[2]
        if self._ratio is None:
            self._gate = MeasuredGate(ratios)
        else:
            self._gate = Gate(self.presample_size, self.batch_size, tau_threshold)
        # `ImportanceTraining` brings a scorer, so that a further `fit` does not
        # compile it again.
        if not isinstance(score, Scorer):
            # With a given cost nothing is to depend on the clock.
            settled = scoring_dtype == "auto" and cost_ratio is not None
            score = Scorer(model, (score,), None if settled else scoring_dtype)
        self._scorer = score
        name = self._scorer.quantities[0]
        self._score_name = name if isinstance(name, str) else "custom_0"
        self._step = 0
        self._unprobed = None
        self._drawn = collections.deque()
        self._values = None
        self.within_epoch = False
        self._totals = np.zeros(3)
        self._highest_scale = None
        self._watch = None
        self._may_watch = True
        self._epochs_left = math.inf
        with explained(*first[:2]):
            # So that a wrong score shows before training starts.
            scores, _ = self._scores(*first)
            # What scoring costs is measured on a presample.
            self._scorer.settle(*self._supply.first(self.presample_size))
        if self._ratio is None:
            self._gate.update(variance_reduction(sampling_probability(scores)))
            self._watch = self._new_watch(cost_ratio)

    def _new_watch(self, cost_ratio):
        batches = min(max(2, math.ceil(EXAMPLES / self.batch_size)), self._supply.largest_ratio)
        with self._supply.unchanged():
            examples = self._supply.presample(int(batches * self.batch_size)).data
        return RunWatch(
            self.model, self._scores_and_losses, self._gate, self.batch_size, examples, cost_ratio
        )

    def _build(self):
        x, y, sample_weight = self._supply.first(2)
        build(self.model, x, y)
        self._losses = compiled_losses(self.model)
        y_pred = symbolic_outputs(self.model, x)
        names = getattr(self.model, "output_names", None)
        check_targets(y, y_pred, self._losses, names)
        check_weights(sample_weight, y_pred, names)
        check = label_check(y_pred, self._losses, names)
        targets = self._supply.targets()
        # What is not all at hand is checked as it comes.
        self._check_labels = check if targets is None else lambda y: None
        check(y if targets is None else targets)
        for output in self._losses:
            if output.loss.reduction == "mean_with_sample_weight":
                warnings.warn(
                    f"The loss {output.loss.name!r} divides by the sum of the weights "
                    '(reduction="mean_with_sample_weight"): the estimate is then '
                    "self-normalised, with a bias of order 1/b. "
                    '`reduction="sum_over_batch_size"` has none.',
                    stacklevel=4,
                )

    @property
    def num_batches(self):
        """int, the number of items in an epoch."""
        return self._steps or self._supply.num_batches

    def __len__(self):
        return self.num_batches

    def __getitem__(self, index):
        return Promise(self._item) if backends.active().PULLS_AHEAD else self._item()

    def _item(self):
        if not self.within_epoch:
            return self.peek()
        batch = self.next_batch()
        return batch.x, batch.y, batch.weights

    def __iter__(self):
        self.on_epoch_begin()
        try:
            for _ in range(self.num_batches):
                yield self._item()
        finally:
            self.on_epoch_end()

    def peek(self):
        """The item that training would get next; leaves the state as it is.

        Returns:
            A tuple `(x, y, weights)`, as an item.
        """
        with self.unchanged():
            batch = self.next_batch()
            return batch.x, batch.y, batch.weights

    @contextlib.contextmanager
    def unchanged(self):
        """A context after which permutations, draws, gate and counts are as before."""
        state, on_draw = self._own_state(), self._on_draw
        totals, drawn = self._totals.copy(), self._drawn.copy()
        self._on_draw, self._may_watch = None, False
        try:
            with self._supply.unchanged():
                yield
        finally:
            self._on_draw, self._may_watch = on_draw, True
            self._restore_own(state)
            self._totals, self._drawn = totals, drawn

    def state(self):
        """Where permutations, draws and gate are, between two epochs.

        Of sources that cannot be asked for a batch by its number, the place is
        not known: those begin anew.

        Returns:
            A dict of plain values and arrays.
        """
        parts = {
            "supply": self._supply,
            "watch": self._watch,
            "highest_scale": self._highest_scale,
        }
        parts = {name: None if part is None else part.state() for name, part in parts.items()}
        return {**self._own_state(), **parts}

    def restore(self, state):
        """Goes on from what `state` returned."""
        self._supply.restore(state["supply"])
        if self._watch is not None:
            self._watch.restore(state["watch"])
        if self._highest_scale is not None:
            self._highest_scale.restore(state["highest_scale"])
        self._restore_own(state)

    def _own_state(self):
        return {
            "generator": self._generator.bit_generator.state,
            "gate": self._gate.state(),
            "step": self._step,
            "unprobed": self._unprobed,
        }

    def _restore_own(self, state):
        self._generator.bit_generator.state = state["generator"]
        self._gate.restore(state["gate"])
        self._step = state["step"]
        self._unprobed = state["unprobed"]

    def first(self, count):
        """The first examples of the data; changes nothing.

        Args:
            count: int, how many; with fewer in reach they come again.

        Returns:
            A tuple `(x, y, sample_weight)` of NumPy structures.
        """
        return self._supply.first(count)

    def limit_rate_scale(self, highest):
        """Allows the learning rate to be multiplied while the gate is open.

        Each `Batch` says by how much, up to the variance gain `k`; whoever
        trains on it has to do it.

        Args:
            highest: `RateLimit`, which says when called what the largest
                factor is now, a float, 1 or more.
        """
        self._highest_scale = highest

    def expect(self, epochs_left):
        """Called when an epoch begins: how many are to come with it, for `presample="auto"`."""
        self._epochs_left = epochs_left

    def follow_rate(self):
        """Called before a step whose batch is not drawn yet, to read the learning rate."""
        if self._watch is not None:
            self._watch.follow_rate(self._step)

    def callback(self):
        """The callback that goes with this dataset in `model.fit`.

        Returns:
            A `keras.callbacks.Callback`. It puts `tau`, `importance` and
            `presample` into the logs of every epoch and, on JAX, keeps the
            model's values for the scores.
        """
        return SamplingCallback(self)

    def on_epoch_begin(self):
        # Called by Keras and by the callback, whichever is there.
        if self.within_epoch:
            return
        self.within_epoch = True
        if self._watch is not None:
            self._watch.pause()
        self._totals = np.zeros(3)
        self._drawn.clear()
        self._supply.begin_epoch()
        if self._steps is None:
            # A uniform epoch is one whole permutation, as in `model.fit`.
            self._supply.restart()

    def on_epoch_end(self):
        if self.within_epoch:
            self.within_epoch = False
            self._supply.end_epoch()

    def close(self):
        """Ends the workers of the source of batches, if it has any."""
        self._supply.close()

    def epoch_summary(self):
        """What was measured in the current epoch, or the last.

        Returns:
            A dict: `tau`, the gate's running mean of the variance reduction;
            `importance`, the share of steps drawn by importance, 0 to 1;
            `presample`, the mean over steps of presample over batch size,
            where a uniform step counts as 1.
        """
        steps, by_importance, ratio = self._totals
        steps = max(steps, 1)
        return {
            **self._gate.measured(),
            "importance": float(by_importance / steps),
            "presample": float(ratio / steps),
        }

    def next_batch(self):
        """Draws the next batch and moves on.

        Returns:
            A `Batch`.

        Raises:
            ValueError: if scores are not finite, or negative.
        """
        if not self._drawn:
            # With `steps_per_execution` above 1 the batches of an execution
            # are all drawn before it: during it the weights are in flux (and
            # on JAX out of reach), so the last of k batches is scored k - 1
            # steps early.
            if self._highest_scale is not None and self._may_watch:
                self._gate.highest_scale = self._highest_scale()
            if self._watch is not None and self._may_watch:
                steps_left = self._epochs_left * self.num_batches - self._totals[0]
                self._watch.before_step(self._step, self._values, steps_left)
            left = int(self.num_batches - self._totals[0])
            count = self.model.steps_per_execution
            if count > 1 and left == self.num_batches:
                # Where items are asked for one step early, so is that of the next execution, when
                # the first step has taken the values that it could be scored by.
                count += backends.active().asks_one_ahead()
            for _ in range(max(1, min(count, left))):
                self._drawn.append(
                    self._importance_batch() if self._gate.is_open else self._uniform_batch()
                )
                self._step += 1
        batch = self._drawn.popleft()
        ratio = batch.presample_size / len(batch.importance)
        self._totals += (1, batch.by_importance, ratio)
        if self._on_draw is not None:
            self._on_draw(batch)
        return batch

    def _uniform_batch(self):
        with self._timing("load", self.batch_size):
            examples = self._supply.uniform()
        x, y, sample_weight = examples.data
        self._check_labels(y)
        scores = None
        if self._watch is not None:
            self._unprobed = 0
        elif self._unprobed is None or self._unprobed + 1 >= PROBE_INTERVAL:
            scores, _ = self._scores(x, y, sample_weight)
            tau = variance_reduction(sampling_probability(scores))
            self._gate.update(tau, steps=1 if self._unprobed is None else PROBE_INTERVAL)
            self._unprobed = 0
        else:
            self._unprobed += 1
        ones = np.ones(len(examples), np.float32)
        return Batch(
            x=x,
            y=y,
            weights=self._scorer.loss_weights(ones, sample_weight),
            importance=ones,
            indices=examples.indices,
            scores=scores,
            presample_size=len(examples),
            by_importance=False,
        )

    def _importance_batch(self):
        size = self.presample_size
        if self._ratio is None:
            size = self._supply.presample_size(self._gate.ratio)
        with self._timing("load", size):
            presample = self._supply.presample(size)
        self._check_labels(presample.data[1])
        with self._timing("score", len(presample)), explained(*presample.data[:2]):
            scores, valid = self._scores(*presample.data)
        drawn = draw(scores, self.batch_size, self._generator, self._floor)
        self._gate.update(drawn.tau)
        self._unprobed = 0
        x, y, sample_weight = select(presample.data, drawn.positions)
        indices = presample.indices
        return Batch(
            x=x,
            y=y,
            weights=self._scorer.loss_weights(
                drawn.weights, sample_weight, mask_correction(valid, drawn.positions)
            ),
            importance=drawn.weights.astype(np.float32),
            indices=None if indices is None else indices[drawn.positions],
            scores=scores[drawn.positions],
            presample_size=len(presample),
            by_importance=True,
            rate_scale=self._gate.rate_scale,
        )

    def _timing(self, part, count):
        return contextlib.nullcontext() if self._watch is None else self._watch.timing(part, count)

    def _scores_and_losses(self, data, values):
        quantities = self._scorer(*data, values=values)
        return quantities[self._score_name].astype(np.float64), quantities["loss"]

    def _scores(self, x, y, sample_weight):
        quantities = self._scorer(x, y, sample_weight, values=self._values)
        scores = quantities[self._score_name].astype(np.float64)
        explain_non_finite(scores, x, y, sample_weight, self._step)
        check_scores(scores)
        return scores, quantities["valid"]
