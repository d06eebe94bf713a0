"""Runs `model.fit` on draws of a learned sampler, by features or by a record of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from keras_swift.src.fitting.journal import Resumable
from keras_swift.src.fitting.run import run_fit
from keras_swift.src.swift.datasets import DrawnDataset, EpochCallback
from keras_swift.src.swift.own_record import CountEpochs, OwnRecord, Place, RankAnew
from keras_swift.src.swift.pooled import PooledDataset


@dataclasses.dataclass(frozen=True)
class SwiftRun:
    """One call of `SwiftTraining.fit`.

    Attributes:
        model: `keras.Model` to train.
        callbacks: the user's.
        rest: the other arguments of `model.fit`.
        seed: int, the user's, or `None`.
    """

    model: keras.Model
    callbacks: Any
    rest: dict[str, Any]
    seed: int | None

    def on(
        self,
        dataset: DrawnDataset | PooledDataset,
        place: Resumable,
        ours: list[keras.callbacks.Callback],
    ) -> keras.callbacks.History:
        """Trains on a data set.

        Args:
            dataset: what the batches come from.
            place: `Resumable`, what a resumed run needs of it.
            ours: callbacks that keep the data set in step with training.
        """
        return run_fit(
            self.model,
            dataset,
            dataset,
            place,
            ours,
            self.callbacks,
            self.rest,
            trainer="SwiftTraining",
            seed=self.seed,
        )

    def by_record(
        self,
        own: OwnRecord,
        dataset: DrawnDataset | PooledDataset,
        of_columns: Callable[..., Any],
    ) -> keras.callbacks.History:
        """Trains by a record, which this training continues.

        Args:
            own: `OwnRecord`.
            dataset: what the batches come from.
            of_columns: function from features to probabilities, as `RankAnew` takes it.

        Raises:
            ValueError: if no epoch is left after the warm-up.
        """
        epochs = self.rest["epochs"] - self.rest["initial_epoch"]
        if epochs <= own.uniform_epochs():
            raise ValueError(
                "`epochs` must leave some for the sampler, which draws after a warm-up. Received: "
                f"{epochs} epochs, of which the warm-up takes {own.uniform_epochs()}. Train "
                "longer, set `warmup`, or give `features` of another training, such as "
                "`find_suspects(...).record` has."
            )
        ranking = RankAnew(dataset, own, of_columns)
        with own.recorder.listening(dataset):
            place = Place(dataset, own)
            begins = EpochCallback(dataset, place.journal)
            return self.on(dataset, place, [ranking, begins, own.recorder, CountEpochs(own)])
