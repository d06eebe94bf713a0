"""What differs between TensorFlow, JAX and PyTorch: the interface and its defaults.

A new backend is a subclass of `Backend` in a file of its own, named in `keras_swift.src.backends`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

import keras
import numpy as np

from keras_swift.src._keras import until_it_ends
from keras_swift.src._pages import read_on
from keras_swift.src._types import Array, ArrayTree, FloatArray, IntArray, Tensor
from keras_swift.src.data.reader import ItemForm

# A model's `(trainable, non_trainable)` values.
Values: TypeAlias = tuple[list[Tensor], list[Tensor]]
# Functions from `(values, *inputs)` to one row of each quantity for each row of the inputs: of
# tensors, for the framework to compile, and of NumPy arrays.
TensorScoring: TypeAlias = Callable[..., dict[str, Tensor]]
Scoring: TypeAlias = Callable[..., dict[str, FloatArray]]
# From `(y, y_pred)`, which the `compute_loss` of a step gets, to all that the numbers of its
# examples depend on; `None` outside training steps. And from that to the numbers, a tensor of shape
# `(b, c)`: each row depends on the same row of the inputs alone.
Inputs: TypeAlias = Callable[[ArrayTree, ArrayTree], tuple[ArrayTree, ...] | None]
Numbers: TypeAlias = Callable[..., Tensor]


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Numbers of the examples of all processes of a training.

    Attributes:
        columns: dict from name to float64 array, the rows of all processes, one process after
            another.
        parts: list of slices, the rows of each process.
        own: slice, those of this one.
    """

    columns: dict[str, FloatArray]
    parts: list[slice]
    own: slice


class Fed(Protocol):
    """The interface of a training run's batches for `Backend.feed`.

    Attributes:
        form: `ItemForm` of the items; arrays that came sparse are dense in them.
    """

    form: ItemForm

    @property
    def num_batches(self) -> int:
        """How many batches an epoch has."""

    @property
    def is_open_ended(self) -> bool:
        """Whether `goes_on` tells before each item if there is one."""

    def goes_on(self) -> bool:
        """Whether the epoch has another item."""

    def __getitem__(self, index: int) -> tuple[ArrayTree, ArrayTree, ArrayTree]:
        """The next item."""

    def specimens(self, count: int) -> list[tuple[ArrayTree, ArrayTree, ArrayTree]]:
        """Items of the shapes and types to come, up to `count`; draws nothing."""

    def arrays_to_gather_from(self) -> tuple[ArrayTree, ArrayTree] | None:
        """`(x, y)` to gather the rows of `next_batches` from; `None` to use items instead."""

    def next_batches(self) -> list[tuple[IntArray, ArrayTree]]:
        """The next block of items, as `(indices, weights)` pairs of one length."""

    def keep_on_device(self, free: int) -> None:
        """Keeps the arrays on the model's device, if they fit; `free` bytes are free there."""


