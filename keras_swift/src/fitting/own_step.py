"""Replaces a model's `train_step` for a call of `fit`, and records what its steps compute.

The train function that Keras compiles from the other step is kept for the next call, apart from the
model's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_swift.src import backends
from keras_swift.src.backends.base import Inputs, Numbers, Tap


class OwnStep:
    """Puts a `train_step` into a model for a call of `fit`.

    Args:
        model: a compiled `keras.Model`.

    Attributes:
        replaced: the model's own `train_step`, for the step to call.
        tap: `Tap` with the numbers of the examples of steps; `None` if nothing is recorded.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.replaced: Any = None
        self.tap: Tap | None = None
        self._form: tuple[int, int] | None = None
        # The train function traced with this step in it, and the one left in
        # the model when it was taken out: if the model still has that object
        # next time, it was not compiled again.
        self._function: Callable[..., Any] | None = None
        self._left: Callable[..., Any] | None = None

    def record(self, columns: int, rows: int) -> Tap:
        """Records the steps from now on.

        Args:
            columns: int, how many numbers each example has.
            rows: int, how many examples may be recorded between two readings.
        """
        if self.tap is None or self._form != (columns, rows):
            # The step that was traced writes to the old tap.
            self._forget()
            self.tap, self._form = backends.active().make_tap(columns, rows), (columns, rows)
        return self.tap

    def record_nothing(self) -> None:
        """Records no steps from now on."""
        if self.tap is not None:
            self._forget()
        self.tap = None

    def _forget(self) -> None:
        """Makes Keras trace the step again at the next `entered`."""
        self._function = self._left = None

    @contextlib.contextmanager
    def entered(self, step: Callable[..., Any], inputs: Inputs, numbers: Numbers) -> Iterator[None]:
        """A context in which `model.fit` calls `step`; restores the model at its end.

        Args:
            step: a `train_step`.
            inputs, numbers: what is recorded, as for `Backend.tapped`.
        """
        model = self._model
        before = model.train_function
        own_step = model.__dict__.get("train_step")
        self.replaced = model.train_step
        if before is None or before is not self._left:
            self._function = None
        model.train_step = step
        model.train_function = self._function
        tapped: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self.tap is not None:
            # A step that failed in an earlier run may have left rows.
            self.tap.clear()
            tapped = backends.active().tapped(model, self.tap, inputs, numbers)
        try:
            with tapped:
                yield
        finally:
            self._function = model.train_function
            del model.train_step
            if own_step is not None:
                model.train_step = own_step
            model.train_function = before
            if before is None:
                # As after `model.fit`: present, not traced yet.
                model.make_train_function()
            self._left = model.train_function
