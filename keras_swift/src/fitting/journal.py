"""What a backup holds besides the model: what makes the batches, the run, and its journal.

The batches of an epoch are determined by the state at its beginning and by what the model told the
sampler since, which the journal notes: the numbers that its steps recorded, and scores. With both,
another process draws the first steps of the epoch again without training on them, and every later
batch is the same.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src._types import FloatArray, Logs, State
from keras_swift.src.backends.base import Tap


@dataclasses.dataclass(frozen=True)
class JournalState(SavedState):
    """What a `Journal` holds in the middle of an epoch.

    Attributes:
        noted: list of arrays and dicts of them, what was told in the epoch.
        unread: list of float32 arrays, rows that the sampler has not asked for.
    """

    noted: list[Any]
    unread: list[FloatArray]


class Journal:
    """Notes what a model tells its sampler in an epoch, or tells it again.

    Attributes:
        is_kept: bool, whether anything is noted. `False` at first, because notes take memory; set
            by a callback that backs up within epochs.
        tap: the `Tap` that records the steps, or `None`.
        steps: int, how many steps of the first epoch pass by without training.
    """

    def __init__(self) -> None:
        self.is_kept = False
        self.tap: Tap | None = None
        self.steps = 0
        self._noted: list[Any] = []
        self._retold: collections.deque[Any] = collections.deque()
        # Rows that were read to be saved, before the sampler asked for them.
        self._unread: list[FloatArray] = []
        self._is_restored = False

    @property
    def is_retold(self) -> bool:
        """bool, whether restored notes are left that the sampler has not been told again."""
        return bool(self._retold)

    def begin_epoch(self) -> None:
        """Called when an epoch begins, before anything is drawn."""
        self._noted = []
        if not self._is_restored:
            self._unread = []
        self._is_restored = False

    def told(self, ask: Callable[[], Any]) -> Any:
        """What the model tells its sampler: the next restored note, else what `ask` returns.

        Args:
            ask: function that returns an array or a dict of them.
        """
        found = self._retold.popleft() if self._retold else ask()
        if self.is_kept:
            self._noted.append(found)
        return found

    def rows(self) -> FloatArray:
        """What the tap has recorded since the last call: float32 array, shape `(k, columns)`."""
        return np.asarray(self.told(self._read))

    def state(self) -> JournalState:
        """State for `restore`, in the middle of an epoch; does not change what is told later."""
        if self.tap is not None:
            # Read now, or it would be lost with the process; the sampler gets it in its turn.
            self._unread = [self._read()]
        return JournalState(list(self._noted), list(self._unread))

    def restore(self, state: JournalState, steps: int) -> None:
        """From now on tells again what `state` noted in the first `steps` steps of the epoch."""
        self.steps = steps
        self._retold = collections.deque(state.noted)
        self._unread = list(state.unread)
        self._is_restored = True

    def _read(self) -> FloatArray:
        if self.tap is None:
            raise RuntimeError("nothing is recorded")
        rows = self.tap.read()
        if self._unread:
            rows = np.concatenate([*self._unread, rows])
            self._unread = []
        return rows


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
