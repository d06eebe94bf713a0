"""JAX: scoring is a jitted function of values captured between two steps."""

import contextlib

import jax
import jax.numpy as jnp
import keras
import numpy as np

from keras_swift._keras import is_jax_synced, jax_state, value_or_none, wrapping_train_step
from keras_swift.backends.base import Backend, Tap, overridden, padded, several_processes


class JaxBackend(Backend):
    """JAX."""

    def compile_scoring(self, function, model):
        compiled = jax.jit(function)

        def score(values, *inputs):
            if values is None:
                values = self.capture_values(model)
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

    def check_devices(self, model):
        if jax.process_count() > 1:
            raise several_processes(f"JAX with {jax.process_count()} processes")

    def capture_values(self, model):
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

    def current_values(self, model, captured):
        return captured or self.capture_values(model)

    def gradient(self, function, tensor):
        return jax.value_and_grad(function, has_aux=True)(jax.lax.stop_gradient(tensor))

    def snapshot(self, model):
        if not is_jax_synced(model):
            return None
        optimizer = getattr(model.optimizer, "variables", [])
        variables = [*model.variables, *optimizer, *model.metrics_variables]
        return [(variable, value_or_none(variable)) for variable in variables]

    def restore_lost(self, kept):
        # Keras empties the variables before it asks for the first batch of an epoch, and loses
        # their values if that fails.
        for variable, value in kept or ():
            if value_or_none(variable) is None and value is not None and not value.is_deleted():
                variable.assign(value)

    def example_gradient_norms(self, function, trainable, inputs):
        def norm(row):
            row = jax.tree_util.tree_map(lambda leaf: leaf[None], row)
            slopes = jax.grad(function)(list(trainable), *row)
            return jnp.sqrt(sum(jnp.sum(jnp.square(slope)) for slope in slopes))

        # One after the other: side by side they need a copy of the model each.
        return jax.lax.map(norm, jax.tree_util.tree_map(jnp.asarray, inputs))

    def step(self, model, data):
        values = self.capture_values(model)
        optimizer = [] if model.optimizer is None else model.optimizer.variables
        others = [
            [_value(variable) for variable in part] for part in (optimizer, model.metrics_variables)
        ]
        logs, state = model.train_step((*values, *others), data)
        return logs, list(state[3])

    def free_memory(self, model):
        """int, bytes that are free where the model computes; `None` on the CPU, or if not known."""
        if jax.default_backend() == "cpu" or keras.distribution.distribution() is not None:
            return None
        stats = jax.local_devices()[0].memory_stats() or {}
        return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None

    def prefetch_depth(self):
        # Keras starts a transfer early where there is one to start.
        transfers = jax.default_backend() != "cpu" and keras.distribution.distribution() is None
        return int(transfers)

    def tap_obstacle(self, model):
        if keras.distribution.distribution() is not None:
            return ""
        # What a step puts out can only be added to if the step is Keras' own.
        if type(model).train_step is not keras.Model.train_step:
            return (
                "On JAX, scores cannot be read off a `train_step` of the model's own. Override "
                "`compute_loss` in its place to have them remembered."
            )
        return None

    def make_tap(self, columns, rows):
        return _JaxTap(columns)

    @contextlib.contextmanager
    def tapped(self, model, tap, observe):
        """A context in which `tap` gets what `observe` makes of every training step.

        A jitted step can only hand out what it returns. What is computed in `compute_loss`, where
        masks are known, leaves the differentiated function beside the outputs, and the step beside
        the logs, of which Keras never gets to see it.
        """
        own_loss, own_updates = model.compute_loss, model.compute_loss_and_updates
        own_metrics, own_step = model.compute_metrics, model.train_step
        # Of the tap, because a step traced in one `fit` may be traced again in the next.
        passed = tap.passed

        def compute_loss(x=None, y=None, y_pred=None, *rest, **named):
            values = observe(y, y_pred)
            if values is not None:
                passed.values = values
            return own_loss(x, y, y_pred, *rest, **named)

        def compute_loss_and_updates(*arguments, **named):
            passed.values = None
            loss, (unscaled, y_pred, *variables) = own_updates(*arguments, **named)
            if passed.values is not None:
                y_pred = _Observed(y_pred, passed.values)
            return loss, (unscaled, y_pred, *variables)

        def compute_metrics(x, y, y_pred, sample_weight=None):
            passed.values = None
            if isinstance(y_pred, _Observed):
                y_pred, passed.values = y_pred.y_pred, y_pred.values
            return own_metrics(x, y, y_pred, sample_weight)

        def train_step(state, data):
            passed.values = None
            logs, state = own_step(state, data)
            values, passed.values = passed.values, None
            return (logs if values is None else {**logs, _VALUES: values}), state

        def without_values(step):
            def stepping(state, data):
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


# Beside the logs of a step.
_VALUES = "keras_swift_values"


class _Passed:
    """What one function of a traced step leaves for the next."""

    values = None


class _JaxTap(Tap):
    def __init__(self, columns):
        super().__init__(columns)
        self.passed = _Passed()


@jax.tree_util.register_pytree_node_class
class _Observed:
    """Outputs of a step, and numbers for its examples."""

    def __init__(self, y_pred, values):
        self.y_pred, self.values = y_pred, values

    def tree_flatten(self):
        return (self.y_pred, self.values), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


def _value(variable):
    # `variable.value` would answer with freshly initialised numbers here.
    value = value_or_none(variable)
    if value is None:
        raise RuntimeError(_MISSING)
    return value


_MISSING = (
    "`callbacks` must hold the dataset's callback: on JAX, Keras takes the values out of the model "
    "while `fit` runs. Received: a `fit` without it. Use "
    "`model.fit(dataset, callbacks=[dataset.callback()])`."
)
