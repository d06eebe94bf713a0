"""JAX: scoring is a jitted function of values captured between two steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.experimental import multihost_utils

from keras_swift.src._keras import (
    is_jax_synced,
    jax_state,
    release,
    value_or_none,
)
from keras_swift.src._pages import read_on
from keras_swift.src._types import Array, ArrayTree, FloatArray, Tensor
from keras_swift.src.backends.base import (
    Backend,
    Gathered,
    Inputs,
    Numbers,
    Scoring,
    Tap,
    TensorScoring,
    Values,
    drop,
    padded,
    several_processes,
)
from keras_swift.src.backends.jax_tap import JaxTap, tapped

_Structure = TypeVar("_Structure")


class JaxBackend(Backend):
    """JAX."""

    def compile_scoring(self, function: TensorScoring, model: keras.Model) -> Scoring:
        compiled = jax.jit(function)

        def score(values: Values | None, *inputs: ArrayTree) -> dict[str, FloatArray]:
            if values is None:
                values = self.capture_values(model)
            distribution = keras.distribution.distribution()
            scores: dict[str, FloatArray]
            if distribution is None:
                scores = jax.tree_util.tree_map(np.asarray, compiled(values, *inputs))
                return scores
            count = len(keras.tree.flatten(inputs)[0])

            def shared(array: Array) -> Tensor:
                array = padded(np.asarray(array), jax.local_device_count())
                if jax.process_count() > 1:
                    return jax.device_put(array, _on_local_devices("batch"))
                layout = distribution.get_data_layout(array.shape)
                return keras.distribution.distribute_tensor(array, layout)

            tensors = compiled(_local(values), *keras.tree.map_structure(shared, inputs))
            scores = jax.tree_util.tree_map(lambda array: np.asarray(array)[:count], tensors)
            return scores

        return score

    def check_devices(self, model: keras.Model) -> None:
        if jax.process_count() == 1:
            return
        distribution = keras.distribution.distribution()
        if not isinstance(distribution, keras.distribution.DataParallel):
            raise several_processes(
                f"JAX with {jax.process_count()} processes and "
                f"keras.distribution.distribution()={distribution}",
                "Each process must hold the whole model, because it scores by itself.",
            )
        if distribution.auto_shard_dataset:
            raise ValueError(
                "With several processes each one trains on its own part of the data, so "
                "`DataParallel` must not shard it. Received: auto_shard_dataset=True. Use "
                "`keras.distribution.DataParallel(auto_shard_dataset=False)`."
            )
        _local([value_or_none(variable) for variable in model.variables])

    def process(self) -> tuple[int, int]:
        return jax.process_index(), jax.process_count()

    def check_agreement(self, numbers: dict[str, int]) -> None:
        if jax.process_count() == 1:
            return
        own = np.array(list(numbers.values()), np.int32)
        found = multihost_utils.process_allgather(own)
        for name, column in zip(numbers, np.transpose(found), strict=True):
            if len(set(column.tolist())) > 1:
                raise ValueError(
                    f"{name} must be the same in every process, or they would wait for one "
                    f"another. Received: {column.tolist()} in processes 0 to {len(column) - 1}. "
                    "Give each process as many examples and the same batch size. "
                    + read_on("guides/devices.md#several-machines")
                )

    def mean_over_processes(self, numbers: dict[str, float]) -> dict[str, float]:
        if jax.process_count() == 1:
            return numbers
        own = np.array(list(numbers.values()), np.float32)
        means = multihost_utils.process_allgather(own).astype(np.float64).mean(axis=0)
        return dict(zip(numbers, means.tolist(), strict=True))

    def gather_rows(self, columns: dict[str, FloatArray]) -> Gathered:
        if jax.process_count() == 1:
            return super().gather_rows(columns)
        own = np.stack(list(columns.values()), axis=1)
        sizes = multihost_utils.process_allgather(np.array(len(own), np.int32)).tolist()
        padded = np.zeros((max(sizes), own.shape[1]))
        padded[: len(own)] = own
        # Exchanged as bits: JAX would round the numbers to float32, and distinct ones would tie.
        bits = multihost_utils.process_allgather(padded.view(np.uint32))
        found = [rows[:size] for rows, size in zip(bits.view(np.float64), sizes, strict=True)]
        ends = np.cumsum([0, *sizes]).tolist()
        parts = [slice(*ends[i : i + 2]) for i in range(len(sizes))]
        whole = dict(zip(columns, np.concatenate(found).T.copy(), strict=True))
        return Gathered(whole, parts, parts[jax.process_index()])

    def array_dtype(self, dtype: str) -> str:
        # JAX turns 64 bits into 32 unless configured otherwise, and warns if 64 are asked for.
        return str(jax.dtypes.canonicalize_dtype(dtype))

    def known_value(self, condition: Tensor) -> bool | None:
        return None if isinstance(condition, jax.core.Tracer) else bool(condition)

    def common_scale(self, scales: Tensor) -> Tensor:
        if jax.process_count() == 1:
            return scales[0]
        # The variance of a process's shard is divided by its scale; for similar shards the mean of
        # these variances is that of the whole step. Scales are in the batch, so no process has to
        # ask another.
        return 1.0 / jnp.mean(1.0 / scales)

    def local_state(self, model: keras.Model) -> list[tuple[Any, Tensor]]:
        if jax.process_count() == 1:
            return []
        optimizer = getattr(model.optimizer, "variables", [])
        every = [*model.variables, *optimizer, *model.metrics_variables]
        variables = list({id(variable): variable for variable in every}.values())
        return list(zip(variables, _local([_value(v) for v in variables]), strict=True))

    def capture_values(self, model: keras.Model) -> Values:
        """References to the current values, valid until the next step is dispatched.

        Inside `fit` Keras empties the variables and keeps the state in the loop;
        for callbacks it stores the state in the trainer.
        """
        state = jax_state(model)
        if not state:
            trainable = [_value(variable) for variable in model.trainable_variables]
            non_trainable = [_value(variable) for variable in model.non_trainable_variables]
            return trainable, non_trainable
        # Keras wraps lists that are attributes of a model; plain ones are needed here.
        return list(state["trainable_variables"]), list(state["non_trainable_variables"])

    def current_values(self, model: keras.Model, captured: Values | None) -> Values:
        return captured or self.capture_values(model)

    def gradient(
        self, function: Callable[[Tensor], tuple[Tensor, Any]], tensor: Tensor
    ) -> tuple[tuple[Tensor, Any], Tensor]:
        return jax.value_and_grad(function, has_aux=True)(jax.lax.stop_gradient(tensor))

    def snapshot(self, model: keras.Model) -> list[tuple[Any, Any]] | None:
        if not is_jax_synced(model):
            return None
        optimizer = getattr(model.optimizer, "variables", [])
        variables = [*model.variables, *optimizer, *model.metrics_variables]
        return [(variable, value_or_none(variable)) for variable in variables]

    def restore_lost(self, snapshot: list[tuple[Any, Any]] | None) -> None:
        # Keras empties the variables before it requests the first batch of an epoch, and their
        # values are lost if that request fails.
        for variable, value in snapshot or ():
            if value_or_none(variable) is None and value is not None and not value.is_deleted():
                variable.assign(value)

    def step(self, model: keras.Model, data: Any) -> tuple[dict[str, Tensor], list[Tensor] | None]:
        values = _local(self.capture_values(model))
        optimizer = [] if model.optimizer is None else model.optimizer.variables
        others = [
            _local([_value(variable) for variable in part])
            for part in (optimizer, model.metrics_variables)
        ]
        logs, state = model.train_step((*values, *others), data)
        return logs, list(state[3])

    def free_memory(self, model: keras.Model) -> int | None:
        """int, free bytes on the model's device; `None` on the CPU, or if not known."""
        if jax.default_backend() == "cpu" or keras.distribution.distribution() is not None:
            return None
        stats = jax.local_devices()[0].memory_stats() or {}
        return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None

    def skip_step(self, model: keras.Model, arguments: tuple[Any, ...], logs: Any) -> Any:
        state, iterator = arguments
        drop(iterator, model.steps_per_execution)
        return logs, state

    def prefetch_depth(self) -> int:
        # Keras transfers a batch to an accelerator one step early; before 3.15, to a CPU too.
        transfers = jax.default_backend() != "cpu" or release() < (3, 15)
        return int(transfers and keras.distribution.distribution() is None)

    def tap_obstacle(self, model: keras.Model) -> str | None:
        distribution = keras.distribution.distribution()
        nnx = getattr(keras.config, "is_nnx_enabled", bool)()
        if nnx or not isinstance(distribution, keras.distribution.DataParallel | None):
            return ""
        # `jax_tap` can add outputs only to Keras' own step.
        if type(model).train_step is not keras.Model.train_step:
            return (
                "On JAX, scores cannot be taken from a `train_step` of the model's own. Override "
                "`compute_loss` in its place to remember them."
            )
        return None

    def make_tap(self, columns: int, rows: int) -> Tap:
        return JaxTap(columns)

    @contextlib.contextmanager
    def tapped(
        self, model: keras.Model, tap: Tap, inputs: Inputs, numbers: Numbers
    ) -> Iterator[None]:
        with tapped(model, cast(JaxTap, tap), inputs, numbers):
            yield


