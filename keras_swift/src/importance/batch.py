"""One batch, how it was drawn, and how training receives it; and the interface of what draws it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import keras
import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src._types import ArrayTree, FloatArray, IntArray


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch and how it was drawn.

    Attributes:
        x: inputs, NumPy arrays in the data's structure, first axis `b`. Without
            a callback that gets the batch, `None` (the backend gathers the
            rows) or tensors (the data is kept on a device).
        y: targets, likewise.
        weights: the weights of the loss, importance weights times the
            user's; float32, shape `(b,)` or `(b, 1, ...)` to fit the loss
            values, or a structure of them, one for each output.
        importance: float32 array, shape `(b,)`, only the importance weights;
            all ones in a uniform batch.
        indices: int64 array, shape `(b,)`, into the data, of a `PyDataset` in
            the order of batches and rows, of other streams into
            `trainer.memory`; `None` for a stream whose scores are not
            remembered.
        sample_weight: the user's weights of these examples, as given; `None` if none were.
        scores: float64 array, shape `(b,)`, the scores of these examples;
            remembered ones if nothing was scored for the draw;
            `None` for a uniform batch that was not scored.
        presample_size: int, how many examples the batch was drawn from.
        by_importance: bool, whether the batch was drawn by importance.
        rate_scale: float, the step multiplies the learning rate by it. Defaults to 1.0.
        gain: float, the measured variance gain of the draw; 1 for a uniform batch.
    """

    x: ArrayTree
    y: ArrayTree
    weights: ArrayTree
    importance: FloatArray
    indices: IntArray | None
    sample_weight: ArrayTree
    scores: FloatArray | None
    presample_size: int
    by_importance: bool
    rate_scale: float = 1.0
    gain: float = 1.0


class Sampler(Protocol):
    """Draws one batch after another.

    `presampling.ImportanceSampler` draws by the scores of a presample,
    `remembered.RememberedSampler` by the scores that training steps recorded.
    """

    @property
    def tau(self) -> float:
        """float, the variance reduction of the scores; 0 while it is not known."""

    @property
    def mean_score(self) -> float:
        """float, the mean of the remembered scores; NaN while there are none."""

    @property
    def is_over(self) -> bool:
        """Whether another sampler must draw from here on."""

    def retire(self) -> None:
        """Called when another sampler draws from here on."""

    def begin_step(self, model: keras.Model) -> None:
        """Called before each training step of this model."""

    def next_batches(self, count: int, steps_left: int) -> list[Batch]:
        """The next `count` batches.

        Args:
            count: int, how many, at least 1.
            steps_left: int, how many steps the epoch has left, including these.
        """

    def batches_ready(self, steps_left: int) -> int:
        """How many batches can be drawn before the model must be read again; 1 or more."""

    def take_back(self, batches: list[Batch]) -> None:
        """Undoes the draw of these batches, which are the last ones drawn."""

    def draw_by_index(self) -> None:
        """Switches to index-only batches, whose `x` and `y` may be `None`."""

    def begin_epoch(self, restarts: bool) -> None:
        """Called when an epoch begins; `restarts` if it must be a whole permutation."""

    def end_epoch(self) -> None:
        """Called when an epoch ends."""

    def state(self) -> SavedState:
        """State for `restore`; the reader has its own."""

    def restore(self, state: Any) -> None:
        """Restores what `state` returned."""


class LazyItem(list[Any]):
    """An item that is drawn when it is unpacked, not when it is fetched."""

    def __init__(self, make: Callable[[], Iterable[Any]]) -> None:
        super().__init__()
        self._make: Callable[[], Iterable[Any]] | None = make

    def _kept(self) -> LazyItem:
        if self._make is not None:
            make, self._make = self._make, None
            self.extend(make())
        return self

    def __iter__(self) -> Iterator[Any]:
        return super(LazyItem, self._kept()).__iter__()

    def __getitem__(self, position: Any) -> Any:
        return super(LazyItem, self._kept()).__getitem__(position)

    def __len__(self) -> int:
        return super(LazyItem, self._kept()).__len__()


def mask_correction(valid: FloatArray, positions: IntArray) -> FloatArray:
    """Factors that undo the division by the unmasked share of the drawn batch.

    Keras divides a masked loss by the batch's unmasked share, `V`, which a
    draw that prefers long sequences raises; the factor `V / V_presample`
    makes it divide by the presample's.

    Args:
        valid: float array, shape `(B, outputs)`, each example's unmasked share.
        positions: int array, shape `(b,)`, the drawn examples.

    Returns:
        float64 array, one factor for each output; 1 for an output that is
        masked everywhere.
    """
    valid = valid.astype(np.float64)
    everywhere = valid.mean(axis=0)
    correction: FloatArray = np.divide(
        valid[positions].mean(axis=0),
        everywhere,
        out=np.ones_like(everywhere),
        where=everywhere > 0,
    )
    return correction
