"""Turns states, plain values and arrays into bytes and back, without pickle.

Everything that a training saves has this format.
"""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any, BinaryIO

import numpy as np

from keras_swift.src._state import SavedState
from keras_swift.src.fitting.atomic import write_atomically


def to_bytes(state: Any) -> bytes:
    """States, or nested dicts and lists of numbers, strings and arrays, as bytes."""
    buffer = io.BytesIO()
    _dump(buffer, state)
    return buffer.getvalue()


def from_bytes(content: bytes) -> Any:
    """Reads what `to_bytes` made; tuples become lists."""
    return _load(io.BytesIO(content))


def write_state(path: str, state: Any) -> None:
    """Writes what `to_bytes` returns for a state to a file, whole or not at all."""
    write_atomically(path, lambda file: _dump(file, state))


def read_state(path: str) -> Any:
    """Reads what `write_state` wrote; tuples become lists."""
    with open(path, "rb") as file:
        return _load(file)


def alike(saved: Any, present: Any) -> bool:
    """Whether two states are of one kind and have the same names, regardless of their values."""
    if isinstance(saved, SavedState) or isinstance(present, SavedState):
        return type(saved) is type(present) and alike(vars(saved), vars(present))
    if not (isinstance(saved, dict) and isinstance(present, dict)):
        return isinstance(saved, dict) == isinstance(present, dict)
    return saved.keys() == present.keys() and all(
        alike(saved[name], present[name]) for name in saved
    )


def _dump(file: BinaryIO, state: Any) -> None:
    arrays: dict[str, Any] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays[f"array_{len(arrays)}"] = value
            return {"__array__": f"array_{len(arrays) - 1}"}
        if isinstance(value, SavedState):
            return {"__state__": type(value).__name__, **plain(vars(value))}
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return value.item() if isinstance(value, np.generic) else value

    text = json.dumps(plain(state))
    np.savez(file, state=np.array(text), **arrays)


def _load(file: BinaryIO) -> Any:
    with np.load(file) as content:

        def full(value: Any) -> Any:
            if isinstance(value, dict) and set(value) == {"__array__"}:
                return content[value["__array__"]]
            if isinstance(value, dict):
                return _of_kind({key: full(part) for key, part in value.items()})
            return [full(part) for part in value] if isinstance(value, list) else value

        return full(json.loads(str(content["state"])))


def _of_kind(found: dict[str, Any]) -> Any:
    """The `SavedState` that a dict was written from; the dict itself if that class is not known.

    Another release may have other classes: its files are refused later, by their version.
    """
    kind: Any = SavedState.KINDS.get(found.get("__state__", ""))
    if kind is None:
        return found
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: found[name] for name in names}) if names < found.keys() else found
