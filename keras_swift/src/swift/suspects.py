"""`find_suspects`: finds wrong labels from one training and nothing else.

This file decides what the training records, and ends it when a loss or a weight is no longer
finite: otherwise the record would silently be that of the steps before. `keras_swift.src.suspects`
judges the targets by it.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Literal

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._types import ArrayTree, Logs
from keras_swift.src.data.arrays import ArraySource
from keras_swift.src.data.held import check_ends
from keras_swift.src.data.leaves import present_leaves
from keras_swift.src.data.stream_reader import StreamReader
from keras_swift.src.data.streams import check_stream_arguments, is_stream
from keras_swift.src.fitting.model_state import Unchanged
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.examples import ArrayExamples, Examples
from keras_swift.src.records.recorder import RecordingCallback, recording
from keras_swift.src.records.targets import target_outputs
from keras_swift.src.rules import COUNT, check, check_if_given
from keras_swift.src.scoring.compiled import CompiledLosses
from keras_swift.src.scoring.examples import check_examples
from keras_swift.src.suspects.names import ClassNames, check_class_names
from keras_swift.src.suspects.of_record import (
    check_are_numbers,
    has_one_label,
    suspects_of_record,
)
from keras_swift.src.suspects.result import Suspects
from keras_swift.src.swift.datasets import DrawnDataset, EpochCallback
from keras_swift.src.swift.pooled import PooledDataset, RecordedStream
from keras_swift.src.validation import check_model, check_targets


def find_suspects(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    epochs: int = 15,
    batch_size: int = 32,
    sample_weight: Any = None,
    class_names: ClassNames = None,
    seed: int | None = None,
    verbose: int | Literal["auto"] = "auto",
) -> Suspects:
    """Finds the targets that are probably wrong, with one training.

    Trains the model, and records the loss and margin of each target that its
    steps compute. A wrong label is learned late, so another class is more
    probable on average over the training. This needs no validation data and no
    search. The model, its optimizer and metrics are restored at the end.

    The loss decides what a target is. Cross-entropy of classes: one class for
    an example, or one at each step or pixel. Binary cross-entropy: one label or
    several, each yes or no. A loss of values (`mse`, `mae`, `huber`, ...): each
    number, which is a suspect if it is much farther from the model's predictions
    during the training than the other values are from theirs. Any other loss:
    the loss of the example. Targets that are masked, ignored or of weight 0 are
    left out.

    With several processes on JAX (`keras.distribution.DataParallel`), each
    passes its own part of the data and gets the suspects of that part; the
    share of wrong labels is that of all parts.

    Args:
        model: a compiled `keras.Model`, not yet trained.
        x: inputs, an array, or a list or dict of arrays, first axis `n`; or a
            stream with targets that ends and can be read again: a `PyDataset`,
            `tf.data.Dataset`, `DataLoader` or other iterable of batches, of any
            size, shuffled or not. It is read once an epoch (and once to count its
            batches, if it has no length) and never held. An
            example is known by its id, where batches are
            `(x, y, sample_weight, ids)`, as they have to be if the pipeline
            augments; else by batch and row in a `PyDataset`, and by its
            contents in others.
        y: targets, likewise; `None` with a stream.
        epochs: int. Enough to learn what most examples have in common, but
            too few to memorise all labels. Defaults to 15.
        batch_size: int. Defaults to 32. Streams have their own batches.
        sample_weight: array, weights of the loss, as for `model.fit`.
        class_names: names for text, tables and figures: a list, of the
            classes, or of the entries if each is a label of its own; with
            several outputs a dict from their names to such lists. Defaults to
            `None`, numbers.
        seed: int or `None`, fixes the order of training. Defaults to `None`,
            fresh entropy.
        verbose: `"auto"` or 1 for a progress bar, 0 for silence.

    Returns:
        `Suspects`: `indices`, with `entries` and `outputs` where an example
        has several targets; `instead`, `scores`, `wrong_share`, `keep`, and
        `to_frame()`, `to_csv()` and `plot()`. Of a stream, `indices` count the
        examples in the order in which they were first read (in a `PyDataset`
        without ids, of batches and rows), and `ids` names them; `plot()` reads
        it once more.

    Raises:
        TypeError: if `x` is neither arrays nor a stream that can be read again.
        ValueError: if the model is not compiled, for values outside the
            ranges above, for targets that are not numbers or that the outputs
            have no place for, for data that are not finite, if processes have
            parts of different sizes, if the examples of a stream do not come
            back in its second pass, and if the training diverges.

    Example:

        suspects = find_suspects(model, x, y, batch_size=128)
        print(suspects)
        suspects.to_csv("to_review.csv")
        fresh_model.fit(x[suspects.keep], y[suspects.keep])

    Reference:
        Pleiss et al., "Identifying Mislabeled Data using the Area Under the
        Margin Ranking", NeurIPS 2020, arXiv 2001.10528, for the mean margin;
        Arazo et al., ICML 2019, arXiv 1904.11238, for the mixture.
    """
    check_model(model, trains=True)
    COUNT.check("epochs", epochs)
    check(batch_size=batch_size, verbose=verbose)
    check_if_given(seed=seed)
    backend = backends.active()
    process, count = backend.process()
    own_seed = seed if seed is None or count == 1 else [seed, process]
    draws_seed = int(np.random.default_rng(own_seed).integers(2**31))
    suspects = functools.partial(
        _suspects, model, class_names=class_names, epochs=epochs, verbose=verbose
    )
    if is_stream(x):
        check_stream_arguments(x, y, sample_weight, None, 0.0)
        check_ends(x, "x")
        backend.check_devices(model)
        generators = np.random.default_rng([draws_seed, 1]).spawn(2)
        reader = StreamReader(x, None, generators, True, None, warns=False)
        with contextlib.closing(reader) as stream:
            # An example is known by its id, its place or its contents.
            known = RecordedStream(model, stream, stores_all=True)
            pooled = known.dataset(stream, draws_seed)
            return suspects(pooled, known.examples, known.losses, stream.batch_size)
    check_targets(y)
    check_are_numbers(y)
    backend.check_devices(model)
    source = ArraySource(x, y, sample_weight)
    losses = check_examples(model, source, batch_size)
    backend.check_agreement(
        {"`epochs`": epochs, "`batch_size`": batch_size, "The number of examples": source.size}
    )
    probability = np.full(source.size, 1.0 / source.size)
    dataset = DrawnDataset(source, probability, batch_size, seed=draws_seed)
    return suspects(dataset, ArrayExamples(source), losses, batch_size)


def _suspects(
    model: keras.Model,
    dataset: DrawnDataset | PooledDataset,
    examples: Examples,
    losses: CompiledLosses,
    batch_size: int,
    *,
    class_names: ClassNames,
    epochs: int,
    verbose: int | Literal["auto"],
) -> Suspects:
    """Trains the model on a data set, and judges the targets by the record of that."""
    outputs = target_outputs(model, losses)
    check_class_names(class_names, outputs)
    targets = () if has_one_label(outputs) else outputs
    with Unchanged(model):
        recorder = recording(model, examples, batch_size, epochs, targets=targets)
        callbacks = [recorder, EpochCallback(dataset), RefuseDivergence(recorder, examples)]
        with recorder.listening(dataset):
            try:
                model.fit(
                    dataset, epochs=epochs, shuffle=False, callbacks=callbacks, verbose=verbose
                )
            except Exception:
                # TensorFlow wraps the data set's exception in one of its own.
                if dataset.error is not None:
                    raise dataset.error from None
                raise
        if isinstance(dataset, PooledDataset):
            # For its proposals, the model reads the stream once more.
            dataset.close()
        given = (FinishedRecord.of(recorder.record), recorder.targets, class_names, batch_size)
        return suspects_of_record(model, examples, losses, outputs, *given)


class RefuseDivergence(keras.callbacks.Callback):
    """Raises at the end of the epoch in which a loss or a weight was not finite.

    It is placed after the recorder.

    Args:
        recorder: `RecordingCallback` of the training.
        examples: `Examples` that it is trained on; a stream is read once more.
    """

    def __init__(self, recorder: RecordingCallback, examples: Examples) -> None:
        super().__init__()
        self._recorder = recorder
        self._examples = examples

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        found = self._recorder.diverged
        loss = (logs or {}).get("loss", 0.0)
        if found is None and np.isfinite(loss):
            if self._are_weights_finite():
                return
            # On some processors ReLU turns NaN into 0, so that no loss shows it.
            when = f"weights that are not finite after epoch {epoch + 1}"
        else:
            when = f"a loss of {loss} in epoch {epoch + 1}"
        if found is not None:
            of = self._at(found.index)
            step = "" if found.step is None else f"step {found.step} of "
            when = (
                f"a loss that is not finite, first of the example {of} in {step}epoch {found.epoch}"
            )
        raise ValueError(
            "The training must converge, because wrong labels are found by its losses. Received: "
            f"{when}. {self._cause()}"
        )

    def _are_weights_finite(self) -> bool:
        return all(
            np.isfinite(keras.ops.convert_to_numpy(keras.ops.sum(weight)))
            for weight in self.model.trainable_variables
        )

    def _cause(self) -> str:
        """Where the data are first not finite, or advice if they are finite."""
        for numbers, (x, y, sample_weight) in self._examples.data():
            for name, structure in {"x": x, "y": y, "sample_weight": sample_weight}.items():
                index = _first_not_finite(structure)
                if index is not None:
                    return (
                        f"`{name}` holds a NaN or an infinity, first in the example "
                        f"{self._at(numbers[index])}: replace it, or leave the example out."
                    )
        return (
            "The data are finite: lower the learning rate, scale the inputs, or set `clipnorm` "
            "in the optimizer."
        )

    def _at(self, number: int) -> str:
        if number < 0:
            return "that was not trained on"
        ids = self._examples.ids if self._examples.has_ids else None
        return f"at index {number}" if ids is None else f"with id {ids[number]}"


def _first_not_finite(structure: ArrayTree, rows: int = 4096) -> int | None:
    """The index of the first example with a number that is not finite."""
    for leaf in present_leaves(structure):
        if getattr(leaf, "dtype", None) is None or np.dtype(leaf.dtype).kind != "f":
            continue
        for start in range(0, leaf.shape[0], rows):
            part = leaf[start : start + rows]
            part = np.asarray(part.toarray() if hasattr(part, "toarray") else part)
            finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
            if not finite.all():
                return start + int(np.argmin(finite))
    return None
