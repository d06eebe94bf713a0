"""TensorFlow: scoring is a `tf.function` over the model's own variables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_swift.src._keras import symbolic_build
from keras_swift.src._keras_losses import are_metrics_built
from keras_swift.src._types import Array, ArrayTree, FloatArray, Tensor
from keras_swift.src.backends import tensorflow_feed
from keras_swift.src.backends.base import (
    Backend,
    Fed,
    Scoring,
    Tap,
    TensorScoring,
    Values,
    drop,
    padded,
    several_processes,
)


class TensorFlowBackend(Backend):
    """TensorFlow."""

    PULLS_AHEAD = True
    # The loops of some losses (CTC) keep the shapes that they were first traced with, and
    # TensorFlow's graph optimizer complains about others later.
    EXAMPLES_TO_BUILD = None

    def compile_scoring(self, function: TensorScoring, model: keras.Model) -> Scoring:
        strategy = model.distribute_strategy
        replicas = strategy.num_replicas_in_sync

        def on_a_replica(*inputs: Tensor) -> dict[str, Tensor]:
            return function(self.current_values(model, None), *inputs)

        # Values passed in are plain tensors, so one device computes with them.
        compiled_for = tf.function(function, autograph=False)
        concrete: dict[Any, Any] = {}

        def called(traced: Any, *inputs: ArrayTree) -> dict[str, Tensor]:
            # Via concrete functions: as each model has a function of its own, TensorFlow would warn
            # of one that is traced again and again.
            leaves = keras.tree.flatten(inputs)
            key = traced is compiled, *((leaf.shape, leaf.dtype) for leaf in leaves)
            if key not in concrete:
                specs = keras.tree.map_structure(tf.TensorSpec.from_tensor, inputs)
                concrete[key] = traced.get_concrete_function(*specs)
            outputs: dict[str, Tensor] = concrete[key](*inputs)
            return outputs

        def on_replicas(*inputs: Tensor) -> dict[str, Tensor]:
            return (
                on_a_replica(*inputs) if replicas == 1 else strategy.run(on_a_replica, args=inputs)
            )

        compiled = tf.function(on_replicas, autograph=False)

        def score(values: Values | None, *inputs: ArrayTree) -> dict[str, FloatArray]:
            if replicas > 1 and values is None:
                return shared(inputs)
            # Tensors rather than arrays: a Python object would be traced again at
            # every call.
            inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
            if values is None:
                outputs = called(compiled, *inputs)
            else:
                values = keras.tree.map_structure(tf.convert_to_tensor, values)
                outputs = called(compiled_for, values, *inputs)
            scores: dict[str, FloatArray] = keras.tree.map_structure(
                lambda tensor: tensor.numpy(), outputs
            )
            return scores

        def shared(inputs: ArrayTree) -> dict[str, FloatArray]:
            count = len(keras.tree.flatten(inputs)[0])

            def per_replica(array: Array) -> Any:
                parts = np.split(padded(np.asarray(array), replicas), replicas)
                return strategy.experimental_distribute_values_from_function(
                    lambda context: tf.convert_to_tensor(parts[context.replica_id_in_sync_group])
                )

            def joined(values: Any) -> FloatArray:
                local = strategy.experimental_local_results(values)
                return np.concatenate([tensor.numpy() for tensor in local])[:count]

            scores = compiled(*keras.tree.map_structure(per_replica, inputs))
            return {name: joined(values) for name, values in scores.items()}

        return score

    def scope_of(self, model: keras.Model) -> contextlib.AbstractContextManager[Any]:
        scope: contextlib.AbstractContextManager[Any] = model.distribute_strategy.scope()
        return scope

    def check_devices(self, model: keras.Model) -> None:
        strategy = model.distribute_strategy
        if isinstance(
            strategy,
            tf.distribute.MultiWorkerMirroredStrategy
            | tf.distribute.experimental.ParameterServerStrategy,
        ):
            raise several_processes(
                type(strategy).__name__,
                # Seen with Keras 3.15 and a `MultiWorkerMirroredStrategy`, at the first batch.
                "Keras 3 does not train under it: its own `fit` fails as well.",
            )

    def gradient(
        self, function: Callable[[Tensor], tuple[Tensor, Any]], tensor: Tensor
    ) -> tuple[tuple[Tensor, Any], Tensor]:
        tensor = tf.stop_gradient(tensor)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value, rest = function(tensor)
        return (value, rest), tape.gradient(
            value, tensor, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    def skip_step(self, model: keras.Model, arguments: tuple[Any, ...], logs: Any) -> Any:
        (iterator,) = arguments
        data = drop(iterator, model.steps_per_execution)
        if not are_metrics_built(model):
            # The skipped first step would have built the metrics, which a backup restores.
            local = model.distribute_strategy.experimental_local_results
            x, y, _ = keras.utils.unpack_x_y_sample_weight(
                keras.tree.map_structure(lambda leaf: local(leaf)[0], data)
            )
            symbolic_build(model, x, y)
        return logs

    def random_state(self) -> list[Array]:
        # For models that draw from it themselves: Keras' layers have seeds of their own.
        return [tf.random.get_global_generator().state.numpy()]

    def restore_random_state(self, state: list[Array]) -> None:
        tf.random.get_global_generator().reset(state[0])

    def seed_random_state(self, seed: int) -> None:
        tf.random.get_global_generator().reset_from_seed(seed)

    def known_value(self, condition: Tensor) -> bool | None:
        value = tf.get_static_value(condition)
        return None if value is None else bool(value)

    def has_replicas(self, model: keras.Model) -> bool:
        replicas: int = model.distribute_strategy.num_replicas_in_sync
        return replicas > 1

    def tap_obstacle(self, model: keras.Model) -> str | None:
        # Where batches are fetched ahead, it is not known which step a batch is for.
        return "" if self.fetches_ahead(model) else None

    def fetches_ahead(self, model: keras.Model) -> bool:
        fetching = tf.distribute.OneDeviceStrategy | tf.distribute.MirroredStrategy
        return isinstance(model.distribute_strategy, fetching)

    def make_tap(self, columns: int, rows: int) -> Tap:
        return _TensorFlowTap(columns, rows)

    def feed(self, dataset: Fed, model: keras.Model) -> Any:
        """A `tf.data` dataset without a prefetch, which would run steps ahead."""
        return tensorflow_feed.pipeline(dataset, model, self.fetches_ahead(model))


class _TensorFlowTap(Tap):
    """Keeps the rows in a variable, which steps inside a compiled loop can write to.

    The sampler reads it before it is full.
    """

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__(columns)
        self._rows_held = rows
        self._taken = 0
        self._buffer = tf.Variable(tf.zeros((rows, columns)), trainable=False)
        self._written = tf.Variable(0, dtype=tf.int64, trainable=False)

    def write(self, values: Tensor) -> None:
        # The count must not change before the batch has been drawn, because drawing it may read
        # what earlier steps wrote. Without the dependency it could: the size of a batch may be
        # static.
        with tf.control_dependencies([values]):
            count = tf.shape(values, out_type=tf.int64)[0]
            places = (self._written.read_value() + tf.range(count)) % self._rows_held
            self._buffer.scatter_nd_update(places[:, None], values)
            self._written.assign_add(count)

    def read(self) -> FloatArray:
        written = int(self._written.numpy())
        unread = np.arange(self._taken, written) % self._rows_held
        # If more rows were written than it holds, it is not known whose rows are left.
        fits = written - self._taken <= self._rows_held
        self._taken = written
        rows: FloatArray = tf.gather(self._buffer, unread if fits else unread[:0]).numpy()
        return rows
