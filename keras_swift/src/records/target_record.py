"""What a training computed for every target of every example: sums over it, and latest numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from keras_swift.src._types import FloatArray, IntArray
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.records.growing import GrowingRows
from keras_swift.src.records.targets import TargetOutput

# A record takes about as much memory at most as a data set that is held.
RECORD_BYTES = 2 * 2**30
# The bytes of one label: four float64 sums, two float32 numbers as last seen and an int32 count. A
# value takes 28.
TARGET_BYTES = 4 * 8 + 2 * 4 + 4
_SMALLEST = 1e-30


class TargetRecord:
    """Sums, counts and latest numbers of every target, by the index of its example.

    Args:
        outputs: sequence of `TargetOutput`.
        size: int, `n`, the number of examples.

    Raises:
        ValueError: if there are more targets than fit in `RECORD_BYTES`.
    """

    def __init__(self, outputs: Sequence[TargetOutput], size: int) -> None:
        self._outputs = tuple(outputs)
        self._check(size)
        self._size = size
        self._sums = [
            {name: GrowingRows(size, (o.size,), 0.0, np.float64) for name in _summed(o)}
            for o in self._outputs
        ]
        self._last = [
            {name: GrowingRows(size, (o.size,), np.nan, np.float32) for name in ("loss", "margin")}
            for o in self._outputs
        ]
        self._counts = [GrowingRows(size, (o.size,), 0, np.int32) for o in self._outputs]

    def _check(self, size: int) -> None:
        need = TARGET_BYTES * size * sum(output.size for output in self._outputs)
        if need > RECORD_BYTES:
            raise ValueError(
                f"`y` must have at most {RECORD_BYTES // TARGET_BYTES:,} targets, because the "
                f"record takes {TARGET_BYTES} bytes of memory for each. Received: "
                f"{need // TARGET_BYTES:,} targets of {size:,} examples. Pass a part of the "
                "examples at a time, or coarser targets."
            )

    def resize(self, size: int) -> None:
        """Changes the number of examples to `size`; those that remain keep their numbers.

        Raises:
            ValueError: if there are more targets than fit in `RECORD_BYTES`.
        """
        if size == self._size:
            return
        self._check(size)
        self._size = size
        for columns in (*self._sums, *self._last):
            for rows in columns.values():
                rows.resize(size)
        for rows in self._counts:
            rows.resize(size)

    def add(self, indices: IntArray, numbers: FloatArray) -> None:
        """Adds what a step computed for its examples.

        Args:
            indices: int array, shape `(k,)`.
            numbers: float array, shape `(k, columns of all outputs)`, from `TargetOutput.numbers`.
        """
        start = 0
        for place, output in enumerate(self._outputs):
            part = numbers[:, start : start + output.columns].astype(np.float64)
            start += output.columns
            columns = _columns(output, part)
            first = next(iter(columns.values()))
            counted = np.isfinite(first)
            np.add.at(self._counts[place].values, indices, counted.astype(np.int32))
            for name, sums in self._sums[place].items():
                np.add.at(sums.values, indices, np.where(counted, columns[name], 0.0))
            for name, last in self._last[place].items():
                if name in columns:
                    last.values[indices] = columns[name]

    def finished(self, place: int) -> FinishedRecord:
        """The record of one output: arrays of shape `(n * targets,)`.

        NaN for targets that never counted. The margin of values is target minus prediction.

        Args:
            place: int, the number of the output.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            means = {
                name: (sums.values / self._counts[place].values).reshape(-1)
                for name, sums in self._sums[place].items()
            }
        nothing = np.full(self._counts[place].values.size, np.nan)
        last = {
            name: column.values.reshape(-1).astype(np.float64)
            for name, column in self._last[place].items()
        }
        return FinishedRecord(
            loss=last["loss"],
            margin=last["margin"],
            mean_loss=means["loss"],
            mean_margin=means.get("margin", nothing),
            share_wrong=means.get("wrong", nothing),
            mean_probability=means.get("probability", nothing),
        )


def _summed(output: TargetOutput) -> tuple[str, ...]:
    if output.label is not None:
        return ("loss", "margin", "probability", "wrong")
    return ("loss", "margin") if output.kind == "values" else ("loss",)


def _columns(output: TargetOutput, numbers: FloatArray) -> dict[str, FloatArray]:
    """The quantities of an output from the numbers of a step, each of shape `(k, targets)`."""
    if output.kind == "losses":
        return {"loss": numbers}
    if output.label is None:
        return {"loss": np.abs(numbers), "margin": numbers}
    probability, margin = numbers[:, : output.size], numbers[:, output.size :]
    return {
        "loss": -np.log(np.maximum(probability, _SMALLEST)),
        "margin": margin,
        "probability": probability,
        "wrong": (margin <= 0).astype(np.float64),
    }
