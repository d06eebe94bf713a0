"""JAX: scoring is a jitted function of values captured between two steps."""

import contextlib

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_swift._keras import (
    innermost,
    is_jax_synced,
    jax_state,
    rate_and_iterations,
    value_or_none,
)
from keras_swift.backends import padded, rate_of, several_processes

# Whether Keras asks a `PyDataset` for items several steps ahead of training.
PULLS_AHEAD = False
# Whether an item is made in the course of its step, after `on_train_batch_begin`.
MADE_IN_STEP = True


def compile_scoring(function, model):
    compiled = jax.jit(function)

    def score(values, *inputs):
        if values is None:
            values = capture_values(model)
        distribution = keras.distribution.distribution()
        if distribution is None:
            return jax.tree_util.tree_map(np.asarray, compiled(values, *inputs))
        count = len(keras.tree.flatten(inputs)[0])

        def shared(array):
            array = padded(np.asarray(array), jax.device_count())
            layout = distribution.get_data_layout(array.shape)
            return keras.distribution.distribute_tensor(array, layout)

        scores = compiled(values, *keras.tree.map_structure(shared, inputs))
        return jax.tree_util.tree_map(lambda array: np.asarray(array)[:count], scores)

    return score


def scope_of(model):
    return contextlib.nullcontext()


def check_devices(model):
    if jax.process_count() > 1:
        raise several_processes(f"JAX with {jax.process_count()} processes")


def capture_values(model):
    """References to the current values, valid until the next step is dispatched.

    Inside `fit` Keras empties the variables and keeps the state in the loop;
    the trainer's state is where it puts it for callbacks.
    """
    state = jax_state(model)
    if not state:
        trainable = [_value(variable) for variable in model.trainable_variables]
        non_trainable = [_value(variable) for variable in model.non_trainable_variables]
        return trainable, non_trainable
    # Keras wraps lists that are set on a model.
    return list(state["trainable_variables"]), list(state["non_trainable_variables"])


def current_values(model, captured):
    return captured or capture_values(model)


def compile_sum(function, model):
    compiled = jax.jit(function)
    return lambda total, captured: compiled(total, list(current_values(model, captured)))


def _value(variable):
    # `variable.value` would answer with freshly initialised numbers here.
    value = value_or_none(variable)
    if value is None:
        raise RuntimeError(_MISSING)
    return value


_MISSING = (
    "The model's current values cannot be read: on JAX, Keras takes them out of the model while "
    "`fit` runs. Pass the dataset's callback: "
    "`model.fit(dataset, callbacks=[dataset.callback()])`."
)


def is_in_sync(model):
    optimizer = innermost(model.optimizer)
    if not is_jax_synced(model):
        return False
    return optimizer is None or value_or_none(optimizer.iterations) is not None


def learning_rate(model):
    if is_in_sync(model):
        return rate_of(model.optimizer)
    state = jax_state(model)
    if not state:
        return None
    rate, iterations = rate_and_iterations(model.optimizer)
    schedule = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
    if callable(rate) and not schedule:
        return float(np.asarray(rate()))
    variables = model.optimizer.variables
    values = dict(zip(map(id, variables), state["optimizer_variables"], strict=True))
    value = values.get(id(iterations if schedule else rate))
    if value is None or value.is_deleted():
        return None
    return float(np.asarray(rate(value) if schedule else value))


def asks_one_ahead():
    # Keras starts a transfer early where there is one to start.
    return jax.default_backend() != "cpu" and keras.distribution.distribution() is None


def gradient(function, tensor):
    return jax.value_and_grad(function, has_aux=True)(jax.lax.stop_gradient(tensor))


def random_state():
    # Layers draw from variables of their own.
    return []


def restore_random_state(state):
    pass


def keep(model):
    if not is_jax_synced(model):
        return None
    optimizer = getattr(model.optimizer, "variables", [])
    variables = [*model.variables, *optimizer, *model.metrics_variables]
    return [(variable, value_or_none(variable)) for variable in variables]


def give_back(kept):
    # Keras empties the variables before it asks for the first batch of an epoch, and loses their
    # values if that fails.
    for variable, value in kept or ():
        if value_or_none(variable) is None and value is not None and not value.is_deleted():
            variable.assign(value)


def example_gradient_norms(function, trainable, inputs):
    def norm(row):
        row = jax.tree_util.tree_map(lambda leaf: leaf[None], row)
        slopes = jax.grad(function)(list(trainable), *row)
        return jnp.sqrt(sum(jnp.sum(jnp.square(slope)) for slope in slopes))

    # One after the other: side by side they need a copy of the model each.
    return jax.lax.map(norm, jax.tree_util.tree_map(jnp.asarray, inputs))


def step(model, data):
    """One step of the model's own: its logs, and the values of its metrics after it."""
    values = capture_values(model)
    optimizer = [] if model.optimizer is None else model.optimizer.variables
    others = [
        [_value(variable) for variable in part] for part in (optimizer, model.metrics_variables)
    ]
    logs, state = model.train_step((*values, *others), data)
    return logs, list(state[3])


def fetches_ahead(model):
    return False


def feed(dataset, model):
    free = free_memory(model)
    if free is not None:
        dataset.keep_on_device(free)
    return dataset


def free_memory(model):
    """int, bytes that are free where the model computes; `None` on the CPU, or if not known."""
    if jax.default_backend() == "cpu" or keras.distribution.distribution() is not None:
        return None
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None
