"""Where each of a sampler's numbers is."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Layout:
    """The positions of knots, values and coefficients among a sampler's numbers.

    Attributes:
        features: names of the features.
        segments: int, linear pieces of `H`.
    """

    features: tuple[str, ...]
    segments: int

    @property
    def knots(self) -> slice:
        """The `segments - 1` inner knots."""
        return slice(0, self.segments - 1)

    @property
    def values(self) -> slice:
        """`H` at the knots and both ends."""
        return slice(self.segments - 1, 2 * self.segments)

    @property
    def coefficients(self) -> slice:
        """One coefficient for each feature."""
        return slice(2 * self.segments, self.size)

    @property
    def size(self) -> int:
        """How many numbers there are: ten by default."""
        return 2 * self.segments + len(self.features)

    @property
    def names(self) -> list[str]:
        """A name for each number, in order."""
        return [
            *(f"knot_{k}" for k in range(1, self.segments)),
            *(f"value_{k}" for k in range(self.segments + 1)),
            *(f"coefficient_{name}" for name in self.features),
        ]
