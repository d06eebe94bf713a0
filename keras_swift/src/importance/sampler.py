"""What draws the batches of a training run: the interface of its samplers."""

from __future__ import annotations

from typing import Any, Protocol

from keras_swift.src._state import SavedState
from keras_swift.src.backends.base import Values
from keras_swift.src.importance.batch import Batch


class Sampler(Protocol):
    """Draws one batch after another.

    `presampling.ImportanceSampler` scores a presample for it, `remembered.RememberedSampler`
    remembers what training steps recorded.

    Attributes:
        values: the model's values as `backends` captured them, to score by; `None` for its
            current ones.
    """

    values: Values | None

    @property
    def tau(self) -> float:
        """The variance reduction of the scores; 0 while it is not known."""

    @property
    def mean_score(self) -> float:
        """The mean score of the examples; NaN if it is not remembered."""

    @property
    def is_over(self) -> bool:
        """Whether another sampler must draw from here on."""

    def retire(self) -> None:
        """Called when another sampler draws from here on."""

    def next_batch(self, steps_left: int = 1) -> Batch:
        """The next batch, with so many steps of the epoch left, this one included."""

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
