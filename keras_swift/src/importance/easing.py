"""Decides when draws by importance stop helping, so that training goes on with uniform batches.

Draws by importance learn the training data sooner. A model that begins to memorise single examples
does that sooner too, and would end with a higher validation loss than after uniform training. After
each epoch this file decides whether the next one is uniform: by the validation loss or, without
validation data, by the remembered scores of the training examples.
"""

from __future__ import annotations

import dataclasses
import math

from keras_swift.src._state import SavedState

# Validations in a row without a new lowest loss, after which batches are uniform. A single one is
# often noise: with a decaying learning rate, easing off after one loses half of what importance
# training gains.
PATIENCE = 2
# Without validation data, batches are uniform while the mean score is below this share of that of
# the first epoch. Scores are gradients at the outputs, so they fall to 0 where the targets are met,
# whatever the loss. The share of wrong predictions would do as well, but only classifiers have it.
SCORE_LEFT = 0.4


@dataclasses.dataclass(frozen=True)
class EasingState(SavedState):
    """The losses and scores that an `Easing` compares with, and its decision."""

    is_on: bool = False
    was_on: bool = False
    lowest: float = math.inf
    since: int = 0
    first_score: float = math.nan


class Easing:
    """Decides after each epoch whether the batches of the next one are uniform.

    With validation data: from the second validation in a row whose loss is
    not below the lowest one so far, until one is. Without: while the mean
    remembered score of the training examples is below 40 % of what it was
    after the first epoch. While neither is known, batches are not eased off.

    Args:
        enabled: bool; if `False`, batches are never made uniform.

    Attributes:
        is_on: bool, whether the next batches are to be uniform.
        validates: bool, whether there is validation data.

    Example:
        >>> easing = Easing()
        >>> for loss in (0.5, 0.4, 0.41, 0.42):
        ...     easing.hear(loss)
        >>> easing.is_on
        True
        >>> easing.hear(0.39)
        >>> easing.is_on
        False
    """

    def __init__(self, enabled: bool = True) -> None:
        self.begin(enabled)
        self.forget()

    def begin(self, enabled: bool, validates: bool = True) -> None:
        """Called before each training; what earlier ones reported is kept.

        Args:
            enabled: bool, as above.
            validates: bool, whether there is validation data. Defaults to `True`.
        """
        self._enabled, self.validates = enabled, validates

    def forget(self) -> None:
        """Forgets all losses and scores: the next batches are drawn by importance."""
        self._state = EasingState()

    @property
    def is_on(self) -> bool:
        """bool, whether the batches of the next epoch are uniform."""
        return self._state.is_on

    def hear(self, validation_loss: float | None, score: float = math.nan) -> None:
        """Called at the end of each epoch.

        Args:
            validation_loss: float, or `None` if there was no validation after this epoch.
            score: float, the mean remembered score; only used without validation data. Defaults
                to NaN, not known.
        """
        state = self._state
        if not self._enabled:
            return
        if validation_loss is not None:
            # False for a loss that is NaN.
            falls = validation_loss < state.lowest
            since = 0 if falls else state.since + 1
            self._state = dataclasses.replace(
                state,
                is_on=not falls if falls or since >= PATIENCE else state.is_on,
                lowest=validation_loss if falls else state.lowest,
                since=since,
            )
        elif not self.validates and math.isfinite(score):
            first = score if math.isnan(state.first_score) else state.first_score
            self._state = dataclasses.replace(
                state, is_on=score < SCORE_LEFT * first, first_score=first
            )

    def news(self) -> str | None:
        """A sentence on the decision if it changed since the last call, else `None`."""
        if self.is_on == self._state.was_on:
            return None
        self._state = dataclasses.replace(self._state, was_on=self.is_on)
        if not self.is_on:
            return "batches are drawn by importance again."
        if self.validates:
            return (
                f"the validation loss has not fallen in {self._state.since} validations, so "
                "batches are uniform until it does."
            )
        return "most training examples are learned, so batches are uniform."

    def state(self) -> EasingState:
        """State for `restore`."""
        return self._state

    def restore(self, state: EasingState) -> None:
        """Restores what `state` returned."""
        self._state = state
