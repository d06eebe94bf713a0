"""From the record of a training to its suspects.

This file decides which numbers of a record each target is judged by, which do not count, and in
which order the suspects of several outputs come. Where the record comes from, a training of its own
or any other, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_swift.src._pages import read_on
from keras_swift.src._types import Array, ArrayTree, FloatArray, IntArray
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.examples import Examples
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.records.target_record import TargetRecord
from keras_swift.src.records.targets import TargetOutput, target_outputs
from keras_swift.src.scoring.compiled import CompiledLosses, build
from keras_swift.src.suspects.doubts import OutputDoubts, doubts_of
from keras_swift.src.suspects.mixture import WrongShare
from keras_swift.src.suspects.names import ClassNames, check_class_names
from keras_swift.src.suspects.proposals import Proposals
from keras_swift.src.suspects.result import Suspects


def suspects_of_memory(
    model: keras.Model,
    examples: Examples | None,
    memory: ExampleMemory | None,
    class_names: ClassNames = None,
) -> Suspects:
    """The suspects of a training that was not made to find them.

    Labels are judged by means over that training if its memory has them, else by the numbers as
    last seen.

    Args:
        model: the trained `keras.Model`.
        examples: `Examples` of its last `fit`, or `None`.
        memory: what that `fit` remembered, in the order of the examples' numbers, or `None`.
        class_names: as for `find_suspects`.

    Raises:
        ValueError: if nothing was remembered, and for models whose examples have several targets
            or values.
    """
    if examples is None or memory is None:
        raise ValueError(
            "`suspects` needs what the last `fit` remembered of each example. Received: nothing "
            "remembered. Call `fit` first, with remembered scores or a record of its own, or "
            "`find_suspects(model, x, y)`. "
            + read_on("guides/wrong_labels.md#which-labels-are-doubtful")
        )
    some_x, some_y = examples.specimen()
    losses = build(model, some_x, some_y)
    outputs = target_outputs(model, losses)
    if not has_one_label(outputs):
        raise ValueError(
            "`suspects` is for models with one class for each example, because a training "
            "remembers one margin for each. Received: "
            f"{', '.join(output.kind for output in outputs)} targets, of "
            f"{sum(output.size for output in outputs)} numbers an example. Use "
            "`find_suspects(model, x, y)`, which records every target."
        )
    check_are_numbers(some_y)
    check_class_names(class_names, outputs)
    if memory.has_averages:
        record = FinishedRecord.of(memory)
    else:
        loss, margin = np.array(memory.loss, np.float64), np.array(memory.margin, np.float64)
        record = FinishedRecord(
            loss,
            margin,
            mean_loss=loss,
            mean_margin=margin,
            share_wrong=np.array(memory.wrong, np.float64),
            mean_probability=np.array(memory.probability, np.float64),
        )
    return suspects_of_record(model, examples, losses, outputs, record, class_names=class_names)


def has_one_label(outputs: Sequence[TargetOutput]) -> bool:
    """Whether each example has one label: then the record of an example is that of its target."""
    return len(outputs) == 1 and not outputs[0].entries and outputs[0].label is not None


def suspects_of_record(
    model: keras.Model,
    examples: Examples,
    losses: CompiledLosses,
    outputs: Sequence[TargetOutput],
    record: FinishedRecord,
    targets: TargetRecord | None = None,
    class_names: ClassNames = None,
    batch_size: int = 32,
) -> Suspects:
    """The suspects among the targets of some examples.

    Args:
        model: the trained `keras.Model`, which is asked for proposals.
        examples: `Examples`.
        losses: `CompiledLosses` of the model.
        outputs: sequence of `TargetOutput`.
        record: the record of the examples, in the order of their numbers.
        targets: the record of their targets likewise; `None` if each example has one label.
        class_names: as for `find_suspects`.
        batch_size: int, of the proposals.
    """
    record, given = record.arranged(examples.order), examples.given(outputs, losses)
    found = []
    for place, output in enumerate(outputs):
        own = record
        if targets is not None:
            own = targets.finished(place).arranged(examples.order, output.size)
        counted, labels = given.counted[place], given.labels[place]
        if not counted.all():
            columns = {name: np.where(counted, c, np.nan) for name, c in own.columns().items()}
            own = FinishedRecord(**columns)
        found.append(OutputDoubts(output, labels, doubts_of(output, labels, own)))
    proposals = Proposals(model, outputs, losses, examples, batch_size)
    return put_together(found, proposals.of, record, examples, class_names)


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
        order = part.doubts.order
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


# Prefixes of the names of dtypes of text and objects, in NumPy, pandas and TensorFlow.
_NO_NUMBERS = ("<U", ">U", "|S", "object", "str", "category", "<dtype: 'string'>", "datetime")


def check_are_numbers(y: ArrayTree) -> None:
    """Raises for targets that are names or other objects."""
    for leaf in keras.tree.flatten(y):
        kind = "str" if isinstance(leaf, str) else str(getattr(leaf, "dtype", ""))
        if kind.startswith(_NO_NUMBERS):
            raise ValueError(
                "`y` must hold numbers: classes, zeros and ones, or values. Received: an array of "
                f"dtype {kind}. Turn names into classes with `names, y = np.unique(y, "
                "return_inverse=True)`, and pass `class_names=names` to read them again."
            )
