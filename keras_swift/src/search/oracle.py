"""The search's outer loop: which sampler to try next, as a KerasTuner oracle.

This file decides the initial design, the Gaussian process and its noise, and how the oracle
survives a kill. Every suggestion is a function of the seed, its own number and the trials that
finished before it: the random state is derived, not stored, so it cannot be lost.
"""

from __future__ import annotations

import random
import warnings
from typing import Any, Literal

import keras_tuner
import numpy as np
import scipy.stats.qmc

from keras_swift.src._types import FloatArray
from keras_swift.src.search.cube import SamplerCube
from keras_swift.src.search.gaussian_process import GaussianProcess
from keras_swift.src.search.settings import METHODS
from keras_swift.src.search.store import Store, UnreadableFile

# Candidates the acquisition function is evaluated on: spread over the cube, then around the best.
GLOBAL_CANDIDATES = 1024
LOCAL_CANDIDATES = 512
LOCAL_ROUNDS = 4


class SwiftOracle(keras_tuner.oracles.BayesianOptimizationOracle):
    """Suggests samplers: uniform first, then graded cuts, then those that a model predicts as best.

    Differs from KerasTuner's Bayesian oracle where that one fails for
    samplers: trial 0 is uniform; the initial design is small, leaves out
    graded shares of the doubtful examples and continues with a shifted Sobol
    sequence; the Gaussian process measures distances between the draws of
    samplers and estimates the objective's noise; the parametrisation orders
    the knots; an infinite objective is a failure; a resumed search continues
    as if never stopped, and a trial whose file is gone or cannot be read is
    run again.

    Args:
        cube: a `SamplerCube`.
        store: a `Store`, where the trials are kept.
        objective: as KerasTuner's.
        max_trials: int, how many samplers to try, uniform included.
        method: `"bayesian"`, or `"random"` for uniform points of the cube.
        num_initial_points: trials, uniform included, before the Gaussian
            process takes over. `None` takes two thirds of `max_trials`, at
            least 4 and at most 9.
        beta: float, exploration, in standard deviations of the Gaussian
            process. Defaults to 1.5.
        seed: int, fixes the suggestions. Defaults to 0.
    """

    def __init__(
        self,
        cube: SamplerCube,
        store: Store,
        objective: keras_tuner.Objective | None = None,
        max_trials: int = 40,
        *,
        method: Literal["bayesian", "random"] = "bayesian",
        num_initial_points: int | None = None,
        beta: float = 1.5,
        seed: int = 0,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"`method` must be one of {METHODS}. Received: {method!r}")
        if num_initial_points is None:
            num_initial_points = int(np.clip(2 * max_trials // 3, 4, 9))
        hyperparameters = keras_tuner.HyperParameters()
        for name in cube.names:
            low = -1.0 if name.startswith("coefficient_") else 0.0
            hyperparameters.Float(name, low, 1.0)
        super().__init__(
            objective=objective,
            max_trials=max_trials,
            num_initial_points=num_initial_points,
            beta=beta,
            # Not 0: KerasTuner treats that as "none" and uses the global generator.
            seed=1,
            hyperparameters=hyperparameters,
            allow_new_entries=False,
            tune_new_entries=True,
            # A diverging sampler is a finding, not a reason to stop.
            max_consecutive_failed_trials=max_trials + 1,
        )
        self.cube = cube
        self._store = store
        self.method = method
        self._swift_seed = seed

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Suggests the numbers for a trial, given the trials finished so far."""
        number = int(trial_id)
        sampler = self.cube.to_sampler(self._suggest(number)) if number else self.cube.uniform()
        values = self.cube.to_values(sampler)
        return {"status": keras_tuner.engine.trial.TrialStatus.RUNNING, "values": values}

    def _suggest(self, number: int) -> FloatArray:
        """A point of the cube for trial `number`, from 1."""
        generator = np.random.default_rng([self._swift_seed, number])
        dimensions = self.cube.dimensions
        if self.method == "random":
            return generator.uniform(size=dimensions)
        if number < self.num_initial_points:
            design = self.cube.design()
            if number <= len(design):
                return self.cube.to_point(design[number - 1])
            # One shift for the whole design, so that it stays evenly spread.
            shift = np.random.default_rng([self._swift_seed, 0]).uniform(size=dimensions)
            sequence = scipy.stats.qmc.Sobol(dimensions, scramble=False)
            sequence.fast_forward(number)
            point: FloatArray = (sequence.random(1)[0] + shift) % 1.0
            return point
        points, losses = self._observations(number)
        if len(points) < 2:
            return generator.uniform(size=dimensions)
        process = GaussianProcess(self.cube.embed(points), losses)

        def bound(candidates: FloatArray) -> FloatArray:
            mean, deviation = process.predict(self.cube.embed(candidates))
            bounds: FloatArray = mean - self.beta * deviation
            return bounds

        # The embedding has kinks and flat regions where gradients mislead, and is cheap: many
        # candidates at once are both faster and better than restarts of L-BFGS.
        candidates = generator.uniform(size=(GLOBAL_CANDIDATES, dimensions))
        values = bound(candidates)
        best = np.argsort(losses, kind="stable")[:4]
        centres = np.concatenate([candidates[np.argsort(values, kind="stable")[:4]], points[best]])
        chosen: FloatArray = candidates[values.argmin()]
        lowest = values.min()
        for round_ in range(LOCAL_ROUNDS):
            width = 0.2 * 0.5**round_
            nearby = centres[generator.integers(len(centres), size=LOCAL_CANDIDATES)]
            moved = generator.uniform(size=nearby.shape) < 0.5
            nearby = np.clip(nearby + moved * generator.normal(0, width, nearby.shape), 0, 1)
            values = bound(nearby)
            if values.min() < lowest:
                chosen, lowest = nearby[values.argmin()], values.min()
            centres = np.concatenate([nearby[np.argsort(values, kind="stable")[:7]], chosen[None]])
        return chosen

    def _observations(self, number: int) -> tuple[FloatArray, FloatArray]:
        """Points tried before trial `number`, and their objectives, where lower is better."""
        sign = -1.0 if self.objective.direction == "max" else 1.0
        trials = sorted(self.trials.values(), key=lambda trial: int(trial.trial_id))
        # A trial that is run again must be suggested as it was, without the trials after it.
        trials = [trial for trial in trials if int(trial.trial_id) < number]
        running = {trial.trial_id for trial in self.ongoing_trials.values()}
        points, losses = [], []
        for trial in trials:
            sampler = self.cube.from_values(trial.hyperparameters.values)
            points.append(self.cube.to_point(sampler))
            finished = trial.status == "COMPLETED" and trial.trial_id not in running
            losses.append(sign * trial.score if finished else np.nan)
        found = np.array(losses, np.float64)
        finite = np.isfinite(found)
        if not finite.any():
            return np.empty((0, self.cube.dimensions)), np.empty(0)
        for position, trial in enumerate(trials):
            if not finite[position]:
                # A running trial counts as mediocre, so that parallel workers try other points; a
                # failed one counts as the worst, so that the search avoids its neighbourhood.
                pending = trial.status == "RUNNING" or trial.trial_id in running
                found[position] = np.median(found[finite]) if pending else found[finite].max()
        return np.array(points), found

    def score_trial(self, trial: Any) -> None:
        """Scores a trial; an infinite objective becomes NaN, a failure, not the best score."""
        trial.score = trial.metrics.get_last_value(self.objective.name)
        trial.best_step = 0
        if not np.isfinite(trial.score):
            trial.score = float("nan")

    @keras_tuner.synchronized  # type: ignore[untyped-decorator]
    def create_trial(self, tuner_id: str) -> Any:
        """The next trial to run: first those whose files are gone."""
        numbers = {int(trial_id) for trial_id in self.trials}
        lost = [number for number in range(len(numbers)) if number not in numbers]
        if lost and not self._retry_queue and tuner_id not in self.ongoing_trials:
            # KerasTuner numbers a new trial by how many trials there are, so it would never fill a
            # gap. Its numbers are as long as the largest one.
            number = f"{lost[0]:0{len(str(self.max_trials))}d}"
            trial = keras_tuner.engine.trial.Trial(self.hyperparameters.copy(), trial_id=number)
            trial.hyperparameters.values = self.populate_space(trial.trial_id)["values"]
            self._take_up(trial)
        return super().create_trial(tuner_id)

    def save(self) -> None:
        """Does nothing: the trials' own files are the whole state."""

    def _save_trial(self, trial: Any) -> None:
        self._store.write_trial(int(trial.trial_id), trial.get_state())

    def reload(self) -> None:
        """Loads the trials on disk; those that are not finished or unreadable are run again."""
        # KerasTuner draws an id from the global generator, which it then discards.
        state = random.getstate()
        try:
            numbers = self._store.trial_numbers()
            for number in range(max(numbers, default=-1) + 1):
                try:
                    trial = keras_tuner.engine.trial.Trial.from_state(
                        self._store.read_trial(number)
                    )
                except UnreadableFile as error:
                    warnings.warn(f"{error} Trial {number} is run again.", stacklevel=2)
                    continue
                if trial.status == "COMPLETED":
                    try:
                        self._store.read_values(number)
                    except UnreadableFile as error:
                        warnings.warn(f"{error} Trial {number} is run again.", stacklevel=2)
                        trial.status = "RUNNING"
                self._take_up(trial)
        finally:
            random.setstate(state)

    def _take_up(self, trial: Any) -> None:
        """Adds a trial of an earlier process; one that is not finished will be run again."""
        # Under the id it had: KerasTuner pads ids to the width of `max_trials`, which may have
        # changed.
        self.trials[trial.trial_id] = trial
        self.start_order.append(trial.trial_id)
        self._record_values(trial)
        if trial.status in ("COMPLETED", "FAILED"):
            self.end_order.append(trial.trial_id)
            self._run_times[trial.trial_id] = 1
        else:
            # Its reports from before the kill would be averaged with the new ones.
            trial.metrics = type(trial.metrics)()
            self._retry_queue.insert(0, trial.trial_id)
