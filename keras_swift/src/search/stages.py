"""The stages of a search: the pretraining, the trials, and the trainings that confirm the best.

This file decides what each stage trains, from which state and by which random numbers, and what is
left to do of a search that was stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import time
import warnings
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np

from keras_swift.src._types import FloatArray
from keras_swift.src.data import arrays
from keras_swift.src.fitting.model_state import read_variables, write_variables
from keras_swift.src.fitting.random_states import seeded
from keras_swift.src.fitting.weight_average import WeightAverage
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.recorder import RecordingCallback, recording
from keras_swift.src.search.choice import candidates
from keras_swift.src.search.cube import SamplerCube
from keras_swift.src.search.judge import Judge
from keras_swift.src.search.processes import is_worker
from keras_swift.src.search.report import trial_reporter
from keras_swift.src.search.settings import SamplerSpace, SearchSettings
from keras_swift.src.search.start import Start
from keras_swift.src.search.store import CONFIRMED, Store, UnreadableFile
from keras_swift.src.search.trial import SearchTrial
from keras_swift.src.swift.datasets import DrawnDataset
from keras_swift.src.swift.feature_table import Feature
from keras_swift.src.swift.features import compute_features
from keras_swift.src.swift.ranks import GRADIENT_NORM
from keras_swift.src.swift.sampler import SwiftSampler

if TYPE_CHECKING:
    import keras_tuner


@dataclasses.dataclass(frozen=True)
class Task:
    """What is searched: for which model, on which data, by which objective.

    Attributes:
        model: a built, compiled `keras.Model`.
        source: `ArraySource`, the training data.
        judge: `Judge`, with the validation data.
        objective: `keras_tuner.Objective`.
        named: dict from name to feature, the features of the sampler.
        space: `SamplerSpace`.
        settings: `SearchSettings`.
    """

    model: keras.Model
    source: arrays.ArraySource
    judge: Judge
    objective: keras_tuner.Objective
    named: dict[str, Feature]
    space: SamplerSpace
    settings: SearchSettings

    def train(
        self,
        probability: FloatArray,
        epochs: int,
        seed: int,
        *,
        averaged: float,
        recorder: RecordingCallback | None = None,
        verbose: int | Literal["auto"] = 0,
    ) -> tuple[dict[str, float], FloatArray | None]:
        """Trains by these probabilities and judges the mean weights of the last epochs.

        Args:
            probability: float array, shape `(n,)`, sums to 1.
            epochs: int.
            seed: int, of the draws and all global generators.
            averaged: float, over how many of the last epochs the weights are averaged.
            recorder: `RecordingCallback`, or `None`.
            verbose: as for `model.fit`. Defaults to 0.

        Returns:
            The logs of the last epoch and of the validation data, and the
            objective's value on each validation example.
        """
        dataset = DrawnDataset(self.source, probability, self.settings.batch_size, seed=seed)
        steps = dataset.num_batches
        average = WeightAverage(epochs, steps, max(1, int(averaged * steps)))
        callbacks = [average] if recorder is None else [average, recorder]
        listening = contextlib.nullcontext() if recorder is None else recorder.listening(dataset)
        with seeded(seed), listening:
            history = self.model.fit(
                dataset, epochs=epochs, verbose=verbose, shuffle=False, callbacks=callbacks
            )
        average.put()
        logs = {name: float(values[-1]) for name, values in history.history.items()}
        judged, values = self.judge.judge(self.objective)
        return logs | judged, values


def pretrain(task: Task, described: dict[str, str]) -> Start:
    """Trains uniformly and computes the features.

    Args:
        task: `Task`.
        described: dict of hashes that identify the search, by what they describe.
    """
    begin = time.perf_counter()
    settings, model, source = task.settings, task.model, task.source
    seed, epochs = settings.seed, settings.pretrain_epochs
    if seed is None:
        seed = int(np.random.default_rng().integers(2**31))
    initial = read_variables(model)
    recorder = recording(model, source, settings.batch_size, epochs)
    logs: dict[str, float] = {}
    judged: FloatArray | None = None
    if epochs:
        uniform = np.full(source.size, 1.0 / source.size)
        # Not the trials' seed: trials would repeat the draws that the pretraining began with.
        logs, judged = task.train(
            uniform, epochs, seed + 1, averaged=1.0, recorder=recorder, verbose=settings.verbose
        )
    else:
        # The record of a trained model, by one forward pass, shows only the end of its training.
        recorder.record_all()
    wanted = dict(task.named)
    if task.space.transform == "cgf":
        wanted.setdefault(GRADIENT_NORM, GRADIENT_NORM)
    return Start(
        seed=seed,
        values=read_variables(model),
        initial=initial,
        features=compute_features(
            model,
            source.x,
            source.y,
            wanted,
            record=recorder.record,
            batch_size=settings.batch_size,
            verbose=0,
        ),
        record=FinishedRecord.of(recorder.record).columns(),
        pretrained_weights=[np.array(keras.ops.convert_to_numpy(w)) for w in model.weights],
        logs=logs,
        judged=np.empty(0) if judged is None else judged,
        record_cost=recorder.cost,
        seconds=time.perf_counter() - begin,
        settings=described,
    )


def run_trials(task: Task, start: Start, store: Store, cube: SamplerCube) -> None:
    """Runs the trials that are not on disk yet, or shares them with other processes."""
    from keras_swift.src.search.oracle import SwiftOracle
    from keras_swift.src.search.tuner import SwiftTuner

    settings = task.settings
    oracle = SwiftOracle(
        cube, store, task.objective, settings.max_trials, method=settings.method, seed=start.seed
    )
    oracle.verbose = 0
    report = trial_reporter(settings.max_trials, task.objective.direction, settings.verbose)

    def evaluate(number: int, sampler: SwiftSampler) -> dict[str, float]:
        write_variables(task.model, start.values)
        # Averages over half a trial: in its first steps the model still forgets what it learned in
        # uniform training.
        logs, values = task.train(
            sampler.probabilities(start.features),
            settings.finetune_epochs,
            start.seed,
            averaged=settings.finetune_epochs / 2,
        )
        store.write_values(number, values)
        return logs

    tuner = None
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            # KerasTuner prints that it resumes a search: kept from the user's output.
            tuner = SwiftTuner(oracle, evaluate, report, store.folder)
        tuner.search()
    except Exception:
        if tuner is not None and tuner.error is not None:
            raise tuner.error from None
        # KerasTuner's chief leaves when the last trial is done, even while workers ask it for
        # another one: their broken connection is then not a failure.
        if not (is_worker() and trials_left(store, cube, settings.max_trials) == 0):
            raise


def read_trials(store: Store, cube: SamplerCube) -> tuple[SearchTrial, ...]:
    """All trials on disk, from any process.

    Raises:
        UnreadableFile: if one of them is missing or cannot be read.
    """
    trials = []
    for number in range(max(store.trial_numbers(), default=-1) + 1):
        state = store.read_trial(number)
        finished = state["status"] == "COMPLETED"
        metrics = {
            name: float(metric["observations"][-1]["value"][-1])
            for name, metric in state["metrics"]["metrics"].items()
            if finished
        }
        trials.append(
            SearchTrial(
                number=number,
                sampler=cube.from_values(state["hyperparameters"]["values"]),
                objective=float(state["score"]) if finished else math.nan,
                seconds=metrics.pop("seconds", math.nan),
                status=state["status"],
                metrics=metrics,
                values=store.read_values(number) if finished else None,
            )
        )
    return tuple(trials)


def trials_left(store: Store, cube: SamplerCube, max_trials: int) -> int:
    """How many trials are still to run, by any process; at least one if one cannot be read."""
    try:
        trials = read_trials(store, cube)
    except UnreadableFile:
        return max(1, max_trials - len(store.trial_numbers()))
    done = [trial for trial in trials if trial.status in ("COMPLETED", "FAILED")]
    return max(0, max_trials - len(done))


def to_confirm(task: Task, start: Start, trials: tuple[SearchTrial, ...]) -> list[SearchTrial]:
    """The best trials, which are to be trained from scratch."""
    if not task.settings.pretrain_epochs:
        return []
    return candidates(trials, task.objective.direction, start.features, task.settings.confirm)


def confirm(
    task: Task, start: Start, store: Store, trials: tuple[SearchTrial, ...], *, train: bool
) -> tuple[SearchTrial, ...]:
    """Uniform and the best trials, trained from scratch; those on disk are not run again.

    The pretraining was uniform and from scratch, so uniform costs nothing more.

    Args:
        task, start, store, trials: of the search.
        train: bool, whether to train those that are not on disk; else they are left out.
    """
    best = to_confirm(task, start, trials)
    if not best:
        return ()
    found = []
    bar = None
    if task.settings.verbose and train:
        print("Training the best from scratch, to confirm them.", flush=True)
        bar = keras.utils.Progbar(len(best), unit_name="training")
    for trial in best:
        try:
            found.append(_read_confirmed(task, store, trial))
        except UnreadableFile as error:
            if not train:
                continue
            if store.has(CONFIRMED.format(trial.number)):
                warnings.warn(
                    f"{error} Trial {trial.number} is trained from scratch again.", stacklevel=2
                )
            _train_from_scratch(task, start, store, trial)
            found.append(_read_confirmed(task, store, trial))
        if bar is not None:
            bar.update(len(found))
    if not found:
        return ()
    uniform = trials[0].sampler
    return (_trained(task, 0, uniform, start.logs, start.judged, start.seconds), *found)


def _train_from_scratch(task: Task, start: Start, store: Store, trial: SearchTrial) -> None:
    begin = time.perf_counter()
    write_variables(task.model, start.initial)
    # With the seed of the pretraining, which it is compared with.
    logs, values = task.train(
        trial.sampler.probabilities(start.features),
        task.settings.pretrain_epochs,
        start.seed + 1,
        averaged=1.0,
    )
    header: dict[str, Any] = {
        "logs": logs,
        "seconds": time.perf_counter() - begin,
        "sampler": trial.sampler.parameters.tolist(),
    }
    values = np.empty(0) if values is None else values
    store.write_arrays(CONFIRMED.format(trial.number), header, {"values": values})


def _read_confirmed(task: Task, store: Store, trial: SearchTrial) -> SearchTrial:
    name = CONFIRMED.format(trial.number)
    header, columns = store.read_arrays(name)
    # A trial that is run again, by several processes, may have got another sampler.
    if header["sampler"] != trial.sampler.parameters.tolist():
        raise UnreadableFile(store.path(name), "belongs to another sampler")
    return _trained(
        task, trial.number, trial.sampler, header["logs"], columns["values"], header["seconds"]
    )


def _trained(
    task: Task,
    number: int,
    sampler: SwiftSampler,
    logs: dict[str, float],
    values: FloatArray,
    seconds: float,
) -> SearchTrial:
    value = float(task.objective.get_value(logs))
    return SearchTrial(
        number=number,
        sampler=sampler,
        objective=value if math.isfinite(value) else math.nan,
        seconds=seconds,
        status="COMPLETED" if math.isfinite(value) else "FAILED",
        metrics=logs,
        values=values if len(values) else None,
    )
