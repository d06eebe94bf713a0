"""What a backup holds besides the model: the interface of what makes batches, and the run."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import keras

from keras_swift.src._state import SavedState
from keras_swift.src._types import Logs, State
from keras_swift.src.fitting.journal import Journal


class Resumable(Protocol):
    """What makes the batches of a run, whose state is saved and restored with it.

    Attributes:
        journal: `Journal` of what the model tells it.
    """

    @property
    def journal(self) -> Journal: ...

    def state(self) -> SavedState:
        """State for `restore`, between two epochs."""

    def restore(self, state: Any) -> None:
        """Restores what `state` returned."""

    def identity(self) -> State:
        """What must be the same when a run is resumed: numbers and strings by name."""


@dataclasses.dataclass
class Run:
    """A call of `fit`.

    Attributes:
        place: `Resumable`, or `None` in a `fit` of the user's, where Keras makes the batches.
        identity: dict, what must be the same when the run is resumed.
        at_epoch_begin: state of `place` when the epoch began.
        reads_on: bool, whether an epoch continues in the data where the last one ended.
    """

    place: Resumable | None = None
    identity: State = dataclasses.field(default_factory=lambda: {"trainer": "model.fit"})
    at_epoch_begin: SavedState | None = None
    reads_on: bool = False


class EpochBegins(keras.callbacks.Callback):
    """Keeps the state at the beginning of each epoch; placed before every callback that draws.

    Args:
        run: `Run`.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._of = run

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        place = self._of.place
        if place is not None and place.journal.is_kept:
            self._of.at_epoch_begin = place.state()
            place.journal.begin_epoch()


def listed(callbacks: Any) -> list[keras.callbacks.Callback]:
    """The user's callbacks as a list.

    Args:
        callbacks: `None`, a callback, a structure of them or a `CallbackList`.
    """
    given = getattr(callbacks, "callbacks", callbacks)
    found: list[keras.callbacks.Callback] = keras.tree.flatten(given or [])
    return found
