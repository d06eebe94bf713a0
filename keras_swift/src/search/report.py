"""What a search says: its price, how it goes on, and of its trials which were confirmed and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import keras

from keras_swift.src.records.recorder import record_cost
from keras_swift.src.search.choice import effective_share, ranked
from keras_swift.src.search.judge import difference_noise
from keras_swift.src.search.settings import SearchSettings
from keras_swift.src.search.trial import Direction, SearchTrial, signed

if TYPE_CHECKING:
    from keras_swift.src.search.result import SearchResult


def price(model: keras.Model, settings: SearchSettings) -> str:
    """A sentence on what the search costs, printed before it begins."""
    epochs, trials = settings.pretrain_epochs, settings.max_trials * settings.finetune_epochs
    text = (
        f"Swift Sampler search: {settings.max_trials} trials of {settings.finetune_epochs} epochs"
    )
    if not epochs:
        return f"{text}, {trials} epochs in all; nothing is confirmed without `pretrain_epochs`"
    confirm = min(settings.confirm, settings.max_trials - 1)
    total = trials + confirm * epochs + record_cost(model, epochs)
    return (
        f"{text}, and {confirm} trainings of {epochs} to confirm, after one to begin with:"
        f" the price is at most {total / epochs:.1f} uniform trainings besides that one"
    )


def time_to_come(seconds: float, trials: int, settings: SearchSettings) -> str:
    """A text on how long the rest of a search will take at the speed of the pretraining.

    Args:
        seconds: float, duration of the pretraining.
        trials: int, how many trials are left.
        settings: `SearchSettings`.
    """
    epochs = trials * settings.finetune_epochs
    text = (
        f"Pretrained in {duration(seconds)}. At that speed {trials} trials take about "
        f"{duration(epochs * seconds / settings.pretrain_epochs)}"
    )
    if settings.confirm:
        text += f", and confirming the best {duration(settings.confirm * seconds)} more"
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


def verdict(result: SearchResult) -> str:
    """Which trial was chosen, and its effective share of different examples."""
    if not result.best.number:
        return "uniform draws: nothing is clearly better"
    share = effective_share(result.best, result.features)
    return f"trial {result.best.number}, as varied as uniform draws from {share:.0%} of the data"


def compared(trials: Sequence[SearchTrial], direction: Direction) -> str:
    """Uniform and the best two others, each with its gain and noise."""
    uniform, *others = trials
    finite = [trial for trial in others if math.isfinite(trial.objective)]
    finite.sort(key=lambda trial: -signed(trial, direction))
    parts = [f"uniform {uniform.objective:.4f}"]
    parts += [f"trial {t.number} {_against(t, uniform, direction)}" for t in finite[:2]]
    return ", ".join(parts)


def trial_rows(result: SearchResult) -> list[tuple[str, str]]:
    """For each trial, best first, its objective and why it was confirmed or not.

    Returns:
        A list of a name and a text; empty if nothing was confirmed.
    """
    if not result.confirmed:
        return []
    uniform, *again = result.confirmed
    confirmed = {trial.number: trial for trial in again}
    order = ranked(result.trials, result.direction, result.features)
    place = {trial.number: (k, reason) for k, (trial, reason) in enumerate(order, 1)}
    rows = []
    for trial in _best_first(result.trials, result.direction):
        number, objective = trial.number, _against(trial, result.uniform, result.direction)
        if not number:
            text = f"{trial.objective:.4f}; uniform: the pretraining was its training from scratch"
        elif number not in place:
            why = "it draws uniformly" if math.isfinite(trial.objective) else "it has no objective"
            text = f"{objective}; not confirmed: {why}"
        elif number in confirmed:
            outcome = _outcome(confirmed[number], uniform, result)
            text = f"{objective}; confirmed: {place[number][1]}; {outcome}"
        else:
            text = (
                f"{objective}; not confirmed: {place[number][1]}, number {place[number][0]} in "
                f"the order in which {len(confirmed)} were confirmed"
            )
        rows.append((f"trial {number}", text))
    return rows


def _outcome(trial: SearchTrial, uniform: SearchTrial, result: SearchResult) -> str:
    """The objective of a training from scratch, and whether the trial was chosen."""
    text = f"from scratch {_against(trial, uniform, result.direction)}, "
    if trial.number == result.best.number:
        return text + "chosen"
    if result.is_better(trial, uniform):
        return text + f"better than uniform, but trial {result.best.number} is more so"
    return text + "not clearly better than uniform"


def _against(trial: SearchTrial, uniform: SearchTrial, direction: Direction) -> str:
    """The objective, its gain over uniform, and the standard error of the gain."""
    if not math.isfinite(trial.objective):
        return trial.status.lower()
    gain = signed(trial, direction) - signed(uniform, direction)
    noise = difference_noise(trial.values, uniform.values)
    end = f", noise {noise:.4f})" if math.isfinite(noise) else ")"
    return f"{trial.objective:.4f} ({gain:+.4f}{end}"


def _best_first(trials: Sequence[SearchTrial], direction: Direction) -> list[SearchTrial]:
    def key(trial: SearchTrial) -> tuple[bool, float, int]:
        finite = math.isfinite(trial.objective)
        return not finite, -signed(trial, direction) if finite else 0.0, trial.number

    return sorted(trials, key=key)
