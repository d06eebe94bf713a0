"""What differs between TensorFlow, JAX and PyTorch: the interface and its defaults.

A new backend is a subclass of `Backend` in a file of its own, named in `keras_swift.backends`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

import keras
import numpy as np

from keras_swift._types import Array, ArrayTree, FloatArray, IntArray, Tensor

# A model's `(trainable, non_trainable)` values.
Values: TypeAlias = tuple[list[Tensor], list[Tensor]]
# `(y, y_pred)` of a step's compute_loss to `(b, c)` numbers; `None` outside of a training step.
Observe: TypeAlias = Callable[[ArrayTree, ArrayTree], Tensor | None]
# `(values, *inputs)` to one row of each quantity for each row of the inputs: of tensors, for the
# framework to compile, and of NumPy arrays.
TensorScoring: TypeAlias = Callable[..., dict[str, Tensor]]
Scoring: TypeAlias = Callable[..., dict[str, FloatArray]]


class Fed(Protocol):
    """What `Backend.feed` asks of the batches of a training run."""

    @property
    def num_batches(self) -> int:
        """How many there are in an epoch."""

    @property
    def fixed_size(self) -> int | None:
        """How many examples every batch has, or `None` if they may differ."""

    def __getitem__(self, index: int) -> tuple[ArrayTree, ArrayTree, ArrayTree]:
        """The next item."""

    def specimens(self, count: int) -> list[tuple[ArrayTree, ArrayTree, ArrayTree]]:
        """The next items, fewer at the end of a generator; leaves the state as it is."""

    def arrays_to_gather_from(self) -> tuple[ArrayTree, ArrayTree] | None:
        """`(x, y)` if `next_batches` may be used in place of items, else `None`."""

    def next_batches(self) -> list[tuple[IntArray, ArrayTree]]:
        """The next block of items, as `(indices, weights)` pairs of one length."""

    def keep_on_device(self, free: int) -> None:
        """Keeps the arrays where the model computes, if they fit; `free` bytes are free there."""


class Tap:
    """Numbers for the examples of training steps, on their way from the device to the host.

    Args:
        columns: int, `c`, how many numbers an example has.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._rows: list[Tensor] = []

    def write(self, values: Tensor) -> None:
        """Called in a step, compiled or not, with numbers of shape `(b, c)`."""
        self._rows.append(values)

    def read(self) -> FloatArray:
        """Takes out what was written: float32 array, shape `(k, c)`, in the order of the steps."""
        rows = [np.asarray(keras.ops.convert_to_numpy(values)) for values in self._rows]
        self._rows = []
        return np.concatenate(rows) if rows else np.zeros((0, self.columns), np.float32)


