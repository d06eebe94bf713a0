"""What the trials of a search share, as a file of its store.

This file decides whether a directory holds the same search.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_swift.src._types import Array, FloatArray
from keras_swift.src.data import fingerprint
from keras_swift.src.search.store import START, Store, UnreadableFile


@dataclasses.dataclass(frozen=True)
class Start:
    """What all trials share, on disk between processes.

    Attributes:
        seed: int.
        values: list of arrays, every variable of model and optimizer after the pretraining.
        initial: list of arrays, every variable before the pretraining.
        features: dict from name to array, shape `(n,)`.
        record: dict from name to array, shape `(n,)`: the record of the pretraining.
        pretrained_weights: for `model.set_weights`.
        logs: dict, of the pretrained model on the validation data.
        judged: float array, the objective's value on each validation example;
            empty if not known.
        record_cost: float, cost of the record, in epochs.
        seconds: float, duration of the pretraining and the features.
        settings: dict from the parts of a search, such as `"data"`, to hashes of them.
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
    settings: dict[str, str]

    @property
    def search(self) -> str:
        """str, identifies the search: a start made again with the same outcome has the same one."""
        return fingerprint.of_settings(
            {
                "settings": self.settings,
                "seed": self.seed,
                "arrays": fingerprint.of_arrays([self.initial, self.values, self.features]),
            }
        )


# Fields in the header of the file; and those of several arrays, a list or a dict of them.
_PLAIN = ("settings", "seed", "seconds", "record_cost", "logs")
_ARRAYS = ("values", "initial", "pretrained_weights", "features", "record")


def write_start(store: Store, start: Start) -> None:
    """Writes the start, unless another process was faster."""
    header = {name: getattr(start, name) for name in _PLAIN}
    arrays: dict[str, Any] = {"judged": start.judged}
    for name in _ARRAYS:
        parts = getattr(start, name)
        named = isinstance(parts, dict)
        header[name] = list(parts) if named else len(parts)
        values = parts.values() if named else parts
        arrays |= {f"{name}_{k}": value for k, value in enumerate(values)}
    store.write_arrays(START, header, arrays, once=True)


def read_start(store: Store, settings: dict[str, str], seed: int | None) -> Start:
    """Reads the start and checks that it belongs to this search.

    Raises:
        ValueError: if it cannot be read or has other settings.
    """
    try:
        start = _parsed(*store.read_arrays(START))
    except UnreadableFile as error:
        raise ValueError(
            f"`directory` must hold a search of `keras_swift`. {error} The search cannot go on "
            "without it: put a whole copy in its place, or pass overwrite=True to begin again."
        ) from error
    changed = [name for name, value in settings.items() if start.settings.get(name) != value]
    if seed is not None and seed != start.seed:
        changed.append("seed")
    if changed:
        raise ValueError(
            "`directory` must be empty or hold this search. Received: "
            f"{store.folder}, which belongs to another one: the {', '.join(changed)} "
            "differ. Choose another `directory` or `project_name`, or pass overwrite=True to "
            "delete it."
        )
    return start


def _parsed(header: dict[str, Any], arrays: dict[str, Array]) -> Start:
    fields = {name: header[name] for name in _PLAIN}
    for name in _ARRAYS:
        names = header[name]
        count = len(names) if isinstance(names, list) else names
        parts = [arrays[f"{name}_{k}"] for k in range(count)]
        fields[name] = dict(zip(names, parts, strict=True)) if isinstance(names, list) else parts
    return Start(judged=arrays["judged"], **fields)
