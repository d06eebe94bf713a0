"""`BackupAndRestore`: a run killed at any moment and started again ends as one never killed.

This file decides what a backup holds and when it is restored. A backup in the middle of an epoch
also holds the state of the draws at the epoch's beginning, and what the model told them since. When
the run is resumed, the steps done before the backup are passed through without training, so that
data, callbacks and draws come to the same position.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._keras import process_seed, resume_at, seed_variables
from keras_swift.src._pages import read_on
from keras_swift.src._types import Array, Logs, State
from keras_swift.src.fitting.backup_file import VERSION, BackupFolder, Unit
from keras_swift.src.fitting.journal import Run
from keras_swift.src.fitting.random_states import random_states, restore_random_states
from keras_swift.src.fitting.states import alike
from keras_swift.src.rules import check, plain


class BackupAndRestore(keras.callbacks.BackupAndRestore):
    """Backs up a run so that it continues exactly, to the last bit, whenever it is killed.

    A `keras.callbacks.BackupAndRestore` with the same arguments, for our trainers
    and for `model.fit`. Weights, optimizer, position, draws, what is remembered of
    each example, and all random states (of layers such as dropout, and of
    Keras, the framework, NumPy and Python) are in one file. It is written beside
    the last one, has a checksum, and becomes current by one rename. Keras'
    own callback writes weights and position one after the other, in place,
    and leaves out the rest.

    With `save_freq=N` a run continues in the middle of an epoch: the steps that
    the backup contains are passed through without training, with their
    callbacks and the metrics of the backup in the logs. That is exact in our trainers for
    arrays, and for a `PyDataset` that gives the same items again. In
    `model.fit` it is exact where the order of the data is that of NumPy's
    (JAX) or PyTorch's generator, or fixed. A backup cannot hold the states of the
    user's callbacks and data, so those begin again, as in Keras.

    Args:
        backup_dir: str or path, the folder, for this run alone; with several
            processes, one for each. In a folder that is not local
            (`gs://...`) the callback does what Keras' does, with a warning.
        save_freq: `"epoch"`, or int, 1 or more: the number of batches from one
            backup to the next, also in the middle of an epoch. `False` never
            saves. Defaults to `"epoch"`.
        double_checkpoint: bool, whether the backup before the last one is
            kept too, and used, with a warning, if the last one is damaged.
            Defaults to `False`: a damaged backup is then an error.
        delete_checkpoint: bool, whether the backup is deleted when training
            is finished. Defaults to `True`.

    Raises:
        TypeError, ValueError: for arguments other than these; in `fit`, for a backup of
            another run, model or release, naming the file and the cure.
        OSError: in `fit`, for a damaged backup, or one that cannot be
            written, naming the file and the cure.

    Example:

        backup = keras_swift.BackupAndRestore("backup", save_freq=500)
        ImportanceTraining(model, seed=0).fit(x, y, epochs=10, callbacks=[backup])
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: Literal["epoch", False] | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        check(backup_dir=backup_dir, save_freq=save_freq)
        check(double_checkpoint=double_checkpoint, delete_checkpoint=delete_checkpoint)
        folder, double = os.fspath(backup_dir), plain(double_checkpoint)
        super().__init__(folder, plain(save_freq), double, plain(delete_checkpoint))
        self._folder = None if "://" in folder else BackupFolder(folder, double)
        self._run = Run()
        # The backup whose steps are passed through in the present epoch.
        self._passing: Unit | None = None
        self._train_function: Any = None
        # Random states, restored again when the first batch has been read.
        self._random_then: State | None = None
        self._random_at_epoch_begin: State | None = None

    @property
    def saves_within_epochs(self) -> bool:
        """bool, whether there are backups in the middle of an epoch."""
        return self.save_freq is not False and self.save_freq != "epoch"

    @contextlib.contextmanager
    def in_run(self, run: Run) -> Iterator[None]:
        """A context in which the callback backs up `run`, a `model.fit` on our batches."""
        if self._folder is None:
            warnings.warn(
                f"`BackupAndRestore({self.backup_dir!r})` backs up weights and optimizer there, as "
                "Keras does: only in local folders is a backup one unit, with the state of the "
                "draws. A resumed run draws afresh. "
                + read_on("guides/resuming.md#a-training-run"),
                stacklevel=6,
            )
        self._run = run
        if run.place is not None:
            run.place.journal.is_kept = self.saves_within_epochs
        try:
            yield
        finally:
            self._run, self._passing = Run(), None
            self._train_again()

    def on_train_begin(self, logs: Logs = None) -> None:
        if self._folder is None:
            super().on_train_begin(logs)
            return
        self._passing = self._random_then = None
        self._current_epoch = 0
        self._batches_seen_since_last_saving = self._last_batch_seen = 0
        unit = self._folder.read()
        if unit is None:
            if self._folder.holds_keras_own():
                raise ValueError(
                    "`backup_dir` must be a folder of `keras_swift.BackupAndRestore`. Received: "
                    f"{self.backup_dir!r} with a backup of `keras.callbacks.BackupAndRestore`. "
                    "Finish that run with that callback, or use another folder."
                )
            self._folder.prepare()
            return
        self._check(unit)
        self._load(unit)
        state, run = unit.state, self._run
        resume_at(self.model, state["epoch"])
        self._batches_seen_since_last_saving = state["seen"]
        if run.place is not None:
            run.place.restore(state["place"])
            if state["journal"] is not None:
                run.place.journal.restore(state["journal"], state["batch"])
        if state["batch"]:
            self._passing = unit
        else:
            restore_random_states(state["random"])
            # A run that was never killed keeps reading. To begin reading, as here, draws a number
            # from PyTorch's generator, so its state is restored again after that.
            self._random_then = state["random"] if run.reads_on else None
        if state["epoch"] < (self.params or {}).get("epochs", np.inf):
            self._folder.prepare()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._current_epoch, self._last_batch_seen = epoch, 0
        # Otherwise a later `fit` would begin at the resumed epoch too.
        resume_at(self.model, None)
        if self._passing is not None:
            restore_random_states(self._passing.state["random_at_epoch_begin"])
        if self.saves_within_epochs:
            self._random_at_epoch_begin = random_states()

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if self._random_then is not None:
            restore_random_states(self._random_then)
            self._random_then = None
        if self._passing is None:
            return
        model, backend = self.model, backends.active()
        numbers = self._passing.state["logs"]
        self._train_function = own = model.train_function

        def pass_by(*arguments: Any) -> Any:
            # First, so that an exception does not leave `pass_by` in the model.
            model.train_function = own
            return backend.skip_step(model, arguments, dict(numbers))

        model.train_function = pass_by

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self._folder is None:
            super().on_train_batch_end(batch, logs)
        elif self._passing is not None:
            if batch + 1 >= self._passing.state["batch"]:
                self._last_batch_seen = batch
                self._finish_passing(self._passing)
        elif self.saves_within_epochs and self._should_save_on_batch(batch):
            self._save(self._current_epoch, batch + 1)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._folder is None:
            super().on_epoch_end(epoch, logs)
            return
        if self._passing is not None:
            raise ValueError(
                f"The epoch must have the steps that the backup has done of it. Received: an epoch "
                f"that ended before step {self._passing.state['batch']}, where {self._passing.path}"
                " goes on. Give the same data, or delete the file and begin again."
            )
        self._current_epoch, self._last_batch_seen = epoch + 1, 0
        if self.save_freq == "epoch":
            self._save(epoch + 1, 0)

    def on_train_end(self, logs: Logs = None) -> None:
        if self._folder is None:
            super().on_train_end(logs)
            return
        resume_at(self.model, None)
        if self.delete_checkpoint:
            self._folder.delete()

    def _save(self, epoch: int, batch: int) -> None:
        """Saves a run after `epoch` whole epochs and `batch` batches of the next one."""
        model, place = self.model, self._run.place
        state = {
            "version": VERSION,
            "epoch": epoch,
            "batch": batch,
            "seen": self._batches_seen_since_last_saving,
            "identity": self._identity(),
            "layers": _values(seed_variables(model)),
            "random": random_states(),
            "place": None,
            "journal": None,
        }
        if place is not None and not batch:
            state["place"] = place.state()
        elif place is not None:
            state["place"], state["journal"] = self._run.at_epoch_begin, place.journal.state()
        if batch:
            state["metrics"] = _values(model.metrics_variables)
            result = model.get_metrics_result()
            state["logs"] = dict(zip(result, _values(result.values()), strict=True))
            state["random_at_epoch_begin"] = self._random_at_epoch_begin
        if self._folder is not None:
            self._folder.write(model, state)

    def _identity(self) -> State:
        model = self.model
        return {
            "steps": (self.params or {}).get("steps"),
            "keras_seed": process_seed(),
            **self._run.identity,
            "steps_per_execution": model.steps_per_execution,
            "variables": [[*variable.shape, str(variable.dtype)] for variable in model.weights],
        }

    def _check(self, unit: Unit) -> None:
        """Raises for a backup of another run or model.

        Raises:
            ValueError: naming the file, what differs and the cure.
        """
        if not self.model.built:
            raise ValueError(
                f"The model must be built before `fit` to restore {unit.path}. Received: "
                f"{self.model.name!r}, not built. Call it on a batch of inputs, or give it an "
                "`Input`."
            )
        saved, present = unit.state["identity"], self._identity()
        differs = [
            f"{name}: {saved[name]} there, {present[name]} here"
            for name in saved
            if None not in (saved[name], present.get(name)) and saved[name] != present[name]
        ]
        place = self._run.place
        if not differs and place is not None:
            if not alike(unit.state["place"], place.state()):
                differs = ["the state of the draws, which is that of other settings"]
        if differs:
            raise ValueError(
                f"The backup in {self.backup_dir!r} must be of this run. Received: {unit.path}, in "
                f"which other things are saved ({'; '.join(differs)}). Start with the same model, "
                "data and settings, or use another folder, or delete the file and begin again."
            )

    def _load(self, unit: Unit) -> None:
        """Restores weights, optimizer and the random states of layers."""
        model = self.model
        if model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        try:
            model.load_weights(unit.path)
        except Exception as error:
            raise ValueError(
                "The backup must be of this model and this optimizer. Received: "
                f"{unit.path}, which Keras cannot load: {error} Start with the same model, or use "
                "another folder, or delete the file and begin again."
            ) from error
        self._assign(seed_variables(model), unit.state["layers"])

    def _finish_passing(self, unit: Unit) -> None:
        """Restores everything at the step after which the backup was made."""
        place = self._run.place
        if place is not None and place.journal.is_retold:
            raise ValueError(
                "The epoch must be drawn as it was before the backup. Received: other batches than "
                f"{unit.path} goes on from. Give the same data in the same order, or delete the "
                "file and begin again."
            )
        self._load(unit)
        self._assign(self.model.metrics_variables, unit.state["metrics"])
        restore_random_states(unit.state["random"])
        self._passing = None

    def _assign(self, variables: Sequence[keras.Variable], values: Sequence[Array]) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def _train_again(self) -> None:
        """Takes `pass_by` out of the model, if a callback's exception has left it there."""
        model, own = self._model, self._train_function
        self._train_function = None
        if own is not None and getattr(model.train_function, "__name__", "") == "pass_by":
            model.train_function = own


def _values(variables: Iterable[Any]) -> list[Array]:
    return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]
