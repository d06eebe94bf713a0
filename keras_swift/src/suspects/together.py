"""Puts the doubts about all outputs into one result and one order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_swift.src._types import Array, FloatArray, IntArray
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.examples import Examples
from keras_swift.src.suspects.doubts import OutputDoubts
from keras_swift.src.suspects.mixture import WrongShare
from keras_swift.src.suspects.names import ClassNames
from keras_swift.src.suspects.result import Suspects


def put_together(
    found: Sequence[OutputDoubts],
    propose: Callable[[int, IntArray, IntArray, Array], Array | None],
    record: FinishedRecord,
    examples: Examples,
    class_names: ClassNames,
) -> Suspects:
    """The suspects of all outputs in one order.

    Args:
        found: sequence of `OutputDoubts`.
        propose: `Proposals.of`.
        record: the record of the examples.
        examples: `Examples`, for their ids and for plots.
        class_names: as for `find_suspects`.
    """
    places: list[tuple[int, int, int]] = []
    proposals: list[Any] = []
    ranks: list[FloatArray] = []
    for place, part in enumerate(found):
        order = np.argsort(-np.nan_to_num(part.doubts.scores, nan=-np.inf), kind="stable")
        flat = order[part.doubts.suspect[order]]
        indices, entries = np.divmod(flat, part.output.size)
        labels = part.labels.reshape(len(part.labels), -1)
        proposed = propose(place, indices, entries, labels)
        places += [(place, int(i), int(e)) for i, e in zip(indices, entries, strict=True)]
        proposals += [None] * len(flat) if proposed is None else proposed.tolist()
        ranks.append((np.arange(len(flat)) + 0.5) / max(len(flat), 1))
    order = np.argsort(np.concatenate(ranks), kind="stable")
    places = [places[k] for k in order]
    names = [part.output.name for part in found]
    several = len(found) > 1

    def shaped(column: str) -> Any:
        by_output = {
            part.output.name: getattr(part.doubts, column).reshape(
                len(part.labels), *part.output.entries
            )
            for part in found
        }
        return by_output if several else by_output[names[0]]

    given = {part.output.name: part.labels for part in found}
    return Suspects(
        indices=np.array([index for _, index, _ in places], np.int64),
        entries=_entries_of(found, places),
        outputs=np.array([names[place] for place, _, _ in places], str) if several else None,
        instead=_instead_of(found, [proposals[k] for k in order]),
        scores=shaped("scores"),
        probability=shaped("probability"),
        labels=given if several else given[names[0]],
        wrong_share=_share_of(found),
        record=record,
        _found=tuple(found),
        _places=tuple(places),
        ids=examples.ids,
        _examples=examples,
        _names=class_names,
    )


def _entries_of(
    found: Sequence[OutputDoubts], places: Sequence[tuple[int, int, int]]
) -> IntArray | None:
    axes = max(len(part.output.entries) for part in found)
    if not axes:
        return None
    entries = np.full((len(places), axes), -1)
    for k, (place, _, entry) in enumerate(places):
        shape = found[place].output.entries
        if shape:
            entries[k, : len(shape)] = np.unravel_index(entry, shape)
    return entries[:, 0] if axes == 1 else entries


def _instead_of(found: Sequence[OutputDoubts], proposals: list[Any]) -> Array | None:
    kinds = {part.output.kind for part in found}
    if kinds == {"losses"}:
        return None
    if kinds <= {"categorical", "binary"}:
        return np.array(proposals, np.int64)
    return np.array([np.nan if value is None else value for value in proposals], np.float64)


def _share_of(found: Sequence[OutputDoubts]) -> WrongShare:
    """The share over all targets.

    The bounds are averaged like the estimates, as if the errors of all outputs went the same way.
    """
    counts = np.array([np.isfinite(part.doubts.scores).sum() for part in found], np.float64)
    shares = np.array([part.doubts.share for part in found])
    estimate, low, high = counts / counts.sum() @ shares
    return WrongShare(float(estimate), float(low), float(high))