def _on_local_devices(*axes: str) -> jax.sharding.NamedSharding:
    """A sharding over the devices of this process: rows split, or, without axes, copied."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("batch",))
    specification: Any = jax.sharding.PartitionSpec
    return jax.sharding.NamedSharding(mesh, specification(*axes))


def _local(values: _Structure) -> _Structure:
    """The values as arrays with which this process can compute alone, without collectives.

    Values that no other process holds stay as they are, or are copied to all of this one's devices.

    Raises:
        ValueError: if this process holds only parts of a value.
    """
    if jax.process_count() == 1:
        return values
    copies = _on_local_devices()

    def of(value: Any) -> Any:
        if value is None:
            return None
        if not value.is_fully_replicated:
            raise ValueError(
                "With several processes, each must hold the model's values as a whole: it scores "
                f"by itself. Received: a value of shape {value.shape} with the sharding "
                f"{value.sharding}. Use `keras.distribution.DataParallel`, or `model.fit`."
            )
        if jax.local_device_count() == 1:
            # `addressable_shards` fails for values put there from the host (JAX 0.10).
            return value.addressable_data(0)
        if value.is_fully_addressable:
            return value if len(value.devices()) > 1 else jax.device_put(value, copies)
        parts = [shard.data for shard in value.addressable_shards]
        return jax.make_array_from_single_device_arrays(value.shape, copies, parts)

    local: _Structure = jax.tree_util.tree_map(of, values, is_leaf=lambda value: value is None)
    return local


class CallbackMissing(RuntimeError):
    """Scoring was tried in a `fit` without the data set's callback."""


def _value(variable: keras.Variable) -> Tensor:
    # While Keras has emptied a variable, `variable.value` returns freshly initialised numbers.
    value = value_or_none(variable)
    if value is None:
        raise CallbackMissing(_MISSING)
    return value


_MISSING = (
    "`callbacks` must hold the dataset's callback: on JAX, Keras takes the values out of the model "
    "while `fit` runs. Received: a `fit` without it. Use "
    "`model.fit(dataset, callbacks=[dataset.callback()])`."
)
