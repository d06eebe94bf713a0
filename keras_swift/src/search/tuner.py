"""The search's trials under KerasTuner: restore, fine-tune, judge.

This file decides what a trial is, and passes errors through unwrapped.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import keras_tuner

from keras_swift.src.search.processes import is_worker
from keras_swift.src.swift.sampler import SwiftSampler


class SwiftTuner(keras_tuner.Tuner):
    """Runs a search's trials.

    Args:
        oracle: a `SwiftOracle`.
        evaluate: function of a trial's number and a `SwiftSampler` that
            trains with it and returns the logs, validation included.
        report: function called after each trial of this process with its
            number and its objective, NaN for a failure.
        folder: str, of the search.
    """

    def __init__(
        self,
        oracle: Any,
        evaluate: Callable[[int, SwiftSampler], dict[str, float]],
        report: Callable[[int, float], None],
        folder: str,
    ) -> None:
        # The error of a trial: KerasTuner passes only its own fatal errors through.
        self.error: Exception | None = None
        self._evaluate = evaluate
        self._report = report
        self._cube = oracle.cube
        directory, project_name = os.path.split(folder)
        super().__init__(oracle, directory=directory, project_name=project_name)
        if not is_worker():
            # A worker asks the chief's oracle.
            oracle.reload()

    def save(self) -> None:
        """Does nothing: the trials' own files are the whole state."""

    def reload(self) -> None:
        """Does nothing: only the oracle has something to load."""

    def run_trial(self, trial: Any) -> dict[str, float]:
        """Fine-tunes with the trial's sampler; returns the last logs, the objective and seconds."""
        begin = time.perf_counter()
        try:
            sampler = self._cube.from_values(trial.hyperparameters.values)
            logs = self._evaluate(int(trial.trial_id), sampler)
        except Exception as error:
            self.error = error
            raise keras_tuner.errors.FatalError(str(error)) from error
        objective = self.oracle.objective
        value = float(objective.get_value(logs))
        self._report(int(trial.trial_id), value)
        if not math.isfinite(value):
            raise keras_tuner.errors.FailedTrialError(f"{objective.name} is {value}.")
        finite = {name: float(value) for name, value in logs.items() if math.isfinite(value)}
        return {**finite, objective.name: value, "seconds": time.perf_counter() - begin}
