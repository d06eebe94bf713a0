"""What both trainers pass on to their model, so that one object trains, predicts and evaluates."""

from __future__ import annotations

from typing import Any

import keras


class Trainer:
    """A trainer of a compiled Keras model; a subclass defines `fit`.

    Each name below is the model's own. Keras' wrappers for scikit-learn ask
    for no others, so a function that returns a trainer may be given to them
    in place of one that returns a model.

    Args:
        model: a compiled `keras.Model`.

    Attributes:
        model: the `keras.Model`, the one that was given.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Calls `model.evaluate`, with its arguments and its result."""
        return self.model.evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Calls `model.predict`, with its arguments and its result."""
        return self.model.predict(*args, **kwargs)

    @property
    def history(self) -> keras.callbacks.History | None:
        """The `keras.callbacks.History` of the model's last `fit`; `None` before the first."""
        return getattr(self.model, "history", None)

    @property
    def compiled(self) -> bool:
        """Whether the model is compiled."""
        return bool(self.model.compiled)

    @property
    def loss(self) -> Any:
        """The loss that the model is compiled with."""
        return self.model.loss

    @property
    def optimizer(self) -> Any:
        """The optimizer that the model is compiled with."""
        return self.model.optimizer
