"""`SwiftSampler`: a few numbers that decide how often each kind of example is drawn.

Pure NumPy and SciPy, except for Keras' serialisation registry. This file decides how features
become probabilities (the paper's equations 4 to 10), and how degenerate inputs are handled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import numpy.typing as npt

from keras_swift.src._display import html_table
from keras_swift.src._types import FloatArray
from keras_swift.src.rules import Rule, check, numbers, numbers_between, one_of
from keras_swift.src.swift.layout import Layout
from keras_swift.src.swift.ranks import (
    Columns,
    aggregate,
    cumulative_rank,
    given_features,
    gradient_weights,
)
from keras_swift.src.swift.sampler_file import checked_config, read_sampler, write_sampler

Transform: TypeAlias = Literal["cgf", "cdf"]
TRANSFORMS = ("cgf", "cdf")
DEFAULT_FEATURES = ("loss", "renormed_entropy")
_NAMES = Rule(
    "a sequence of names", (list, tuple), lambda names: all(isinstance(name, str) for name in names)
)


@keras.saving.register_keras_serializable(package="keras_swift")
class SwiftSampler:
    """Draws each example with a probability computed from its features.

    Ten numbers, for two features and four segments, decide which kinds of
    examples a model trains on: mislabelled and useless ones can be drawn
    rarely. The probabilities are static and have no importance weights: a
    sampler is meant to change what is learned.

    With `f_i` the rank in `[0, 1]` of feature `i` among all examples, the
    sampler aggregates, transforms and applies a continuous piecewise-linear
    function `H` (the paper's equations 4 to 10):

        G = sum_i coefficients[i] * f_i
        T(u) = sum of gradient norms where G <= u, over the sum of all
        p = H(T(G)) / sum of H(T(G))

    Only the direction of the coefficients and the ratios of the values matter.
    If `H` is 0 for every example, the draw is uniform.

    Args:
        knots: the inner knots of `H`, `segments - 1` numbers in `[0, 1]` in
            ascending order; 0 and 1 are added at the ends.
        values: `H` at the knots and both ends, `segments + 1` numbers in
            `[0, 1]`.
        coefficients: one number in `[-1, 1]` for each feature.
        features: names of the features, in the order of the coefficients.
            Defaults to `("loss", "renormed_entropy")`.
        transform: `"cgf"`, the cumulative gradient function above, or
            `"cdf"`, the plain share of examples with `G <= u`. Defaults to
            `"cgf"`.

    Raises:
        TypeError: for arguments of another kind.
        ValueError: for numbers outside their ranges, knots that are not in
            order, or arguments whose lengths do not fit each other.

    Example:
        >>> sampler = SwiftSampler([0.5], [1.0, 1.0, 0.0], [1.0], features=["loss"],
        ...                        transform="cdf")
        >>> sampler.probabilities({"loss": [0.1, 5.0, 0.2, 0.3]}).tolist()
        [0.4, 0.0, 0.4, 0.2]

    Reference:
        Yao, Li and Xiao, "Swift Sampler: Efficient Learning of Sampler by 10
        Parameters", NeurIPS 2024, arXiv 2410.05578.
    """

    def __init__(
        self,
        knots: npt.ArrayLike,
        values: npt.ArrayLike,
        coefficients: npt.ArrayLike,
        features: Sequence[str] = DEFAULT_FEATURES,
        transform: Transform = "cgf",
    ) -> None:
        self.knots = numbers_between("knots", knots, 0.0, 1.0)
        self.values = numbers_between("values", values, 0.0, 1.0)
        self.coefficients = numbers_between("coefficients", coefficients, -1.0, 1.0)
        _NAMES.check("features", features)
        self.features = tuple(features)
        self.transform = transform
        if np.any(np.diff(self.knots) < 0):
            raise ValueError(
                f"`knots` must be in ascending order. Received: knots={self.knots.tolist()}"
            )
        if len(self.values) != len(self.knots) + 2:
            raise ValueError(
                "`values` must have two numbers more than `knots`, one for each end and knot. "
                f"Received: {len(self.values)} values, {len(self.knots)} knots."
            )
        if len(self.coefficients) != len(self.features) or not self.features:
            raise ValueError(
                "`coefficients` must have one number for each of `features`, at least one. "
                f"Received: {len(self.coefficients)} coefficients, features={self.features}"
            )
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"`features` must differ. Received: features={self.features}")
        one_of(TRANSFORMS).check("transform", transform)

    @classmethod
    def uniform(
        cls,
        features: Sequence[str] = DEFAULT_FEATURES,
        segments: int = 4,
        transform: Transform = "cgf",
    ) -> SwiftSampler:
        """The sampler that draws uniformly.

        Args:
            features: names of the features. Defaults to `("loss",
                "renormed_entropy")`.
            segments: int, number of linear pieces of `H`, 1 or more. Defaults
                to 4.
            transform: `"cgf"` or `"cdf"`. Defaults to `"cgf"`.

        Returns:
            A `SwiftSampler` with equally spaced knots, and values and
            coefficients of 1.
        """
        check(segments=segments)
        _NAMES.check("features", features)
        knots = np.arange(1, segments) / segments
        return cls(knots, np.ones(segments + 1), np.ones(len(features)), features, transform)

    @classmethod
    def from_parameters(
        cls, parameters: npt.ArrayLike, layout: Layout, transform: Transform = "cgf"
    ) -> SwiftSampler:
        """Builds a sampler from numbers in the order of `parameters`.

        Args:
            parameters: float array, shape `(layout.size,)`: knots, values and
                coefficients.
            layout: the `layout` of another sampler, which says how many knots
                there are, and which features.
            transform: `"cgf"` or `"cdf"`. Defaults to `"cgf"`.

        Raises:
            TypeError: if `layout` is not a sampler's.
            ValueError: for another count of numbers, or values outside the
                ranges of `SwiftSampler`.
        """
        Rule("the `layout` of a sampler", (Layout,)).check("layout", layout)
        numbers = numbers_between("parameters", parameters, -1.0, 1.0)
        if len(numbers) != layout.size:
            raise ValueError(
                f"`parameters` must be the {layout.size} numbers {layout.names}. Received: "
                f"{len(numbers)} numbers."
            )
        return cls(
            numbers[layout.knots],
            numbers[layout.values],
            numbers[layout.coefficients],
            layout.features,
            transform,
        )

    @property
    def segments(self) -> int:
        """Number of linear pieces of `H`."""
        return len(self.knots) + 1

    @property
    def layout(self) -> Layout:
        """The positions of the numbers in `parameters`, for `from_parameters`.

        Its `knots`, `values` and `coefficients` are slices of `parameters`,
        `names` has a name for each number, and `size` is their count.
        """
        return Layout(self.features, self.segments)

    @property
    def parameters(self) -> FloatArray:
        """Knots, values and coefficients in one float64 array: ten numbers by default."""
        layout = self.layout
        numbers = np.empty(layout.size)
        numbers[layout.knots] = self.knots
        numbers[layout.values] = self.values
        numbers[layout.coefficients] = self.coefficients
        return numbers

    @property
    def is_uniform(self) -> bool:
        """Whether the draw is uniform whatever the features are."""
        return bool(np.all(self.values == self.values[0]))

    def piecewise_linear(self, transformed: FloatArray) -> FloatArray:
        """`H` at points of `[0, 1]`: the unnormalised probability.

        Args:
            transformed: float array of any shape, the transformed aggregate.

        Returns:
            A float64 array of the same shape, in `[0, 1]`.
        """
        knots = np.concatenate([[0.0], self.knots, [1.0]])
        return np.asarray(np.interp(numbers("transformed", transformed, None), knots, self.values))

    def transformed(
        self, features: Columns, gradient_norm: npt.ArrayLike | None = None
    ) -> FloatArray:
        """`T(G)` of each example, the argument of `H`.

        Args:
            features: as in `probabilities`.
            gradient_norm: as in `probabilities`.

        Returns:
            A float64 array, shape `(n,)`, in `[0, 1]`.
        """
        columns, norm = given_features(self.features, features, gradient_norm)
        weights = gradient_weights(norm, len(columns[0])) if self.transform == "cgf" else None
        ranks = map(cumulative_rank, columns)
        return cumulative_rank(aggregate(self.coefficients, ranks), weights)

    def probabilities(
        self, features: Columns, gradient_norm: npt.ArrayLike | None = None
    ) -> FloatArray:
        """The sampling probability of each example.

        Args:
            features: a mapping from feature names to arrays of shape `(n,)`,
                such as `compute_features` returns, or one array of shape
                `(n, len(self.features))`, columns in the order of
                `self.features`. Any monotone scale: only ranks matter.
            gradient_norm: float array, shape `(n,)`, non-negative; the
                example's gradient norm or a bound of it. Needed by
                `transform="cgf"`. `None` takes the entry `"gradient_norm"` of
                the mapping.

        Returns:
            A float64 array, shape `(n,)`, that sums to 1.

        Raises:
            ValueError: if features or a gradient norm that is needed are
                missing, of unequal length or not finite, or a gradient norm is
                negative.
        """
        height = self.piecewise_linear(self.transformed(features, gradient_norm))
        total = height.sum()
        if total <= 0.0:
            return np.full(len(height), 1.0 / len(height))
        probability = height / total
        return np.asarray(probability / probability.sum())

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain JSON types."""
        return {
            "knots": self.knots.tolist(),
            "values": self.values.tolist(),
            "coefficients": self.coefficients.tolist(),
            "features": list(self.features),
            "transform": self.transform,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SwiftSampler:
        """Builds a sampler from what `get_config` returned."""
        return cls(**checked_config(config))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the sampler as JSON.

        Args:
            path: file to write; an existing one is replaced.
        """
        check(path=path)
        write_sampler(os.fspath(path), self.get_config())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SwiftSampler:
        """Reads a sampler that `save` wrote.

        Args:
            path: the JSON file.

        Returns:
            A `SwiftSampler`.

        Raises:
            ValueError: if the file is not JSON, not a sampler, of another
                version, or holds invalid values.
        """
        check(path=path)
        name = os.fspath(path)
        config = read_sampler(name)
        try:
            return cls.from_config(config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} does not hold a valid sampler: {error}") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SwiftSampler):
            return NotImplemented
        return self.get_config() == other.get_config()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"SwiftSampler(knots={_short(self.knots)}, values={_short(self.values)}, "
            f"coefficients={_short(self.coefficients)}, features={list(self.features)}, "
            f"transform={self.transform!r})"
        )

    def _repr_html_(self) -> str:
        kind = "uniform" if self.is_uniform else f"{self.layout.size} numbers"
        pairs = zip(self.features, _short(self.coefficients), strict=True)
        rows = [
            ("features, with coefficients", ", ".join(f"{name} {c:g}" for name, c in pairs)),
            ("knots", ", ".join(f"{knot:g}" for knot in _short(self.knots))),
            ("values at 0, the knots and 1", ", ".join(f"{v:g}" for v in _short(self.values))),
            ("transform", self.transform),
        ]
        return html_table(f"SwiftSampler, {kind}", rows)


def _short(numbers: FloatArray) -> list[float]:
    return [round(float(number), 3) for number in numbers]
