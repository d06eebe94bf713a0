"""The interface of the samplers that draw the batches of a training run."""

from __future__ import annotations

from typing import Any, Protocol

import keras

from keras_swift.src._state import SavedState
from keras_swift.src.importance.batch import Batch


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
