"""Names for what the package passes around."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

# A tensor of the active framework: what each of them calls so has no common type.
Tensor: TypeAlias = Any
# A structure (nested lists, tuples and dicts) of NumPy arrays, or of tensors.
ArrayTree: TypeAlias = Any
# What `np.random.default_rng` takes.
Seed: TypeAlias = int | np.random.Generator | None
FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
