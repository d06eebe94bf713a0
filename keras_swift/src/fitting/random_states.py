"""Reads, restores and temporarily seeds all global random generators of a process.

This file decides what a seeded training may depend on, and what a backup of one holds. Layers draw
from global generators where they have no seed of their own, PyTorch's dropout above all; Keras
shuffles by NumPy's, and data sets augment by NumPy's and Python's.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._keras import global_seed_state, has_global_seed_state
from keras_swift.src._types import State


def random_states() -> State:
    """The states of Python's, NumPy's, Keras' and the framework's global generators."""
    version, numbers, gauss = random.getstate()
    seeds = None
    if has_global_seed_state():
        seeds = np.array(keras.ops.convert_to_numpy(global_seed_state().value))
    return {
        "python": [version, np.array(numbers, np.uint32), gauss],
        "numpy": list(np.random.get_state(legacy=True)),
        "keras": seeds,
        "framework": backends.active().random_state(),
    }


def restore_random_states(states: State) -> None:
    """Restores what `random_states` returned."""
    if states["keras"] is not None:
        global_seed_state().assign(states["keras"])
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, *rest = states["numpy"]
    numpy_state: Any = (name, keys, *rest)
    np.random.set_state(numpy_state)
    if states["framework"]:
        backends.active().restore_random_state(states["framework"])


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context in which the global generators are seeded; restores them at its end.

    These are Python's, NumPy's, Keras' and the framework's.

    Args:
        seed: int, not negative.
    """
    python = random.getstate()
    # Keras makes this state when it is first asked for, with a number from Python's generator; the
    # generator is set back, as if none had been drawn.
    state = global_seed_state()
    random.setstate(python)
    before = random_states()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # Frameworks take signed 64-bit seeds.
    backends.active().seed_random_state(seed % 2**63)
    state.assign(np.array([seed % 2**31, 0], before["keras"].dtype))
    try:
        yield
    finally:
        restore_random_states(before)
