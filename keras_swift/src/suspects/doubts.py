"""The doubts about every target of one output, from the training records of all processes."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_swift.src import backends
from keras_swift.src._types import Array, IntArray
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.targets import TargetOutput
from keras_swift.src.suspects.mixture import Doubts, WrongShare, find_doubts
from keras_swift.src.suspects.tail import find_far_values

# Labels of more entries than this are judged together: each entry alone has too few examples.
MOST_ENTRIES = 1000


@dataclasses.dataclass(frozen=True)
class OutputDoubts:
    """The targets of one output and the doubts about them.

    Attributes:
        output: its `TargetOutput`.
        labels: the given targets, shape `(n, *entries)`.
        doubts: `Doubts`, arrays of shape `(n * targets,)`, with `targets` targets in an example.
    """

    output: TargetOutput
    labels: Array
    doubts: Doubts


def doubts_of(output: TargetOutput, labels: Array, record: FinishedRecord) -> Doubts:
    """The doubts about each target of this process' examples, judged among those of all processes.

    Args:
        output: `TargetOutput`.
        labels: the given targets, as `TargetOutput.labels` returns them.
        record: the record of each target, arrays of shape `(n * targets,)`.

    Returns:
        `Doubts`, arrays of shape `(n * targets,)`; NaN where a target does not count.

    Raises:
        ValueError: if no target counts.
    """
    group = _groups(output, labels)
    gathered = backends.active().gather_rows({**record.columns(), "group": group})
    found = dict(gathered.columns)
    groups = found.pop("group").astype(np.int64)
    counted = np.isfinite(found["mean_loss"])
    every = FinishedRecord(**{name: column[counted] for name, column in found.items()})
    if not counted.any():
        raise ValueError(
            "`y` must hold targets that count. Received: an output "
            f"{output.name!r} whose targets are all masked, ignored or of weight 0."
        )
    if output.kind == "values":
        doubts = find_far_values(every.mean_margin, groups[counted])
    else:
        known = None if output.label is None else groups[counted]
        doubts = find_doubts(every, known)
        if output.is_multi_label:
            # The lower end counts labels contradicted with confidence, and was fitted to examples
            # with one label. Of several labels, hard ones are contradicted with confidence too.
            share = WrongShare(doubts.share.estimate, low=0.0, high=doubts.share.high)
            doubts = dataclasses.replace(doubts, share=share)

    def own(column: Array, nothing: float) -> Array:
        whole = np.full(len(counted), nothing, column.dtype)
        whole[counted] = column
        return whole[gathered.own]

    return dataclasses.replace(
        doubts,
        scores=own(doubts.scores, np.nan),
        probability=own(doubts.probability, np.nan),
        suspect=own(doubts.suspect, 0.0),
    )


def _groups(output: TargetOutput, labels: Array) -> Array:
    """The group that each target is compared with: its class, its entry, or both."""
    entry = np.broadcast_to(np.arange(output.size), (len(labels), output.size)).reshape(-1)
    if output.kind == "losses":
        return np.zeros(len(labels))
    if output.kind == "values":
        return entry.astype(np.float64)
    classes: IntArray = labels.reshape(-1)
    if output.is_multi_label and output.size <= MOST_ENTRIES:
        classes = 2 * entry + classes
    return classes.astype(np.float64)
