"""Scores every example of a presample with one compiled forward pass.

A `Scorer` turns a compiled Keras model into a function from a batch to
per-example numbers. It does not change the model: the pass is stateless, in
inference mode, and takes no gradient of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swift.src import backends
from keras_swift.src._keras_losses import compile_loss
from keras_swift.src._types import ArrayTree, FloatArray, Score, Tensor
from keras_swift.src.backends.base import Scoring, Values
from keras_swift.src.data.leaves import present_leaves, structure_key, with_leaves
from keras_swift.src.rules import check
from keras_swift.src.scoring.compiled import GIVE_SCORE, NEEDS_LOSS, build
from keras_swift.src.scoring.forward import outputs_with
from keras_swift.src.scoring.gradient_norm import pre_activation_gradient, row_norms
from keras_swift.src.scoring.output_loss import NoExampleLoss, OutputLoss
from keras_swift.src.scoring.structures import Matching, paths
from keras_swift.src.validation import UnfitData

# Marks a model that has not been inspected: `None` is one without a compiled loss.
_NOT_BUILT: Any = object()


class Scorer:
    """Per-example quantities of a compiled model's current weights.

    The quantities:

    - `"gradient_norm"`: the norm of the loss's gradient in the last
      pre-activation, over all entries of the output; several outputs are
      combined as `sqrt(sum_o (w_o |g_o|)^2)` with their loss weights.
    - `"loss"`: the example's loss, `sum_o w_o loss_o`, without regularisation.
    - a callable `(y_true, y_pred) -> (n,)` in `keras.ops`.

    With several outputs, a callable gets the model's outputs and targets in
    the same structure.

    Args:
        model: a compiled `keras.Model`; the first batch builds it.
        quantities: tuple of the above; `"loss"` is always among the results.
            Defaults to `("gradient_norm",)`.

    Raises:
        ValueError: for an unknown name; on the first call, if the
            model was compiled without a loss.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> scores = Scorer(model)(np.zeros((3, 2)), np.array([[0.0], [1.0], [2.0]]))
        >>> scores["gradient_norm"].tolist()
        [0.0, 2.0, 4.0]

    Reference:
        Katharopoulos and Fleuret, "Not All Samples Are Created Equal", ICML
        2018, section 3.2.
    """

    def __init__(
        self,
        model: keras.Model,
        quantities: Sequence[Score] = ("gradient_norm",),
    ) -> None:
        for quantity in quantities:
            check(score=quantity)
        self.model = model
        self.quantities = tuple(quantities)
        self.traces = 0
        # The following are known once the first batch has been scored.
        self.outputs: list[OutputLoss] = []
        self._weight_axes: list[tuple[int, ...]] = []
        self._masked_losses: list[bool] = []
        self._structure: ArrayTree = None
        self.matching = Matching(None)
        # One compiled function for each structure of the inputs.
        self._compiled: dict[str, Scoring] = {}
        self._built_for = _NOT_BUILT

    def __call__(
        self,
        x: ArrayTree,
        y: ArrayTree,
        sample_weight: ArrayTree = None,
        values: Values | None = None,
    ) -> dict[str, FloatArray]:
        """Scores one batch.

        Args:
            x: NumPy structure of inputs, first axis `n`.
            y: NumPy structure of targets.
            sample_weight: NumPy structure of weights that multiply the loss
                and its gradient, `(n,)` or with the axes of the loss values,
                for all outputs or one for each. Defaults to `None`.
            values: what `backends` captured of the model between two steps.
                Defaults to `None`, the model's values as they are now.

        Returns:
            A dict from quantity, and `"loss"`, to float array of shape
            `(n,)`; callables have their position as their key, `"custom_0"`.
            `"valid"` is the share of unmasked entries, shape
            `(n, outputs)`.
        """
        if self._built_for is not compile_loss(self.model):
            # The first batch, or the model has been compiled again.
            losses = build(self.model, x, y)
            self.outputs, self.matching = losses.outputs, losses.matching
            if not losses.outputs and not all(map(callable, self.quantities)):
                raise NoExampleLoss(f"{NEEDS_LOSS} {losses.missing} {GIVE_SCORE}")
            self._compiled = {}
            self._built_for = compile_loss(self.model)
        inputs = (x, y) if sample_weight is None else (x, y, sample_weight)
        return self._compiled_for(inputs)(values, *present_leaves(inputs))

    def _compiled_for(self, inputs: tuple[ArrayTree, ...]) -> Scoring:
        """The compiled function for inputs of this structure; it takes their leaves."""
        key = structure_key(inputs)
        if key not in self._compiled:
            # No framework accepts `None` as an array.
            like = keras.tree.map_structure(lambda leaf: None if leaf is None else 0, inputs)

            def quantities(values: Values, *leaves: Tensor) -> dict[str, Tensor]:
                # On a compiling backend this runs once for each set of shapes.
                self.traces += 1
                x, y, sample_weight = (*with_leaves(like, leaves), None)[:3]
                return self.of_outputs(y, outputs_with(self.model, values, x), sample_weight)

            self._compiled[key] = backends.active().compile_scoring(quantities, self.model)
        return self._compiled[key]

    def of_outputs(
        self, y: ArrayTree, y_pred: ArrayTree, sample_weight: ArrayTree = None
    ) -> dict[str, Tensor]:
        """The quantities of a batch whose outputs have been computed.

        Args:
            y: structure of targets.
            y_pred: structure of the model's outputs.
            sample_weight: as for a call.

        Returns:
            A dict from quantity to tensor, as for a call.
        """
        targets, outputs = self.matching.aligned(y, y_pred)
        self._structure = keras.tree.map_structure(lambda leaf: 0, outputs)
        weights = self._weights_of_losses(sample_weight)
        self._weight_axes, self._masked_losses = [], []
        losses, square = 0.0, 0.0
        valid: list[Tensor] = []
        for output, weight in zip(self.outputs, weights, strict=True):
            found = pre_activation_gradient(output, output.of(targets), output.of(outputs), weight)
            # On PyTorch Keras multiplies mask and weights in place, so the weights of a masked
            # loss need all its axes; those of others broadcast.
            self._weight_axes.append(found.axes if found.masked else (1,) * len(found.axes))
            self._masked_losses.append(found.masked)
            losses = losses + found.losses * output.weight
            square = square + ops.square(row_norms(found.gradient))
            valid.append(found.valid)
        results: dict[str, Tensor] = {}
        if self.outputs:
            results = {"valid": ops.stack(valid, axis=1), "loss": losses}
        for position, quantity in enumerate(self.quantities):
            if callable(quantity):
                score = ops.convert_to_tensor(quantity(self.matching.like(y, y_pred), y_pred))
                check_score_shape(score, quantity, keras.tree.flatten(y_pred)[0])
                if sample_weight is not None:
                    score = score * _row_weights(sample_weight, score.dtype)
                results[f"custom_{position}"] = score
            elif quantity == "gradient_norm":
                results[quantity] = ops.sqrt(square)
        if not self.outputs:
            score = next(iter(results.values()))
            results["valid"] = ops.expand_dims(ops.ones_like(score), 1)
        return results

    @property
    def has_masks(self) -> bool:
        """bool, whether an output carries a mask; known once a batch has been scored."""
        return any(self._masked_losses)

    @property
    def score_name(self) -> str:
        """str, the key of the first quantity in the results."""
        name = self.quantities[0]
        return name if isinstance(name, str) else "custom_0"

    def loss_weights(
        self,
        importance: FloatArray,
        sample_weight: ArrayTree = None,
        corrections: FloatArray | None = None,
        y: ArrayTree = None,
    ) -> ArrayTree:
        """Importance times user weights, in the shape each output's loss needs.

        A loss with values of shape `(batch, time)` takes weights of shape
        `(batch, 1)`; with `(batch,)` Keras would pair them with the time axis.

        Args:
            importance: float array, shape `(b,)`.
            sample_weight: NumPy structure of the user's weights of the same
                examples. Defaults to `None`.
            corrections: float array, one factor for each compiled loss.
                Defaults to `None`, 1 for all.
            y: structure of the targets of these examples, whose steps may be more or fewer than
                those of the first batch. Defaults to `None`, as many.

        Returns:
            A float32 array if one serves all outputs, else a structure like
            the model's output; an output without a loss gets the first
            loss's weights, for its metrics.
        """
        if not self.outputs:
            return _weighted(importance, sample_weight)
        if (
            sample_weight is None
            and corrections is None
            and not any(self._weight_axes)
            and not self.has_masks
        ):
            # The usual case, in a tenth of the time: one number an example, for all outputs.
            return np.asarray(importance, np.float32)
        found = self._weights_of_losses(sample_weight)
        weights = []
        for position, axes in enumerate(self._axes_for(y)):
            weight = np.reshape(importance, (-1,) + (1,) * len(axes))
            if corrections is not None:
                weight = weight * corrections[position]
            leaf = found[position]
            if leaf is not None:
                # `(b,)` and `(b, 1)` both mean one weight for an example.
                kept = leaf.shape[: 1 + len(axes)]
                weight = weight * np.reshape(leaf, kept + (1,) * (1 + len(axes) - len(kept)))
            if axes:
                shape = np.broadcast_shapes(weight.shape, (len(importance), *axes))
                weight = np.broadcast_to(weight, shape)
            weights.append(weight.astype(np.float32))
        if not self._weights_differ(sample_weight):
            return weights[0]
        by_path = {
            output.path: weight for output, weight in zip(self.outputs, weights, strict=True)
        }
        leaves = [by_path.get(path, weights[0]) for path in paths(self._structure)]
        return keras.tree.pack_sequence_as(self._structure, leaves)

    def _axes_for(self, y: ArrayTree) -> list[tuple[int, ...]]:
        """The axes of each loss's weights after the first, with the sizes that its targets have."""
        by_path: dict[Any, Any] = dict(zip(paths(y), keras.tree.flatten(y), strict=True))
        alone = next(iter(by_path.values()), None) if len(self.outputs) == 1 else None
        found = []
        every = zip(self.outputs, self._weight_axes, self._masked_losses, strict=True)
        for output, axes, is_masked in every:
            sizes = tuple(getattr(by_path.get(output.path, alone), "shape", ())[1 : 1 + len(axes)])
            found.append(sizes if is_masked and len(sizes) == len(axes) else axes)
        return found

    def _weights_differ(self, sample_weight: ArrayTree) -> bool:
        """Whether the outputs need weights of their own.

        If they do not, one array is used: a model's own `compute_loss` expects
        that from a user who gave one array or none, and a loss of several
        outputs allows nothing else.
        """
        return keras.tree.is_nested(self._structure) and (
            self.has_masks or keras.tree.is_nested(sample_weight) or len(set(self._weight_axes)) > 1
        )

    def _weights_of_losses(self, sample_weight: ArrayTree) -> list[Any]:
        """The user's weights for each compiled loss, from one array or a structure."""
        paths_of_losses = [output.path for output in self.outputs]
        return self.matching.weights(sample_weight, self._structure, paths_of_losses)


