"""Ends a training whose loss or weights are no longer finite, and says what may have caused it.

Otherwise the record would silently be that of the steps before the divergence.
"""

from __future__ import annotations

import keras
import numpy as np

from keras_swift.src._types import ArrayTree, Logs
from keras_swift.src.data.leaves import present_leaves
from keras_swift.src.records.examples import Examples
from keras_swift.src.records.recorder import RecordingCallback


class RefuseDivergence(keras.callbacks.Callback):
    """Raises at the end of the epoch in which a loss or a weight was not finite.

    It is placed after the recorder.

    Args:
        recorder: `RecordingCallback` of the training.
        examples: `Examples` that it is trained on; a stream is read once more.
    """

    def __init__(self, recorder: RecordingCallback, examples: Examples) -> None:
        super().__init__()
        self._recorder = recorder
        self._examples = examples

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        found = self._recorder.diverged
        loss = (logs or {}).get("loss", 0.0)
        if found is None and np.isfinite(loss):
            if self._are_weights_finite():
                return
            # On some processors ReLU turns NaN into 0, so that no loss shows it.
            when = f"weights that are not finite after epoch {epoch + 1}"
        else:
            when = f"a loss of {loss} in epoch {epoch + 1}"
        if found is not None:
            of = self._at(found.index)
            step = "" if found.step is None else f"step {found.step} of "
            when = (
                f"a loss that is not finite, first of the example {of} in {step}epoch {found.epoch}"
            )
        raise ValueError(
            "The training must converge, because wrong labels are found by its losses. Received: "
            f"{when}. {self._cause()}"
        )

    def _are_weights_finite(self) -> bool:
        return all(
            np.isfinite(keras.ops.convert_to_numpy(keras.ops.sum(weight)))
            for weight in self.model.trainable_variables
        )

    def _cause(self) -> str:
        """Where the data are first not finite, or advice if they are finite."""
        for numbers, (x, y, sample_weight) in self._examples.data():
            for name, structure in {"x": x, "y": y, "sample_weight": sample_weight}.items():
                index = _first_not_finite(structure)
                if index is not None:
                    return (
                        f"`{name}` holds a NaN or an infinity, first in the example "
                        f"{self._at(numbers[index])}: replace it, or leave the example out."
                    )
        return (
            "The data are finite: lower the learning rate, scale the inputs, or set `clipnorm` "
            "in the optimizer."
        )

    def _at(self, number: int) -> str:
        if number < 0:
            return "that was not trained on"
        ids = self._examples.ids if self._examples.has_ids else None
        return f"at index {number}" if ids is None else f"with id {ids[number]}"


def _first_not_finite(structure: ArrayTree, rows: int = 4096) -> int | None:
    """The index of the first example with a number that is not finite."""
    for leaf in present_leaves(structure):
        if getattr(leaf, "dtype", None) is None or np.dtype(leaf.dtype).kind != "f":
            continue
        for start in range(0, leaf.shape[0], rows):
            part = leaf[start : start + rows]
            part = np.asarray(part.toarray() if hasattr(part, "toarray") else part)
            finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
            if not finite.all():
                return start + int(np.argmin(finite))
    return None
