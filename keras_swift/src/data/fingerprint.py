"""Hashes that show whether data or a model have changed."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import keras
import numpy as np

# Bytes hashed at a time: memory-mapped data must not be loaded whole.
_CHUNK = 1 << 24


def of_arrays(data: Any) -> str:
    """A hash of every array in a structure: shape, type and all values.

    Args:
        data: structure of NumPy arrays; `None` is a value of its own.

    Returns:
        A hexadecimal string.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in _leaves(data):
        if leaf is None:
            digest.update(f"{path}:None;".encode())
            continue
        # Data on disk is read in slices.
        array = leaf if hasattr(leaf, "shape") and hasattr(leaf, "dtype") else np.asarray(leaf)
        digest.update(f"{path}:{array.shape}:{array.dtype.str};".encode())
        if array.ndim == 0 or array.dtype.hasobject:
            digest.update(repr(array.tolist()).encode())
            continue
        rows = max(1, _CHUNK // max(1, array.dtype.itemsize * int(np.prod(array.shape[1:]))))
        for start in range(0, array.shape[0], rows):
            part = array[start : start + rows]
            part = part.toarray() if hasattr(part, "toarray") else part
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def of_settings(settings: Any) -> str:
    """A hash of plain JSON values, whatever the order of their keys."""
    # An object's address differs in the next process.
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", json.dumps(settings, sort_keys=True, default=str))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def of_model(model: keras.Model, weights: bool) -> str:
    """A hash of a model's variables' shapes and of how it was compiled.

    Args:
        model: a built, compiled `keras.Model`.
        weights: whether the values of the weights count too.
    """
    shapes = [(tuple(variable.shape), str(variable.dtype)) for variable in model.variables]
    optimizer = model.optimizer.get_config() if model.optimizer is not None else None
    parts = {
        "class": type(model).__name__,
        "shapes": shapes,
        "layers": [type(layer).__name__ for layer in model.layers],
        "optimizer": _without_names(keras.saving.serialize_keras_object(optimizer)),
        "loss": _without_names(_losses(model.get_compile_config())),
    }
    if weights:
        parts["weights"] = of_arrays(
            [keras.ops.convert_to_numpy(weight) for weight in model.weights]
        )
    return of_settings(parts)


def _losses(config: Any) -> Any:
    return {} if not config else {key: config.get(key) for key in ("loss", "loss_weights")}


def _without_names(config: Any) -> Any:
    """A config without object names, because Keras numbers objects in order of creation."""
    if isinstance(config, dict):
        return {key: _without_names(part) for key, part in config.items() if key != "name"}
    if isinstance(config, list | tuple):
        return [_without_names(part) for part in config]
    return config


def _leaves(data: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(data, dict):
        return [leaf for key in sorted(data) for leaf in _leaves(data[key], f"{path}.{key}")]
    if isinstance(data, list | tuple):
        return [leaf for k, part in enumerate(data) for leaf in _leaves(part, f"{path}.{k}")]
    return [(path, data)]
