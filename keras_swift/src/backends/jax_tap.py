"""Numbers for the examples of JAX's training steps, on their way out of jitted functions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import keras
import numpy as np

from keras_swift.src._keras import JaxStep, wrapping_train_step
from keras_swift.src._types import ArrayTree, FloatArray, Tensor
from keras_swift.src.backends.base import Inputs, Numbers, Tap, overridden

# The key beside the logs of a step.
_VALUES = "keras_swift_values"


class JaxTap(Tap):
    """Gets the numbers of a step from its logs.

    Attributes:
        passed: the numbers that one function of a traced step passes on to a later one, or `None`.
            It belongs to the tap, because a step traced in one `fit` may be traced again in the
            next.
    """

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        self.passed: Tensor = None

    def read(self) -> FloatArray:
        self._rows = [_local_rows(values) for values in self._rows]
        return super().read()


@jax.tree_util.register_pytree_node_class
class _Observed:
    """Outputs of a step, and the numbers of its examples."""

    def __init__(self, y_pred: ArrayTree, values: Tensor) -> None:
        self.y_pred, self.values = y_pred, values

    def tree_flatten(self) -> tuple[tuple[ArrayTree, Tensor], None]:
        return (self.y_pred, self.values), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Iterable[Any]) -> _Observed:
        return cls(*children)


def _local_rows(values: Any) -> Any:
    """The rows of a step's output that are on devices of this process, in order."""
    if len(values.devices()) == 1:
        return values
    shards = {shard.index[0].start or 0: shard.data for shard in values.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


@contextlib.contextmanager
def tapped(model: keras.Model, tap: JaxTap, inputs: Inputs, numbers: Numbers) -> Iterator[None]:
    """A context in which `tap` gets `numbers(*inputs(y, y_pred))` of every training step.

    Nothing leaves a jitted step but what it returns. Numbers computed in `compute_loss`, where
    masks are known, leave the differentiated function beside the outputs and the step beside
    the logs; they are removed before Keras sees them.
    """
    own_loss, own_updates = model.compute_loss, model.compute_loss_and_updates
    own_metrics, own_step = model.compute_metrics, model.train_step

    def compute_loss(
        x: Any = None, y: Any = None, y_pred: Any = None, *rest: Any, **named: Any
    ) -> Any:
        found = inputs(y, y_pred)
        if found is not None:
            tap.passed = numbers(*found)
        return own_loss(x, y, y_pred, *rest, **named)

    def compute_loss_and_updates(*arguments: Any, **named: Any) -> Any:
        tap.passed = None
        loss, (unscaled, y_pred, *variables) = own_updates(*arguments, **named)
        if tap.passed is not None:
            y_pred = _Observed(y_pred, tap.passed)
        return loss, (unscaled, y_pred, *variables)

    def compute_metrics(x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        tap.passed = None
        if isinstance(y_pred, _Observed):
            y_pred, tap.passed = y_pred.y_pred, y_pred.values
        return own_metrics(x, y, y_pred, sample_weight)

    def train_step(state: Any, data: Any) -> tuple[dict[str, Tensor], Any]:
        tap.passed = None
        logs, state = own_step(state, data)
        values, tap.passed = tap.passed, None
        distribution = keras.distribution.distribution()
        if values is not None and distribution is not None:
            # Placed like the batch, so that each process finds its own rows on its own devices.
            layout = distribution.get_data_layout(values.shape).backend_layout
            constrained: Any = jax.lax.with_sharding_constraint
            values = constrained(values, layout)
        return (logs if values is None else {**logs, _VALUES: values}), state

    def without_values(step: JaxStep) -> JaxStep:
        def stepping(state: Any, data: Any) -> tuple[dict[str, Tensor], Any]:
            logs, state = step(state, data)
            if _VALUES in logs:
                tap.write(logs.pop(_VALUES))
            return logs, state

        return stepping

    with (
        overridden(
            model,
            compute_loss=compute_loss,
            compute_loss_and_updates=compute_loss_and_updates,
            compute_metrics=compute_metrics,
            train_step=train_step,
        ),
        wrapping_train_step(model, without_values),
    ):
        yield
