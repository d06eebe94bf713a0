"""One search: pretrains, computes the features, runs the trials, reads them back.

This file decides the order of a search, what the trials share, and how to recognise a search on
disk as the same one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import io
import json
import math
import os
import shutil
import time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import keras
import numpy as np

from keras_swift.src._types import FloatArray
from keras_swift.src.data import arrays, fingerprint
from keras_swift.src.fitting.atomic import write_atomically
from keras_swift.src.fitting.model_state import read_variables, write_variables
from keras_swift.src.fitting.weight_average import WeightAverage
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.outputs import classes_of, is_one_class
from keras_swift.src.search.choice import candidates
from keras_swift.src.search.judge import Judge
from keras_swift.src.search.processes import is_chief, is_distributed, is_worker
from keras_swift.src.search.progress import time_to_come, trial_reporter
from keras_swift.src.search.result import SearchResult
from keras_swift.src.search.space import SamplerSpace
from keras_swift.src.search.start import Start, read_start, write_start
from keras_swift.src.search.trial import SearchTrial
from keras_swift.src.swift.datasets import DrawnDataset
from keras_swift.src.swift.features import Feature, compute_features
from keras_swift.src.swift.recording import RecordingCallback, recording
from keras_swift.src.swift.sampler import GRADIENT_NORM, SwiftSampler, Transform

if TYPE_CHECKING:
    import keras_tuner

Method: TypeAlias = Literal["bayesian", "random"]
START = "start.npz"
# Files of the objective's values on the validation examples, of a trial and from scratch.
VALUES = "values_{number}.npy"
CONFIRMED = "confirmed_{number}.npz"


@dataclasses.dataclass(frozen=True)
class SearchRun:
    """One call of `search`, with checked arguments."""

    model: keras.Model
    source: arrays.ArraySource
    judge: Judge
    named: dict[str, Feature]
    max_trials: int
    finetune_epochs: int
    pretrain_epochs: int
    batch_size: int
    segments: int
    transform: Transform
    objective: keras_tuner.Objective
    confirm: int
    method: Method
    note: str
    directory: str
    project_name: str
    seed: int | None
    verbose: int | Literal["auto"]

    def result(self, overwrite: bool) -> SearchResult:
        """Runs what is left of the search and reads the result."""
        from keras_swift.src.search.oracle import SwiftOracle
        from keras_swift.src.search.tuner import SwiftTuner

        data_fingerprint = fingerprint.of_arrays((self.source.x, self.source.y))
        start = self._start(overwrite, data_fingerprint)
        space = SamplerSpace(
            tuple(self.named), self.segments, self.transform, start.features, start.seed
        )
        left = self.max_trials - len(self._trials(space))
        if self.verbose and self.pretrain_epochs and left > 0 and not is_worker():
            epochs, trial_epochs = self.pretrain_epochs, self.finetune_epochs
            text = time_to_come(start.seconds, epochs, left, trial_epochs, self.confirm)
            print(text, flush=True)
        oracle = SwiftOracle(
            space, self.objective, self.max_trials, method=self.method, seed=start.seed
        )
        oracle.verbose = 0
        report = trial_reporter(self.max_trials, self.objective.direction, self.verbose)

        def evaluate(number: int, sampler: SwiftSampler) -> dict[str, float]:
            write_variables(self.model, start.values)
            # Averages over half a trial: in its first steps the model still forgets what it
            # learned in uniform training.
            logs, values = self._train(
                sampler.probabilities(start.features),
                self.finetune_epochs,
                start.seed,
                averaged=self.finetune_epochs / 2,
            )
            if values is not None:
                values_path = os.path.join(self._folder, VALUES.format(number=number))
                write_atomically(values_path, lambda file: np.save(file, values))
            return logs

        tuner = None
        try:
            # A worker that starts when all is done would wait for a chief that has left.
            if not (is_worker() and self._is_over(space)):
                with contextlib.redirect_stdout(io.StringIO()):
                    # KerasTuner prints that it resumes a search.
                    tuner = SwiftTuner(oracle, evaluate, report, self.directory, self.project_name)
                tuner.search()
        except Exception:
            if tuner is not None and tuner.error is not None:
                raise tuner.error from None
            # KerasTuner's chief leaves when the last trial is done, even while workers ask it for
            # another one: their broken connection is then not a failure.
            if not (is_worker() and self._is_over(space)):
                raise
        trials = self._trials(space)
        return SearchResult(
            features=start.features,
            trials=trials,
            confirmed=self._confirmed(start, trials),
            objective=self.objective.name,
            direction=self.objective.direction,
            record=FinishedRecord(**start.record),
            classes=classes_of(self.source.y) if is_one_class(self.model) else None,
            pretrained_weights=start.pretrained_weights,
            pretrain_epochs=self.pretrain_epochs,
            finetune_epochs=self.finetune_epochs,
            pretrain_seconds=start.seconds,
            record_epochs=start.record_cost,
            data_fingerprint=data_fingerprint,
            note=self.note,
        )

    def _confirmed(self, start: Start, trials: tuple[SearchTrial, ...]) -> tuple[SearchTrial, ...]:
        """Uniform and the best trials, trained from scratch; those on disk are not run again.

        The pretraining was uniform and from scratch, so uniform costs nothing more.
        """
        direction = self.objective.direction
        best = candidates(trials, direction, start.features, self.confirm)
        if not best or not self.pretrain_epochs:
            return ()
        found = []
        bar = None
        if self.verbose:
            print("Training the best from scratch, to confirm them.", flush=True)
            bar = keras.utils.Progbar(len(best), unit_name="training")
        for trial in best:
            name = CONFIRMED.format(number=trial.number)
            path = os.path.join(self._folder, name)
            # If processes share a search, the chief confirms.
            if not os.path.exists(path) and not is_worker():
                begin = time.perf_counter()
                write_variables(self.model, start.initial)
                logs, values = self._train(
                    trial.sampler.probabilities(start.features),
                    self.pretrain_epochs,
                    start.seed + 1,
                    averaged=1.0,
                )
                content: dict[str, Any] = {
                    "logs": np.array(json.dumps(logs)),
                    "values": np.empty(0) if values is None else values,
                    "seconds": np.array(time.perf_counter() - begin),
                }
                write_atomically(path, functools.partial(np.savez, **content))
            if os.path.exists(path):
                with np.load(path) as loaded:
                    logs = json.loads(str(loaded["logs"]))
                    values, seconds = loaded["values"], float(loaded["seconds"])
                found.append(self._trained(trial.number, trial.sampler, logs, values, seconds))
            if bar is not None:
                bar.update(len(found))
        if not found:
            return ()
        uniform = trials[0].sampler
        return (self._trained(0, uniform, start.logs, start.judged, start.seconds), *found)

    def _trained(
        self,
        number: int,
        sampler: SwiftSampler,
        logs: dict[str, float],
        values: FloatArray,
        seconds: float,
    ) -> SearchTrial:
        value = float(self.objective.get_value(logs))
        return SearchTrial(
            number=number,
            sampler=sampler,
            objective=value if math.isfinite(value) else math.nan,
            seconds=seconds,
            status="COMPLETED" if math.isfinite(value) else "FAILED",
            metrics=logs,
            values=values if len(values) else None,
        )

    @property
    def _folder(self) -> str:
        return os.path.join(self.directory, self.project_name)

    def _train(
        self,
        probability: FloatArray,
        epochs: int,
        seed: int,
        *,
        averaged: float,
        recorder: RecordingCallback | None = None,
        verbose: int | Literal["auto"] = 0,
    ) -> tuple[dict[str, float], FloatArray | None]:
        """Trains with these probabilities and judges the mean weights of `averaged` epochs.

        Returns:
            The logs of the last epoch and of the validation data, and the
            objective's value on each validation example.
        """
        dataset = DrawnDataset(self.source, probability, self.batch_size, seed=seed)
        steps = dataset.num_batches
        average = WeightAverage(epochs, steps, max(1, int(averaged * steps)))
        callbacks = [average] if recorder is None else [average, recorder]
        with contextlib.nullcontext() if recorder is None else recorder.listening(dataset):
            history = self.model.fit(
                dataset, epochs=epochs, verbose=verbose, shuffle=False, callbacks=callbacks
            )
        average.put()
        logs = {name: float(values[-1]) for name, values in history.history.items()}
        judged, values = self.judge.judge(self.objective)
        return logs | judged, values

    def _start(self, overwrite: bool, data_fingerprint: str) -> Start:
        """The shared start: read from disk, or made now."""
        path = os.path.join(self._folder, START)
        settings = self._settings(data_fingerprint)
        if overwrite and os.path.isdir(self._folder):
            shutil.rmtree(self._folder)
        if is_chief():
            # The chief trains nothing: the first worker that is ready makes the start.
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
        """Hashes that identify this search, keyed by the name used in errors."""
        held_out = list(self.judge.data)
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
        # With pretraining, weights start at random and need not match.
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
        initial = read_variables(self.model)
        recorder = recording(self.model, self.source, self.batch_size, self.pretrain_epochs)
        logs: dict[str, float] = {}
        judged: FloatArray | None = None
        if self.pretrain_epochs:
            uniform = np.full(self.source.size, 1.0 / self.source.size)
            # Not the trials' seed: they would begin with the draws that the pretraining ended with.
            logs, judged = self._train(
                uniform,
                self.pretrain_epochs,
                seed + 1,
                averaged=1.0,
                recorder=recorder,
                verbose=self.verbose,
            )
        else:
            # A trained model shows only the end of its training.
            recorder.look()
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
            record=recorder.record,
            batch_size=self.batch_size,
            verbose=0,
        )
        return Start(
            seed=seed,
            values=values,
            initial=initial,
            features=columns,
            record=FinishedRecord.of(recorder.record).columns(),
            pretrained_weights=weights,
            logs=logs,
            judged=np.empty(0) if judged is None else judged,
            record_cost=recorder.cost,
            seconds=time.perf_counter() - begin,
        )

    def _trials(self, space: SamplerSpace) -> tuple[SearchTrial, ...]:
        """All trials on disk, from any process."""
        trials = []
        for name in glob.glob(os.path.join(glob.escape(self._folder), "trial_*", "trial.json")):
            with open(name, encoding="utf-8") as file:
                state = json.load(file)
            finished = state["status"] == "COMPLETED"
            number = int(state["trial_id"])
            values = os.path.join(self._folder, VALUES.format(number=number))
            metrics = {
                name: float(metric["observations"][-1]["value"][-1])
                for name, metric in state["metrics"]["metrics"].items()
                if finished
            }
            trials.append(
                SearchTrial(
                    number=number,
                    sampler=space.from_values(state["hyperparameters"]["values"]),
                    objective=float(state["score"]) if finished else math.nan,
                    seconds=metrics.pop("seconds", math.nan),
                    status=state["status"],
                    metrics=metrics,
                    values=np.load(values) if finished and os.path.exists(values) else None,
                )
            )
        return tuple(sorted(trials, key=lambda trial: trial.number))

    def _is_over(self, space: SamplerSpace) -> bool:
        """Whether all trials have been run, by any process."""
        done = [trial for trial in self._trials(space) if trial.status in ("COMPLETED", "FAILED")]
        return len(done) >= self.max_trials
