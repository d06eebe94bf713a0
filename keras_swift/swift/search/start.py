"""What the trials of a search share, and how it is kept on disk.

This file decides whether a directory holds the same search.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Start:
    """What all trials share, on disk between processes."""

    seed: int
    values: list[np.ndarray]
    features: dict[str, np.ndarray]
    suspicion: np.ndarray
    pretrained_weights: list[np.ndarray]
    seconds: float


def write_start(path: str, start: Start, settings: dict[str, str]) -> None:
    """Writes the start unless another process was faster; whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    header = {
        "settings": settings,
        "seed": start.seed,
        "seconds": start.seconds,
        "features": list(start.features),
        "values": len(start.values),
        "weights": len(start.pretrained_weights),
    }
    arrays: dict[str, Any] = {"header": np.array(json.dumps(header)), "suspicion": start.suspicion}
    arrays |= {f"feature_{k}": column for k, column in enumerate(start.features.values())}
    arrays |= {f"value_{k}": value for k, value in enumerate(start.values)}
    arrays |= {f"weight_{k}": weight for k, weight in enumerate(start.pretrained_weights)}
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link, unlike a renaming, fails where the file exists: the first one counts.
        os.link(file.name, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(file.name)


def read_start(path: str, settings: dict[str, str], seed: int | None) -> Start:
    """Reads the start and checks that it is this search's."""
    try:
        with np.load(path) as loaded:
            header = json.loads(str(loaded["header"]))
            start = Start(
                seed=header["seed"],
                values=[loaded[f"value_{k}"] for k in range(header["values"])],
                features={
                    name: loaded[f"feature_{k}"] for k, name in enumerate(header["features"])
                },
                suspicion=loaded["suspicion"],
                pretrained_weights=[loaded[f"weight_{k}"] for k in range(header["weights"])],
                seconds=header["seconds"],
            )
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(
            f"`directory` must hold a search of `keras_swift`. {path} cannot be read ({error}). "
            "Pass overwrite=True to begin anew."
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
