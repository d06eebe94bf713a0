"""The result of a search: the sampler, all trials, the confirmed ones, and the suspect labels.

This file decides which trial is the best; `choice` decides when one is clearly better than uniform.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from keras_swift.src._display import html_table
from keras_swift.src._types import Array, FloatArray, IntArray
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.rules import COUNT_OR_ZERO, Rule, check, check_if_given
from keras_swift.src.search.choice import candidates, is_clearly_better
from keras_swift.src.search.judge import difference_noise
from keras_swift.src.search.report import compared, trial_rows, verdict
from keras_swift.src.search.trial import Direction, SearchTrial, signed
from keras_swift.src.suspects.mixture import Doubts, WrongShare, find_doubts
from keras_swift.src.swift.sampler import SwiftSampler

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The result of `keras_swift.search`.

    Attributes:
        features: dict from name to float64 array, shape `(n,)`: the features
            of the training examples, and, for the transform `"cgf"`, their
            `"gradient_norm"` by the pretrained model.
        trials: tuple of `SearchTrial`, in the order of their numbers.
        confirmed: tuple of `SearchTrial`: uniform, then the best of the
            trials, each trained from scratch for `pretrain_epochs`. Empty
            if nothing was confirmed.
        objective: name of the objective.
        direction: `"max"` or `"min"`.
        record: the record of the pretraining, for
            `compute_features(..., record=...)`: float64 arrays `loss`, `margin`,
            `mean_loss`, `mean_margin`, `share_wrong` and `mean_probability`,
            shape `(n,)`.
        classes: int array, the class of each example, or `None` if targets
            are not one class per example.
        pretrained_weights: list of arrays, for `model.set_weights`: the model
            after the pretraining, averaged over the last epoch.
        pretrain_epochs: int, as given to `search`.
        finetune_epochs: int, as given to `search`.
        pretrain_seconds: float, duration of pretraining and features.
        record_epochs: float, what the record cost, in epochs of training: 0
            unless forward passes made it.
        data_fingerprint: str, hash of the training inputs and targets.
        note: str, a remark on the features that `search` chose; `""` for the
            usual ones.
    """

    features: dict[str, FloatArray]
    trials: tuple[SearchTrial, ...]
    confirmed: tuple[SearchTrial, ...]
    objective: str
    direction: Direction
    record: FinishedRecord
    classes: IntArray | None
    pretrained_weights: list[Array]
    pretrain_epochs: int
    finetune_epochs: int
    pretrain_seconds: float
    record_epochs: float
    data_fingerprint: str
    note: str = ""

    @property
    def uniform(self) -> SearchTrial:
        """Trial 0: all examples drawn with equal probability."""
        return self.trials[0]

    @functools.cached_property
    def best(self) -> SearchTrial:
        """The trial to train with: uniform unless another is clearly better.

        If trials were confirmed, it is the best of those that were better than
        uniform *from scratch*, by more than two standard errors of the
        difference. By the label's probability, tempered or not, a sampler must
        also get no fewer labels right than chance allows. By the tempered one
        it is then enough to be no worse than one standard error, if the
        probability itself closes a quarter of the gap from uniform's to 1. By
        the probability itself, a sampler must close that or get more labels
        right.

        If no trials were confirmed, it is the trial that draws most evenly
        among those as good as the best, if it beats uniform by the same rules.
        """
        if self.confirmed:
            uniform, *others = self.confirmed
            passed = [t for t in others if self.is_better(t, uniform)]
            chosen = max(passed, key=lambda t: signed(t, self.direction), default=uniform)
            return next(trial for trial in self.trials if trial.number == chosen.number)
        found = candidates(self.trials, self.direction, self.features, 1)
        if found and self.is_better(found[0], self.uniform):
            return found[0]
        return self.uniform

    def is_better(self, trial: SearchTrial, uniform: SearchTrial) -> bool:
        """Whether a trial beats uniform, by the rules of `best`.

        Args:
            trial: `SearchTrial`.
            uniform: `SearchTrial` of uniform draws, confirmed if `trial` is.
        """
        of_a_search = Rule("a trial of the search", (SearchTrial,))
        of_a_search.check("trial", trial)
        of_a_search.check("uniform", uniform)
        return is_clearly_better(trial, uniform, self.objective, self.direction)

    @property
    def sampler(self) -> SwiftSampler:
        """The sampler of the best trial."""
        return self.best.sampler

    @property
    def gain(self) -> float:
        """How much better than uniform the best trial was; NaN if uniform failed.

        Measured in trainings from scratch if it was confirmed, else in the trials.
        """
        better, uniform = self._pair()
        return signed(better, self.direction) - signed(uniform, self.direction)

    @property
    def noise(self) -> float:
        """The standard error of `gain` from the sampling of validation examples; NaN if unknown."""
        better, uniform = self._pair()
        return 0.0 if better is uniform else difference_noise(better.values, uniform.values)

    def _pair(self) -> tuple[SearchTrial, SearchTrial]:
        """The best trial and uniform, both from scratch if both were confirmed."""
        again = {trial.number: trial for trial in self.confirmed}
        if self.best.number in again:
            return again[self.best.number], again[0]
        return self.best, self.uniform

    @property
    def probabilities(self) -> FloatArray:
        """The best sampler's probability of each training example, shape `(n,)`."""
        return self.sampler.probabilities(self.features)

    @property
    def epochs(self) -> float:
        """Epochs of training that the search cost besides the pretraining."""
        return sum(self._epochs_by_part().values())

    @property
    def price(self) -> float:
        """`epochs` in uniform trainings of `pretrain_epochs`; NaN without pretraining."""
        return self.epochs / self.pretrain_epochs if self.pretrain_epochs else math.nan

    def _epochs_by_part(self) -> dict[str, float]:
        run = sum(trial.status != "RUNNING" for trial in self.trials)
        return {
            "in the trials": run * self.finetune_epochs,
            "to confirm": max(0, len(self.confirmed) - 1) * self.pretrain_epochs,
            "to record": self.record_epochs,
        }

    @property
    def loss_deciles(self) -> FloatArray:
        """The share of the draws from each tenth of the examples by mean loss.

        A float64 array, shape `(10,)`, lowest losses first; 0.1 each for uniform.
        """
        order = np.argsort(self.record.mean_loss, kind="stable")
        return np.array([part.sum() for part in np.array_split(self.probabilities[order], 10)])

    @functools.cached_property
    def _doubts(self) -> Doubts:
        return find_doubts(self.record, self.classes)

    @property
    def suspicion(self) -> FloatArray:
        """How doubtful each label is, float64 array, shape `(n,)`: only the order matters."""
        return self._doubts.scores

    @property
    def wrong_share(self) -> WrongShare:
        """The estimated share of wrong labels: `estimate`, `low`, `high`."""
        return self._doubts.share

    @overload
    def suspects(
        self, count: int | None = None, return_scores: Literal[False] = False
    ) -> IntArray: ...

    @overload
    def suspects(
        self, count: int | None = None, *, return_scores: Literal[True]
    ) -> tuple[IntArray, FloatArray]: ...

    def suspects(
        self, count: int | None = None, return_scores: bool = False
    ) -> IntArray | tuple[IntArray, FloatArray]:
        """The examples most likely mislabelled.

        Args:
            count: int, how many; all of them if there are fewer. Defaults to
                `None`: those whose label is more likely wrong than right.
            return_scores: bool, whether to return their `suspicion` too.
                Defaults to `False`.

        Returns:
            An int array of indices into the training data, most suspicious
            first; with `return_scores`, a tuple of it and a float64 array.
        """
        if count is not None:
            COUNT_OR_ZERO.check("count", count)
        check(return_scores=return_scores)
        order = self._doubts.order
        indices = order[self._doubts.suspect[order]] if count is None else order[:count]
        return (indices, self.suspicion[indices]) if return_scores else indices

    def plot(self, file: str | os.PathLike[str] | None = None) -> Figure:
        """Plots how often examples are drawn, the sampler's function, and all objectives.

        Args:
            file: path to write the figure to. Defaults to `None`, not written.

        Returns:
            A `matplotlib.figure.Figure`, with a panel for each of the three.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        from keras_swift.src.search.plot import plot_search

        check_if_given(file=file)

        return plot_search(self, file)

    def __str__(self) -> str:
        title, rows = self._described()
        return "\n".join(
            # Names longer than the column of names are not padded.
            [
                title,
                *(
                    f"  {name:<13} {text}" if len(name) <= 13 else f"  {name}  {text}"
                    for name, text in rows
                ),
            ]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        title, rows = self._described()
        return html_table(title, rows)

    def _described(self) -> tuple[str, list[tuple[str, str]]]:
        """A title, and rows of a name and a text."""
        failed = sum(trial.status == "FAILED" for trial in self.trials)
        title = f"Swift Sampler search, {len(self.trials)} trials of {self.finetune_epochs} epochs"
        if failed:
            title += f", {failed} failed"
        better = "higher is better" if self.direction == "max" else "lower is better"
        rows = [
            ("judged by", f"{self.objective}, {better}"),
            ("features", ", ".join(self.sampler.features)),
        ]
        if self.note:
            rows.append(("", self.note))
        rows.append(("in trials", compared(self.trials, self.direction)))
        if self.confirmed:
            rows.append(("from scratch", compared(self.confirmed, self.direction)))
            rows += trial_rows(self)
        elif len(self.trials) > 1:
            why = "" if self.pretrain_epochs else ": there was no pretraining to repeat"
            rows.append(("from scratch", f"not confirmed{why}"))
        seconds = sum(
            trial.seconds
            for trial in (*self.trials, *self.confirmed)
            if math.isfinite(trial.seconds)
        )
        return title, [
            *rows,
            ("chosen", verdict(self)),
            (
                "price",
                f"{self._price()}; {self.pretrain_seconds:.0f} s to pretrain, "
                f"{seconds:.0f} s after it",
            ),
            ("wrong labels" if self.classes is not None else "suspects", str(self.wrong_share)),
            (
                "drawn from each decile of the mean loss, lowest first",
                " ".join(f"{share:.2f}" for share in self.loss_deciles),
            ),
        ]

    def _price(self) -> str:
        if not self.pretrain_epochs:
            return f"{self.epochs:g} epochs"
        parts = ", ".join(
            f"{epochs / self.pretrain_epochs:.1f} {name}"
            for name, epochs in self._epochs_by_part().items()
            if epochs or name != "to record"
        )
        return f"{self.price:.1f} uniform trainings of {self.pretrain_epochs} epochs ({parts})"
