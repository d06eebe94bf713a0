"""The private names of Keras that this package uses: of models, layers, variables and optimizers.

Only this file and `_keras_losses` use private names of Keras, or names that may be missing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from keras_swift.src._types import ArrayTree, Tensor

if TYPE_CHECKING:
    import keras

# A JAX training step, `(state, data) -> (logs, state)`.
JaxStep = Callable[[Any, Any], tuple[dict[str, Tensor], Any]]


def check_backend() -> None:
    """Raises, with the cure, if Keras finds no backend to run on."""
    try:
        import keras  # noqa: F401
    except ImportError as error:
        if error.name not in ("tensorflow", "jax", "jaxlib", "torch"):
            raise
        raise ImportError(
            f"Keras needs a backend, and {error.name!r} is not installed. Install one, for "
            "example `pip install 'keras-swift[tensorflow]'` (or `[jax]`, `[torch]`), or set "
            "KERAS_BACKEND to the one that is there (tensorflow, jax or torch)."
        ) from error


# The private names in use, by the object that has them.
_OF_MODEL = (
    "_compile_loss",
    "_compile_metrics",
    "_compute_loss",
    "_flatten_layers",
    "_symbolic_build",
)
_OF_LOSS = ("_flat_losses", "_metrics", "_user_loss", "_user_loss_weights")
# Checked only once the metrics are built, because they are missing before.
_OF_BUILT_METRICS = ("_flat_metrics",)
_OF_OPTIMIZER = ("_get_current_learning_rate", "_learning_rate")


def release() -> tuple[int, int]:
    """`(major, minor)` of the version of Keras."""
    import keras

    major, minor = keras.__version__.split(".")[:2]
    return int(major), int(minor)


def check_release(model: keras.Model) -> None:
    """Raises, with the cure, if this Keras lacks what keras_swift relies on.

    Args:
        model: a compiled `keras.Model`.

    Raises:
        ImportError: naming what is missing.
    """
    import keras

    optimizer = innermost(getattr(model, "optimizer", None))
    metrics = getattr(model, "_compile_metrics", None)
    missing: list[str] = []
    for owner, names in (
        (model, _OF_MODEL),
        (getattr(model, "_compile_loss", None), _OF_LOSS),
        (metrics if getattr(metrics, "built", False) else None, _OF_BUILT_METRICS),
        (optimizer if isinstance(optimizer, keras.optimizers.Optimizer) else None, _OF_OPTIMIZER),
    ):
        if owner is not None:
            missing += [name for name in names if not hasattr(owner, name)]
    if missing:
        raise _other_release(missing)


def innermost(optimizer: Any) -> Any:
    """The optimizer that updates the weights, without wrappers such as `LossScaleOptimizer`."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def has_schedule(optimizer: Any) -> bool:
    """Whether the optimizer's rate follows a `LearningRateSchedule`."""
    import keras

    rate = getattr(optimizer, "_learning_rate", None)
    return isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)


def _other_release(missing: list[str]) -> ImportError:
    import keras

    return ImportError(
        f"keras_swift knows Keras 3.14 and 3.15. Received: Keras {keras.__version__}, without "
        f"{missing}. Install keras 3.15, or a newer keras-swift."
    )


def flatten_layers(model: keras.Model) -> list[keras.Layer]:
    """All layers of a model, nested ones included."""
    layers: list[keras.Layer] = model._flatten_layers()
    return layers


def own_methods(model: keras.Model) -> list[str]:
    """The names of the model's training methods that are not Keras' own.

    Returns:
        A list of some of `"train_step"`, `"compute_loss"`, `"compute_metrics"`
        and, on JAX, `"compute_loss_and_updates"`.
    """
    names = ("train_step", "compute_loss", "compute_loss_and_updates", "compute_metrics")
    found = []
    for name in names:
        method = getattr(model, name, None)
        module = getattr(getattr(method, "__func__", method), "__module__", "") or ""
        if method is not None and not re.fullmatch(r"keras\.src\.(.*\.)?trainer", module):
            found.append(name)
    return found


def symbolic_build(model: keras.Model, x: ArrayTree, y: ArrayTree) -> None:
    """Builds model, losses, metrics and optimizer without computing anything."""
    model._symbolic_build(data_batch=(x, y, None))


@contextlib.contextmanager
def already_built(model: keras.Model) -> Iterator[None]:
    """A context in which `fit` does not build the model again.

    Keras takes a model that never uses its compiled loss for unbuilt, and to build it would pass
    its `compute_loss` the dict of weights that only our step understands.
    """
    model._symbolic_build = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del model._symbolic_build


def history_of(tensor: keras.KerasTensor) -> tuple[Any, int, int]:
    """The origin of a symbolic tensor: `(layer, node index, tensor index)`."""
    history: tuple[Any, int, int] = tensor._keras_history
    return history


def number_of_calls(layer: keras.Layer) -> int:
    """int, the number of symbolic calls of a layer."""
    return len(layer._inbound_nodes)


def value_or_none(variable: keras.Variable) -> Tensor | None:
    """A variable's value; `None` while Keras keeps it outside the variable, in `fit` on JAX."""
    return variable._value


def jax_state(model: keras.Model) -> dict[str, list[Tensor]] | None:
    """The state that `fit` keeps outside the variables (JAX); `None` if the variables hold it."""
    synced = getattr(model, "_jax_state_synced", True)
    return None if synced else getattr(model, "_jax_state", None)


