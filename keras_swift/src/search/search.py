"""`search`: finds the sampler with which a model learns best.

This file defines a search's arguments and checks them; `session` runs it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np

from keras_swift.src._types import ArrayTree
from keras_swift.src.data import arrays
from keras_swift.src.data.held import held, held_examples
from keras_swift.src.fitting.model_state import Unchanged
from keras_swift.src.rules import check, check_if_given, in_argument
from keras_swift.src.scoring.examples import check_examples
from keras_swift.src.search.judge import Judge, check_classes, find_objective
from keras_swift.src.search.processes import is_distributed
from keras_swift.src.search.report import price
from keras_swift.src.search.result import SearchResult
from keras_swift.src.search.session import run_search
from keras_swift.src.search.settings import Method, SamplerSpace, SearchSettings
from keras_swift.src.search.stages import Task
from keras_swift.src.search.store import Store
from keras_swift.src.swift.feature_table import (
    DEFAULTS,
    Feature,
    check_column,
    default_features,
    is_values,
    named_features,
)
from keras_swift.src.validation import check_model, check_targets

if TYPE_CHECKING:
    import keras_tuner


def search(
    model: keras.Model,
    x: Any,
    y: Any = None,
    validation_data: Any = None,
    *,
    validation_split: float = 0.0,
    sample_weight: Any = None,
    max_trials: int = 12,
    finetune_epochs: int = 2,
    pretrain_epochs: int = 30,
    batch_size: int = 32,
    space: SamplerSpace | None = None,
    objective: str | keras_tuner.Objective | Sequence[str | keras_tuner.Objective] | None = None,
    confirm: int = 2,
    method: Method = "bayesian",
    directory: str | os.PathLike[str] | None = None,
    project_name: str = "swift_search",
    overwrite: bool = False,
    seed: int | None = None,
    verbose: int | Literal["auto"] = "auto",
) -> SearchResult:
    """Finds the sampler with which a model does best on validation data.

    1. Trains the model uniformly for `pretrain_epochs`, records each example's
       loss and margin, and computes the features from this record.
    2. Tries samplers: each trial restores the trained weights and optimizer
       state, fine-tunes for `finetune_epochs` and is judged on the validation
       data, with its weights averaged over its second half. Trial 0 is
       uniform, the next ones leave out more and more of the doubtful examples,
       then a KerasTuner oracle for samplers chooses what to try. All trials
       use one seed, so that they differ only by their sampler.
    3. Confirms: trains the best trials from scratch, like the pretraining, and
       chooses one only if it is better than uniform by more than two standard
       errors. Fine-tuning does not show the cost of leaving examples out.

    The search prints its price before it begins: with the defaults, about
    three trainings as long as the pretraining, besides it.

    The model, its optimizer and metrics are restored at the end, also after an
    error.

    With a `directory`, repeating the call resumes a search that was stopped or
    killed, with the same result as without the interruption. A finished one
    returns at once, or continues if `max_trials` is larger. A trial whose file
    is gone or damaged is named in a warning and run again; a second process in
    the same folder waits. With KerasTuner's
    environment variables set (`KERASTUNER_TUNER_ID`, `KERASTUNER_ORACLE_IP`,
    `KERASTUNER_ORACLE_PORT`), processes that make the same call share the
    trials; all must reach the same `directory`, and the chief's result is
    the complete one.

    Args:
        model: a compiled `keras.Model`; with `pretrain_epochs=0`, trained.
        x: inputs, an array, or a list or dict of arrays, first axis `n`; or a
            `PyDataset`, `tf.data.Dataset` or `DataLoader` with targets that gives
            the same examples in the same order at each pass. It is read once
            and held in memory, up to 2 GiB; indices count its examples in order.
        y: targets, likewise; `None` with a data set.
        validation_data: what trials are judged on, as for `model.fit`; data
            sets are read once and held in memory, up to 2 GiB. Its labels may
            be as wrong as those of `y`. Keep it apart from the test data: the
            sampler is fitted to it.
        validation_split: float in [0, 1), the last share of the data, held
            out from training and features. Ignored with `validation_data`.
        sample_weight: array, weights of the loss, as for `model.fit`.
        max_trials: int, samplers to try, uniform included. Defaults to 12.
        finetune_epochs: int, epochs of a trial. Defaults to 2.
        pretrain_epochs: int, uniform epochs before the trials, and epochs of a
            training from scratch: as many as you would train. Defaults to 30.
        batch_size: int. Defaults to 32.
        space: `SamplerSpace`, which features the sampler reads, and the form of
            its function. Defaults to `None`, `SamplerSpace()`.
        objective: a name from the logs of `fit`, a `keras_tuner.Objective`, or
            a list of them. Defaults to `None`: `"val_tempered_probability"` if
            all outputs are class probabilities or logits, else `"val_loss"`.
            The former is the mean probability of the label on the validation
            data, which wrong labels there do not mislead, at the temperature
            where the largest probability is 0.95 on average. The search also
            knows `"val_label_probability"`, without a temperature, and
            `"val_label_accuracy"`.
        confirm: int, how many of the best trials to train from scratch;
            0 trusts the trials, and so does `pretrain_epochs=0`, without which
            there is no training to repeat. Defaults to 2.
        method: `"bayesian"` or `"random"`, how samplers are proposed. Defaults
            to `"bayesian"`.
        directory: folder for the search's files. Defaults to `None`, a
            temporary one, which cannot be resumed.
        project_name: folder within `directory`. Defaults to `"swift_search"`.
        overwrite: bool, whether to delete the search found there, and begin
            again. Defaults to `False`.
        seed: int or `None`, fixes pretraining, draws and suggestions.
            Defaults to `None`, fresh entropy.
        verbose: `"auto"` or 1 for progress bars, 0 for silence.

    Returns:
        A `SearchResult`.

    Raises:
        TypeError: if `x` or the validation data is neither arrays nor such a data
            set (but a generator, say), or `space` is not a `SamplerSpace`.
        ValueError: for a validation set that is missing, endless or lacks
            classes, labels outside the model's classes, data that are not
            finite, an objective that is not in the logs, a `directory` with
            another search or with a start that cannot be read, or values outside
            the ranges above.
        OSError: naming the file, if one cannot be written.

    Example:

        result = search(model, x, y, validation_data=(xv, yv), batch_size=128, seed=0)
        print(result)
        SwiftTraining(fresh_model, result).fit(x, y, batch_size=128, epochs=30)

    Reference:
        Yao, Li and Xiao, "Swift Sampler: Efficient Learning of Sampler by 10
        Parameters", NeurIPS 2024, arXiv 2410.05578.
    """
    check_model(model, trains=True)
    check(validation_split=validation_split, project_name=project_name, overwrite=overwrite)
    check_if_given(directory=directory, objective=objective)
    settings = SearchSettings(
        max_trials=max_trials,
        finetune_epochs=finetune_epochs,
        pretrain_epochs=pretrain_epochs,
        batch_size=batch_size,
        confirm=confirm,
        method=method,
        seed=seed,
        verbose=verbose,
    )
    batch_size = settings.batch_size
    if space is None:
        space = SamplerSpace()
    if not isinstance(space, SamplerSpace):
        raise TypeError(
            "`space` must be a `keras_swift.SamplerSpace`. Received: "
            f"space={type(space).__name__}. Use `SamplerSpace(features)` for other features."
        )
    x, y, sample_weight = held_examples(x, y, sample_weight)
    check_targets(y)
    named = {} if space.features is None else named_features(space.features)
    if is_distributed() and (directory is None or overwrite):
        raise ValueError(
            "A search shared among processes needs a `directory` that all of them reach, and "
            f"overwrite=False. Received: directory={directory!r}, overwrite={overwrite}. Remove an "
            "older search by hand before the first process starts."
        )
    if validation_data is None:
        data, validation_data, named = _held_out(x, y, sample_weight, validation_split, named)
        x, y, sample_weight = data
    else:
        validation_data = held(validation_data)
    source = arrays.ArraySource(x, y, sample_weight)
    for name, feature in named.items():
        if is_values(feature):
            check_column(name, feature, source.size)
    check_examples(model, source, batch_size)
    with in_argument("validation_data"):
        check_examples(model, arrays.ArraySource(*validation_data), batch_size)
    note = ""
    if space.features is None:
        named = named_features(default_features(model))
        if tuple(named) != DEFAULTS:
            note = f"in place of {', '.join(DEFAULTS)}, which are for classifiers"
    with Unchanged(model):
        judge = Judge(model, validation_data, batch_size)
        parsed = find_objective(judge, objective)
        check_classes(model, source.y, validation_data[1])
        if verbose:
            print(price(model, settings), flush=True)
        folder = tempfile.mkdtemp(prefix="keras_swift_") if directory is None else str(directory)
        try:
            task = Task(model, source, judge, parsed, named, space, settings)
            return run_search(task, Store(os.path.join(folder, project_name)), note, overwrite)
        finally:
            if directory is None:
                shutil.rmtree(folder, ignore_errors=True)


def _held_out(
    x: ArrayTree, y: ArrayTree, sample_weight: ArrayTree, share: float, named: dict[str, Feature]
) -> tuple[arrays.Data, arrays.Data, dict[str, Feature]]:
    """The data to train on and to validate on, and the features of the former."""
    if not share:
        raise ValueError(
            "`validation_data` must be given: trials are judged on it. Received: "
            "validation_data=None, validation_split=0.0. Pass `validation_data=(xv, yv)`, or "
            "`validation_split` to hold out the last share of the data."
        )
    total = arrays.ArraySource(x, y, sample_weight).size
    data, validation_data = arrays.split(x, y, sample_weight, share)
    # Features given for all examples are split like the examples.
    size = arrays.ArraySource(*data[:2]).size
    named = {
        name: np.asarray(feature)[:size]
        if is_values(feature) and _length(feature) == total
        else feature
        for name, feature in named.items()
    }
    return data, validation_data, named


def _length(feature: Any) -> int | None:
    """The length of an array; `None` if it has none, which raises later, with its name."""
    try:
        return len(feature)
    except TypeError:
        return None
