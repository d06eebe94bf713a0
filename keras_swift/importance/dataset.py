"""Algorithm 1 of the paper as a `PyDataset`: presample, score, resample.

This file decides when a batch is drawn: in step with training, whatever Keras asks for.
"""

import contextlib
import math

import keras
import numpy as np

from keras_swift import backends
from keras_swift.data.arrays import ArraySource, class_weights
from keras_swift.data.reader import ArraySupply, StreamSupply
from keras_swift.data.streams import check_stream_arguments, is_stream
from keras_swift.importance.batch import Promise
from keras_swift.importance.callback import SamplingCallback
from keras_swift.importance.lookahead import BatchQueue
from keras_swift.importance.sampler import drawer_for
from keras_swift.validation import (
    check_model,
    check_positive_integer,
    check_scoring_dtype,
    check_settings,
    chosen_presample,
)


class ImportanceDataset(keras.utils.PyDataset):
    """Batches drawn by how much they would change the model.

    Each item is a batch `(x, y, weights)`. While the gate is open, `B`
    examples are taken from a permutation of the data, scored by the model in
    one forward pass, and `b` of them drawn with replacement in proportion to
    the scores; the weights keep the weighted mean over the batch an unbiased
    estimate of the mean over the data. While the gate is shut, an item is the
    next uniform batch with weights of 1; now and then the run is looked at,
    or with a number for `presample` one batch in 16 to 64 scored, to decide
    whether it opens.

    `ImportanceTraining` builds and feeds this for you. Use it directly to call
    `model.fit` yourself:

        dataset = ImportanceDataset(model, x, y, batch_size=128, seed=0)
        model.fit(dataset, callbacks=[dataset.callback()])

    On JAX the callback is needed, elsewhere it adds `tau`, `importance` and
    `presample` to the history and says where the run ends. Keras' plain
    `metrics` ignore weights, so in direct use they describe the harder
    examples that were drawn: compile with `weighted_metrics`, or use
    `ImportanceTraining`, which weights them.

    Items are made in step with training: item *i* of an epoch is drawn when
    the model asks for it, whatever its index (uniform batches of arrays up to
    seven steps sooner, several at a time), and scored by the weights of that
    moment (on JAX off the CPU, where Keras pulls one batch ahead, of one
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
            `ImportanceTraining`. Defaults to `None`: `"auto"`, or 3.0 where a
            `tau_threshold` is given.
        tau_threshold: float, 0 or more: the gate opens above it. 0 keeps it
            open. Defaults to `None`: with a number for `presample`, the
            paper's `(B + 3b) / (3b)`.
        score: `"gradient_norm"` (the upper bound of the gradient norm),
            `"loss"`, `"full_gradient_norm"` (the norm itself, example by
            example: exact, many times slower than training, for studies), or
            a callable `(y_true, y_pred) -> (n,)` in `keras.ops`. Defaults to `"gradient_norm"`.
        floor: float in [0, 1), the uniform share mixed into the
            probabilities; it bounds the weights by `1 / floor`. Defaults to
            0.1.
        seed: int, `np.random.Generator` or `None` (fresh entropy, the
            default). A seed fixes the permutations and the draws; the clock
            has no part in them where `cost_ratio` is given, or a number for
            `presample` and a `scoring_dtype`.
        shuffle: bool, whether the data are permuted (of a `PyDataset` the
            order of its batches; other sources keep theirs). Defaults to
            `True`.
        class_weight: dict from class number to weight, as in `model.fit`.
            Defaults to `None`.
        steps_per_epoch: int, the number of items. Defaults to `None`,
            `ceil(n / b)`, or the number of batches of the source.
        on_draw: callable that gets every `Batch` before it is trained on.
            Defaults to `None`.
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
        presample=None,
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
        presample = chosen_presample(presample, tau_threshold)
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
        self._steps = steps_per_epoch
        self._on_draw = on_draw
        self._drawer = drawer_for(
            model,
            self._supply,
            generators[2],
            presample=presample,
            tau_threshold=tau_threshold,
            score=score,
            floor=floor,
            scoring_dtype=scoring_dtype,
            cost_ratio=cost_ratio,
        )
        self._queue = BatchQueue(self._drawer, model)
        self.within_epoch = False
        self._highest_scale = None
        self._may_watch = True
        self._epochs_left = math.inf

    @property
    def num_batches(self):
        """int, the number of items in an epoch."""
        return self._steps or self._supply.num_batches

    @property
    def fixed_size(self):
        """int, how many examples every item has, or `None` where they may differ."""
        return self._supply.fixed_size

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
        state, on_draw = self._drawer.state(), self._on_draw
        self._on_draw, self._may_watch = None, False
        try:
            with self._supply.unchanged(), self._queue.unchanged():
                yield
        finally:
            self._on_draw, self._may_watch = on_draw, True
            self._drawer.restore(state)

    def state(self):
        """Where permutations, draws and gate are, between two epochs.

        Of sources that cannot be asked for a batch by its number, the place is
        not known: those begin anew.

        Returns:
            A dict of plain values and arrays.
        """
        parts = {
            "supply": self._supply,
            "watch": self._drawer.watch,
            "highest_scale": self._highest_scale,
        }
        parts = {name: None if part is None else part.state() for name, part in parts.items()}
        return {**self._drawer.state(), **parts}

    def restore(self, state):
        """Goes on from what `state` returned."""
        self._supply.restore(state["supply"])
        if self._drawer.watch is not None:
            self._drawer.watch.restore(state["watch"])
        if self._highest_scale is not None:
            self._highest_scale.restore(state["highest_scale"])
        self._drawer.restore(state)

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

    def score_by(self, values):
        """Called before a step: the model's values as `backends` captured them, or `None`."""
        self._drawer.values = values

    def follow_rate(self):
        """Called before a step, to read the learning rate where its batch is not drawn yet."""
        if self._drawer.watch is not None and not self._queue.is_early:
            self._drawer.watch.follow_rate(self._drawer.step)

    def on_step_begin(self):
        """Called before a step, of which the batch may have been handed over before."""
        self._queue.begin_step()

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
        if self._drawer.watch is not None:
            self._drawer.watch.pause()
        self._queue.begin_epoch()
        self._supply.begin_epoch()
        if self._steps is None:
            # A uniform epoch is one whole permutation, as in `model.fit`.
            self._supply.restart()

    def on_epoch_end(self):
        if self.within_epoch:
            self.within_epoch = False
            self._queue.end_epoch()
            self._supply.end_epoch()

    def close(self):
        """Ends the workers of the source of batches, and copies on a device, if there are any."""
        self._supply.close()

    def epoch_summary(self):
        """What was measured in the current epoch, or the last.

        Returns:
            A dict: `tau`, the gate's running mean of the variance reduction;
            `importance`, the share of steps drawn by importance, 0 to 1;
            `presample`, the mean over steps of presample over batch size,
            where a uniform step counts as 1.
        """
        return {**self._drawer.gate.measured(), **self._queue.shares()}

    def next_batch(self):
        """Draws the next batch and moves on.

        Returns:
            A `Batch`.

        Raises:
            ValueError: if scores are not finite, or negative.
        """
        if self._queue.is_empty and self._may_watch:
            self._before_step()
        together = self._may_watch and self._highest_scale is None
        batch = self._queue.next(self.num_batches - self._queue.steps, together)
        if self._on_draw is not None:
            self._on_draw(batch)
        return batch

    def arrays_to_gather_from(self):
        """Lets batches be told by their indices, where the data may be copied.

        Returns:
            A tuple `(x, y)` of structures of NumPy arrays, to gather the rows
            from; or `None`: then nothing has changed.
        """
        arrays = None if self._on_draw is not None else self._supply.arrays()
        if arrays is not None:
            self._drawer.draw_by_index()
        return arrays

    def keep_on_device(self, free):
        """Lets the data lie where the model computes, and be gathered there, where they fit.

        Args:
            free: int, bytes of memory that are free there.
        """
        # Hooks get NumPy arrays.
        if self._on_draw is None:
            self._supply.keep_on_device(free)

    def next_batches(self):
        """Draws as many batches as can be drawn together, and moves on.

        For whoever says with `on_step_begin` which of them are trained on.

        Returns:
            A list of `Batch`, all of one length.
        """
        batches = [self.next_batch()]
        while self._queue.follows(batches[0]):
            batches.append(self.next_batch())
        if self.within_epoch:
            # The first is for the step that has begun.
            self._queue.are_early(batches[1:])
        return batches

    def _before_step(self):
        drawer = self._drawer
        if self._highest_scale is not None:
            drawer.gate.highest_scale = self._highest_scale()
        if drawer.watch is not None:
            if drawer.values is None and not self._queue.steps:
                # So that values out of reach show now and not at the first look.
                backends.active().capture_values(self.model)
            steps_left = self._epochs_left * self.num_batches - self._queue.steps
            # Whoever reckons the number of epochs anew may be wrong by a part of one.
            drawer.watch.before_step(drawer.step, drawer.values, max(0, steps_left))
