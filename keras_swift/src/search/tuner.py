"""The search's trials under KerasTuner: restore, fine-tune, judge.

This file decides what a trial is, and passes errors through unwrapped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import keras_tuner

from keras_swift.src.fitting.atomic import write_json
from keras_swift.src.swift.sampler import SwiftSampler


class SwiftTuner(keras_tuner.Tuner):
    """Runs a search's trials.

    Args:
        oracle: a `SwiftOracle`.
        evaluate: function of a trial's number and a `SwiftSampler` that
            returns the logs of the last epoch of training with it.
        report: function called after each trial of this process with its
            number and its objective, NaN for a failure.
        directory, project_name: as KerasTuner's.
    """

    def __init__(
        self,
        oracle: Any,
        evaluate: Callable[[int, SwiftSampler], dict[str, float]],
        report: Callable[[int, float], None],
        directory: str,
        project_name: str,
    ) -> None:
        # The error of a trial: KerasTuner passes only its own fatal errors through.
        self.error: Exception | None = None
        self._evaluate = evaluate
        self._report = report
        self._space = oracle.space
        super().__init__(oracle, directory=directory, project_name=project_name)

    def on_search_begin(self) -> None:
        # Without this file KerasTuner would not resume a search killed in its first trial.
        self.save()

    def save(self) -> None:
        """Writes the tuner's file, which only marks the folder as a search, and the oracle."""
        # KerasTuner writes in place: a kill could leave an empty file that it cannot read.
        write_json(self._get_tuner_fname(), self.get_state())
        if isinstance(self.oracle, keras_tuner.Oracle):
            # A worker has only a client of the chief's oracle.
            self.oracle.save()

    def reload(self) -> None:
        """Loads the trials on disk."""
        self.oracle.reload()

    def run_trial(self, trial: Any) -> dict[str, float]:
        """Fine-tunes with the trial's sampler; returns the last logs, the objective and seconds."""
        begin = time.perf_counter()
        try:
            sampler = self._space.from_values(trial.hyperparameters.values)
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