class Tap:
    """Numbers for the examples of training steps, on their way from the device to the host.

    Args:
        columns: int, `c`, how many numbers each example has.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._rows: list[Tensor] = []

    def write(self, values: Tensor) -> None:
        """Called in a step, compiled or not, with a tensor of shape `(b, c)`."""
        self._rows.append(values)

    def read(self) -> FloatArray:
        """Returns and clears what was written: float32 array, shape `(k, c)`, in step order."""
        rows = [np.asarray(keras.ops.convert_to_numpy(values)) for values in self._rows]
        self._rows = []
        return np.concatenate(rows) if rows else np.zeros((0, self.columns), np.float32)

    def clear(self) -> None:
        """Drops what was written."""
        self.read()


class Backend:
    """One framework; the defaults are for eager frameworks such as PyTorch."""

    # Whether Keras requests items of a `PyDataset` several steps ahead of training.
    PULLS_AHEAD = False
    # The number of examples a model is built with, `None` for any. Not a small one: Keras mistakes
    # an array of as many examples as the model has outputs for a list of targets.
    EXAMPLES_TO_BUILD: int | None = 61

    def compile_scoring(self, function: TensorScoring, model: keras.Model) -> Scoring:
        """Compiles `function(values, *inputs)`, which returns one row for each row of the inputs.

        Returns:
            A callable `(values, *inputs)` that returns NumPy arrays. `values=None` uses the
            model's own values, and distributes the rows over the devices that the model trains on.
        """
        raise NotImplementedError

    def gradient(
        self, function: Callable[[Tensor], tuple[Tensor, Any]], tensor: Tensor
    ) -> tuple[tuple[Tensor, Any], Tensor]:
        """`function(tensor)`, a pair `(scalar, rest)`, and the scalar's gradient in `tensor`."""
        raise NotImplementedError

    def step(self, model: keras.Model, data: Any) -> tuple[dict[str, Tensor], list[Tensor] | None]:
        """Calls the model's own `train_step` once; the caller must undo what it changes.

        Returns:
            The step's logs, and the values of its metrics, `None` if the variables hold them.
        """
        return model.train_step(data), None

    def scope_of(self, model: keras.Model) -> contextlib.AbstractContextManager[Any]:
        """A context in which variables are created on the devices that the model trains on."""
        return contextlib.nullcontext()

    def check_devices(self, model: keras.Model) -> None:
        """Raises if batches cannot be drawn for the way the model is distributed."""

    def process(self) -> tuple[int, int]:
        """`(rank, count)`: of this process, and of those that train the model together."""
        return 0, 1

    def check_agreement(self, numbers: dict[str, int]) -> None:
        """Raises, on every process, if the processes of a training differ in these numbers.

        All processes must call this: they exchange the numbers.

        Args:
            numbers: dict from what an error calls a number to the number.
        """

    def mean_over_processes(self, numbers: dict[str, float]) -> dict[str, float]:
        """The means of these numbers over all processes, the same on each: all must call this."""
        return numbers

    def gather_rows(self, columns: dict[str, FloatArray]) -> Gathered:
        """The rows of all processes, one process after another: all must call this.

        Args:
            columns: dict from name to float64 array, shape `(n,)`, those of this process.
        """
        size = len(next(iter(columns.values())))
        return Gathered(columns, [slice(0, size)], slice(0, size))

    def array_dtype(self, dtype: str) -> str:
        """The dtype in which a step gets arrays of this dtype."""
        return dtype

    def known_value(self, condition: Tensor) -> bool | None:
        """The value of a bool scalar tensor; `None` in a step that is being compiled."""
        raise NotImplementedError

    def common_scale(self, scales: Tensor) -> Tensor:
        """The scale of a step's learning rate, from the scales in its batch, shape `(b,)`."""
        return scales[0]

    def local_state(self, model: keras.Model) -> list[tuple[Any, Tensor]]:
        """`(variable, value)` pairs for a `keras.StatelessScope` to call the model between steps.

        Empty unless variables are spread over processes, which would have to call together.
        """
        return []

    def capture_values(self, model: keras.Model) -> Values | None:
        """The current values if they must be captured between two steps, else `None`."""
        return None

    def current_values(self, model: keras.Model, captured: Values | None) -> Values:
        """The current values, whether or not they had to be captured; references, not copies."""
        return (
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
        )

    def snapshot(self, model: keras.Model) -> list[tuple[Any, Any]] | None:
        """`(variable, value)` for all variables before a step, values as references.

        Empty if a failed step loses no values; `None` if they cannot be read now.
        """
        return []

    def restore_lost(self, snapshot: list[tuple[Any, Any]] | None) -> None:
        """Gives the model back the values that a failed step took from it."""

    def random_state(self) -> list[Array]:
        """The states of the framework's own random generators, if models draw from them."""
        return []

    def restore_random_state(self, state: list[Array]) -> None:
        """Restores what `random_state` returned."""

    def seed_random_state(self, seed: int) -> None:
        """Seeds the generators of `random_state`, if there are any."""

    def skip_step(self, model: keras.Model, arguments: tuple[Any, ...], logs: Any) -> Any:
        """Takes the place of a call of the model's train function: drops its data untrained.

        Args:
            model: `keras.Model`.
            arguments: tuple, those that Keras passes to `train_function`.
            logs: dict, the logs to return.
        """
        return logs

    def prefetch_depth(self) -> int:
        """How many steps early Keras requests an item, despite `feed`."""
        return 0

    def fetches_ahead(self, model: keras.Model) -> bool:
        """Whether Keras may request an item before the epoch that it is for."""
        return self.prefetch_depth() > 0

    def has_replicas(self, model: keras.Model) -> bool:
        """Whether several devices train on the parts of a batch in parallel."""
        return False

    def feed(self, dataset: Fed, model: keras.Model) -> Any:
        """The `x` for `model.fit` such that items are made in step with training.

        May keep the data on the device, so that rows are gathered there.
        """
        free = self.free_memory(model)
        if free is not None:
            dataset.keep_on_device(free)
        return until_it_ends(dataset) if dataset.is_open_ended else dataset

    def free_memory(self, model: keras.Model) -> int | None:
        """Free bytes on the model's device; `None` on the CPU, or if not known."""
        return None

    def tap_obstacle(self, model: keras.Model) -> str | None:
        """`None` if `tapped` can read the outputs of this model's steps.

        Else a sentence with the reason and the cure; `""` if there is no cure.
        """
        return None

    def make_tap(self, columns: int, rows: int) -> Tap:
        """A `Tap` for `tapped`; it outlives calls of `fit`, as compiled steps do.

        Args:
            columns: how many numbers each example has.
            rows: how many examples it must hold between two readings.
        """
        return Tap(columns)

    @contextlib.contextmanager
    def tapped(
        self, model: keras.Model, tap: Tap, inputs: Inputs, numbers: Numbers
    ) -> Iterator[None]:
        """A context in which `tap` gets `numbers(*inputs(y, y_pred))` of every training step.

        They are called in `compute_loss`, where any step, Keras' or the user's, has targets and
        outputs with their masks. The model is restored at the end.
        """
        own = model.compute_loss

        def compute_loss(
            x: Any = None, y: Any = None, y_pred: Any = None, *rest: Any, **named: Any
        ) -> Any:
            found = inputs(y, y_pred)
            if found is not None:
                tap.write(numbers(*found))
            return own(x, y, y_pred, *rest, **named)

        with overridden(model, compute_loss=compute_loss):
            yield


