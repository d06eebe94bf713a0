"""`search`: finds the sampler a model learns best under.

This file decides the order of a search (pretrain, features, trials), what the trials share, and
how a search on disk is recognised as the same one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import io
import json
import math
import os
import shutil
import tempfile
import time
from typing import Any

import keras
import numpy as np

from keras_swift import fingerprint, sources
from keras_swift.features import compute_features, named_features
from keras_swift.importance_dataset import check_model, check_positive_integer
from keras_swift.model_state import Unchanged, read_variables, write_variables
from keras_swift.sampler_space import SamplerSpace
from keras_swift.scoring import build
from keras_swift.search_checks import check_classes, find_objective, validation_size
from keras_swift.search_result import SearchResult, SearchTrial
from keras_swift.search_start import Start, read_start, write_start
from keras_swift.swift_sampler import DEFAULT_FEATURES, GRADIENT_NORM, TRANSFORMS, SwiftSampler
from keras_swift.swift_training import DrawnDataset

METHODS = ("bayesian", "random")
START = "start.npz"


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
    draw from one seed, so that they differ by their sampler. Bayesian
    optimisation by KerasTuner, with an oracle made for samplers, chooses what
    to try.

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
    distributed = "KERASTUNER_ORACLE_IP" in os.environ
    if distributed and (directory is None or overwrite):
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
        total = sources.ArraySource(x, y, sample_weight).size
        (x, y, sample_weight), validation_data = sources.split(
            x, y, sample_weight, validation_split
        )
        # Features that were given for all examples are cut like the examples.
        size = sources.ArraySource(x, y).size
        named = {
            name: feature
            if isinstance(feature, str) or callable(feature) or len(feature) != total
            else np.asarray(feature)[:size]
            for name, feature in named.items()
        }
    source = sources.ArraySource(x, y, sample_weight)
    first = source.take(np.arange(min(batch_size, source.size)))[:2]
    build(model, *first)
    with Unchanged(model):
        folder = tempfile.mkdtemp(prefix="keras_swift_") if directory is None else str(directory)
        try:
            run = _Search(
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


@dataclasses.dataclass(frozen=True)
class _Search:
    """One call of `search`, its arguments checked."""

    model: keras.Model
    source: sources.ArraySource
    validation_data: Any
    named: dict[str, Any]
    max_trials: int
    finetune_epochs: int
    pretrain_epochs: int
    batch_size: int
    segments: int
    transform: str
    objective: Any
    method: str
    directory: str
    project_name: str
    seed: int | None
    verbose: Any

    def result(self, overwrite: bool) -> SearchResult:
        """Runs what is left of the search and reads what came of it."""
        from keras_swift.oracle import SwiftOracle
        from keras_swift.tuner import SwiftTuner

        data_fingerprint = fingerprint.of_arrays((self.source.x, self.source.y))
        start = self._start(overwrite, data_fingerprint)
        space = SamplerSpace(
            tuple(self.named), self.segments, self.transform, start.features, start.seed
        )
        oracle = SwiftOracle(
            space,
            self.objective,
            self.max_trials,
            method=self.method,
            validation_size=validation_size(self.validation_data),
            seed=start.seed,
        )
        oracle.verbose = 0
        report = self._reporter()

        def evaluate(sampler: SwiftSampler) -> dict[str, float]:
            write_variables(self.model, start.values)
            return self._train(
                sampler.probabilities(start.features), self.finetune_epochs, start.seed, judge=True
            )

        tuner = None
        try:
            # A worker that comes when all is done would wait for a chief that has left.
            if not (_is_worker() and self._is_over(space)):
                with contextlib.redirect_stdout(io.StringIO()):
                    # KerasTuner prints that it takes up an old search.
                    tuner = SwiftTuner(oracle, evaluate, report, self.directory, self.project_name)
                tuner.search()
        except Exception:
            if tuner is not None and tuner.error is not None:
                raise tuner.error from None
            # KerasTuner's chief leaves when the last trial is done, also while it answers the
            # workers that ask for another: theirs is then a broken connection, not a failure.
            if not (_is_worker() and self._is_over(space)):
                raise
        return SearchResult(
            features=start.features,
            trials=self._trials(space),
            objective=oracle.objective.name,
            direction=oracle.objective.direction,
            suspicion=start.suspicion,
            pretrained_weights=start.pretrained_weights,
            pretrain_epochs=self.pretrain_epochs,
            finetune_epochs=self.finetune_epochs,
            pretrain_seconds=start.seconds,
            data_fingerprint=data_fingerprint,
        )

    @property
    def _folder(self) -> str:
        return os.path.join(self.directory, self.project_name)

    def _train(
        self, probability: np.ndarray, epochs: int, seed: int, judge: bool
    ) -> dict[str, float]:
        """Trains under a probability; the logs of the last epoch."""
        dataset = DrawnDataset(self.source, probability, self.batch_size, seed=seed)
        history = self.model.fit(
            dataset,
            epochs=epochs,
            verbose=0 if judge or not self.verbose else self.verbose,
            shuffle=False,
            validation_data=self.validation_data if judge else None,
            validation_batch_size=self.batch_size
            if isinstance(self.validation_data, tuple)
            else None,
            validation_freq=epochs,
        )
        return {name: values[-1] for name, values in history.history.items()}

    def _start(self, overwrite: bool, data_fingerprint: str) -> Start:
        """The shared start: from disk, or made now."""
        path = os.path.join(self._folder, START)
        settings = self._settings(data_fingerprint)
        if overwrite and os.path.isdir(self._folder):
            shutil.rmtree(self._folder)
        if _is_chief():
            # The chief trains nothing: the first worker to be ready makes the start.
            while not os.path.exists(path):
                time.sleep(0.2)
        if not os.path.exists(path):
            if not _is_distributed() and os.path.exists(os.path.join(self._folder, "oracle.json")):
                raise ValueError(
                    f"`directory` must be empty or hold this search. Received: {self._folder}, a "
                    "KerasTuner project of another kind. Choose another `directory` or "
                    "`project_name`, or pass overwrite=True to delete it."
                )
            start = self._make_start()
            write_start(path, start, settings)
        return read_start(path, settings, self.seed)

    def _settings(self, data_fingerprint: str) -> dict[str, str]:
        """What makes a search this one, as hashes with names to complain by."""
        validation = self.validation_data
        arrays = validation if isinstance(validation, tuple | list) else None
        with contextlib.suppress(TypeError):
            arrays = keras.tree.map_structure(np.asarray, arrays)
        described = {
            name: feature
            if isinstance(feature, str)
            else "callable"
            if callable(feature)
            else fingerprint.of_arrays(np.asarray(feature))
            for name, feature in self.named.items()
        }
        # With pretraining, weights start at random, and what counts is what was made of them.
        return {
            "data": data_fingerprint + fingerprint.of_arrays(self.source.sample_weight),
            "validation data": fingerprint.of_arrays(arrays),
            "model": fingerprint.of_model(self.model, weights=self.pretrain_epochs == 0),
            "settings": fingerprint.of_settings(
                {
                    "features": described,
                    "order": list(described),
                    "finetune_epochs": int(self.finetune_epochs),
                    "pretrain_epochs": self.pretrain_epochs,
                    "batch_size": int(self.batch_size),
                    "segments": int(self.segments),
                    "transform": self.transform,
                    "method": self.method,
                    "objective": str(self.objective),
                }
            ),
        }

    def _make_start(self) -> Start:
        """Pretrains and computes the features."""
        begin = time.perf_counter()
        seed = self.seed
        if seed is None:
            seed = int(np.random.default_rng().integers(2**31))
        if self.pretrain_epochs:
            uniform = np.full(self.source.size, 1.0 / self.source.size)
            # Not the trials' seed: they would begin with the draws the pretraining ended with.
            self._train(uniform, self.pretrain_epochs, seed + 1, judge=False)
        values = read_variables(self.model)
        weights = [np.array(keras.ops.convert_to_numpy(w)) for w in self.model.weights]
        wanted = dict(self.named)
        if self.transform == "cgf":
            wanted.setdefault(GRADIENT_NORM, GRADIENT_NORM)
        columns = compute_features(
            self.model,
            self.source.x,
            self.source.y,
            wanted,
            batch_size=self.batch_size,
            verbose=self.verbose,
        )
        return Start(
            seed=seed,
            values=values,
            features=columns,
            suspicion=self._suspicion(columns),
            pretrained_weights=weights,
            seconds=time.perf_counter() - begin,
        )

    def _suspicion(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        """How strongly each label is doubted by the model as it is."""
        wanted = ["loss", "renormed_entropy"]
        missing = [name for name in wanted if name not in columns]
        found = dict(columns)
        try:
            found.update(
                compute_features(
                    self.model,
                    self.source.x,
                    self.source.y,
                    missing,
                    batch_size=self.batch_size,
                    verbose=0,
                )
                if missing
                else {}
            )
        except ValueError:
            # No renormed entropy for this model.
            return found.get("loss", next(iter(columns.values())))
        loss, entropy = found["loss"], found["renormed_entropy"]
        return loss + np.log(np.maximum(-np.expm1(-loss), 1e-12)) - entropy

    def _trials(self, space: SamplerSpace) -> tuple[SearchTrial, ...]:
        """Every trial on disk, whichever process ran it."""
        trials = []
        for name in glob.glob(os.path.join(glob.escape(self._folder), "trial_*", "trial.json")):
            with open(name, encoding="utf-8") as file:
                state = json.load(file)
            finished = state["status"] == "COMPLETED"
            metrics = {
                name: float(metric["observations"][-1]["value"][-1])
                for name, metric in state["metrics"]["metrics"].items()
                if finished
            }
            trials.append(
                SearchTrial(
                    number=int(state["trial_id"]),
                    sampler=space.from_values(state["hyperparameters"]["values"]),
                    objective=float(state["score"]) if finished else math.nan,
                    seconds=metrics.pop("seconds", math.nan),
                    status=state["status"],
                    metrics=metrics,
                )
            )
        return tuple(sorted(trials, key=lambda trial: trial.number))

    def _is_over(self, space: SamplerSpace) -> bool:
        """Whether every trial has been run, by whichever process."""
        done = [trial for trial in self._trials(space) if trial.status in ("COMPLETED", "FAILED")]
        return len(done) >= self.max_trials

    def _reporter(self) -> Any:
        """A function that moves a progress bar on with each trial."""
        if not self.verbose:
            return lambda number, value: None
        bar = keras.utils.Progbar(
            self.max_trials, unit_name="trial", stateful_metrics=["objective", "best"]
        )
        sign = -1.0 if self.objective.direction == "max" else 1.0
        seen = [math.inf]

        def report(number: int, value: float) -> None:
            if math.isfinite(value):
                seen.append(sign * value)
            bar.update(
                min(number + 1, self.max_trials),
                [("objective", value), ("best", sign * min(seen))],
            )

        return report


def _is_distributed() -> bool:
    return "KERASTUNER_ORACLE_IP" in os.environ


def _is_chief() -> bool:
    return "chief" in os.environ.get("KERASTUNER_TUNER_ID", "") and _is_distributed()


def _is_worker() -> bool:
    return _is_distributed() and not _is_chief()