def _weighted(importance: FloatArray, sample_weight: ArrayTree) -> ArrayTree:
    """The user's weights, in their own structure, times one factor for each example."""
    importance = np.asarray(importance, np.float32)
    if sample_weight is None:
        return importance
    return keras.tree.map_structure(
        lambda leaf: leaf * importance.reshape((-1,) + (1,) * (leaf.ndim - 1)), sample_weight
    )


def check_score_shape(score: Tensor, function: Callable[..., Tensor], like: Tensor) -> None:
    """Raises unless a callable's score is one number for each example."""
    if len(score.shape) != 1 or score.shape[0] != like.shape[0]:
        name = getattr(function, "__name__", type(function).__name__)
        raise UnfitData(
            "`score` must return one number for each example, shape (n,). Received: "
            f"{name}(y_true, y_pred) of shape {tuple(score.shape)} for {like.shape[0]} examples. "
            "Reduce the other axes with `keras.ops.mean` or `keras.ops.sum`."
        )


def _row_weights(sample_weight: ArrayTree, dtype: Any) -> Tensor:
    """One weight for each example, the mean over all other axes."""
    weights = [
        ops.mean(ops.reshape(ops.cast(leaf, dtype), (leaf.shape[0], -1)), axis=1)
        for leaf in keras.tree.flatten(sample_weight)
    ]
    return sum(weights) / len(weights)