class Backend:
    """One framework; the defaults are those of a framework that computes at once, like PyTorch."""

    # Whether Keras asks a `PyDataset` for items several steps ahead of training.
    PULLS_AHEAD = False

    def compile_scoring(self, function: TensorScoring, model: keras.Model) -> Scoring:
        """Compiles `function(values, *inputs)`, which gives one row for each row of the inputs.

        Returns:
            A callable `(values, *inputs)` that gives NumPy arrays; `values=None` are the model's
            own. The rows are then shared out over the devices that the model trains on.
        """
        raise NotImplementedError

    def gradient(
        self, function: Callable[[Tensor], tuple[Tensor, Any]], tensor: Tensor
    ) -> tuple[tuple[Tensor, Any], Tensor]:
        """`function(tensor)`, a pair `(scalar, rest)`, and the scalar's gradient in `tensor`."""
        raise NotImplementedError

    def example_gradient_norms(
        self, function: Callable[..., Tensor], trainable: list[Tensor], inputs: ArrayTree
    ) -> Tensor:
        """For each row of `inputs` the norm of the gradient of `function(trainable, *row)`.

        Returns:
            A tensor, shape `(n,)`; the gradient is that in the list of tensors `trainable`.
        """
        raise NotImplementedError

    def step(self, model: keras.Model, data: Any) -> tuple[dict[str, Tensor], list[Tensor] | None]:
        """One call of the model's own `train_step`, to be undone by whoever calls.

        Returns:
            Its logs, and the values of its metrics after it if they are not in the variables.
        """
        return model.train_step(data), None

    def scope_of(self, model: keras.Model) -> contextlib.AbstractContextManager[Any]:
        """A context in which variables are made on the devices that the model trains on."""
        return contextlib.nullcontext()

    def check_devices(self, model: keras.Model) -> None:
        """Raises where the model is trained in a way that batches cannot be drawn for."""

    def process(self) -> tuple[int, int]:
        """Which process this is, and how many train one model together: `(0, 1)` for one."""
        return 0, 1

    def check_agreement(self, numbers: dict[str, int]) -> None:
        """Raises, on every process, where the processes of a training differ in these numbers.

        What is exchanged are the numbers, once.
        """

    def mean_over_processes(self, numbers: dict[str, float]) -> dict[str, float]:
        """The means of these numbers over the processes of a training, the same on each."""
        return numbers

    def common_scale(self, scales: Tensor) -> Tensor:
        """Out of what each example of a batch, shape `(b,)`, says of its step: one for all."""
        return scales[0]

    def local_state(self, model: keras.Model) -> list[tuple[Any, Tensor]]:
        """`(variable, value)` for a `keras.StatelessScope` to call the model in between steps.

        Empty unless variables are spread over processes, which would have to call together.
        """
        return []

    def capture_values(self, model: keras.Model) -> Values | None:
        """The current values where they have to be captured between two steps, else `None`."""
        return None

    def current_values(self, model: keras.Model, captured: Values | None) -> Values:
        """The values now, whether or not they had to be captured; references, not copies."""
        return (
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
        )

    def snapshot(self, model: keras.Model) -> list[tuple[Any, Any]] | None:
        """References to the values of all variables before a step; `None` if out of reach."""
        return []

    def restore_lost(self, snapshot: list[tuple[Any, Any]] | None) -> None:
        """Gives the model back the values that a step that failed has taken from it."""

    def random_state(self) -> list[Array]:
        """The framework's own random state where layers draw from it; elsewhere empty."""
        return []

    def restore_random_state(self, state: list[Array]) -> None:
        """Goes on from what `random_state` returned."""

    def prefetch_depth(self) -> int:
        """How many steps before its own an item is made, beyond what `feed` prevents."""
        return 0

    def has_replicas(self, model: keras.Model) -> bool:
        """Whether the parts of a batch are trained on by several devices side by side."""
        return False

    def feed(self, dataset: Fed, model: keras.Model) -> Any:
        """What `model.fit` is to be given so that items are made in step with training.

        Lets the data be kept where they can be gathered without a detour.
        """
        free = self.free_memory(model)
        if free is not None:
            dataset.keep_on_device(free)
        return dataset

    def free_memory(self, model: keras.Model) -> int | None:
        """Bytes that are free where the model computes; `None` on the CPU, or if not known."""
        return None

    def tap_obstacle(self, model: keras.Model) -> str | None:
        """`None` if `tapped` reaches the outputs of this model's steps.

        Else a sentence that says why not and names the cure, empty if there is none.
        """
        return None

    def make_tap(self, columns: int, rows: int) -> Tap:
        """A `Tap` for `tapped`; outlives single calls of `fit`, as compiled steps do.

        Args:
            columns: how many numbers an example has.
            rows: how many examples it has to hold between two readings.
        """
        return Tap(columns)

    @contextlib.contextmanager
    def tapped(self, model: keras.Model, tap: Tap, observe: Observe) -> Iterator[None]:
        """A context in which `tap` gets what `observe` makes of every training step.

        `compute_loss` is where any step, Keras' own or the user's, has targets and outputs, with
        their masks. Leaves no trace in the model.
        """
        own = model.compute_loss

        def compute_loss(
            x: Any = None, y: Any = None, y_pred: Any = None, *rest: Any, **named: Any
        ) -> Any:
            values = observe(y, y_pred)
            if values is not None:
                tap.write(values)
            return own(x, y, y_pred, *rest, **named)

        with overridden(model, compute_loss=compute_loss):
            yield


@contextlib.contextmanager
def overridden(owner: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    """A context in which an object has these methods of its own; leaves no trace."""
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


def padded(array: Array, multiple: int) -> Array:
    """The rows, and the first one again until their number is a multiple of `multiple`."""
    missing = -len(array) % multiple
    return np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) if missing else array


def several_processes(what: str, why: str) -> ValueError:
    """The error for training that is spread over processes in another way than on JAX.

    Args:
        what: what was found.
        why: a sentence, what stands against it.
    """
    return ValueError(
        "Importance training in several processes must run on JAX, with "
        "`keras.distribution.initialize` and "
        "`keras.distribution.DataParallel(auto_shard_dataset=False)`, each process on its own part "
        f"of the data. Received: {what}. {why} Use that, or the devices of one machine "
        "(`tf.distribute.MirroredStrategy`, `keras.distribution.DataParallel`). "
        "`keras_swift.search` shares its trials among machines."
    )
