"""What of Keras has no public name, or may be missing: touched here alone."""

import contextlib


def check_backend():
    """Raises, with the cure, where Keras finds no backend to run on."""
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


# What is read or called without a public name, and where it hangs.
_OF_MODEL = ("_compile_loss", "_compile_metrics", "_flatten_layers", "_symbolic_build")
_OF_METRICS = ("_flatten_y",)


def check_release(model):
    """Raises, with the cure, where this Keras lacks what keras_swift relies on.

    Args:
        model: a compiled `keras.Model`.

    Raises:
        ImportError: naming what is missing.
    """
    missing = [name for name in _OF_MODEL if not hasattr(model, name)]
    metrics = getattr(model, "_compile_metrics", None)
    if metrics is not None:
        missing += [name for name in _OF_METRICS if not hasattr(metrics, name)]
    if missing:
        raise _other_release(missing)


def _other_release(missing):
    import keras

    return ImportError(
        f"keras_swift knows Keras 3.15. Received: Keras {keras.__version__}, without {missing}. "
        "Install keras 3.15, or a newer keras-swift."
    )


def mask_of(tensor):
    """The mask Keras attached to a tensor, or `None`.

    On JAX a tensor cannot carry attributes and Keras keeps masks in a table of
    its own, so reading `_keras_mask` is not enough.
    """
    try:
        from keras.src.backend import get_keras_mask
    except ImportError as error:
        raise _other_release(["keras.src.backend.get_keras_mask"]) from error
    return get_keras_mask(tensor)


def resumed_epoch(model):
    """The epoch that `BackupAndRestore` lets this `fit` begin with, or `None`."""
    return getattr(model, "_initial_epoch", None)


def seed_variables(model):
    """The random states of a model's layers: variables that are neither weights nor metrics'."""
    known = {id(variable) for variable in (*model.weights, *model.metrics_variables)}
    return [variable for variable in model.non_trainable_variables if id(variable) not in known]


def rate_and_iterations(optimizer):
    """An optimizer's rate and the count of its steps, a variable.

    The rate is a variable, a schedule of that count or a function of nothing.
    """
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return getattr(optimizer, "_learning_rate", None), optimizer.iterations


@contextlib.contextmanager
def scaled_rate(optimizer, scale):
    """A context in which an optimizer's steps are those of `scale` times its learning rate.

    The rate itself is left alone, so there is nothing that callbacks could
    read or that an exception could leave behind, and a schedule goes on.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        scale: float scalar tensor, or a float.
    """
    while hasattr(optimizer, "inner_optimizer"):
        # Loss scaling wraps the optimizer that makes the step.
        optimizer = optimizer.inner_optimizer
    own = getattr(optimizer, "_get_current_learning_rate", None)
    if own is None:
        raise _other_release(["optimizer._get_current_learning_rate"])
    optimizer._get_current_learning_rate = lambda: own() * scale
    try:
        yield
    finally:
        del optimizer._get_current_learning_rate
