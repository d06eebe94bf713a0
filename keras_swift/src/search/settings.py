"""The settings of a search, checked when they are put together.

`SamplerSpace` says which kind of samplers it looks for, `SearchSettings` how it does so.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from keras_swift.src.rules import check, check_if_given, one_of, plain
from keras_swift.src.swift.feature_table import Features, named_features
from keras_swift.src.swift.sampler import TRANSFORMS, Transform

# How a search chooses its samplers.
METHODS = ("bayesian", "random")
Method: TypeAlias = Literal["bayesian", "random"]


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """The arguments of `search` that are numbers or names, under their names there.

    Raises:
        TypeError, ValueError: for an argument of another kind or range.
    """

    max_trials: int
    finetune_epochs: int
    pretrain_epochs: int
    batch_size: int
    confirm: int
    method: Method
    seed: int | None
    verbose: int | Literal["auto"]

    def __post_init__(self) -> None:
        numbers = ("max_trials", "finetune_epochs", "pretrain_epochs", "batch_size")
        for name in (*numbers, "confirm", "verbose"):
            check(**{name: getattr(self, name)})
        check_if_given(seed=self.seed)
        one_of(METHODS).check("method", self.method)
        # PyTorch's `DataLoader`, random generators and JSON do not accept NumPy's numbers.
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))


@dataclasses.dataclass(frozen=True, eq=False)
class SamplerSpace:
    """The samplers that `search` can find.

    A sampler ranks the examples by each feature, adds the ranks up with one
    coefficient each, brings the sum to [0, 1] by `transform` and draws by a
    piecewise-linear function of `segments` pieces. With two features and the
    defaults it has ten numbers.

    Args:
        features: what a sampler reads: names, functions or arrays, in a
            sequence or in a mapping from their names, see `compute_features`.
            Defaults to `None`: `("mean_margin", "last_loss")` for classifiers,
            else `("mean_loss", "last_loss")`. The paper's are `("loss",
            "renormed_entropy")`.
        segments: int, linear pieces of the sampler's function. Defaults to 4.
        transform: `"cgf"`, which counts examples by their gradient norms, or
            `"cdf"`, which counts each once; see `SwiftSampler`. Defaults to
            `"cgf"`.

    Raises:
        TypeError: for arguments of another kind.
        ValueError: for an unknown feature or transform, or `segments` below 1.

    Example:

        space = SamplerSpace(("loss", "renormed_entropy"), segments=2)
        result = search(model, x, y, validation_data=(xv, yv), space=space)
    """

    features: Features | None = None
    segments: int = 4
    transform: Transform = "cgf"

    def __post_init__(self) -> None:
        check(segments=self.segments)
        one_of(TRANSFORMS).check("transform", self.transform)
        if self.features is not None:
            named_features(self.features)
