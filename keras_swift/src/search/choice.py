"""Which trials are worth confirming, and when one is clearly better than uniform draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from keras_swift.src._types import FloatArray
from keras_swift.src.importance.resampling import effective_sample_size
from keras_swift.src.search.judge import (
    LABEL_ACCURACY,
    LABEL_PROBABILITY,
    TEMPERED_PROBABILITY,
    difference_noise,
)
from keras_swift.src.search.trial import Direction, SearchTrial, signed

# A sampler is clearly better above this many standard errors of the difference.
CLEARLY = 2.0
# The share of the way from uniform's label probability to 1 above which a model is much surer.
MUCH_SURER = 0.25
BOTH_PROBABILITIES = (TEMPERED_PROBABILITY, LABEL_PROBABILITY)
OURS_WITH_PREFIX = tuple(f"val_{name}" for name in BOTH_PROBABILITIES)


def candidates(
    trials: Sequence[SearchTrial],
    direction: Direction,
    features: Mapping[str, FloatArray],
    count: int,
) -> list[SearchTrial]:
    """The trials most worth confirming: the first `count` of `ranked`."""
    return [trial for trial, _ in ranked(trials, direction, features)[:count]]


def ranked(
    trials: Sequence[SearchTrial], direction: Direction, features: Mapping[str, FloatArray]
) -> list[tuple[SearchTrial, str]]:
    """The trials other than uniform in the order to confirm them, each with the reason in words.

    First comes the one that draws most evenly among those as good as the
    best, whose objective is worse by no more than the standard error of the
    difference: a few epochs do not show what it costs to see few different
    examples. If both the tempered and the plain probability of the label are
    known, the second is the one of these that made the model most confident
    in the labels: it shows what leaving examples out can give. Then come the
    others by their objectives.
    """
    completed = [t for t in trials if t.number and math.isfinite(t.objective)]
    completed = [t for t in completed if not t.sampler.is_uniform]
    completed.sort(key=lambda trial: (-signed(trial, direction), trial.number))
    if not completed:
        return []
    highest = completed[0]

    def is_as_good(trial: SearchTrial) -> bool:
        behind = signed(highest, direction) - signed(trial, direction)
        return behind <= _known_noise(trial, highest)

    def confidence(trial: SearchTrial) -> float:
        return trial.metrics[f"val_{LABEL_PROBABILITY}"]

    as_good = [trial for trial in completed if is_as_good(trial)]
    even = max(as_good, key=lambda trial: effective_share(trial, features))
    among = f"of {len(as_good)} as good as the best within the noise"
    alone = "the best by more than the noise"
    found = [(even, alone if len(as_good) == 1 else f"{among}, it draws most evenly")]
    if all(f"val_{name}" in t.metrics for t in as_good for name in BOTH_PROBABILITIES):
        surest = max(as_good, key=confidence)
        if surest is not even:
            found.append((surest, f"{among}, it made the model most confident in the labels"))
    chosen = {trial.number for trial, _ in found}
    close = {trial.number for trial in as_good}
    for trial in completed:
        if trial.number not in chosen:
            as_even = "as good as the best within the noise, but draws less evenly"
            found.append((trial, as_even if trial.number in close else "next by its objective"))
    return found


def effective_share(trial: SearchTrial, features: Mapping[str, FloatArray]) -> float:
    """Kish's effective sample size of a sampler's draws, as a share of the examples."""
    probability = trial.sampler.probabilities(features)
    return round(effective_sample_size(probability) / len(probability), 9)


def is_clearly_better(
    trial: SearchTrial, uniform: SearchTrial, objective: str, direction: Direction
) -> bool:
    """Whether a trial beats uniform by more than the sampling error of the validation data.

    The objective must be better by more than `CLEARLY` standard errors. By the probabilities of
    labels, other rules on label accuracy and confidence apply: see `SearchResult.best`.

    Args:
        trial, uniform: `SearchTrial`, judged on the same examples.
        objective: str, what they are judged by.
        direction: `"max"` or `"min"`.
    """
    gain = signed(trial, direction) - signed(uniform, direction)
    noise = _known_noise(trial, uniform)
    better = gain > CLEARLY * noise
    names = [f"val_{name}" for name in (LABEL_PROBABILITY, LABEL_ACCURACY)]
    known = all(name in t.metrics for t in (trial, uniform) for name in names)
    if objective not in OURS_WITH_PREFIX or not known:
        return better
    probability, accuracy = names
    # Measured on clean data: a model that sees few distinct examples grows confident, right or
    # wrong. So its accuracy counts too.
    more = trial.metrics[accuracy] - uniform.metrics[accuracy]
    share = uniform.metrics[accuracy]
    count = 1 if trial.values is None else len(trial.values)
    # Both are judged on the same examples and mostly agree on them, so the variance of their
    # difference is less than twice the binomial one. The 0.4 is an assumption, not a measurement.
    same = math.sqrt(2.0 * 0.4 * max(share * (1.0 - share), 0.0) / count)
    # Wrong labels lower a model's confidence long before they lower its accuracy.
    surer = trial.metrics[probability] - uniform.metrics[probability]
    much_surer = surer / max(1.0 - uniform.metrics[probability], 1e-9) > MUCH_SURER
    if objective == f"val_{LABEL_PROBABILITY}":
        return better and (more > 0 or (more > -same and much_surer))
    return more > -same and (better or (much_surer and gain > -noise))


def _known_noise(trial: SearchTrial, other: SearchTrial) -> float:
    """The standard error of the difference of two trials; 0 if it is not known."""
    noise = difference_noise(trial.values, other.values)
    return noise if math.isfinite(noise) else 0.0
