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
from keras import ops

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
from keras_swift.src.scoring.label_outputs import label_means, labels_of
from keras_swift.src.scoring.own_call import check_comparisons
from keras_swift.src.scoring.scorer import Scorer
from keras_swift.src.scoring.weights import takes_no_weights, unpacks_pairs


class StepScores:
    """Score and loss of each example of a batch, and margin and probability of its label.

    The columns are those of `records.memory.COLUMNS`; the last two exist if all compiled losses are
    those of a classifier (means over several, by their loss weights). If an output carries a mask,
    the unmasked share of the entries of each output follows.

    Args:
        scorer: `Scorer` that has scored a batch; its first quantity is the score.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._labels = labels_of(scorer.outputs)
        self._has_masks = scorer.has_masks
        self.columns = 2 if self._labels is None else 4
        self.columns += len(scorer.outputs) if scorer.has_masks else 0

    def __call__(self, y: ArrayTree, y_pred: ArrayTree, sample_weight: ArrayTree = None) -> Tensor:
        """The numbers of one batch.

        Args:
            y: structure of targets, as `compute_loss` gets it.
            y_pred: structure of outputs.
            sample_weight: the user's weights, which multiply the score and not the loss. Defaults
                to `None`.

        Returns:
            A float32 tensor, shape `(b, columns)`.
        """
        scorer = self._scorer
        found = scorer.of_outputs(y, y_pred, sample_weight)
        score, loss = found[scorer.score_name], found.get("loss")
        if loss is None:
            # A model that computes its loss itself, scored by a callable.
            loss = float("nan") * ops.ones_like(score)
        elif sample_weight is not None:
            loss = scorer.of_outputs(y, y_pred)["loss"]
        numbers = [score, loss]
        if self._labels is not None:
            numbers += label_means(self._labels, *scorer.matching.aligned(y, y_pred))
        columns = ops.stack([ops.cast(number, "float32") for number in numbers], axis=1)
        if self._has_masks:
            columns = ops.concatenate([columns, ops.cast(found["valid"], "float32")], axis=1)
        return ops.stop_gradient(columns)


class WeightedStep:
    """Runs a model's own `train_step` on batches that carry importance and loss weights.

    The third part of a batch is a dict. `"importance"`, shape `(b,)`, has the
    importance weights; in its place `"importance_and_rate"`, shape `(b, 2)`, if
    the learning rate of the step is scaled, with the factor, equal in all rows.
    `"weights"` has the weights of the loss, unless they are the importance
    weights, and `"sample_weight"` the user's, if given. The `train_step`, Keras'
    or the user's, gets the weights of the loss; during the step any update of
    the compiled plain metrics uses the importance weights.

    After `record`, each step also writes the `StepScores` of its examples to a tap.

    Args:
        model: a compiled, built `keras.Model`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._own = OwnStep(model)
        self._step_scores: StepScores | None = None
        # The weights of the step that is being traced or run; a mirrored
        # strategy traces the steps of its replicas in threads that take turns.
        self._current = threading.local()
        self._metrics = MetricUpdates(model)

    def record(self, scorer: Scorer, rows: int) -> Tap:
        """Records the steps from now on.

        Args:
            scorer: `Scorer` that has scored a batch.
            rows: int, how many examples may be recorded between two readings.

        Returns:
            The `Tap` that holds what was recorded.
        """
        self._step_scores = StepScores(scorer)
        return self._own.record(self._step_scores.columns, rows)

    def record_nothing(self) -> None:
        """Records no steps from now on."""
        self._own.record_nothing()
        self._step_scores = None

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
        if metrics is not None:
            metrics.update_state = self._update_state
        own = self._own.entered(self._train_step, self._inputs, self._numbers)
        try:
            with own, already_built(model):
                yield
        finally:
            if metrics is not None:
                del metrics.update_state

    def _train_step(self, *arguments: Any) -> Any:
        # `(data)` or, on JAX, `(state, data)`.
        *state, (x, y, weights) = arguments
        current = self._current.weights = StepWeights.of(weights)
        scaling: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if current.rate_scale is not None:
            scaling = scaled_rate(
                self._model.optimizer, backends.active().common_scale(current.rate_scale)
            )
        try:
            with scaling:
                return self._own.replaced(*state, (x, y, current.of_loss))
        except ValueError as error:
            if not unpacks_pairs(error):
                raise
            raise takes_no_weights() from error
        finally:
            self._current.weights = None

    def _inputs(self, y: ArrayTree, y_pred: ArrayTree) -> tuple[ArrayTree, ...] | None:
        weights = getattr(self._current, "weights", None)
        return None if weights is None else (y, y_pred, weights.sample_weight)

    def _numbers(self, *inputs: ArrayTree) -> Tensor:
        if self._step_scores is None:
            raise RuntimeError("nothing is recorded")
        return self._step_scores(*inputs)

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
