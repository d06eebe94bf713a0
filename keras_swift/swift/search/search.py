"""`search`: finds the sampler a model learns best under.

This file decides what a search takes and checks it; `search_run.py` runs it.
"""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import keras
import numpy as np

from keras_swift.data import arrays
from keras_swift.fitting.model_state import Unchanged
from keras_swift.scoring.compiled import build
from keras_swift.swift.features import named_features
from keras_swift.swift.sampler import DEFAULT_FEATURES, TRANSFORMS
from keras_swift.swift.search.objective import check_classes, find_objective
from keras_swift.swift.search.result import SearchResult
from keras_swift.swift.search.run import SearchRun, is_distributed
from keras_swift.validation import check_model, check_positive_integer

METHODS = ("bayesian", "random")


def search(
    model: keras.Model,
    x: Any,
    y: Any,
    validation_data: Any = None,
    *,
    validation_split: float = 0.0,
    sample_weight: Any = None,
    max_trials: int = 40,
    finetune_epochs: int = 5,
    pretrain_epochs: int = 10,
    batch_size: int = 32,
    features: Any = DEFAULT_FEATURES,
    segments: int = 4,
    transform: str = "cgf",
    objective: Any = None,
    method: str = "bayesian",
    directory: Any = None,
    project_name: str = "swift_search",
    overwrite: bool = False,
    seed: int | None = None,
    verbose: Any = "auto",
) -> SearchResult:
    """Searches the sampler under which a model does best on validation data.

    Trains the model uniformly for a while, computes the features of every
    example once, and then tries samplers: each trial restores the trained
    weights and optimizer state, fine-tunes under its sampler and is judged on
    the validation data after its last epoch. Trial 0 is uniform. All trials
    draw from one seed, so that they differ by their sampler. What is judged
    are the weights averaged over the second half of a trial, and features
    come from those averaged over the last epoch of the pretraining: the last
    few batches count for less. Bayesian optimisation by KerasTuner, with an
    oracle made for samplers, chooses what to try.

    The model, its optimizer and metrics leave as they came, whatever happens.

    With a `directory`, a search that was stopped or killed goes on where it
    was when the same call is made again, and ends as it would have. A
    finished one returns at once, and one with more `max_trials` goes on.
    With KerasTuner's environment variables set (`KERASTUNER_TUNER_ID`,
    `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT`), the trials are shared
    among processes that make the same call with the same `directory`, which
    all of them must reach; the chief's result is the complete one.

    Args:
        model: a compiled `keras.Model`; with `pretrain_epochs=0`, trained.
        x, y: arrays, or lists or dicts of arrays, first axis `n`.
        validation_data: what trials are judged on, as for `model.fit`. Keep it
            apart from the test data: the sampler is fitted to it.
        validation_split: float in [0, 1), the last share of the data, held
            out from training and features. Ignored with `validation_data`.
        sample_weight: array, weights of the loss, as for `model.fit`.
        max_trials: int, samplers to try, uniform included. Defaults to 40.
        finetune_epochs: int, epochs of a trial. Too few cannot tell samplers
            apart. Defaults to 5.
        pretrain_epochs: int, uniform epochs before the trials. Defaults to 10.
        batch_size: int. Defaults to 32.
        features: what the sampler reads, see `compute_features`. Defaults to
            `("loss", "renormed_entropy")`.
        segments: int, linear pieces of the sampler's function. Defaults to 4.
        transform: `"cgf"` or `"cdf"`, see `SwiftSampler`.
        objective: a name from the logs of `fit`, a `keras_tuner.Objective`, or
            a list of them. Defaults to `None`: `"val_accuracy"` where
            accuracy is compiled, else `"val_loss"`.
        method: `"bayesian"` or `"random"`.
        directory: folder for the search's files. Defaults to `None`, a
            temporary one: nothing to resume.
        project_name: folder within `directory`.
        overwrite: bool, whether to delete another search found there.
        seed: int or `None`, fixes pretraining, draws and suggestions.
            Defaults to `None`, fresh entropy.
        verbose: `"auto"` or 1 for progress bars, 0 for silence.

    Returns:
        A `SearchResult`.

    Raises:
        TypeError: if `x` and `y` are not arrays.
        ValueError: for a missing validation set or one that lacks classes, an
            objective that is not in the logs, a `directory` that holds another
            search, or values outside the ranges above.

    Example:

        result = search(model, x, y, validation_data=(xv, yv), batch_size=128, seed=0)
        print(result)
        SwiftTraining(fresh_model, result).fit(x, y, batch_size=128, epochs=30)

    Reference:
        Yao, Li and Xiao, "Swift Sampler: Efficient Learning of Sampler by 10
        Parameters", NeurIPS 2024, arXiv 2410.05578.
    """
    check_model(model)
    for name, value in (
        ("max_trials", max_trials),
        ("finetune_epochs", finetune_epochs),
        ("batch_size", batch_size),
        ("segments", segments),
    ):
        check_positive_integer(name, value)
    if isinstance(pretrain_epochs, bool) or not isinstance(pretrain_epochs, int | np.integer):
        raise TypeError(f"`pretrain_epochs` must be an int. Received: {pretrain_epochs!r}")
    if pretrain_epochs < 0:
        raise ValueError(f"`pretrain_epochs` must not be negative. Received: {pretrain_epochs}")
    if transform not in TRANSFORMS:
        raise ValueError(f"`transform` must be one of {TRANSFORMS}. Received: {transform!r}")
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {METHODS}. Received: {method!r}")
    named = named_features(features)
    if is_distributed() and (directory is None or overwrite):
        raise ValueError(
            "A search shared among processes needs a `directory` that all of them reach, and "
            f"overwrite=False. Received: directory={directory!r}, overwrite={overwrite}. Remove an "
            "older search by hand before the first process starts."
        )
    if validation_data is None:
        if not validation_split:
            raise ValueError(
                "`validation_data` must be given: trials are judged on it. Received: "
                "validation_data=None, validation_split=0.0. Pass `validation_data=(xv, yv)`, or "
                "`validation_split` to hold out the last share of the data."
            )
        total = arrays.ArraySource(x, y, sample_weight).size
        (x, y, sample_weight), validation_data = arrays.split(x, y, sample_weight, validation_split)
        # Features that were given for all examples are cut like the examples.
        size = arrays.ArraySource(x, y).size
        named = {
            name: feature
            if isinstance(feature, str) or callable(feature) or len(feature) != total
            else np.asarray(feature)[:size]
            for name, feature in named.items()
        }
    source = arrays.ArraySource(x, y, sample_weight)
    first = source.take(np.arange(min(batch_size, source.size)))[:2]
    build(model, *first)
    with Unchanged(model):
        folder = tempfile.mkdtemp(prefix="keras_swift_") if directory is None else str(directory)
        try:
            run = SearchRun(
                model=model,
                source=source,
                validation_data=validation_data,
                named=named,
                max_trials=max_trials,
                finetune_epochs=finetune_epochs,
                pretrain_epochs=int(pretrain_epochs),
                batch_size=batch_size,
                segments=segments,
                transform=transform,
                objective=find_objective(model, validation_data, batch_size, objective),
                method=method,
                directory=folder,
                project_name=project_name,
                seed=seed,
                verbose=verbose,
            )
            check_classes(source.y, validation_data)
            return run.result(overwrite)
        finally:
            if directory is None:
                shutil.rmtree(folder, ignore_errors=True)
