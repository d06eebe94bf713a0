"""What the trials of a search share, and its file on disk.

This file decides whether a directory holds the same search.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import Any

import numpy as np

from keras_swift.src._types import Array, FloatArray
from keras_swift.src.fitting.atomic import create_atomically


@dataclasses.dataclass(frozen=True)
class Start:
    """What all trials share, on disk between processes.

    Attributes:
        seed: int.
        values: every variable of model and optimizer after the pretraining.
        initial: the same before it.
        features: dict from name to array, shape `(n,)`.
        record: dict from name to array, shape `(n,)`: the record of the pretraining.
        pretrained_weights: for `model.set_weights`.
        logs: dict, of the pretrained model on the validation data.
        judged: float array, the objective's value on each validation example;
            empty if not known.
        record_cost: float, cost of the record, in epochs.
        seconds: float, duration of the pretraining and the features.
    """

    seed: int
    values: list[Array]
    initial: list[Array]
    features: dict[str, FloatArray]
    record: dict[str, FloatArray]
    pretrained_weights: list[Array]
    logs: dict[str, float]
    judged: FloatArray
    record_cost: float
    seconds: float


# The version of a search's files: a search of another version must begin again.
VERSION = 2
_LISTS = ("values", "initial", "pretrained_weights")
_DICTS = ("features", "record")


def write_start(path: str, start: Start, settings: dict[str, str]) -> None:
    """Writes the start atomically, unless another process was faster."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    header = {
        "version": VERSION,
        "settings": settings,
        "seed": start.seed,
        "seconds": start.seconds,
        "record_cost": start.record_cost,
        "logs": start.logs,
        **{name: len(getattr(start, name)) for name in _LISTS},
        **{name: list(getattr(start, name)) for name in _DICTS},
    }
    arrays: dict[str, Any] = {"header": np.array(json.dumps(header)), "judged": start.judged}
    for name in _LISTS:
        arrays |= {f"{name}_{k}": value for k, value in enumerate(getattr(start, name))}
    for name in _DICTS:
        arrays |= {f"{name}_{k}": value for k, value in enumerate(getattr(start, name).values())}
    create_atomically(path, lambda file: np.savez(file, **arrays))


def read_start(path: str, settings: dict[str, str], seed: int | None) -> Start:
    """Reads the start and checks that it belongs to this search."""
    try:
        with np.load(path) as loaded:
            header = json.loads(str(loaded["header"]))
            if header.get("version") != VERSION:
                raise ValueError(
                    f"it is of version {header.get('version')!r}, this release reads {VERSION}"
                )
            lists: dict[str, Any] = {
                name: [loaded[f"{name}_{k}"] for k in range(header[name])] for name in _LISTS
            }
            dicts: dict[str, Any] = {
                name: {key: loaded[f"{name}_{k}"] for k, key in enumerate(header[name])}
                for name in _DICTS
            }
            start = Start(
                seed=header["seed"],
                logs=header["logs"],
                judged=loaded["judged"],
                record_cost=header["record_cost"],
                seconds=header["seconds"],
                **lists,
                **dicts,
            )
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"`directory` must hold a search of `keras_swift`. {path} cannot be read ({error}). "
            "Pass overwrite=True to begin again."
        ) from error
    changed = [name for name, value in settings.items() if header["settings"].get(name) != value]
    if seed is not None and seed != start.seed:
        changed.append("seed")
    if changed:
        raise ValueError(
            "`directory` must be empty or hold this search. Received: "
            f"{os.path.dirname(path)}, which belongs to another one: the {', '.join(changed)} "
            "differ. Choose another `directory` or `project_name`, or pass overwrite=True to "
            "delete it."
        )
    return start
