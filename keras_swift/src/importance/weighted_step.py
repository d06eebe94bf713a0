"""Separates the importance weights from the user's inside the train step.

Keras passes one array of weights to the loss and to `weighted_metrics`, and
none to plain `metrics`. While a `WeightedStep` is entered, batches carry the
importance weights and the user's, and `MetricUpdates` updates the metrics.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from keras_swift.src import backends
from keras_swift.src._keras import already_built, scaled_rate
from keras_swift.src._keras_losses import compile_metrics
from keras_swift.src._types import ArrayTree, Tensor
from keras_swift.src.backends.base import Tap
from keras_swift.src.data.leaves import present_leaves
from keras_swift.src.data.reader import Reader
from keras_swift.src.fitting.own_step import OwnStep
from keras_swift.src.importance.metric_updates import MetricUpdates, StepWeights
from keras_swift.src.scoring.compiled import build
from keras_swift.src.scoring.forward import predicted, tensors
from keras_swift.src.scoring.own_call import check_comparisons
from keras_swift.src.scoring.step_scores import StepScores
from keras_swift.src.scoring.weights import takes_no_weights, unpacks_pairs


class Observer:
    """Computes the numbers of a step's examples, an `Observe` for backends.

    Args:
        current: thread-local, whose `weights` are the `StepWeights` of the step that is being
            traced or run; `None` outside steps.

    Attributes:
        step_scores: `StepScores`, or `None` for no record.
    """

    def __init__(self, current: threading.local) -> None:
        self._current = current
        self.step_scores: StepScores | None = None

    def __call__(self, y: ArrayTree, y_pred: ArrayTree) -> Tensor | None:
        found = self.inputs(y, y_pred)
        return None if found is None else self.numbers(*found)

    def inputs(self, y: ArrayTree, y_pred: ArrayTree) -> tuple[ArrayTree, ...] | None:
        weights = getattr(self._current, "weights", None)
        if self.step_scores is None or weights is None:
            return None
        return y, y_pred, weights.sample_weight

    def numbers(self, *inputs: ArrayTree) -> Tensor:
        if self.step_scores is None:
            raise RuntimeError("nothing is recorded")
        return self.step_scores(*inputs)


class WeightedStep:
    """Runs a model's own `train_step` on batches that carry importance and loss weights.

    The third part of a batch is a dict: `"weights"`, those of the loss;
    `"importance"`, shape `(b,)`; `"rate_scale"`, shape `(b,)`, all equal, if the
    learning rate of the step is scaled; and `"sample_weight"`, the user's, if
    given. The `train_step`, Keras' or the user's, gets `"weights"`; during the
    step any update of the compiled plain metrics uses `"importance"`.

    With a `StepScores`, each step also writes the numbers of its examples to `tap`.

    Args:
        model: a compiled, built `keras.Model`.

    Attributes:
        tap: `Tap` of the steps, `None` unless scores are recorded.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.tap: Tap | None = None
        self._recorded: tuple[int, int] | None = None
        self._own = OwnStep(model)
        self._step: Any = None
        # The weights of the step that is being traced or run; a mirrored
        # strategy traces the steps of its replicas in threads that take turns.
        self._current = threading.local()
        self._observer = Observer(self._current)
        self._metrics = MetricUpdates(model)

    def record(self, step_scores: StepScores, rows: int) -> Tap:
        """Records the steps from now on.

        Args:
            step_scores: `StepScores`.
            rows: int, how many examples may be recorded between two readings.

        Returns:
            The `Tap` that holds what was recorded.
        """
        form = (step_scores.columns, rows)
        if self.tap is None or form != self._recorded:
            # The step that was traced writes to the old tap.
            self._own.forget()
            self.tap = backends.active().make_tap(*form)
        self._recorded = form
        self._observer.step_scores = step_scores
        return self.tap

    def record_nothing(self) -> None:
        """Records no steps from now on."""
        if self.tap is not None:
            self._own.forget()
        self.tap = self._recorded = self._observer.step_scores = None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """A context in which `model.fit` takes batches whose third part is the dict of weights.

        The model is restored at the end.

        Raises:
            ValueError: if Keras runs with Flax NNX.
        """
        if getattr(keras.config, "is_nnx_enabled", bool)():
            raise ValueError(
                "keras_swift trains Keras' own variables. Received: Keras with Flax NNX enabled "
                "(KERAS_NNX_ENABLED). Unset it."
            )
        model = self._model
        metrics = compile_metrics(model)
        self._step = model.train_step
        if metrics is not None:
            metrics.update_state = self._update_state
        tapped: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.tap is not None:
            # A step that failed in an earlier run may have left rows.
            self.tap.clear()
            tapped = backends.active().tapped(model, self.tap, self._observer)
        try:
            with self._own.entered(self._train_step), already_built(model), tapped:
                yield
        finally:
            if metrics is not None:
                del metrics.update_state

    def _train_step(self, *arguments: Any) -> Any:
        # `(data)` or, on JAX, `(state, data)`.
        *state, (x, y, weights) = arguments
        self._current.weights = StepWeights.of(weights)
        scaling: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if "rate_scale" in weights:
            scaling = scaled_rate(
                self._model.optimizer, backends.active().common_scale(weights["rate_scale"])
            )
        try:
            with scaling:
                return self._step(*state, (x, y, weights["weights"]))
        except ValueError as error:
            if not unpacks_pairs(error):
                raise
            raise takes_no_weights() from error
        finally:
            self._current.weights = None

    def _update_state(
        self, y_true: ArrayTree, y_pred: ArrayTree, sample_weight: ArrayTree = None
    ) -> None:
        current = getattr(self._current, "weights", None)
        self._metrics.update(current, y_true, y_pred, sample_weight)

    def inspect(self, reader: Reader) -> None:
        """Finds out which plain metrics take weights; warns of metrics and losses that take none.

        Args:
            reader: `Reader`, whose first examples are used to try.

        Raises:
            NoExampleLoss: for a loss that compares the examples of a batch.
        """
        model = self._model
        axes = {size for leaf in present_leaves(reader.first(1)[:2]) for size in leaf.shape[1:]}
        # A number of examples that is no other axis's length, or weights could pair with that axis.
        count = next(number for number in itertools.count(8) if number not in axes)
        x, y, _ = reader.first(count)
        losses = build(model, x, y)
        y_pred, added = predicted(model, x)
        if added:
            warnings.warn(
                "The model adds losses of its own (`add_loss` or an `activity_regularizer`). They "
                "get no weights, so while batches are drawn by importance they describe the "
                "harder examples that were drawn. Put them into the compiled loss to have them "
                "weighted.",
                stacklevel=3,
            )
        targets, outputs = losses.matching.aligned(y, y_pred)
        for output in losses.outputs:
            check_comparisons(output, output.of(targets), output.of(outputs))
        # The trial must change no variable and must not wait for other processes.
        local = backends.active().local_state(model)
        with keras.StatelessScope(local) if local else contextlib.nullcontext():
            self._metrics.inspect(tensors(y), y_pred)
