"""One search: pretrain, compute the features, run the trials, read them back.

This file decides the order of a search, what the trials share, and how a search on disk is
recognised as the same one.
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
import time
from typing import Any

import keras
import numpy as np

from keras_swift.data import arrays
from keras_swift.fitting.model_state import read_variables, write_variables
from keras_swift.fitting.weight_average import WeightAverage
from keras_swift.swift.datasets import DrawnDataset
from keras_swift.swift.features import compute_features
from keras_swift.swift.sampler import GRADIENT_NORM, SwiftSampler
from keras_swift.swift.search import fingerprint
from keras_swift.swift.search.objective import validation_size
from keras_swift.swift.search.result import SearchResult, SearchTrial
from keras_swift.swift.search.space import SamplerSpace
from keras_swift.swift.search.start import Start, read_start, write_start

START = "start.npz"


@dataclasses.dataclass(frozen=True)
class SearchRun:
    """One call of `search`, its arguments checked."""

    model: keras.Model
    source: arrays.ArraySource
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
        from keras_swift.swift.search.oracle import SwiftOracle
        from keras_swift.swift.search.tuner import SwiftTuner

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
            if not (is_worker() and self._is_over(space)):
                with contextlib.redirect_stdout(io.StringIO()):
                    # KerasTuner prints that it takes up an old search.
                    tuner = SwiftTuner(oracle, evaluate, report, self.directory, self.project_name)
                tuner.search()
        except Exception:
            if tuner is not None and tuner.error is not None:
                raise tuner.error from None
            # KerasTuner's chief leaves when the last trial is done, also while it answers the
            # workers that ask for another: theirs is then a broken connection, not a failure.
            if not (is_worker() and self._is_over(space)):
                raise
        trials = self._trials(space)
        objectives = np.array([t.objective for t in trials if math.isfinite(t.objective)])
        noise = oracle.sampling_noise(objectives) if len(objectives) else 0.0
        return SearchResult(
            features=start.features,
            trials=trials,
            objective=oracle.objective.name,
            direction=oracle.objective.direction,
            suspicion=start.suspicion,
            pretrained_weights=start.pretrained_weights,
            pretrain_epochs=self.pretrain_epochs,
            finetune_epochs=self.finetune_epochs,
            pretrain_seconds=start.seconds,
            data_fingerprint=data_fingerprint,
            tolerance=math.sqrt(2.0 * noise),
        )

    @property
    def _folder(self) -> str:
        return os.path.join(self.directory, self.project_name)

    def _train(
        self, probability: np.ndarray, epochs: int, seed: int, judge: bool
    ) -> dict[str, float]:
        """Trains under a probability, ends with averaged weights; the logs of the last epoch."""
        dataset = DrawnDataset(self.source, probability, self.batch_size, seed=seed)
        steps = dataset.num_batches
        # Half a trial: its first steps still forget what uniform training had learned.
        averaged = max(1, epochs * steps // 2) if judge else steps
        average = WeightAverage(epochs, steps, averaged)
        history = self.model.fit(
            dataset,
            epochs=epochs,
            verbose=0 if judge or not self.verbose else self.verbose,
            shuffle=False,
            callbacks=[average],
        )
        average.put()
        logs = {name: values[-1] for name, values in history.history.items()}
        if judge:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self.validation_data)
            judged = self.model.evaluate(
                x,
                y,
                sample_weight=sample_weight,
                batch_size=None if y is None else self.batch_size,
                verbose=0,
                return_dict=True,
            )
            logs |= {f"val_{name}": float(value) for name, value in judged.items()}
        return logs

    def _start(self, overwrite: bool, data_fingerprint: str) -> Start:
        """The shared start: from disk, or made now."""
        path = os.path.join(self._folder, START)
        settings = self._settings(data_fingerprint)
        if overwrite and os.path.isdir(self._folder):
            shutil.rmtree(self._folder)
        if is_chief():
            # The chief trains nothing: the first worker to be ready makes the start.
            while not os.path.exists(path):
                time.sleep(0.2)
        if not os.path.exists(path):
            if not is_distributed() and os.path.exists(os.path.join(self._folder, "oracle.json")):
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
        held_out = validation if isinstance(validation, tuple | list) else None
        with contextlib.suppress(TypeError):
            held_out = keras.tree.map_structure(np.asarray, held_out)
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
            "validation data": fingerprint.of_arrays(held_out),
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


def is_distributed() -> bool:
    return "KERASTUNER_ORACLE_IP" in os.environ


def is_chief() -> bool:
    return "chief" in os.environ.get("KERASTUNER_TUNER_ID", "") and is_distributed()


def is_worker() -> bool:
    return is_distributed() and not is_chief()
