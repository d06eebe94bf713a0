"""`SwiftTraining`: `model.fit` on examples drawn by a `SwiftSampler`.

This file decides how a call of `fit` draws: by given features or by a record of its own
(`probabilities`, `own_record`), and from arrays or from pools of a stream (`datasets`, `pooled`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._display import html_table
from keras_swift.src._keras_losses import compile_loss
from keras_swift.src.data import arrays
from keras_swift.src.data.held import held_examples
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.data.streams import is_stream
from keras_swift.src.fitting.arguments import FitArguments, TrainingData
from keras_swift.src.fitting.journal import Resumable
from keras_swift.src.fitting.run import run_fit
from keras_swift.src.fitting.trainer import Trainer
from keras_swift.src.records.identity import Identity
from keras_swift.src.rules import check_fit, check_if_given
from keras_swift.src.scoring.examples import check_examples
from keras_swift.src.suspects.of_record import suspects_of_memory
from keras_swift.src.suspects.result import ClassNames, Suspects
from keras_swift.src.swift.datasets import DrawnDataset, EpochCallback
from keras_swift.src.swift.feature_table import Features, named_features
from keras_swift.src.swift.own_record import OwnRecord, RankAnew, RecordedPlace
from keras_swift.src.swift.pooled import PooledDataset, RecordedStream, StreamPlace
from keras_swift.src.swift.probabilities import Probabilities
from keras_swift.src.swift.sampler import SwiftSampler
from keras_swift.src.validation import check_model

if TYPE_CHECKING:
    from keras_swift.src.search.result import SearchResult


class SwiftTraining(Trainer):
    """Trains a Keras model on the examples a learned sampler draws.

    `SwiftTraining(model, result).fit(...)` is `model.fit(...)` with the same
    arguments, callbacks and history. There are no importance weights: the
    sampler is meant to change what is learned. So the reported `loss` and the
    training metrics describe what was drawn; judge by validation data.

    **Arrays.** Each epoch draws as many examples as there are (or `batch_size
    * steps_per_epoch`) by static probabilities `p`: with `k` draws each example
    is drawn `k p` times, rounded up or down at random, in random order. A uniform
    sampler gives ordinary shuffled epochs.

    **A record of its own.** A sampler whose features all come from a record of
    training (`"mean_margin"`, `"mean_loss_in_class"`, ...) needs no other
    training if neither `features` nor `reference` is given: `fit` records
    its own steps. The first epochs are uniform, `warmup` of them;
    before each later one the examples are ranked anew by the record so far.
    Examples that are not drawn keep their record as it is. Another `fit`
    on the same arrays or stream continues with the record, without a second warm-up,
    unless the model has been compiled again.

    **Streams** (a `PyDataset`, a generator, a `tf.data.Dataset`, a PyTorch
    `DataLoader`, any iterable of batches) are read once an epoch and never
    held. From a pool of the next batches as many rows are drawn as were read,
    by the same probabilities, and cut into batches of the same sizes. Where a
    pool has few examples that are drawn often, these are drawn at most twice as
    often as they should be, and the missing draws are spread over all: shuffle
    the stream. An example is known by its id, where batches are
    `(x, y, sample_weight, ids)`, else by its place or contents, as for
    `ImportanceTraining`. `reference` computes its features when it is first
    read; `features` may be what `compute_features` returned for the stream, or
    arrays with the ids as indices; without either, a record of its own has
    them. Where contents change in each pass, `reference` computes features
    anew, and ranks are those within a pool. With a search result, the stream
    is held in memory, up to 2 GiB.

    Args:
        model: a compiled `keras.Model`.
        sampler: a `SwiftSampler`, or its `SearchResult`, which also has the
            features of the data of the search.
        reference: a trained, compiled `keras.Model` to compute features with.
            Not needed if the features are given.
        features: mapping from the sampler's feature names to arrays or
            callables (see `compute_features`): features of the data `fit` gets,
            or how to compute features of the sampler that have no known
            name.
        seed: int or `None`, fixes the draws; each call of `fit` continues from
            the last. Defaults to `None`, fresh entropy.
        warmup: int, how many epochs are uniform before the sampler draws by
            a record of the training itself. Defaults to `None`, a third of
            the epochs of the first `fit`, rounded up.

    Raises:
        TypeError: for arguments of another kind.
        ValueError: if `model` or `reference` is not compiled.

    Example:

        result = keras_swift.search(model, x, y, validation_data=(xv, yv))
        history = SwiftTraining(fresh_model, result).fit(x, y, epochs=30)
        sampler = SwiftSampler.load("sampler.json")
        SwiftTraining(other, sampler, reference=model).fit(x2, y2, epochs=30)

    Reference:
        Yao, Li and Xiao, "Swift Sampler: Efficient Learning of Sampler by 10
        Parameters", NeurIPS 2024, arXiv 2410.05578.
    """

    def __init__(
        self,
        model: keras.Model,
        sampler: SwiftSampler | SearchResult,
        reference: keras.Model | None = None,
        features: Features | None = None,
        seed: int | None = None,
        *,
        warmup: int | None = None,
    ) -> None:
        check_model(model, trains=True)
        check_if_given(warmup=warmup, seed=seed)
        if reference is not None:
            check_model(reference, name="reference")
        if features is not None:
            named_features(features)
        self._result: SearchResult | None = None
        found: Any = sampler
        if not isinstance(found, SwiftSampler):
            self._result = found
            found = getattr(found, "sampler", None)
        if not isinstance(found, SwiftSampler):
            raise TypeError(
                "`sampler` must be a `SwiftSampler` or the result of `keras_swift.search`. "
                f"Received: {type(self._result).__name__}"
            )
        super().__init__(model)
        self.sampler = found
        self.reference = reference
        self.features = features
        self.warmup = warmup
        self._own: OwnRecord | None = None
        self._own_of: Any = None
        self._seed = seed
        self._generator = np.random.default_rng(seed)

    def __repr__(self) -> str:
        return (
            f"SwiftTraining(model={self.model.name!r}, sampler={self.sampler!r}, "
            f"reference={self.reference and self.reference.name!r})"
        )

    def _repr_html_(self) -> str:
        rows = [("sampler", repr(self.sampler)), ("features", self._by.source)]
        return html_table(f"SwiftTraining of {self.model.name}", rows)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | Literal["auto"] = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | Literal["batch"] = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
    ) -> keras.callbacks.History:
        """Trains the model, as `keras.Model.fit` does.

        All arguments have the names, defaults and meaning they have there,
        except `shuffle`, which has no effect on arrays: draws are always in
        random order. `sample_weight` and `class_weight` weight the
        objective, not the draw.

        Returns:
            The `keras.callbacks.History` of `model.fit`.

        Raises:
            TypeError: if `x` is neither arrays nor a stream.
            ValueError: for arguments that do not fit each other or the model,
                for labels outside its classes, for arrays that are not finite,
                and for features that do not match the data.
        """
        given = FitArguments(
            x=x,
            y=y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
        )
        check_model(self.model, trains=True)
        check_fit(given)
        if is_stream(x) and self._by.search is not None:
            x, y, sample_weight = held_examples(x, y, sample_weight)
            given = dataclasses.replace(given, x=x, y=y, sample_weight=sample_weight)
        data, rest = given.resolved()
        if data.batch_size is not None:
            check_examples(self.model, data.examples, data.batch_size, self._by.records_itself)
        seed = int(self._generator.integers(2**63))
        process, count = backends.active().process()
        if count > 1:
            # Each process draws from its own part of the data.
            seed = int(np.random.default_rng([seed, process]).integers(2**63))
        if data.batch_size is None:
            return self._stream_fit(data, seed, callbacks, rest)
        return self._array_fit(data, seed, callbacks, rest)

    def suspects(self, class_names: ClassNames = None) -> Suspects:
        """The labels of the last `fit` that are probably wrong, by the record it made.

        Costs no training. Examples that the sampler never drew after the warm-up are judged by the
        warm-up.

        Args:
            class_names: as for `find_suspects`.

        Returns:
            `Suspects`, as `find_suspects` returns them.

        Raises:
            ValueError: if the last `fit` made no record of its own, and for models that predict
                other than one class for each example.
        """
        own = self._own
        examples = None if own is None else own.examples
        memory = None if own is None else own.recorder.record
        return suspects_of_memory(self.model, examples, memory, class_names)

    @property
    def _by(self) -> Probabilities:
        return Probabilities(self.model, self.sampler, self.reference, self.features, self._result)

    def _array_fit(
        self, data: TrainingData, seed: int, callbacks: Any, rest: dict[str, Any]
    ) -> keras.callbacks.History:
        """Trains on arrays, by a record of its own or by given probabilities."""
        source, batch_size = cast(arrays.ArraySource, data.examples), cast(int, data.batch_size)
        own = None
        if self._by.records_itself:
            own = self._own_record(source, batch_size, rest)
            probability = np.full(source.size, 1.0 / source.size)
        else:
            probability = self._by.of_examples(source, batch_size, rest["verbose"])
        dataset = DrawnDataset(
            source,
            probability,
            batch_size,
            seed=seed,
            steps_per_epoch=data.steps_per_epoch,
            first_epoch=rest["initial_epoch"],
        )
        if own is not None:
            return self._run_by_record(own, dataset, callbacks, rest)
        return self._run(dataset, dataset, callbacks, rest)

    def _stream_fit(
        self, data: TrainingData, seed: int, callbacks: Any, rest: dict[str, Any]
    ) -> keras.callbacks.History:
        """Trains on a stream, by a record of its own or by pools of its next batches."""
        stream = cast(StreamReader, data.reader(np.random.default_rng([seed, 1]).spawn(2)))
        # With a number of steps, an epoch continues where the last one ended.
        restarts, first_epoch = data.steps_per_epoch is None, rest["initial_epoch"]
        with contextlib.closing(stream):
            if self._by.records_itself:
                own = self._own_record(stream, stream.batch_size, rest)
                known = cast(RecordedStream, own.stream)
                dataset = known.dataset(stream, seed, restarts, first_epoch)
                with contextlib.closing(dataset):
                    return self._run_by_record(own, dataset, callbacks, rest)
            identity = Identity(stream)
            dataset = PooledDataset(
                stream, identity, seed, restarts=restarts, first_epoch=first_epoch
            )
            chances = dataset.chances = self._by.of_stream(stream, identity)
            with contextlib.closing(dataset):
                return self._run(dataset, StreamPlace(dataset, chances), callbacks, rest)

    def _own_record(
        self, data: arrays.ArraySource | StreamReader, batch_size: int, rest: dict[str, Any]
    ) -> OwnRecord:
        """The record of the last `fit` if that was on the same data, else a new one."""
        # Compiled again, the model has other losses.
        found = (data.identity(), compile_loss(self.model))
        if self._own is None or found != self._own_of:
            epochs = rest["epochs"] - rest["initial_epoch"]
            wanted = tuple(self._by.wanted())
            self._own = OwnRecord(self.model, data, batch_size, epochs, self.warmup, wanted)
            self._own_of = found
        return self._own

    def _run_by_record(
        self,
        own: OwnRecord,
        dataset: DrawnDataset | PooledDataset,
        callbacks: Any,
        rest: dict[str, Any],
    ) -> keras.callbacks.History:
        """Trains by a record, which this training continues."""
        own.check_epochs(rest["epochs"] - rest["initial_epoch"])
        recorder, ranking = own.recorder, RankAnew(dataset, own, self._by)
        with recorder.listening(dataset):
            place = RecordedPlace(dataset, own)
            return self._run(dataset, place, callbacks, rest, recorder, ranking)

    def _run(
        self,
        dataset: DrawnDataset | PooledDataset,
        place: Resumable,
        callbacks: Any,
        rest: dict[str, Any],
        *recording: keras.callbacks.Callback,
    ) -> keras.callbacks.History:
        ours = [EpochCallback(dataset, place.journal), *recording]
        return run_fit(
            self.model,
            dataset,
            dataset,
            place,
            ours,
            callbacks,
            rest,
            trainer="SwiftTraining",
            seed=self._seed,
        )
