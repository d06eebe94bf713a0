"""From the record of a training to its suspects.

This file decides which numbers of a record each target is judged by, and which do not count. Where
the record comes from, a training of its own or any other, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from keras_swift.src._pages import read_on
from keras_swift.src._types import ArrayTree
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.examples import Examples
from keras_swift.src.records.memory import ExampleMemory
from keras_swift.src.records.target_record import TargetRecord
from keras_swift.src.records.targets import TargetOutput, target_outputs
from keras_swift.src.scoring.compiled import CompiledLosses, build
from keras_swift.src.suspects.doubts import OutputDoubts, doubts_of
from keras_swift.src.suspects.names import ClassNames, check_class_names
from keras_swift.src.suspects.proposals import Proposals
from keras_swift.src.suspects.result import Suspects
from keras_swift.src.suspects.together import put_together


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
    columns = {name: np.array(getattr(memory, name), np.float64) for name in ("loss", "margin")}
    if memory.has_averages:
        record = FinishedRecord.of(memory)
    else:
        record = FinishedRecord(
            **columns,
            mean_loss=columns["loss"],
            mean_margin=columns["margin"],
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
