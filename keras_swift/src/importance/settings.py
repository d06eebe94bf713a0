"""The settings of importance training, checked when they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import keras

from keras_swift.src._types import ArrayTree, Score
from keras_swift.src.rules import check, check_if_given

# The presample ratio of the paper's rule if only its threshold is given.
PRESAMPLE = 3.0
# The uniform share of the probabilities. It bounds the weights by 10 for fresh scores, and by 2 for
# remembered ones, so that stale scores do little harm.
FRESH_FLOOR = 0.1
REMEMBERED_FLOOR = 0.5


@dataclasses.dataclass(frozen=True)
class ImportanceSettings:
    """The arguments of `ImportanceTraining` and `ImportanceDataset` beside model and data.

    Each attribute means what the argument of its name means there.

    Raises:
        TypeError: for a value of another type than there.
        ValueError: for a value outside its range, or a `tau_threshold` given
            with `presample="auto"`.
    """

    presample: float | Literal["auto"] | None = None
    tau_threshold: float | None = None
    score: Score = "gradient_norm"
    floor: float | None = None
    score_inputs: Callable[[ArrayTree], ArrayTree] | None = None
    scale_learning_rate: bool | None = None
    ease_off: bool | None = None

    def __post_init__(self) -> None:
        check(score=self.score)
        check_if_given(
            presample=self.presample,
            tau_threshold=self.tau_threshold,
            floor=self.floor,
            score_inputs=self.score_inputs,
            scale_learning_rate=self.scale_learning_rate,
            ease_off=self.ease_off,
        )
        if self.is_auto and self.tau_threshold is not None:
            raise ValueError(
                '`tau_threshold` is for a presample of a given size; `presample="auto"` uses what '
                f"it measures. Received: tau_threshold={self.tau_threshold!r}. Give "
                "`presample=3.0` with it, or leave it out."
            )

    @property
    def ratio(self) -> float | Literal["auto"]:
        """`presample`, or what stands for `None`: `"auto"`, or 3.0 if a threshold is given."""
        if self.presample is not None:
            return self.presample
        return "auto" if self.tau_threshold is None else PRESAMPLE

    @property
    def is_auto(self) -> bool:
        """bool, whether scores are remembered where they can be."""
        return self.ratio == "auto"

    @property
    def eases_off(self) -> bool:
        """bool, whether batches become uniform where draws by importance stop helping."""
        return self.is_auto if self.ease_off is None else self.ease_off

    def floor_of(self, remembered: bool) -> float:
        """The uniform share of the probabilities, for remembered or fresh scores."""
        if self.floor is not None:
            return self.floor
        return REMEMBERED_FLOOR if remembered else FRESH_FLOOR

    def check_for(self, model: keras.Model) -> None:
        """Raises `ValueError` if the learning rate is to be scaled without an optimizer."""
        if self.scale_learning_rate and getattr(model, "optimizer", None) is None:
            raise ValueError(
                "`scale_learning_rate` needs a model that was compiled with an optimizer. "
                "Received: one without. Leave it False."
            )

    def scales_rate(self, has_replicas: bool) -> bool:
        """Whether the learning rate of a step drawn by importance grows with its variance gain.

        Args:
            has_replicas: bool, whether several devices train on the parts of a batch.

        Raises:
            ValueError: if the user asked for it with replicas.
        """
        if has_replicas and self.scale_learning_rate:
            raise ValueError(
                "`scale_learning_rate` is for one device: replicas trace their steps in parallel. "
                f"Received: scale_learning_rate={self.scale_learning_rate!r} on a model of several "
                "replicas. Leave it out, or False."
            )
        if self.scale_learning_rate is not None:
            return self.scale_learning_rate
        return self.is_auto and not has_replicas

    def described(self) -> list[tuple[str, str]]:
        """`(name, text)` of the presample ratio and of each setting that is not the default."""
        found = [("presample", repr(self.ratio))]
        score = getattr(self.score, "__name__", None) or repr(self.score)
        if score != repr("gradient_norm"):
            found.append(("score", score))
        for name in ("tau_threshold", "floor", "scale_learning_rate", "ease_off"):
            if getattr(self, name) is not None:
                found.append((name, repr(getattr(self, name))))
        if self.score_inputs is not None:
            name = getattr(self.score_inputs, "__name__", repr(self.score_inputs))
            found.append(("score_inputs", name))
        return found
