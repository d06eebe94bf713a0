"""The names of classes and entries: how many there must be, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from keras_swift.src.records.targets import TargetOutput
from keras_swift.src.rules import shown

ClassNames: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]] | None


def check_class_names(names: Any, outputs: Sequence[TargetOutput]) -> None:
    """Raises unless every class, or every entry, of the outputs that `names` is for has a name.

    Args:
        names: as for `find_suspects`.
        outputs: sequence of `TargetOutput`.
    """
    if names is None:
        return
    counts = {output.name: _count(output) for output in outputs}
    if isinstance(names, Mapping):
        named = dict(names)
    else:
        # A single list serves every output that has classes.
        named = {name: names for name, count in counts.items() if count} or {"": names}
    for name, given in named.items():
        where = f" for the output {name!r}" if name else ""
        count = counts.get(name)
        if not count:
            some = [output for output, wanted in counts.items() if wanted]
            raise ValueError(
                f"`class_names` must be for outputs with classes, of which there are {some}. "
                f"Received: class_names={shown(names)}."
            )
        if not _is_list(given):
            raise TypeError(
                f"`class_names` must be a list of {count} names{where}, or a dict from the names "
                f"of outputs to such lists. Received: class_names={shown(names)}."
            )
        if len(given) != count:
            raise ValueError(
                f"`class_names` must be a list of {count} names{where}. Received: {len(given)} "
                f"names, {shown(given)}."
            )


def _is_list(given: Any) -> bool:
    """Whether something is a list of names, of whatever library."""
    if isinstance(given, str | bytes | Mapping) or not hasattr(given, "__getitem__"):
        return False
    return getattr(given, "ndim", 1) == 1 and all(np.ndim(name) == 0 for name in given)


def _count(output: TargetOutput) -> int:
    """How many names an output needs: one for each class, or for each label of its own."""
    return output.entries[0] if output.is_multi_label else output.classes
