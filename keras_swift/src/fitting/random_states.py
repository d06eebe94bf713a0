"""Global random generators, set for a while and put back.

This file decides what a seeded training may depend on: nothing that was drawn before it. Layers
draw from global generators where they have no seed of their own, PyTorch's dropout above all.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._keras import global_seed_state


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A context in which the global generators begin with a seed; restores them at its end.

    These are Python's, NumPy's, Keras' and the framework's.

    Args:
        seed: int, not negative.
    """
    backend = backends.active()
    python, numpy, framework = random.getstate(), np.random.get_state(), backend.random_state()
    # Made by the first who asks, from Python's generator.
    state = global_seed_state()
    value = np.array(keras.ops.convert_to_numpy(state.value))
    random.seed(seed)
    np.random.seed(seed % 2**32)
    backend.seed_random_state(seed)
    state.assign(np.array([seed % 2**31, 0], value.dtype))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if framework:
            backend.restore_random_state(framework)
        state.assign(value)
