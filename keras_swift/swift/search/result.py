"""What a search found: the sampler, every trial, and which examples look mislabelled."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from keras_swift.swift.sampler import SwiftSampler


@dataclasses.dataclass(frozen=True)
class SearchTrial:
    """One candidate sampler and what came of it.

    Attributes:
        number: int, from 0, which is uniform.
        sampler: `SwiftSampler`.
        objective: float; NaN where the trial failed.
        seconds: float, fine-tuning and validation; NaN where it failed.
        status: `"COMPLETED"`, `"FAILED"` or, in a search that goes on
            elsewhere, `"RUNNING"`.
        metrics: dict, what the last epoch logged; empty where it failed.
    """

    number: int
    sampler: SwiftSampler
    objective: float
    seconds: float
    status: str = "COMPLETED"
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def parameters(self) -> np.ndarray:
        """The sampler's numbers: knots, values, coefficients; ten by default."""
        return self.sampler.parameters


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The result of `keras_swift.search`.

    Attributes:
        features: dict from name to float64 array, shape `(n,)`: the features of
            the training examples by the pretrained model, and their
            `"gradient_norm"`.
        trials: tuple of `SearchTrial`, in the order of their numbers.
        objective: name of what a trial was judged by.
        direction: `"max"` or `"min"`.
        suspicion: float64 array, shape `(n,)`: how strongly an example's label
            is doubted.
        pretrained_weights: list of arrays, for `model.set_weights`: the model
            the features were computed with, averaged over the last epoch.
        pretrain_epochs, finetune_epochs: ints, as given to `search`.
        pretrain_seconds: float, pretraining and features.
        data_fingerprint: hash of the training data.
        tolerance: float, by how much objectives differ that say the same: the
            standard error of the difference of two accuracies on the
            validation data; 0 for other objectives.
    """

    features: dict[str, np.ndarray]
    trials: tuple[SearchTrial, ...]
    objective: str
    direction: str
    suspicion: np.ndarray
    pretrained_weights: list[np.ndarray]
    pretrain_epochs: int
    finetune_epochs: int
    pretrain_seconds: float
    data_fingerprint: str
    tolerance: float = 0.0

    @property
    def uniform(self) -> SearchTrial:
        """Trial 0: every example drawn alike."""
        return self.trials[0]

    @functools.cached_property
    def best(self) -> SearchTrial:
        """The trial that draws most evenly among those as good as the best one.

        As good are objectives that differ by no more than `tolerance`. A few
        epochs do not show what it costs to see few different examples;
        training from scratch does. So uniform is the best where nothing is
        better by more than the tolerance.
        """
        sign = -1.0 if self.direction == "max" else 1.0
        completed = [trial for trial in self.trials if math.isfinite(trial.objective)]
        lowest = min((sign * trial.objective for trial in completed), default=math.nan)
        good = [t for t in completed if sign * t.objective <= lowest + self.tolerance]
        # `max` takes the first of equals, and uniform is first.
        return max(good, key=self._effective_share, default=self.trials[0])

    def _effective_share(self, trial: SearchTrial) -> float:
        """How many equally likely examples a trial's draws are worth, as a share of all."""
        probability = trial.sampler.probabilities(self.features)
        return round(1.0 / float(len(probability) * np.sum(probability**2)), 9)

    @property
    def sampler(self) -> SwiftSampler:
        """The sampler of the best trial."""
        return self.best.sampler

    @property
    def gain(self) -> float:
        """How much better than uniform the best trial was; NaN where uniform failed."""
        better, worse = self.best.objective, self.uniform.objective
        return better - worse if self.direction == "max" else worse - better

    @property
    def probabilities(self) -> np.ndarray:
        """The best sampler's probability of each training example, shape `(n,)`."""
        return self.sampler.probabilities(self.features)

    @property
    def epochs(self) -> int:
        """Epochs the trials trained for, all together."""
        return sum(trial.status != "RUNNING" for trial in self.trials) * self.finetune_epochs

    @property
    def price(self) -> float:
        """Cost of the trials in uniform trainings of `pretrain_epochs`; NaN if there were none."""
        return self.epochs / self.pretrain_epochs if self.pretrain_epochs else math.nan

    def loss_deciles(self) -> np.ndarray:
        """The share of the draws that falls into each tenth of the examples by loss.

        Returns:
            A float64 array, shape `(10,)`, lowest losses first; 0.1 each for
            uniform. By the first feature where `"loss"` is not among them.
        """
        values = self.features.get("loss", next(iter(self.features.values())))
        order = np.argsort(values, kind="stable")
        return np.array([part.sum() for part in np.array_split(self.probabilities[order], 10)])

    def suspects(self, count: int = 100) -> np.ndarray:
        """The examples most likely mislabelled.

        Args:
            count: int, how many. Defaults to 100.

        Returns:
            An int array, shape `(count,)`, of indices into the training data,
            most suspicious first; all of them if there are fewer.
        """
        if count < 0:
            raise ValueError(f"`count` must not be negative. Received: count={count}")
        return np.argsort(-self.suspicion, kind="stable")[:count]

    def plot(self, file: Any = None) -> Any:
        """Draws what was found: see `keras_swift.swift.search.plot.plot_search`.

        Args:
            file: path to write the figure to. Defaults to `None`, not written.

        Returns:
            A `matplotlib.figure.Figure`.
        """
        from keras_swift.swift.search.plot import plot_search

        return plot_search(self, file)

    def __str__(self) -> str:
        failed = sum(trial.status == "FAILED" for trial in self.trials)
        price = f"{self.epochs} epochs"
        if self.pretrain_epochs:
            price += f", {self.price:.1f} uniform trainings of {self.pretrain_epochs} epochs"
        seconds = sum(trial.seconds for trial in self.trials if math.isfinite(trial.seconds))
        deciles = " ".join(f"{share:.2f}" for share in self.loss_deciles())
        best = "uniform" if self.best.number == 0 else f"trial {self.best.number}"
        return "\n".join(
            [
                f"Swift Sampler search, {len(self.trials)} trials"
                + (f", {failed} failed" if failed else ""),
                f"  uniform {self.objective}  {self.uniform.objective:.4f}",
                f"  best {self.objective}     {self.best.objective:.4f} ({best})",
                f"  gain          {self.gain:+.4f}"
                + (f" (noise {self.tolerance:.4f})" if self.tolerance else ""),
                f"  price         {price}; {self.pretrain_seconds:.0f} s before the trials, "
                f"{seconds:.0f} s in them",
                f"  drawn from each decile of the loss, lowest first  {deciles}",
            ]
        )

    __repr__ = __str__
