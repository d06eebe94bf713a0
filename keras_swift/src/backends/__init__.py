"""The frameworks: `base` has the interface, and one file for each framework implements it.

Only the framework that Keras runs on is imported, when it is first needed.
"""

import functools
import importlib

import keras

from keras_swift.src.backends.base import Backend

_CLASSES = {"tensorflow": "TensorFlowBackend", "jax": "JaxBackend", "torch": "TorchBackend"}


@functools.cache
def active() -> Backend:
    """The `Backend` of the framework that Keras runs on.

    Raises:
        ValueError: if that is none of TensorFlow, JAX and PyTorch.
    """
    name = keras.backend.backend()
    if name not in _CLASSES:
        raise ValueError(
            "keras_swift trains with the TensorFlow, JAX and PyTorch backends. Received: "
            f"KERAS_BACKEND={name}. Set KERAS_BACKEND to tensorflow, jax or torch before Keras "
            "is imported."
        )
    module = importlib.import_module(f"keras_swift.src.backends.{name}")
    backend: Backend = getattr(module, _CLASSES[name])()
    return backend
