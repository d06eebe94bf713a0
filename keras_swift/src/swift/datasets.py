"""A dataset of batches drawn from arrays, and the callback that tells a dataset the epoch.

This file decides which examples a batch holds; the sampler decides their probabilities.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._state import SavedState
from keras_swift.src._types import ArrayTree, FloatArray, IntArray, Logs, State
from keras_swift.src.data import arrays
from keras_swift.src.data.draws import systematic_draw
from keras_swift.src.data.fingerprint import of_arrays
from keras_swift.src.data.leaves import as_fed
from keras_swift.src.fitting.journal import Journal

# `(x, y)` or `(x, y, sample_weight)`.
Item: TypeAlias = tuple[ArrayTree, ...]


def item_of(data: arrays.Data) -> Item:
    """A batch as Keras takes it: without the weights if there are none."""
    x, y, sample_weight = as_fed(data)
    return (x, y) if sample_weight is None else (x, y, sample_weight)


@dataclasses.dataclass(frozen=True)
class DrawsState(SavedState):
    """The state of a `DrawnDataset`, which with the epoch determines its draws."""

    seed: int


class DrawnDataset(keras.utils.PyDataset):
    """Batches of examples drawn by given probabilities.

    The draw of an epoch is a function of the probabilities, the seed and the
    epoch, so batches may be fetched ahead of training, or twice.

    Args:
        source: an `arrays.ArraySource`.
        probability: float array, shape `(n,)`, sums to 1.
        batch_size: int.
        seed: int.
        steps_per_epoch: int. `None` draws as many examples in an epoch as the
            source has.
        first_epoch: int, the epoch to start with.
    """

    def __init__(
        self,
        source: arrays.ArraySource,
        probability: FloatArray,
        batch_size: int,
        *,
        seed: int,
        steps_per_epoch: int | None = None,
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.error: Exception | None = None
        self._source = source
        self._batch_size = batch_size
        draws = batch_size * steps_per_epoch if steps_per_epoch else source.size
        self._draws = draws
        self._expected = probability * draws
        self._steps = steps_per_epoch or -(-source.size // batch_size)
        self._seed = seed
        # Stays empty: draws by given probabilities do not depend on what the model tells.
        self.journal = Journal()
        self._epoch = first_epoch
        self._indices = self._draw()
        # The draws of the previous epoch.
        self._past = self._indices

    @property
    def num_batches(self) -> int:
        return self._steps

    @property
    def num_examples(self) -> int:
        """int, how many are drawn in an epoch."""
        return len(self._indices)

    @property
    def most_unread(self) -> int:
        """int, the most examples whose records may be left unread: those of an epoch."""
        return self.num_examples

    @property
    def reads_after(self) -> None:
        """`None`: what the steps recorded is read at the end of an epoch."""

    def drawn(self, epoch: int) -> list[IntArray]:
        """The indices of the examples in each batch of this epoch or the one before."""
        drawn = self._indices if epoch == self._epoch else self._past
        starts = range(0, len(drawn), self._batch_size)
        return [drawn[start : start + self._batch_size] for start in starts]

    def indices(self, index: int) -> IntArray:
        """The indices of the examples in batch `index` of this epoch."""
        return self._indices[index * self._batch_size : (index + 1) * self._batch_size]

    def __getitem__(self, index: int) -> Item:
        return item_of(self._source.take(self.indices(index)))

    def start_epoch(self, epoch: int) -> None:
        """Sets the draws to those of this epoch."""
        if epoch != self._epoch:
            self._past, self._epoch = self._indices, epoch
            self._indices = self._draw()

    def draw_by(self, probability: FloatArray) -> None:
        """Draws this and later epochs by other probabilities; called before an epoch's items."""
        self._expected = probability * self._draws
        self._indices = self._draw()

    def on_epoch_end(self) -> None:
        self.start_epoch(self._epoch + 1)

    def state(self) -> DrawsState:
        """State for `restore`, which determines the draws of the epoch."""
        return DrawsState(self._seed)

    def restore(self, state: DrawsState) -> None:
        self._seed = state.seed
        self._indices = self._draw()

    def identity(self) -> State:
        """What must be the same when a run is resumed."""
        first = self._source.take(np.arange(min(self._batch_size, self._source.size)))
        return {
            "batch_size": self._batch_size,
            "steps": self._steps,
            "examples": self._source.size,
            "first_batch": of_arrays(first),
        }

    def _draw(self) -> IntArray:
        return systematic_draw(self._expected, np.random.default_rng([self._seed, self._epoch]))


class EpochCallback(keras.callbacks.Callback):
    """Tells a dataset which epoch of training begins.

    Args:
        dataset: the dataset.
        journal: `Journal` of the run. Defaults to `None`, that of the dataset.
    """

    def __init__(self, dataset: Any, journal: Journal | None = None) -> None:
        super().__init__()
        self._dataset = dataset
        self._journal = dataset.journal if journal is None else journal
        self._checked = False

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if not self._checked:
            # Not in `on_train_begin`: `BackupAndRestore` may begin with a later epoch.
            self._checked = True
            backends.active().check_agreement(
                {
                    "The first epoch": epoch,
                    "The step to go on from": self._journal.steps,
                    "The number of steps in an epoch": self._dataset.num_batches,
                    "The number of examples in an epoch": self._dataset.num_examples,
                }
            )
        self._dataset.start_epoch(epoch)
