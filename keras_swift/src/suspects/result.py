"""`Suspects`: what `find_suspects` found, as arrays, text and tables."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_swift.src._display import html_table
from keras_swift.src._pages import read_on
from keras_swift.src._types import Array, BoolArray, FloatArray, IntArray
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.examples import Examples
from keras_swift.src.records.targets import TargetOutput
from keras_swift.src.rules import check, shown
from keras_swift.src.suspects.doubts import OutputDoubts
from keras_swift.src.suspects.mixture import MEMORISED, NOT_LEARNED, WrongShare
from keras_swift.src.suspects.names import ClassNames as ClassNames

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

ADVICE = {
    NOT_LEARNED: (
        "not learned yet: hard examples and wrong labels look alike, so few are suspects. Train "
        "for more epochs, or a better model. " + read_on("guides/reviewing.md#what-to-look-out-for")
    ),
    MEMORISED: (
        "memorised: the model has learned most of the labels that it doubted. Train for fewer "
        "epochs to find more. " + read_on("guides/reviewing.md#what-to-look-out-for")
    ),
}
# Examples in a figure.
SHOWN = 24


@dataclasses.dataclass(frozen=True)
class Suspects:
    """The result of `find_suspects`.

    `m` targets are suspects. If each example has one target, `indices`
    identifies them. If an example has several, `entries` says which target of
    the example it is and, with several outputs, `outputs` says of which output.

    Attributes:
        indices: int array, shape `(m,)`: the examples of the targets that are
            more likely wrong than right, most suspicious first. With several
            outputs, those of each alternate.
        entries: int array: which label, step or number of the output;
            shape `(m,)`, or `(m, axes)` if it has several axes, such as
            pixels; -1 for outputs with one target. `None` if each example has
            one target for an output.
        outputs: array of str, shape `(m,)`: the output; `None` if there is
            one.
        instead: array, shape `(m,)`: the most probable class other than the
            label, or the predicted value, by the trained model; -1 or NaN for
            examples that a stream did not give again. `None` if there is
            nothing to propose.
        scores: float64 array: how doubtful each target is; shape `(n,)`, or
            `(n, *entries)`; NaN where one does not count. Only the order
            matters. With several outputs a dict from their names.
        probability: likewise, of a wrong target; a rough guide.
        labels: likewise, the given classes or values.
        wrong_share: `WrongShare`: `estimate`, `low`, `high`, over all targets.
        keep: bool array, shape `(n,)`: which examples have no suspect.
        verdict: `"not learned yet"` or `"memorised"`, if that is a reason to
            rely less on the suspects, else `""`.
        record: the record of the training, for
            `compute_features(..., record=...)`: float64 arrays `loss`, `margin`,
            `mean_loss`, `mean_margin`, `share_wrong` and `mean_probability`,
            shape `(n,)`.
        ids: array, shape `(n,)`, of a stream: the ids that it yielded, or
            uint64 hashes of the examples if it yielded none. `None` for arrays
            and for a `PyDataset` without ids, whose examples are counted in
            the order of batches and rows.
    """

    indices: IntArray
    entries: IntArray | None
    outputs: Array | None
    instead: Array | None
    scores: FloatArray | dict[str, FloatArray]
    probability: FloatArray | dict[str, FloatArray]
    labels: Array | dict[str, Array]
    wrong_share: WrongShare
    record: FinishedRecord
    ids: Array | None
    _found: tuple[OutputDoubts, ...] = dataclasses.field(repr=False, compare=False)
    _places: tuple[tuple[int, int, int], ...] = dataclasses.field(repr=False, compare=False)
    _examples: Examples = dataclasses.field(repr=False, compare=False)
    _names: ClassNames = dataclasses.field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def verdict(self) -> str:
        """str, a reason to rely less on the suspects; of the first output that has one."""
        return next((f.doubts.verdict for f in self._found if f.doubts.verdict), "")

    @property
    def keep(self) -> BoolArray:
        """bool array, shape `(n,)`: which examples have no suspect."""
        kept = np.ones(len(self._found[0].labels), bool)
        kept[self.indices] = False
        return kept

    def to_frame(self, ids: Any = None) -> pandas.DataFrame:
        """A table of the suspects, most suspicious first, for review.

        The columns are `index`; `id`, if there are ids; `output` and `entry`, where an example
        has several; `label` and `proposal`, with names if `class_names` were given; `score` and
        `probability`.

        Args:
            ids: sequence of length `n`, such as file names. Defaults to `None`, the ids that a
                stream yielded, if it did.

        Returns:
            A `pandas.DataFrame`.

        Raises:
            ImportError: if pandas is not installed.
            ValueError: if `ids` has another length.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "`to_frame` needs pandas. Install it with `pip install pandas`, or write a file "
                "with `to_csv`."
            ) from error
        return pandas.DataFrame(self._columns(ids))

    def to_csv(self, file: str | os.PathLike[str], ids: Any = None) -> None:
        """Writes the table of `to_frame` as comma-separated values; needs no pandas.

        Args:
            file: path to write to.
            ids: as for `to_frame`.

        Raises:
            ValueError: if `ids` has another length.
        """
        check(file=file)
        columns = self._columns(ids)
        with open(file, "w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

    def _columns(self, ids: Any) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {"index": self.indices.tolist()}
        if ids is None and self._examples.has_ids:
            ids = self.ids
        if ids is not None:
            columns["id"] = self._checked(ids)[self.indices].tolist()
        if self.outputs is not None:
            columns["output"] = self.outputs.tolist()
        if self.entries is not None:
            columns["entry"] = [self._entry(k) for k in range(len(self))]
        if any(found.output.kind != "losses" for found in self._found):
            columns["label"] = [self._said(k, self._label(k)) for k in range(len(self))]
        if self.instead is not None:
            columns["proposal"] = [self._said(k, value) for k, value in enumerate(self.instead)]
        columns["score"], columns["probability"] = [], []
        for place, index, entry in self._places:
            found = self._found[place]
            flat = index * found.output.size + entry
            columns["score"].append(float(found.doubts.scores[flat]))
            columns["probability"].append(float(found.doubts.probability[flat]))
        return columns

    def _checked(self, ids: Any) -> Array:
        """The ids as an array; raises unless there is one for each example."""
        found, count = np.asarray(ids), len(self._found[0].labels)
        if found.shape != (count,):
            raise ValueError(
                f"`ids` must have one id for each of the {count} examples. Received: "
                f"ids={shown(ids)}{f' of {len(found)}' if found.ndim else ''}."
            )
        return found

    def _label(self, k: int) -> Any:
        place, index, entry = self._places[k]
        found = self._found[place]
        if found.output.kind == "losses":
            return None
        return found.labels.reshape(len(found.labels), -1)[index, entry].item()

    def _entry(self, k: int) -> Any:
        """The entry of a suspect: a name, an index or a tuple; `None` for a single target."""
        place, _, entry = self._places[k]
        output = self._found[place].output
        if not output.entries:
            return None
        names = self._names_of(output)
        if output.is_multi_label and names is not None:
            return names[entry]
        at = tuple(int(part) for part in np.unravel_index(entry, output.entries))
        return at[0] if len(at) == 1 else at

    def _names_of(self, output: TargetOutput) -> Sequence[str] | None:
        if isinstance(self._names, Mapping):
            return self._names.get(output.name)
        return self._names

    def _said(self, k: int, value: Any) -> Any:
        """A label or proposal as it is shown: a class by its name, a value as a float."""
        output = self._found[self._places[k][0]].output
        if value is None or output.kind == "losses":
            return None
        if output.kind == "values":
            return None if np.isnan(value) else float(value)
        if value < 0:
            # A stream did not give the example again.
            return None
        names = self._names_of(output)
        if names is None or output.is_multi_label:
            return int(value)
        return names[int(value)]

    def plot(self, file: str | os.PathLike[str] | None = None, count: int = SHOWN) -> Figure:
        """Plots the examples of the most suspicious targets, with label and the model's own choice.

        Images (of one channel, three or four) are drawn as such, other rows as
        lines of their first 12 numbers. If no target is suspect, the most
        doubtful examples are drawn. A stream is read once more.

        Args:
            file: path to write the figure to. Defaults to `None`, not written.
            count: int, how many suspects to draw at most. Defaults to 24.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        from keras_swift.src.suspects.plot import plot_suspects

        return plot_suspects(self, self._examples, file, count)

    def captions(self, count: int) -> list[tuple[int, str]]:
        """Index and caption of the most suspicious targets.

        If none is suspect, those of the most doubtful targets of the first output.
        """
        check(count=count)
        if len(self):
            return [(int(self.indices[k]), self._caption(k)) for k in range(min(count, len(self)))]
        found = self._found[0]
        indices = found.doubts.order[:count] // found.output.size
        return [(int(index), f"example {self._name(int(index))}") for index in indices]

    def _name(self, index: int) -> Any:
        """What the user calls an example: its id, or its index."""
        return self.ids[index] if self._examples.has_ids and self.ids is not None else index

    def _caption(self, k: int) -> str:
        text = f"example {self._name(int(self.indices[k]))}"
        if self.outputs is not None:
            text += f", {self.outputs[k]}"
        entry = self._entry(k) if self.entries is not None else None
        if entry is not None:
            text += f", entry {entry}" if not isinstance(entry, str) else f", {entry}"
        label = self._said(k, self._label(k))
        if label is None:
            return text
        text += f": labelled {_short(label)}"
        if self.instead is None or self._said(k, self.instead[k]) is None:
            return text
        return f"{text}, predicted {_short(self._said(k, self.instead[k]))}"

    def __str__(self) -> str:
        lines = [f"{self._count()}; wrong share {self.wrong_share}{self._verdicts()}"]
        if len(self):
            lines.append("  most suspicious:")
            lines += [f"    {text}" for _, text in self.captions(10)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        share = f"{self.wrong_share}{self._verdicts()}"
        rows = [("estimated share of wrong labels", share)]
        if len(self):
            rows.append(("most suspicious", "; ".join(text for _, text in self.captions(10))))
        return html_table(self._count(), rows)

    def _verdicts(self) -> str:
        """The verdicts on all outputs, each with advice, as sentences."""
        texts = [
            (f" of {found.output.name}" if len(self._found) > 1 else "", found.doubts.verdict)
            for found in self._found
        ]
        said = [f". The labels{of} are {ADVICE[verdict]}" for of, verdict in texts if verdict]
        return "".join(said)

    def _count(self) -> str:
        total = sum(int(np.isfinite(found.doubts.scores).sum()) for found in self._found)
        kinds = {found.output.kind for found in self._found}
        if kinds <= {"categorical", "binary"}:
            return f"{len(self)} of {total} labels are more likely wrong than right"
        if kinds == {"values"}:
            return f"{len(self)} of {total} values are too far from the predicted ones"
        return f"{len(self)} of {total} targets are more likely wrong than right"

    __repr__ = __str__


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