def is_jax_synced(model: keras.Model) -> bool:
    """Whether the variables hold the current values; on JAX, not in the middle of `fit`."""
    return getattr(model, "_jax_state_synced", True)


def mask_of(tensor: Tensor) -> Tensor | None:
    """The mask that Keras attached to a tensor, or `None`.

    JAX tensors cannot have attributes, so Keras keeps their masks in a table:
    reading `_keras_mask` is not enough.
    """
    try:
        from keras.src.backend import get_keras_mask
    except ImportError as error:
        raise _other_release(["keras.src.backend.get_keras_mask"]) from error
    return get_keras_mask(tensor)


def with_mask(tensor: Tensor, mask: Tensor) -> Tensor:
    """The tensor, with a Keras mask attached to it."""
    try:
        from keras.src.backend import set_keras_mask
    except ImportError as error:
        raise _other_release(["keras.src.backend.set_keras_mask"]) from error
    set_keras_mask(tensor, mask)
    return tensor


@contextlib.contextmanager
def wrapping_train_step(model: keras.Model, wrap: Callable[[JaxStep], JaxStep]) -> Iterator[None]:
    """A context in which the train function that Keras makes calls `wrap(step)` in place of a step.

    For JAX, where the function is a Python loop around a jitted step. The model is restored at
    the end.

    Args:
        model: `keras.Model`.
        wrap: function from a `step(state, data) -> (logs, state)` to another one.
    """
    make_train_function, make_function = model.make_train_function, model._make_function

    def wrapped(step_function: JaxStep, *arguments: Any, **named: Any) -> Any:
        return make_function(wrap(step_function), *arguments, **named)

    def make(force: bool = False) -> Any:
        model._make_function = wrapped
        try:
            return make_train_function(force)
        finally:
            del model._make_function

    model.make_train_function = make
    try:
        yield
    finally:
        del model.make_train_function


def until_it_ends(dataset: Any) -> Any:
    """An adapter through which `fit` reads a `PyDataset` until its `goes_on()` is false.

    Keras' own adapter takes a `PyDataset` without a length to have no end.

    Args:
        dataset: `PyDataset` with a method `goes_on()`, asked before each item.
    """
    try:
        from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
    except ImportError as error:
        raise _other_release(["keras.src.trainers.data_adapters"]) from error

    class UntilItEnds(PyDatasetAdapter):
        num_batches = None

        def _get_iterator(self) -> Iterator[Any]:
            index = 0
            while dataset.goes_on():
                yield dataset[index]
                index += 1

    return UntilItEnds(dataset)


def resumed_epoch(model: keras.Model) -> int | None:
    """The epoch from which `BackupAndRestore` resumes this `fit`, or `None`."""
    return getattr(model, "_initial_epoch", None)


def resume_at(model: keras.Model, epoch: int | None) -> None:
    """Makes `fit` begin with this epoch; `None` leaves that to its argument `initial_epoch`."""
    model._initial_epoch = epoch


def has_global_seed_state() -> bool:
    """Whether Keras' random functions have been called without a seed."""
    try:
        from keras.src.backend.common.global_state import get_global_attribute
    except ImportError as error:
        raise _other_release(["keras.src.backend.common.global_state"]) from error
    return get_global_attribute("global_seed_generator") is not None


def process_seed() -> int | None:
    """The seed of `keras.utils.set_random_seed`, or `None`."""
    try:
        from keras.src.utils.rng_utils import get_random_seed
    except ImportError as error:
        raise _other_release(["keras.src.utils.rng_utils"]) from error
    seed: int | None = get_random_seed()
    return seed


def seed_variables(model: keras.Model) -> list[keras.Variable]:
    """The variables with the random states of a model's layers: neither weights nor metrics."""
    known = {id(variable) for variable in (*model.weights, *model.metrics_variables)}
    return [variable for variable in model.non_trainable_variables if id(variable) not in known]


def global_seed_state() -> keras.Variable:
    """The state of the generator that `keras.random` draws from without a seed."""
    try:
        from keras.src.random.seed_generator import global_seed_generator
    except ImportError as error:
        raise _other_release(["keras.src.random.seed_generator"]) from error
    return global_seed_generator().state


def rate_and_iterations(optimizer: Any) -> tuple[Any, keras.Variable]:
    """An optimizer's learning rate and its step count, a variable.

    The learning rate is a variable, a schedule of the step count, or a function without arguments.
    """
    optimizer = innermost(optimizer)
    return getattr(optimizer, "_learning_rate", None), optimizer.iterations


@contextlib.contextmanager
def scaled_rate(optimizer: Any, scale: Tensor | float) -> Iterator[None]:
    """A context in which an optimizer uses `scale` times its learning rate.

    The optimizer's own rate does not change, so callbacks never read a scaled
    one, an exception cannot leave one behind, and a schedule continues.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        scale: float scalar tensor, or a float.
    """
    optimizer = innermost(optimizer)
    own = getattr(optimizer, "_get_current_learning_rate", None)
    if own is None:
        raise _other_release(["optimizer._get_current_learning_rate"])
    optimizer._get_current_learning_rate = lambda: own() * scale
    try:
        yield
    finally:
        del optimizer._get_current_learning_rate
