"""Takes the numbers of a record from the training steps, which compute the outputs anyway."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras

from keras_swift.src import backends
from keras_swift.src._types import ArrayTree, Tensor
from keras_swift.src.backends.base import Tap
from keras_swift.src.fitting.own_step import OwnStep
from keras_swift.src.records.outputs import LabelScorer


class RecordedStep:
    """Records the numbers of the examples that a model's steps train on, in step order.

    Args:
        model: a compiled, built `keras.Model`.
        scorer: its `LabelScorer`.
    """

    def __init__(self, model: keras.Model, scorer: LabelScorer) -> None:
        self._model = model
        self._own = OwnStep(model)
        self._tap: Tap | None = None
        self._rows = 0
        # Whether this thread is in a training step: validation computes losses too.
        self._inside = threading.local()
        self._observer = _Observer(scorer, self._inside)
        self._columns = scorer.columns
        self._step: Any = None

    @contextlib.contextmanager
    def entered(self, rows: int) -> Iterator[None]:
        """A context in which `model.fit` is recorded; restores the model at its end.

        Args:
            rows: int, how many examples there may be between two readings.
        """
        if self._tap is None or rows != self._rows:
            # The step that was traced writes to the old tap.
            self._own.forget()
            self._tap, self._rows = backends.active().make_tap(self._columns, rows), rows
        # A step that failed in an earlier run may have left rows.
        self._tap.clear()
        self._step = self._model.train_step
        with (
            self._own.entered(self._train_step),
            backends.active().tapped(self._model, self._tap, self._observer),
        ):
            yield

    @property
    def tap(self) -> Tap | None:
        """`Tap` of the scorer's `columns` numbers for each example; `None` before `entered`."""
        return self._tap

    def _train_step(self, *arguments: Any) -> Any:
        self._inside.step = True
        try:
            return self._step(*arguments)
        finally:
            self._inside.step = False


class _Observer:
    """An `Observe` for backends."""

    def __init__(self, scorer: LabelScorer, inside: threading.local) -> None:
        self._scorer = scorer
        self._inside = inside

    def __call__(self, y: ArrayTree, y_pred: ArrayTree) -> Tensor | None:
        found = self.inputs(y, y_pred)
        return None if found is None else self.numbers(*found)

    def inputs(self, y: ArrayTree, y_pred: ArrayTree) -> tuple[ArrayTree, ...] | None:
        # A `train_step` of the model's own may compute losses of other outputs.
        inside = getattr(self._inside, "step", False) and self._scorer.fits(y, y_pred)
        return (y, y_pred) if inside else None

    def numbers(self, *inputs: ArrayTree) -> Tensor:
        return self._scorer.of_outputs(*inputs)
