"""`model.fit` with one line changed."""

import contextlib
import warnings
from collections.abc import Iterator

import keras
import numpy as np

from keras_swift import backends
from keras_swift.data import arrays
from keras_swift.data.streams import check_stream_arguments, is_stream
from keras_swift.fitting.callbacks import TakingTurns, with_callbacks
from keras_swift.fitting.resume import resuming
from keras_swift.importance.dataset import ImportanceDataset
from keras_swift.importance.rate_limit import RateLimit
from keras_swift.importance.train_step import WeightedStep
from keras_swift.scoring.compiled import uniform_warning, why_uniform
from keras_swift.scoring.gradient_norm import NoExampleLoss
from keras_swift.scoring.scorer import Scorer
from keras_swift.scoring.weights import check_weights_arrive
from keras_swift.validation import (
    check_model,
    check_positive_integer,
    check_rate_scaling,
    check_settings,
)


class ImportanceTraining:
    """Trains a Keras model on the examples that change it most.

    `ImportanceTraining(model).fit(...)` is `model.fit(...)`: the same
    arguments, callbacks, metrics and history, the same optimum, less noise in
    the gradient of a step. Each step scores a uniform presample with one
    forward pass and draws the batch from it in proportion to the scores;
    importance weights keep the gradient unbiased. A gate draws uniform
    batches instead while that is measured to be the better use of the time.
    `ImportanceDataset` has the method.

    On several devices of one machine (`tf.distribute.MirroredStrategy`,
    `keras.distribution`) scoring is shared out like training. Several
    processes are refused.

    The reported `loss` and the compiled metrics are weighted so that they
    estimate what uniform training would report; what takes no weights (losses
    that layers add, metrics over entries such as IoU) is warned of and
    describes the batches that were drawn. The history also holds, one
    number an epoch, `tau` (the gate's running mean of the variance
    reduction), `importance` (the share of steps drawn by importance) and
    `presample` (the mean presample ratio; a uniform step counts as 1).

    Args:
        model: a compiled `keras.Model`.
        presample: `"auto"`, or a float above 1, examples scored for each
            example trained, `B / b`. `"auto"` is 2, 3 or 5, whichever is
            predicted to end lowest at equal time by what is measured of the
            run (the cost of scoring, the variance reduction, the share of the
            loss that is noise, how fast the loss falls, a falling learning
            rate) and by how many of the `epochs` are left; uniform batches
            where none is 5 % ahead. Mostly that is late in a run (in its last
            quarter, unless the loss stops falling before), so `epochs`
            should be where it ends. The history then has `cost_ratio`,
            `noise_share`, `loss_exponent` and `predicted_gain` too. A number
            is the paper's rule. Defaults to `None`: `"auto"`, or 3.0 where a
            `tau_threshold` is given.
        tau_threshold: float, 0 or more; the gate opens above it, and 0 keeps
            it open. Defaults to `None`: with a number for `presample`, the
            paper's `(B + 3b) / (3b)`.
        score: `"gradient_norm"`, `"loss"`, `"full_gradient_norm"` (exact and
            many times slower), or a callable `(y_true, y_pred) -> (n,)` in
            `keras.ops`. Defaults to `"gradient_norm"`.
        floor: float in [0, 1), the uniform share mixed into the
            probabilities; it bounds the weights by `1 / floor`. Defaults to
            0.1.
        seed: int or `None`, fixes permutations and draws; calls of `fit`
            go on from one another. To repeat a run to the last bit, give a
            `cost_ratio` too, or with a number for `presample` a
            `scoring_dtype`: nothing is then left to the clock. Defaults to
            `None`, fresh entropy (`keras.utils.set_random_seed` does not
            reach it).
        scoring_dtype: the type that scores are computed in: `"float32"`,
            `"bfloat16"`, `"float16"`, or `None`, that of the layers. Defaults
            to `"auto"`: bfloat16 where a short timing in the first `fit` finds
            it clearly faster.
        cost_ratio: float above 0, the cost of scoring an example over that of
            training on it, for `presample="auto"` in place of the clock: a
            seed then repeats a run to the last bit. Defaults to `None`,
            measured.
        scale_learning_rate: whether the learning rate of a step drawn by
            importance is multiplied by the variance gain
            `k = 1 / (1 / tau**2 + 1 / r)`: `True` or `"plain"`, whatever the
            rate is; `"capped"`, never above the highest rate that the
            schedule has had in this `fit`, for schedules that decay. The
            optimizer's own rate, which callbacks read and set, stays the
            user's. Defaults to `False`.

    Raises:
        TypeError: if `model` is not a Keras model.
        ValueError: for a model that is not compiled, or a value outside the
            ranges above.

    Example:

        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = ImportanceTraining(model).fit(x, y, epochs=10, validation_split=0.1)

    Reference:
        Katharopoulos and Fleuret, "Not All Samples Are Created Equal: Deep
        Learning with Importance Sampling", ICML 2018, arXiv 1803.00942.
    """

    def __init__(
        self,
        model,
        presample=None,
        tau_threshold=None,
        score="gradient_norm",
        floor=0.1,
        seed=None,
        *,
        scoring_dtype="auto",
        cost_ratio=None,
        scale_learning_rate=False,
    ):
        check_model(model, any_batches=False)
        check_settings(presample, tau_threshold, score, floor, cost_ratio)
        check_rate_scaling(scale_learning_rate, model)
        self.model = model
        self.presample = presample
        self.tau_threshold = tau_threshold
        self.score = score
        self.floor = floor
        self._generator = np.random.default_rng(seed)
        self._weighted_step = WeightedStep(model)
        self.cost_ratio = cost_ratio
        self.scale_learning_rate = scale_learning_rate
        # With a given cost nothing is to depend on the clock.
        settled = scoring_dtype == "auto" and cost_ratio is not None
        self._scorer = Scorer(model, (score,), None if settled else scoring_dtype)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Trains the model, as `keras.Model.fit` does.

        All arguments have the names, defaults and meaning they have there.
        `x` is whatever `model.fit` takes, `y` included or apart; see
        `ImportanceDataset` for what a presample is where `x` gives batches.
        `sample_weight` and `class_weight` weight the objective: they multiply
        the scores and the weights. With `steps_per_epoch`, an epoch is that
        many steps and the next one goes on in the data; data that can be read
        again never run out.

        A callback with a method `on_batch_drawn(batch)` gets each
        `Batch` before it is trained on: its indices, scores and weights.

        Returns:
            The `keras.callbacks.History` of `model.fit`, with `tau`,
            `importance` and `presample` added.

        Raises:
            TypeError: if `x` is neither arrays nor a source of batches.
            ValueError: for arguments that do not fit each other or the
                model, and for scores that are not finite.
        """
        check_model(self.model, any_batches=False)
        given = {name: value for name, value in locals().items() if name != "self"}
        reason = why_uniform(self.model, self.score, x, y)
        if reason is not None:
            return self._uniform_fit(reason, given)
        several = backends.active().fetches_ahead(self.model)
        if several and self.scale_learning_rate:
            raise ValueError(
                "`scale_learning_rate` is for one device: replicas trace their steps side by side. "
                f"Received: scale_learning_rate={self.scale_learning_rate!r} on a model of several "
                "replicas. Leave it False."
            )
        if batch_size is not None:
            check_positive_integer("batch_size", batch_size)
        if steps_per_epoch is not None:
            check_positive_integer("steps_per_epoch", steps_per_epoch)
        if is_stream(x):
            check_stream_arguments(x, y, sample_weight, batch_size, validation_split)
            data = {"x": x, "class_weight": class_weight}
        else:
            validation_batch_size = validation_batch_size or batch_size
            source, validation_data, batch_size = arrays.from_fit(
                x,
                y,
                sample_weight,
                class_weight,
                validation_split,
                validation_data,
                batch_size,
                steps_per_epoch,
            )
            data = {
                "x": source.x,
                "y": source.y,
                "sample_weight": source.sample_weight,
                "batch_size": batch_size,
            }
        settings = dict(
            presample=self.presample,
            tau_threshold=self.tau_threshold,
            score=self._scorer,
            floor=self.floor,
            seed=self._generator,
            shuffle=bool(shuffle) and shuffle != "batch",
            steps_per_epoch=steps_per_epoch,
            on_draw=_hook(callbacks),
            cost_ratio=self.cost_ratio,
        )
        try:
            dataset = ImportanceDataset(self.model, **settings, **data)
        except NoExampleLoss as error:
            if not isinstance(x, Iterator):
                return self._uniform_fit(str(error), given)
            # Its first batch is gone.
            raise
        turns = TakingTurns() if several else None
        feed = _Feed(dataset, turns, bool(self.scale_learning_rate))
        self._weighted_step.inspect(dataset)
        some_x, some_y, some_weights = dataset.first(8)
        weights = self._scorer.loss_weights(np.ones(8), some_weights)
        check_weights_arrive(self.model, some_x, some_y, weights)
        saving, restoring = resuming(callbacks, dataset)
        sampling = dataset.callback()
        ours = [sampling, *saving, *([turns] if turns else [])]
        if self.scale_learning_rate:
            limit = RateLimit(self.model, capped=self.scale_learning_rate == "capped")
            dataset.limit_rate_scale(limit)
            ours.append(limit)
        with (
            self._weighted_step.entered(),
            with_callbacks(callbacks, ours, self.model, restoring) as callbacks,
        ):
            try:
                return self.model.fit(
                    backends.active().feed(feed, self.model),
                    epochs=epochs,
                    verbose=verbose,
                    callbacks=callbacks,
                    validation_data=validation_data,
                    # The dataset permutes; for Keras the order of its items
                    # has no meaning.
                    shuffle=False,
                    initial_epoch=initial_epoch,
                    validation_steps=validation_steps,
                    validation_batch_size=validation_batch_size,
                    validation_freq=validation_freq,
                )
            except Exception:
                if feed.error is not None:
                    # TensorFlow wraps what a data set raises in an error of
                    # its own.
                    raise feed.error from None
                raise
            finally:
                if turns is not None:
                    turns.end()
                sampling.give_back()
                dataset.on_epoch_end()
                dataset.close()

    def _uniform_fit(self, reason, given):
        """`model.fit` as it is, with the history of uniform batches."""
        warnings.warn(uniform_warning(reason), stacklevel=3)
        history = self.model.fit(**given)
        epochs = len(history.epoch)
        history.history.update(tau=[1.0] * epochs, importance=[0.0] * epochs)
        history.history["presample"] = [1.0] * epochs
        return history


class _Feed(keras.utils.PyDataset):
    """The dataset's batches with both kinds of weights, for a `WeightedStep`."""

    def __init__(self, dataset, turns=None, scales_rate=False):
        super().__init__()
        self._dataset = dataset
        self._turns = turns
        self._scales_rate = scales_rate
        self.error = None

    @property
    def num_batches(self):
        return self._dataset.num_batches

    @property
    def fixed_size(self):
        return self._dataset.fixed_size

    def __getitem__(self, index):
        with self._keeping_errors():
            return self._item(index)

    def arrays_to_gather_from(self):
        """`(x, y)` where `next_batches` may be used in place of items, else `None`."""
        return None if self._turns is not None else self._dataset.arrays_to_gather_from()

    def keep_on_device(self, free):
        """As `ImportanceDataset.keep_on_device`."""
        self._dataset.keep_on_device(free)

    def next_batches(self):
        """The next items, as many as are drawn together, told by the indices of their examples.

        Returns:
            A list of tuples `(indices, weights)`, all of one length.
        """
        with self._keeping_errors():
            within = self._dataset.within_epoch
            with contextlib.nullcontext() if within else self._dataset.unchanged():
                batches = self._dataset.next_batches()
            return [(batch.indices, self._packed(batch)[2]) for batch in batches]

    @contextlib.contextmanager
    def _keeping_errors(self):
        try:
            yield
        except Exception as error:
            self.error = error
            raise

    def peek(self, count):
        """The next items, fewer at the end of a generator; leaves the state as it is."""
        items = []
        with self._dataset.unchanged():
            while len(items) < count:
                try:
                    items.append(self._packed(self._dataset.next_batch()))
                except ValueError:
                    if not items:
                        raise
                    break
        return items

    def _item(self, index):
        if not self._dataset.within_epoch:
            return self.peek(1)[0]
        if self._turns is not None:
            self._turns.wait(index)
        return self._packed(self._dataset.next_batch())

    def _packed(self, batch):
        weights = {"importance": batch.importance, "weights": batch.weights}
        if self._scales_rate:
            # One for each example, because the parts of a batch are of one length.
            weights["rate_scale"] = np.full(len(batch.importance), batch.rate_scale, np.float32)
        return batch.x, batch.y, weights


def _hook(callbacks):
    """A function that hands a batch to the callbacks that ask for it, or `None`."""
    listed = getattr(callbacks, "callbacks", callbacks)
    hooks = [
        callback.on_batch_drawn
        for callback in keras.tree.flatten(listed or [])
        if hasattr(callback, "on_batch_drawn")
    ]

    def on_draw(batch):
        for hook in hooks:
            hook(batch)

    return on_draw if hooks else None
