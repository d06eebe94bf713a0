"""What differs between TensorFlow, JAX and PyTorch, and nothing else.

Each module here has the same functions; the one of the active backend is
loaded on first use, so that no other framework is imported.

`PULLS_AHEAD`
    whether Keras asks a `PyDataset` for items several steps ahead of training.
`MADE_IN_STEP`
    whether an item is made in the course of its step, after `on_train_batch_begin`.
`asks_one_ahead()`
    whether it is made in the course of the step before.
`compile_scoring(function, model)`
    compiles `function(values, *inputs)` and returns a callable
    `(values, *inputs)` that gives NumPy arrays with one row for each row of
    the inputs; `values=None` are the model's own. The rows are then shared out
    over the devices that the model trains on.
`scope_of(model)`
    a context in which variables are made on the devices that the model trains on.
`check_devices(model)`
    raises where the model is trained by several processes.
`capture_values(model)`
    the model's current `(trainable, non_trainable)` values where they have to
    be captured between two steps, else `None`.
`current_values(model, captured)`
    those values now, whether or not they had to be captured; references, not copies.
`compile_sum(function, model)`
    compiles `function(total, values)`, two nested lists of tensors and one that comes back, and
    returns a callable `(total, captured)` that gives it the model's values now.
`is_in_sync(model)`
    whether the variables of model and optimizer can be read now.
`learning_rate(model)`
    the rate of the next step, a float, `None` where it cannot be known.
`gradient(function, tensor)`
    the value of `function(tensor)`, a pair `(scalar, rest)`, and the gradient
    of the scalar in `tensor`.
`keep(model)`, `give_back(kept)`
    references to the values of all variables before a step, `None` where they
    are out of reach, and back with those that a failed step has lost.
`random_state()`, `restore_random_state(state)`
    the framework's own random state, a list of arrays, where layers draw from
    it; elsewhere empty.
`example_gradient_norms(function, trainable, inputs)`
    for each row of the structure `inputs`, the norm of the gradient of the scalar
    `function(trainable, *row)` in the list of tensors `trainable`, shape `(n,)`.
`step(model, data)`
    one call of the model's own `train_step`, to be undone by whoever calls: its logs, and the
    values of its metrics after it where they do not stand in the variables.
`fetches_ahead(model)`
    whether items of that feed are fetched before training asks for them.
`feed(dataset, model)`
    what `model.fit` is to be given so that items are made in step with it; lets the data be kept
    where they can be gathered without a detour.
"""

import functools
import importlib

import keras
import numpy as np


@functools.cache
def active():
    """The module of the backend that Keras runs on."""
    name = keras.backend.backend()
    if name not in ("tensorflow", "jax", "torch"):
        raise ValueError(
            "keras_swift trains with the TensorFlow, JAX and PyTorch backends. Received: "
            f"KERAS_BACKEND={name}. Set KERAS_BACKEND to tensorflow, jax or torch before Keras "
            "is imported."
        )
    return importlib.import_module(f"keras_swift.backends.{name}")


def rate_of(optimizer):
    """The learning rate of an optimizer whose variables can be read, or `None`."""
    rate = getattr(optimizer, "learning_rate", None)
    return None if rate is None else float(keras.ops.convert_to_numpy(rate))


def padded(array, multiple):
    """The rows, and the first one again until their number is a multiple of `multiple`.

    Args:
        array: NumPy array.
        multiple: int.
    """
    missing = -len(array) % multiple
    return np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) if missing else array


def several_processes(what):
    """The error for training that is spread over processes.

    Args:
        what: str, what was found.
    """
    return ValueError(
        "Importance training runs in one process, on one or more of its devices: the processes "
        f"would have to agree on the gate and on every draw. Received: {what}. Use the devices of "
        "one machine (`tf.distribute.MirroredStrategy`, `keras.distribution.DataParallel`), or "
        "`model.fit`. `keras_swift.search` shares its trials among machines."
    )
