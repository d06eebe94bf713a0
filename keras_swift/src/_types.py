"""Type aliases used throughout the package."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

# A tensor of the active framework: the frameworks' tensors have no common type.
Tensor: TypeAlias = Any
# A structure (nested lists, tuples and dicts) of NumPy arrays, or of tensors.
ArrayTree: TypeAlias = Any
# The path to a leaf of a structure: keys and positions.
Path: TypeAlias = tuple[Any, ...]
# An argument of `np.random.default_rng`.
Seed: TypeAlias = int | np.random.Generator | None
FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
# An array of any type: images, labels, text.
Array: TypeAlias = npt.NDArray[Any]
# Plain values to save or to compare, by name: nested dicts and lists of numbers, strings, arrays.
State: TypeAlias = dict[str, Any]
# The logs that Keras passes to callbacks.
Logs: TypeAlias = dict[str, Any] | None
ScoreName: TypeAlias = Literal["gradient_norm", "loss"]
# A score of each example: a known name, or a function `(y_true, y_pred) -> (n,)`.
Score: TypeAlias = ScoreName | Callable[[ArrayTree, ArrayTree], Tensor]
