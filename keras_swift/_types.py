"""Names for what the package passes around."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

# A tensor of the active framework: what each of them calls so has no common type.
Tensor: TypeAlias = Any
# A structure (nested lists, tuples and dicts) of NumPy arrays, or of tensors.
ArrayTree: TypeAlias = Any
# What leads to a leaf of a structure: keys and positions.
Path: TypeAlias = tuple[Any, ...]
# What `np.random.default_rng` takes.
Seed: TypeAlias = int | np.random.Generator | None
FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
# An array of any type: images, labels, text.
Array: TypeAlias = npt.NDArray[Any]
# What `state()` hands to `restore`: nested dicts and lists of numbers, strings and arrays.
State: TypeAlias = dict[str, Any]
# What Keras hands to its callbacks.
Logs: TypeAlias = dict[str, Any] | None
ScoreName: TypeAlias = Literal["gradient_norm", "loss", "full_gradient_norm"]
# How much each example matters: a known number, or a function `(y_true, y_pred) -> (n,)`.
Score: TypeAlias = ScoreName | Callable[[ArrayTree, ArrayTree], Tensor]
ScoringDtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
