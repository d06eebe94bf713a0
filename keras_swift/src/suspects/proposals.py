"""What a trained model would say in place of a doubted target."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_swift.src import backends
from keras_swift.src._types import Array, ArrayTree, FloatArray, IntArray, Tensor
from keras_swift.src.backends.base import Values
from keras_swift.src.records.examples import Examples
from keras_swift.src.records.targets import TargetOutput
from keras_swift.src.scoring.compiled import CompiledLosses
from keras_swift.src.scoring.forward import accepts_training
from keras_swift.src.scoring.label_outputs import BINARY, other_class


class Proposals:
    """Proposals for targets: the most probable other class, or the predicted value.

    Args:
        model: the trained `keras.Model`.
        outputs: sequence of `TargetOutput`.
        losses: `CompiledLosses` of the model.
        examples: `Examples` of the data.
        batch_size: int.
    """

    def __init__(
        self,
        model: keras.Model,
        outputs: Sequence[TargetOutput],
        losses: CompiledLosses,
        examples: Examples,
        batch_size: int,
    ) -> None:
        self._model = model
        self._outputs = outputs
        self._matching = losses.matching
        self._examples = examples
        self._batch_size = batch_size
        self._training_argument = accepts_training(model)
        self._compiled = backends.active().compile_scoring(self._predicted, model)

    def of(self, place: int, examples: IntArray, entries: IntArray, labels: Array) -> Array | None:
        """Proposals for targets of one output.

        Args:
            place: int, the number of the output.
            examples: int array, shape `(m,)`.
            entries: int array, shape `(m,)`, the flat number of the entry of each.
            labels: the given targets of the output, shape `(n, targets)`.

        Returns:
            An int array of classes or float array of values, shape `(m,)`, with -1 or NaN for
            examples that a stream did not give again; `None` if there is nothing to propose.
        """
        output = self._outputs[place]
        if output.kind == "losses":
            return None
        if output.kind == BINARY:
            opposite: IntArray = 1 - labels[examples, entries]
            return opposite
        # Several targets of an example need one forward pass.
        rows, back = np.unique(examples, return_inverse=True)
        found = np.full((len(rows), output.size), np.nan if output.kind == "values" else -1.0)
        for places, x, y in self._examples.chunks(self._batch_size, rows):
            values = backends.active().capture_values(self._model)
            found[places] = self._compiled(values, x, y)[str(place)][: len(places)]
        chosen: FloatArray = found[back.reshape(-1), entries]
        return chosen.astype(np.float64 if output.kind == "values" else np.int64)

    def _predicted(self, values: Values, x: ArrayTree, y: ArrayTree) -> dict[str, Tensor]:
        arguments = {"training": False} if self._training_argument else {}
        y_pred, _ = self._model.stateless_call(*values, x, **arguments)
        y, y_pred = self._matching.aligned(y, y_pred)
        found = {}
        for place, output in enumerate(self._outputs):
            target, predicted = output.output.of(y), output.output.of(y_pred)
            if output.kind == "values":
                chosen = ops.cast(predicted, "float32")
            elif output.kind == "categorical" and output.label is not None:
                chosen = other_class(output.label, target, predicted)
            else:
                continue
            found[str(place)] = ops.reshape(chosen, (-1, output.size))
        return found
