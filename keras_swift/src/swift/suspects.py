"""`find_suspects`: finds wrong labels from one training and nothing else.

This file decides what a training records to find wrong labels, and how they are shown.
"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np

from keras_swift.src import backends
from keras_swift.src._display import html_table
from keras_swift.src._plotting import BLUE, import_figure, save
from keras_swift.src._types import Array, ArrayTree, FloatArray, IntArray
from keras_swift.src.data import arrays
from keras_swift.src.data.held import held_examples
from keras_swift.src.fitting.model_state import Unchanged
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.outputs import classes_of, is_one_class, label_outputs
from keras_swift.src.scoring.compiled import build
from keras_swift.src.scoring.label_outputs import other_class
from keras_swift.src.swift.datasets import DrawnDataset
from keras_swift.src.swift.divergence import RefuseDivergence
from keras_swift.src.swift.features import FeatureScorer
from keras_swift.src.swift.mixture import Doubts, WrongShare, find_doubts
from keras_swift.src.swift.recording import recording
from keras_swift.src.validation import check_model, check_positive_integer, check_targets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Examples in the figure, and numbers shown of a row that is not an image.
SHOWN, COLUMNS = 24, 12


@dataclasses.dataclass(frozen=True)
class Suspects:
    """The result of `find_suspects`.

    Attributes:
        indices: int array: the examples whose label is more likely wrong than
            right, most suspicious first.
        scores: float64 array, shape `(n,)`: how doubtful each label is. Only
            the order matters.
        probability: float64 array, shape `(n,)`: of a wrong label, from the
            mixture; a rough guide.
        labels: int array, shape `(n,)`, the given classes; `None` if targets
            are not one class per example.
        instead: int array, for each of `indices`, the most probable class
            other than the label, by the trained model; `None` likewise.
        wrong_share: `WrongShare`: `estimate`, `low`, `high`.
        record: the record of the training, for
            `compute_features(..., record=...)`.
    """

    indices: IntArray
    scores: FloatArray
    probability: FloatArray
    labels: IntArray | None
    instead: IntArray | None
    wrong_share: WrongShare
    record: FinishedRecord
    _x: ArrayTree = dataclasses.field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.indices)

    def plot(self, file: str | os.PathLike[str] | None = None, count: int = SHOWN) -> Figure:
        """Plots the most suspicious examples, each with its label and the model's own choice.

        Images (of one channel, three or four) are drawn as such, other rows as
        lines of their first numbers.

        Args:
            file: path to write the figure to. Defaults to `None`, not written.
            count: int, how many examples. Defaults to 24.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        check_positive_integer("count", count)
        order = np.argsort(-self.scores, kind="stable")
        chosen = (self.indices if len(self.indices) else order)[:count]
        rows = np.asarray(arrays.select((_first(self._x),), chosen)[0])
        image = _is_image(rows)
        across = min(8 if image else 4, len(chosen))
        down = -(-len(chosen) // across)
        # Never narrower than its title.
        size = (1.5, 1.8) if image else (3.2, 1.6)
        size = (max(4.8, size[0] * across), size[1] * down + 0.6)
        figure = import_figure()(figsize=size, layout="constrained")
        figure.suptitle(
            f"The {len(chosen)} labels most doubted (index: label)\n"
            f"Estimated share of wrong labels: {self.wrong_share}",
            fontsize="medium",
        )
        if not image:
            figure.supxlabel("number of the input", fontsize="small")
            figure.supylabel("value", fontsize="small")
        grid = figure.subplots(down, across, squeeze=False).reshape(-1)
        for axes, row, index in zip(grid, rows, chosen, strict=False):
            if image:
                picture = row[..., 0] if row.ndim == 3 and row.shape[-1] == 1 else row
                low, high = float(picture.min()), float(picture.max())
                # Any scale of the images.
                axes.imshow((picture - low) / max(high - low, 1e-12), cmap="gray")
                axes.set_axis_off()
            else:
                axes.plot(np.asarray(row, np.float64).reshape(-1)[:COLUMNS], ".-", color=BLUE)
                axes.tick_params(labelsize="x-small")
            axes.set_title(self._caption(int(index)), fontsize="small")
        for axes in grid[len(chosen) :]:
            axes.set_axis_off()
        return save(figure, file)

    def _caption(self, index: int) -> str:
        if self.labels is None:
            return f"{index}"
        place = np.flatnonzero(self.indices == index)
        text = f"{index}: {self.labels[index]}"
        if self.instead is None or not len(place):
            return text
        return f"{text}, rather {self.instead[place[0]]}"

    def __str__(self) -> str:
        lines = [f"{self._count()}; wrong share {self.wrong_share}"]
        if len(self.indices):
            lines.append(f"  most suspicious (index: label)  {self._first_captions()}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [("estimated share of wrong labels", str(self.wrong_share))]
        if len(self.indices):
            rows.append(("most suspicious (index: label)", self._first_captions()))
        return html_table(self._count(), rows)

    def _count(self) -> str:
        return f"{len(self.indices)} of {len(self.scores)} labels are more likely wrong than right"

    def _first_captions(self) -> str:
        return "; ".join(self._caption(int(index)) for index in self.indices[:10])

    __repr__ = __str__


def find_suspects(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    epochs: int = 15,
    batch_size: int = 32,
    sample_weight: Any = None,
    seed: int | None = None,
    verbose: int | Literal["auto"] = "auto",
) -> Suspects:
    """Finds the examples whose label is probably wrong, with one training.

    With several processes on JAX (`keras.distribution.DataParallel`), each passes its own part
    of the data and gets the suspects among them; the share of wrong labels is that of all parts.

    Trains the model and records its loss and margin on each example whenever
    it is trained on: the steps compute them anyway. Wrong labels are learned
    late: averaged over the training, another class is more probable. This
    needs no validation data and no search. The model, its optimizer and
    metrics are restored at the end.

    Args:
        model: a compiled `keras.Model`, not yet trained.
        x, y: arrays, or lists or dicts of arrays, first axis `n`; or `x` alone a
            data set, as for `search`.
        epochs: int. Enough to learn what most examples have in common, but
            too few to memorise all labels. Defaults to 15.
        batch_size: int. Defaults to 32.
        sample_weight: array, weights of the loss, as for `model.fit`.
        seed: int or `None`, fixes the order of training. Defaults to `None`,
            fresh entropy.
        verbose: `"auto"` or 1 for a progress bar, 0 for silence.

    Returns:
        `Suspects`: `indices`, `scores`, `wrong_share`, and a `plot()`. For
        regression, `indices` are those of a separate group of high losses, if
        there is one.

    Raises:
        TypeError: if `x` is neither arrays nor a data set that can be held.
        ValueError: if the model is not compiled, for values outside the
            ranges above, if processes have parts of different sizes, and if
            the training diverges.

    Example:

        suspects = find_suspects(model, x, y, batch_size=128)
        print(suspects)
        suspects.plot("suspects.png")
        keep = np.delete(np.arange(len(x)), suspects.indices)

    Reference:
        Pleiss et al., "Identifying Mislabeled Data using the Area Under the
        Margin Ranking", NeurIPS 2020, arXiv 2001.10528, for the mean margin;
        Arazo et al., ICML 2019, arXiv 1904.11238, for the mixture.
    """
    check_model(model)
    x, y, sample_weight = held_examples(x, y, sample_weight)
    check_targets(y)
    check_positive_integer("epochs", epochs)
    check_positive_integer("batch_size", batch_size)
    backend = backends.active()
    backend.check_devices(model)
    source = arrays.ArraySource(x, y, sample_weight)
    build(model, *source.take(np.arange(min(batch_size, source.size)))[:2])
    backend.check_agreement(
        {"`epochs`": epochs, "`batch_size`": batch_size, "The number of examples": source.size}
    )
    process, count = backend.process()
    own_seed = seed if seed is None or count == 1 else [seed, process]
    seed = int(np.random.default_rng(own_seed).integers(2**31))
    with Unchanged(model):
        recorder = recording(model, source, batch_size, epochs)
        probability = np.full(source.size, 1.0 / source.size)
        dataset = DrawnDataset(source, probability, batch_size, seed=seed)
        with recorder.listening(dataset):
            callbacks = [recorder, RefuseDivergence(recorder, source)]
            model.fit(dataset, epochs=epochs, shuffle=False, callbacks=callbacks, verbose=verbose)
        record = FinishedRecord.of(recorder.record)
        classes = classes_of(source.y) if is_one_class(model) else None
        doubts = _doubts_of_own(record, classes)
        order = np.argsort(-doubts.scores, kind="stable")
        indices = order[doubts.suspect[order]]
        instead = _instead(model, source, indices, classes, batch_size)
    return Suspects(
        indices=indices,
        scores=doubts.scores,
        probability=doubts.probability,
        labels=classes,
        instead=instead,
        wrong_share=doubts.share,
        record=record,
        _x=source.x,
    )


def _doubts_of_own(record: FinishedRecord, classes: IntArray | None) -> Doubts:
    """The doubts about the examples of this process, from the records of all."""
    missing = np.full(len(record.loss), np.nan)
    own = missing if classes is None else classes.astype(np.float64)
    columns = {**record.columns(), "classes": own}
    gathered = backends.active().gather_rows(columns)
    found = dict(gathered.columns)
    every = found.pop("classes")
    known = every.astype(np.int64) if np.isfinite(every).all() else None
    doubts = find_doubts(FinishedRecord(**found), known)
    return dataclasses.replace(
        doubts,
        scores=doubts.scores[gathered.own],
        probability=doubts.probability[gathered.own],
        suspect=doubts.suspect[gathered.own],
    )


def _instead(
    model: keras.Model,
    source: arrays.ArraySource,
    indices: IntArray,
    classes: IntArray | None,
    batch_size: int,
) -> IntArray | None:
    """The most probable class other than the label, which may be memorised."""
    if classes is None:
        return None
    (label,) = label_outputs(model) or ()
    if label.kind == "binary":
        return 1 - classes[indices]
    columns = {"other": lambda y_true, y_pred: other_class(y_true, y_pred, label.axis)}
    scorer = FeatureScorer(model, columns, *source.specimen())
    found: list[FloatArray] = [np.empty(0)]
    for start in range(0, len(indices), batch_size):
        rows = indices[start : start + batch_size]
        # The last batch is padded, so that all batches have one compiled shape.
        padded = np.resize(rows, batch_size)
        found.append(scorer(*source.take(padded)[:2])["other"][: len(rows)])
    return np.concatenate(found).astype(np.int64)


def _first(x: ArrayTree) -> Array:
    """The first array of the inputs."""
    array: Array = keras.tree.flatten(x)[0]
    return array


def _is_image(rows: Array) -> bool:
    if rows.ndim == 4:
        return rows.shape[-1] in (1, 3, 4)
    # Grey images without a channel axis; sequences of vectors have the same shape.
    return rows.ndim == 3 and rows.shape[1] == rows.shape[2]