@contextlib.contextmanager
def overridden(owner: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    """A context in which these methods replace those of an object; restored at the end."""
    before = {name: vars(owner)[name] for name in methods if name in vars(owner)}
    for name, method in methods.items():
        setattr(owner, name, method)
    try:
        yield
    finally:
        for name in methods:
            delattr(owner, name)
        for name, method in before.items():
            setattr(owner, name, method)


def drop(iterator: Iterator[Any], count: int) -> Any:
    """Reads up to `count` items, but at least one, and returns the first."""
    first = next(iterator)
    for _ in range(count - 1):
        next(iterator, None)
    return first


def padded(array: Array, multiple: int) -> Array:
    """The rows, padded with copies of the first one to a multiple of `multiple`."""
    missing = -len(array) % multiple
    return np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) if missing else array


def several_processes(what: str, why: str) -> ValueError:
    """The error for several processes that do not train as importance training needs.

    `what` was received; `why` is a sentence with the reason why that does not work.
    """
    return ValueError(
        "Importance training in several processes must run on JAX, with "
        "`keras.distribution.initialize` and "
        "`keras.distribution.DataParallel(auto_shard_dataset=False)`, each process on its own part "
        f"of the data. Received: {what}. {why} Use that, or the devices of one machine "
        "(`tf.distribute.MirroredStrategy`, `keras.distribution.DataParallel`). "
        "`keras_swift.search` runs on several. " + read_on("guides/devices.md#several-machines")
    )
