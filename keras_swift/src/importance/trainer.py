"""`ImportanceTraining`: `model.fit` on batches drawn by importance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._display import html_table
from keras_swift.src._types import ArrayTree, Score, Seed
from keras_swift.src.data.read import UnevenBatch
from keras_swift.src.data.reader import Reader
from keras_swift.src.data.streams import is_dataset
from keras_swift.src.fitting.arguments import FitArguments
from keras_swift.src.fitting.trainer import Trainer
from keras_swift.src.importance import running
from keras_swift.src.importance.easing import Easing
from keras_swift.src.importance.feed import Feed
from keras_swift.src.importance.gates import step_power
from keras_swift.src.importance.parts import TOGETHER
from keras_swift.src.importance.prepare import make_feed, remember
from keras_swift.src.importance.recollection import Recollection
from keras_swift.src.importance.settings import ImportanceSettings
from keras_swift.src.importance.step_records import UNREAD
from keras_swift.src.importance.weighted_step import WeightedStep
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.rules import check_fit, check_seed
from keras_swift.src.scoring.compiled import needs_targets, why_uniform
from keras_swift.src.scoring.output_loss import NoExampleLoss
from keras_swift.src.scoring.scorer import Scorer
from keras_swift.src.scoring.weights import check_weights_arrive
from keras_swift.src.suspects.of_record import suspects_of_memory
from keras_swift.src.suspects.result import ClassNames, Suspects
from keras_swift.src.validation import check_model


class ImportanceTraining(Trainer):
    """Trains a Keras model on the examples that change it most.

    `ImportanceTraining(model).fit(...)` is `model.fit(...)`: the same
    arguments, callbacks, metrics and history, the same optimum, less noise in
    the gradient of a step.

    By default the training step yields the score of each example, an upper
    bound of the norm of its gradient, without a further forward pass, and the
    trainer remembers it. After the first epoch it draws each epoch by these
    scores, mixed half and half with uniform probabilities; importance
    weights keep the gradient unbiased, however stale a score is.
    The learning rate of such a step is multiplied by the variance gain
    realised in earlier steps (for Adam at a constant rate by its square
    root), as a larger batch would allow; the optimizer's own rate, which
    schedules and callbacks read and set, does not change. Batches are uniform
    while there is no gain, and once the validation loss stops falling; see
    `ease_off`.

    An example is recognised by its index in arrays (in memory or on disk); by
    its batch and row in a `PyDataset`; in other streams (`tf.data`,
    `DataLoader`, grain, generators) by its id if they yield
    `(x, y, sample_weight, ids)`, else by its contents. A stream is read once
    an epoch, as in `fit`, and batches are drawn from pools of the batches
    just read; a slow source is read ahead in a thread. Where contents change
    from pass to pass (augmentation without ids), for streams with several
    processes, and for models whose training step cannot be recorded, a
    uniform presample of `r` batches is scored in one forward pass while the
    variance gain `k` exceeds its cost, `k > 1 + f r`, where scoring an example
    costs `f = 1/3` of training on it. A number for `presample` selects the
    paper's rule, with fresh scores, for any data.

    The reported `loss` and the compiled metrics are weighted so that they
    estimate what uniform training would report. What takes no weights (losses
    that layers add, metrics over entries such as IoU) describes the batches
    that were drawn, and a warning says so. The history also holds, one number
    per epoch: `importance`, the share of steps drawn by importance, 0 to 1;
    `gain`, the mean of their variance gain, as realised so far (1 for uniform
    steps); `tau`, the variance reduction that the scores predict (0 while
    they are not known); `presample`, the mean presample ratio (a step without
    a presample counts as 1).

    On several devices of one machine (`tf.distribute.MirroredStrategy`,
    `keras.distribution`) scoring is distributed like training. Several
    processes train on JAX, each on its own part of the data, with
    `keras.distribution.initialize`; on the other backends they are refused.

    Args:
        model: a compiled `keras.Model`.
        presample: `"auto"`, as above; or a float above 1, examples scored for
            each example trained, `B / b`, by the paper's rule. Defaults to
            `None`: `"auto"`, or 3.0 if a `tau_threshold` is given.
        tau_threshold: float, 0 or more; the gate of the paper's rule is open
            while the running mean of `tau` is above it; 0 keeps it open.
            Defaults to `None`: `(B + 3b) / (3b)`.
        score: `"gradient_norm"`, `"loss"`, or a callable
            `(y_true, y_pred) -> (n,)` in `keras.ops`. Defaults to
            `"gradient_norm"`.
        floor: float in [0, 1), the uniform share mixed into the
            probabilities; it bounds the weights by `1 / floor`. Defaults to
            `None`: 0.5 for remembered scores, 0.1 for fresh ones.
        seed: int, `np.random.Generator` or `None`; fixes permutations and
            draws, so that a run can be repeated to the last bit. Each call of
            `fit` continues where the last one ended. Defaults to `None`: the
            seed of `keras.utils.set_random_seed`, else fresh entropy.
        score_inputs: function of the inputs of a presample, NumPy arrays as
            in `x`, that returns cheaper ones to score instead, such as every
            second pixel. Training gets the original inputs, and weights stay
            exact. Remembered scores do not use it. Defaults to `None`.
        scale_learning_rate: bool, whether the learning rate of a step drawn
            by importance is multiplied by the variance gain, or by its square
            root for optimizers other than `SGD` whose rate has no schedule.
            Defaults to `None`: if `presample` is `"auto"`, on one device.
        ease_off: bool, whether batches become uniform where draws by
            importance stop helping: while the validation loss has not fallen
            for two validations; without validation data, while the mean
            score is below 40 % of that of the first epoch. Defaults to
            `None`: if `presample` is `"auto"`.

    Attributes:
        memory: `ExampleMemory`, what the last `fit` remembered of each
            example: `score`, `loss`, `margin`, `probability` and `wrong`,
            arrays of shape `(n,)`, NaN for examples not seen; `None` if
            nothing was remembered. For a `PyDataset` it is a copy, made when
            it is read, in the order of batches and rows; for other streams it
            is in the order in which examples were first read, with their
            `ids`. Another `fit` on the same arrays, or on the same data set
            object, continues with it.

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
        model: keras.Model,
        presample: float | Literal["auto"] | None = None,
        tau_threshold: float | None = None,
        score: Score = "gradient_norm",
        floor: float | None = None,
        seed: Seed = None,
        *,
        score_inputs: Callable[[ArrayTree], ArrayTree] | None = None,
        scale_learning_rate: bool | None = None,
        ease_off: bool | None = None,
    ) -> None:
        check_model(model, any_batches=False, trains=True)
        check_seed(seed)
        super().__init__(model)
        self.settings = ImportanceSettings(
            presample=presample,
            tau_threshold=tau_threshold,
            score=score,
            floor=floor,
            score_inputs=score_inputs,
            scale_learning_rate=scale_learning_rate,
            ease_off=ease_off,
        )
        self.settings.check_for(model)
        self._easing = Easing()
        self._recollection = Recollection()
        self._seed = seed if isinstance(seed, int) else None
        self._generator = np.random.default_rng(running.keras_seed() if seed is None else seed)
        self._weighted_step = WeightedStep(model)
        self._scorer = Scorer(model, (score,))

    @property
    def memory(self) -> ExampleMemory | None:
        """`ExampleMemory` of the last `fit`; `None` if nothing was remembered."""
        return self._recollection.memory

    def forget(self) -> None:
        """Forgets what earlier calls of `fit` remembered: the next call begins without scores."""
        self._recollection.forget()
        self._easing.forget()

    def suspects(self, class_names: ClassNames = None) -> Suspects:
        """The labels of the last `fit` that are probably wrong, by what it remembered.

        Costs no training. Importance training draws doubtful examples more often than uniform
        training does, which may change their order; `find_suspects` trains uniformly. Of a stream
        only the last loss and margin are remembered, not means over the training. A stream is read
        once more for the labels that the model proposes; one that can be read only once gets none.

        Args:
            class_names: as for `find_suspects`.

        Returns:
            `Suspects`, as `find_suspects` returns them.

        Raises:
            ValueError: if the last `fit` remembered nothing, or if the model predicts anything
                but one class for each example.
        """
        known = self._recollection
        return suspects_of_memory(self.model, known.examples, known.kept, class_names)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.described())
        return f"ImportanceTraining(model={self.model.name!r}, {settings})"

    def _repr_html_(self) -> str:
        built = self.model.built
        size = f"{self.model.count_params():,} parameters" if built else "not built yet"
        rows = [("model", f"{self.model.name}, {size}")]
        memory = self.memory
        remembered = "nothing yet" if memory is None else repr(memory).strip("<>")
        rows += [*self.settings.described(), ("remembers", remembered)]
        return html_table("ImportanceTraining", rows)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | Literal["auto"] = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | Literal["batch"] = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
    ) -> keras.callbacks.History:
        """Trains the model, as `keras.Model.fit` does.

        All arguments have the names, defaults and meaning they have there.
        `x` is anything `model.fit` takes, with `y` included or separate; see
        `ImportanceDataset` for what a presample is if `x` yields batches.
        `sample_weight` and `class_weight` weight the objective: they multiply
        the scores and the weights. With `steps_per_epoch`, an epoch is that
        many steps and the next one continues in the data. If a pass through
        data that can be read again ends sooner, the epoch ends with it and
        Keras warns, as in `model.fit`; but an epoch has all of its steps with
        several processes and where Keras fetches ahead (JAX on a GPU, before
        Keras 3.15 on a CPU too, and `tf.distribute` strategies). A callback's
        `on_batch_drawn(batch)` gets each `Batch` before it is trained on.

        Returns:
            The `keras.callbacks.History` of `model.fit`, with `importance`,
            `gain`, `tau` and `presample` added.

        Raises:
            TypeError: if `x` is neither arrays nor a source of batches.
            ValueError: for arguments that do not fit each other or the
                model.
        """
        check_model(self.model, any_batches=False, trains=True)
        given = FitArguments(
            x=x,
            y=y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
        )
        if running.is_in_training(self.model):
            # The model's own `fit`, which we called, has called us: `x` yields our batches.
            return running.plain_fit(self.model, given)
        check_fit(given)
        reason = why_uniform(self.model, self.settings.score, x, y)
        if reason is not None:
            return running.uniform_fit(self.model, reason, given)
        return self._fit(given)

    def _fit(self, given: FitArguments) -> keras.callbacks.History:
        """Trains on drawn batches; on uniform ones if the loss or the data allow no others."""
        settings, backend = self.settings, backends.active()
        scales = settings.scales_rate(backend.has_replicas(self.model))
        power = step_power(self.model.optimizer) if scales else 0.0
        data, rest = given.resolved(needs_targets(self.model, settings.score))
        self._easing.begin(settings.eases_off, validates=rest["validation_data"] is not None)
        # Otherwise an item fetched ahead could belong to the next epoch, of which nothing is known
        # yet, and processes whose data differ in size would wait for one another.
        ends_with_a_pass = backend.process()[1] == 1 and not backend.fetches_ahead(self.model)
        try:
            feed = make_feed(
                self.model,
                data,
                settings,
                self._scorer,
                self._generator,
                self._easing,
                running.hook_of(given.callbacks),
                step_power=power,
                ends_with_a_pass=ends_with_a_pass,
            )
            self._weighted_step.inspect(feed.reader)
        except (NoExampleLoss, UnevenBatch) as error:
            if is_dataset(given.x) or not isinstance(given.x, Iterator):
                return running.uniform_fit(self.model, str(error), given)
            # `model.fit` cannot take over: the iterator's first batch has been read.
            raise
        self._check_weights(feed.reader)
        self._remember(feed, power)
        if ends_with_a_pass:
            rest["steps_per_epoch"] = given.steps_per_epoch
        return running.fit_on(feed, self._weighted_step, given.callbacks, rest, self._seed)

    def _check_weights(self, reader: Reader) -> None:
        x, y, sample_weight = reader.first(reader.batch_size)
        weights = self._scorer.loss_weights(np.ones(reader.batch_size), sample_weight)
        check_weights_arrive(self.model, x, y, weights)

    def _remember(self, feed: Feed, power: float) -> None:
        """Records the steps and draws batches by the recorded scores, if possible."""
        kept, memory = self._recollection.kept, None
        if self.settings.is_auto:
            memory = self._recollection.of(feed.reader, self.model)
        else:
            self._recollection.forget()
        if memory is None:
            self._weighted_step.record_nothing()
        else:
            # Twice as many as may be unread, because batches may be larger than the first one.
            rows = 2 * UNREAD + (TOGETHER + 2) * feed.reader.batch_size
            tap = self._weighted_step.record(self._scorer, rows)
            remember(feed, memory, self._recollection, tap, self.settings, power)
        if kept is None or kept is not self._recollection.kept:
            # Losses and scores on other data say nothing about these.
            self._easing.forget()
