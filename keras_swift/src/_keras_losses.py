"""The private names of Keras that hold a model's compiled losses and metrics.

Only this file and `_keras` use private names of Keras, or names that may be missing.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from keras_swift.src._types import ArrayTree, Path, Tensor

if TYPE_CHECKING:
    import keras


def compile_loss(model: keras.Model) -> Any:
    """The container of the compiled losses, or `None`."""
    return model._compile_loss


def flat_losses(container: Any) -> list[tuple[Path, keras.losses.Loss, float | None, str]] | None:
    """The losses in a built container, `(path, loss, weight, name)` for each."""
    losses: list[tuple[Path, keras.losses.Loss, float | None, str]] | None = container._flat_losses
    return losses


def as_compared(container: Any, y: ArrayTree, y_pred: ArrayTree) -> tuple[ArrayTree, ArrayTree]:
    """Targets and outputs in the structures in which a container of losses compares them.

    Keras itself matches them, in a copy of the container whose loss notes its arguments. Leaves may
    be anything.

    Args:
        container: the container of the compiled losses, built or not.
        y, y_pred: structures.

    Raises:
        Exception: whatever Keras raises for structures that do not match.
    """
    noted: list[ArrayTree] = []

    def note(y_true: ArrayTree, y_pred: ArrayTree, sample_weight: ArrayTree = None) -> float:
        noted.extend((y_true, y_pred))
        return 0.0

    def note_and_end(y_true: ArrayTree, y_pred: ArrayTree) -> None:
        note(y_true, y_pred)
        raise _Noted

    # `copy.copy` would serialise the container.
    asked = object.__new__(type(container))
    vars(asked).update(vars(container))
    # No metrics, which would count the values that `note` returns as losses.
    asked._flat_losses, asked._metrics = [container.Loss((), note, None, "")], [None]
    asked.build = note_and_end
    with contextlib.suppress(_Noted):
        asked.call(y, y_pred)
    return tuple(noted)


class _Noted(Exception):
    """Ends the call of an unbuilt container, once its arguments have been noted."""


def explains_loss(error: Exception) -> bool:
    """Whether Keras itself found that the `loss` argument does not fit the model, and says so."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    is_keras = frame.f_globals.get("__name__", "").endswith(".trainers.compile_utils")
    return is_keras and frame.f_code.co_name in ("build", "_build_nested")


def user_loss(container: Any) -> Any:
    """The `loss` that a model was compiled with."""
    return container._user_loss


def built_losses(model: keras.Model, y: ArrayTree, y_pred: ArrayTree) -> Any:
    """The container of a model's compiled losses, built; `None` if it was compiled without any.

    A model that overrides `compute_loss` may never build its container. Then this returns another
    container of the same losses, because building the model's would add metrics to the model.

    Args:
        model: a compiled `keras.Model`.
        y, y_pred: structures of tensors or of their specifications, matched.
    """
    container = model._compile_loss
    if container is None or container.built:
        return container
    container = type(container)(
        container._user_loss, container._user_loss_weights, output_names=container.output_names
    )
    container.build(y, y_pred)
    return container


def compile_metrics(model: keras.Model) -> Any:
    """The container of the compiled metrics, or `None`."""
    return model._compile_metrics


def plain_metrics(container: Any) -> list[Any]:
    """A built container's groups of plain metrics, one for each output, `None` if it has none."""
    metrics: list[Any] = container._flat_metrics
    return metrics


@contextlib.contextmanager
def without_plain_metrics(container: Any) -> Iterator[None]:
    """A context in which the container updates only its weighted metrics."""
    plain = container._flat_metrics
    container._flat_metrics = [None] * len(plain)
    try:
        yield
    finally:
        container._flat_metrics = plain


def flatten_targets(container: Any, y: ArrayTree) -> list[Tensor]:
    """Targets or outputs in the order of the container's metrics."""
    import keras

    # In Keras 3.14.0 metrics have the order of `tree.flatten`.
    flatten = getattr(container, "_flatten_y", None) or keras.tree.flatten
    leaves: list[Tensor] = flatten(y)
    return leaves


def loss_of(
    model: keras.Model, x: ArrayTree, y: ArrayTree, y_pred: ArrayTree, sample_weight: ArrayTree
) -> Tensor:
    """The loss that the model trains on, as its step computes it."""
    return model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)


def metrics_of_keras(model: keras.Model) -> list[keras.Metric | None]:
    """The metrics that Keras creates and updates: the loss tracker and the compiled ones."""
    found = [getattr(model, "_loss_tracker", None)]
    for container in (model._compile_metrics, model._compile_loss):
        found += [] if container is None else [container, *container.metrics]
    return found


def are_metrics_built(model: keras.Model) -> bool:
    """Whether the metrics of the compiled losses and metrics have their variables."""
    containers = (model._compile_loss, model._compile_metrics)
    return all(container is None or container.built for container in containers)


def loss_settings(loss: keras.losses.Loss) -> dict[str, Any]:
    """The keyword arguments that a loss passes to the function it wraps, a dict."""
    settings: dict[str, Any] = loss._fn_kwargs
    return settings
