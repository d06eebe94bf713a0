"""`find_suspects`: finds wrong labels from one training and nothing else.

This file decides what a training records to find them; `keras_swift.src.suspects` does the rest.
"""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src.data import arrays
from keras_swift.src.data.held import held_examples
from keras_swift.src.fitting.model_state import Unchanged
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.targets import target_outputs
from keras_swift.src.rules import COUNT, check, check_if_given
from keras_swift.src.scoring.examples import check_examples
from keras_swift.src.suspects.of_record import (
    check_are_numbers,
    has_one_label,
    suspects_of_record,
)
from keras_swift.src.suspects.result import ClassNames, Suspects
from keras_swift.src.swift.datasets import DrawnDataset
from keras_swift.src.swift.divergence import RefuseDivergence
from keras_swift.src.swift.recording import recording
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

    With several processes on JAX (`keras.distribution.DataParallel`), each passes its own part
    of the data and gets the suspects among them; the share of wrong labels is that of all parts.

    Trains the model and records its loss and margin on each target whenever
    it is trained on: the steps compute them anyway. Wrong labels are learned
    late: averaged over the training, another class is more probable. This
    needs no validation data and no search. The model, its optimizer and
    metrics are restored at the end.

    What a target is follows from the loss. Cross-entropy of classes: one
    class for an example, or one at each step or pixel. Binary cross-entropy:
    one label or several, each yes or no. A loss of values (`mse`, `mae`,
    `huber`, ...): each number, which is a suspect if it lies beyond the tail
    of the distances between the others and what the model predicted over its
    training. Any other loss: the loss of the example. Targets that are masked,
    ignored or of weight 0 do not count.

    Args:
        model: a compiled `keras.Model`, not yet trained.
        x, y: arrays, or lists or dicts of arrays, first axis `n`; or `x` alone a
            data set, as for `search`.
        epochs: int. Enough to learn what most examples have in common, but
            too few to memorise all labels. Defaults to 15.
        batch_size: int. Defaults to 32.
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
        `to_frame()`, `to_csv()` and `plot()`.

    Raises:
        TypeError: if `x` is neither arrays nor a data set that can be held.
        ValueError: if the model is not compiled, for values outside the
            ranges above, for targets that are not numbers or that the outputs
            have no place for, if processes have parts of different sizes, and
            if the training diverges.

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
    x, y, sample_weight = held_examples(x, y, sample_weight)
    check_targets(y)
    check_are_numbers(y)
    backend = backends.active()
    backend.check_devices(model)
    source = arrays.ArraySource(x, y, sample_weight)
    losses = check_examples(model, source, batch_size)
    backend.check_agreement(
        {"`epochs`": epochs, "`batch_size`": batch_size, "The number of examples": source.size}
    )
    outputs = target_outputs(model, losses)
    process, count = backend.process()
    own_seed = seed if seed is None or count == 1 else [seed, process]
    seed = int(np.random.default_rng(own_seed).integers(2**31))
    plain = has_one_label(outputs)
    with Unchanged(model):
        recorder = recording(model, source, batch_size, epochs, targets=() if plain else outputs)
        probability = np.full(source.size, 1.0 / source.size)
        dataset = DrawnDataset(source, probability, batch_size, seed=seed)
        with recorder.listening(dataset):
            callbacks = [recorder, RefuseDivergence(recorder, source)]
            model.fit(dataset, epochs=epochs, shuffle=False, callbacks=callbacks, verbose=verbose)
        return suspects_of_record(
            model,
            source,
            losses,
            outputs,
            FinishedRecord.of(recorder.record),
            recorder.targets,
            class_names,
            batch_size,
        )
