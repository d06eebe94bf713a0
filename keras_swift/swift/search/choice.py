"""Which trials are worth confirming."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from keras_swift._types import FloatArray
from keras_swift.swift.search.held_out import difference_noise
from keras_swift.swift.search.trial import Direction, SearchTrial, signed


def candidates(
    trials: Sequence[SearchTrial],
    direction: Direction,
    features: Mapping[str, FloatArray],
    count: int,
) -> list[SearchTrial]:
    """The best trials other than uniform, best first.

    First the one that draws most evenly among those whose objective differs
    from the best by no more than the standard error of the difference: a few
    epochs do not show what it costs to see few different examples. Then the
    others by their objectives.
    """
    completed = [t for t in trials if t.number and math.isfinite(t.objective)]
    completed = [t for t in completed if not t.sampler.is_uniform]
    completed.sort(key=lambda trial: (-signed(trial, direction), trial.number))
    if not completed:
        return []
    highest = completed[0]

    def is_as_good(trial: SearchTrial) -> bool:
        noise = difference_noise(trial.values, highest.values)
        behind = signed(highest, direction) - signed(trial, direction)
        return behind <= (noise if math.isfinite(noise) else 0.0)

    def effective_share(trial: SearchTrial) -> float:
        probability = trial.sampler.probabilities(features)
        return round(1.0 / float(len(probability) * np.sum(probability**2)), 9)

    first = max((t for t in completed if is_as_good(t)), key=effective_share)
    return [first, *(trial for trial in completed if trial is not first)][:count]
