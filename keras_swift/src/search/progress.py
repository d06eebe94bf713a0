"""What a search prints while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import keras

from keras_swift.src.search.trial import Direction


def time_to_come(seconds: float, epochs: int, trials: int, trial_epochs: int, confirm: int) -> str:
    """A text on how long the rest of a search will take at the speed of the pretraining.

    Args:
        seconds, epochs: duration and epochs of the pretraining.
        trials, trial_epochs: how many trials are left, and the epochs of each.
        confirm: int, how many trials will be trained from scratch.
    """
    text = (
        f"Pretrained in {duration(seconds)}. At that speed {trials} trials take about "
        f"{duration(trials * trial_epochs * seconds / epochs)}"
    )
    if confirm:
        text += f", and confirming the best {duration(confirm * seconds)} more"
    return f"{text}."


def trial_reporter(
    trials: int, direction: Direction, verbose: int | Literal["auto"]
) -> Callable[[int, float], None]:
    """A function of a trial's number and objective that advances a progress bar, if any."""
    if not verbose:
        return lambda number, value: None
    bar = keras.utils.Progbar(trials, unit_name="trial", stateful_metrics=["objective", "best"])
    sign = -1.0 if direction == "max" else 1.0
    seen = [math.inf]

    def report(number: int, value: float) -> None:
        if math.isfinite(value):
            seen.append(sign * value)
        bar.update(min(number + 1, trials), [("objective", value), ("best", sign * min(seen))])

    return report


def duration(seconds: float) -> str:
    """A duration in words, in the largest unit of which it has two or more."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
