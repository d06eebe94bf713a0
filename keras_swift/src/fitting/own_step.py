"""Replaces a model's `train_step` for a call of `fit`.

The train function that Keras compiles from the other step is kept for the next call, apart from the
model's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras


class OwnStep:
    """Puts a `train_step` into a model for a call of `fit`.

    Args:
        model: `keras.Model`.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        # The train function traced with this step in it, and the one left in
        # the model when it was taken out: if the model still has that object
        # next time, it was not compiled again.
        self._function: Callable[..., Any] | None = None
        self._left: Callable[..., Any] | None = None

    def forget(self) -> None:
        """Makes Keras trace the step again at the next `entered`."""
        self._function = self._left = None

    @contextlib.contextmanager
    def entered(self, step: Callable[..., Any]) -> Iterator[None]:
        """A context in which `model.fit` calls `step`; restores the model at its end."""
        model = self._model
        before = model.train_function
        own_step = model.__dict__.get("train_step")
        if before is None or before is not self._left:
            self._function = None
        model.train_step = step
        model.train_function = self._function
        try:
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
