"""Losses with a `__call__` of their own: what they make of single examples and weights.

Training calls the loss itself, not its `call`, and such a loss may prepare targets and weights,
leave the weights out or compare examples. So it is tested: `with_answers` compares its value for a
few examples with its values for each of them alone. If the value is their weighted mean, the loss
is linear in the weights, and `n` times its derivative with respect to the weight of an example is
the loss of that example (of a sum, the derivative itself). One call and one gradient then give the
losses of a batch, whatever the loss does inside.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swift.src import backends
from keras_swift.src._keras import mask_of, with_mask
from keras_swift.src._types import Array, ArrayTree, Tensor
from keras_swift.src.data.leaves import present_leaves, with_leaves
from keras_swift.src.scoring.forward import predicted
from keras_swift.src.scoring.output_loss import (
    ExampleLosses,
    NoExampleLoss,
    OutputLoss,
    OwnCall,
    Reduces,
    UnweightedLoss,
    has_own_call,
    over_axes,
)
from keras_swift.src.scoring.structures import Matching
from keras_swift.src.validation import UnfitData

# The weights of the examples that a loss is tested with: all different and in no order, so that
# weights that are paired with another axis give another value.
_WEIGHTS = np.array([1.0, 0.5, 1.75, 0.75, 2.0, 0.625, 1.5, 1.125], np.float32)


def with_answers(
    model: keras.Model, losses: list[OutputLoss], matching: Matching, x: ArrayTree, y: ArrayTree
) -> list[OutputLoss]:
    """The losses; each with a `__call__` of its own gets its `OwnCall`, or a refusal.

    Args:
        model: a built, compiled `keras.Model`.
        losses: list of `OutputLoss`.
        matching: `Matching` of the model.
        x, y: NumPy structures of some examples; the first few are used, repeated if there are
            fewer.
    """
    if not any(has_own_call(output.loss) for output in losses):
        return losses
    rows = np.arange(len(_WEIGHTS)) % len(present_leaves(x)[0])
    x, y = (with_leaves(part, [leaf[rows] for leaf in present_leaves(part)]) for part in (x, y))
    y_pred, _ = predicted(model, x)
    targets, outputs = matching.aligned(y, y_pred)
    return [_asked(output, targets, outputs) for output in losses]


class _Question:
    """Calls a loss with some of the examples, as the compiled losses call it."""

    def __init__(self, loss: keras.losses.Loss, y_true: ArrayTree, y_pred: ArrayTree) -> None:
        self._loss = loss
        self.mask = None if keras.tree.is_nested(y_pred) else mask_of(y_pred)
        # Via NumPy: a TensorFlow tensor may carry logits, which a slice of it would not.
        self._y_true = keras.tree.map_structure(ops.convert_to_numpy, y_true)
        self._y_pred = keras.tree.map_structure(ops.convert_to_numpy, y_pred)
        self._dtypes = keras.tree.map_structure(
            lambda leaf: keras.backend.standardize_dtype(leaf.dtype), y_pred
        )

    def value(self, rows: Any, weights: Array) -> float:
        """The loss of the examples in `rows`."""
        y_true = keras.tree.map_structure(
            lambda leaf: ops.convert_to_tensor(leaf[rows]), self._y_true
        )
        y_pred = keras.tree.map_structure(
            lambda leaf, dtype: ops.convert_to_tensor(leaf[rows], dtype), self._y_pred, self._dtypes
        )
        if self.mask is not None:
            mask = ops.convert_to_numpy(self.mask)[rows]
            y_pred = with_mask(y_pred, ops.convert_to_tensor(mask))
        # PyTorch's masked losses multiply the weights in place.
        weights = ops.convert_to_tensor(np.array(weights[rows], np.float32))
        return float(np.sum(ops.convert_to_numpy(self._loss(y_true, y_pred, weights))))

    def shapes(self) -> Iterator[OwnCall]:
        """The shapes that the weights may need, the most probable first."""
        if self.mask is not None:
            yield OwnCall(rank=len(self.mask.shape) - 1, full=True)
        for rank in range(max(len(leaf.shape) for leaf in keras.tree.flatten(self._y_pred))):
            yield OwnCall(rank=rank)

    def axes(self, shape: OwnCall) -> tuple[int, ...]:
        return tuple(self.mask.shape[1:]) if shape.full else (1,) * shape.rank  # type: ignore[union-attr]


def _asked(output: OutputLoss, targets: ArrayTree, outputs: ArrayTree) -> OutputLoss:
    """The loss with its `OwnCall`, as tests on these examples show it, or with a refusal."""
    if not has_own_call(output.loss) or output.refusal is not None:
        return output
    question = _Question(output.loss, output.of(targets), output.of(outputs))
    refusals: list[UnfitData] = []
    error: Exception | None = None
    # In a scope, so that nothing is assigned to a variable of the loss.
    with keras.StatelessScope():
        for shape in question.shapes():
            try:
                answer = _answer(output.loss, question, shape)
            except UnfitData as refusal:
                refusals.append(refusal)
            except Exception as raised:  # Each framework has its own error for shapes.
                error = raised
            else:
                return dataclasses.replace(output, own_call=answer)
    if not refusals:
        # The loss cannot be called at all, and says why.
        raise error or RuntimeError("no shape of weights was tried")
    # Weights of a wrong shape may look as if the loss compared examples.
    of_weights = [refusal for refusal in refusals if isinstance(refusal, UnweightedLoss)]
    return dataclasses.replace(output, refusal=(of_weights or refusals)[0])


def _answer(loss: keras.losses.Loss, question: _Question, shape: OwnCall) -> OwnCall:
    """What the loss does with weights of one shape."""
    count, axes = len(_WEIGHTS), question.axes(shape)

    def shaped(weights: Array) -> Array:
        return np.ones((count, *axes), np.float32) * weights.reshape((-1,) + (1,) * len(axes))

    ones = shaped(np.ones(count, np.float32))
    alone = np.array([question.value(slice(i, i + 1), ones) for i in range(count)])
    whole = question.value(slice(None), ones)
    if not np.isfinite(whole) and not np.isfinite(alone).all():
        # The model has diverged, which training will show.
        return shape
    forms: dict[Reduces, Array] = {"mean": np.full(count, 1.0 / count), "sum": np.ones(count)}
    if question.mask is not None:
        valid = ops.convert_to_numpy(question.mask).reshape(count, -1).mean(axis=1)
        forms = {"masked_mean": valid / max(valid.sum(), 1e-9), **forms}
    forms = {name: form for name, form in forms.items() if _near(loss, whole, form @ alone)}
    if not forms:
        raise _compares(loss)
    if np.isfinite(question.value(slice(None), np.full_like(ones, np.nan))):
        raise _unweighted(loss, "with a loss that is the same whatever the weights are")
    weighted = question.value(slice(None), shaped(_WEIGHTS))
    for name, form in forms.items():
        if _near(loss, weighted, (form * _WEIGHTS) @ alone):
            return dataclasses.replace(shape, reduces=name)
    if question.mask is None and _near(loss, weighted, _WEIGHTS @ alone / _WEIGHTS.sum()):
        return dataclasses.replace(shape, reduces="weighted_mean")
    raise _unweighted(loss, "with a loss that is no weighted mean or sum over the examples")


def _near(loss: keras.losses.Loss, value: float, expected: float) -> bool:
    tolerance = 1e-3 if loss.dtype in ("float32", "float64") else 3e-2
    return bool(np.isclose(value, expected, rtol=tolerance, atol=1e-5))


def check_comparisons(output: OutputLoss, target: ArrayTree, prediction: ArrayTree) -> None:
    """Raises `NoExampleLoss` if a loss value depends on the other examples of the batch.

    For a loss with the `__call__` of `keras.losses.Loss`; `with_answers` tests the others.

    Args:
        output: `OutputLoss`.
        target, prediction: structures of arrays, what it compares.
    """
    loss = output.loss
    if has_own_call(loss):
        return

    def converted(leaf: Any) -> Tensor:
        # Via NumPy: a TensorFlow tensor may carry logits, which a slice of it would not.
        return ops.convert_to_tensor(ops.convert_to_numpy(leaf), dtype=loss.dtype)

    def first(count: int | None) -> Any:
        cut = keras.tree.map_structure(lambda leaf: converted(leaf)[:count], (target, prediction))
        return ops.convert_to_numpy(loss.call(*cut)[0])

    if not np.allclose(first(None), first(1), rtol=1e-3, atol=1e-5, equal_nan=True):
        raise _compares(loss)


def _compares(loss: keras.losses.Loss) -> NoExampleLoss:
    return NoExampleLoss(
        f"The loss {loss.name!r} compares the examples of a batch with one another, so no example "
        "has a loss of its own. Compile the model with a loss whose value for a batch is the mean "
        "of its values for each example alone."
    )


def _unweighted(loss: keras.losses.Loss, received: str) -> UnweightedLoss:
    return UnweightedLoss(
        "The loss must weight the loss of each example by its `sample_weight`: without the "
        "weights, drawing by importance trains another objective. Received: "
        f"`{type(loss).__name__}.__call__`, {received}. Pass the weights on, "
        "`super().__call__(y_true, y_pred, sample_weight)`, or multiply the loss of each example "
        "by its weight before the mean is taken."
    )


def own_losses(
    output: OutputLoss, y_true: ArrayTree, y_pred: ArrayTree, sample_weight: Tensor | None
) -> ExampleLosses:
    """The losses of a batch's examples and their gradients in the outputs.

    Args:
        output: `OutputLoss` with an `OwnCall`.
        y_true, y_pred: structures of tensors.
        sample_weight: the user's weights, shape `(B,)` or with the axes of the loss values, or
            `None`.

    Returns:
        `ExampleLosses`, whose gradient is that with respect to the entries of all outputs, shape
        `(B, d)`.
    """
    mask = None if keras.tree.is_nested(y_pred) else mask_of(y_pred)
    leaves = [ops.stop_gradient(ops.convert_to_tensor(leaf)) for leaf in keras.tree.flatten(y_pred)]
    count = ops.shape(leaves[0])[0]
    rows = [
        ops.cast(ops.reshape(leaf, (count, math.prod(leaf.shape[1:]))), "float32")
        for leaf in leaves
    ]
    ends = list(itertools.accumulate(row.shape[1] for row in rows))

    def loss(joined: Tensor) -> tuple[Tensor, None]:
        *parts, weights = ops.split(joined, ends, axis=1)
        back = [
            ops.cast(ops.reshape(part, ops.shape(leaf)), leaf.dtype)
            for part, leaf in zip(parts, leaves, strict=True)
        ]
        outputs = keras.tree.pack_sequence_as(y_pred, back)
        return _loss_sum(output, y_true, outputs, sample_weight, mask, weights), None

    joined = ops.concatenate([*rows, ops.ones_like(rows[0][:, :1])], axis=1)
    (total, _), slope = backends.active().gradient(loss, joined)
    answer = _answer_of(output)
    losses = slope[:, -1]
    if answer.reduces == "weighted_mean":
        # The derivative of a weighted mean gives an example's loss less the mean: add the mean.
        share = ops.ones_like(losses)
        if sample_weight is not None:
            share = ops.cast(ops.reshape(sample_weight, (count, -1)), "float32")
            share = ops.mean(share, axis=1) / ops.mean(share)
        losses = losses + share * ops.mean(ops.stop_gradient(total)) / ops.cast(count, "float32")
    return ExampleLosses(
        losses=losses,
        gradient=slope[:, :-1],
        valid=_valid_shares(output, mask, slope[:, -1]),
        axes=_weight_axes(answer, mask),
        masked=answer.reduces == "masked_mean",
    )


def _loss_sum(
    output: OutputLoss,
    y_true: ArrayTree,
    y_pred: ArrayTree,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    column: Tensor,
) -> Tensor:
    """The sum of the losses of a batch's examples, for differentiating.

    Args:
        output, y_true, y_pred, sample_weight: as for `own_losses`.
        mask: the mask of `y_pred`, which does not carry it; `None` if it has none.
        column: float tensor, shape `(B, 1)`, a factor for each example.

    Returns:
        A float tensor, shape `()`.
    """
    answer = _answer_of(output)
    if mask is not None:
        y_pred = with_mask(y_pred, mask)
    axes = _weight_axes(answer, mask)
    weights = ops.reshape(column, (-1,) + (1,) * len(axes))
    if sample_weight is not None:
        # `(n,)` and `(n, 1)` both mean one weight for an example.
        kept = ops.shape(sample_weight)[: 1 + len(axes)]
        shape = (*kept, *(1,) * (1 + len(axes) - len(kept)))
        weights = weights * ops.cast(ops.reshape(sample_weight, shape), weights.dtype)
    if answer.full and mask is not None:
        # A product, not a broadcast view: Keras multiplies it in place on PyTorch.
        weights = weights * ops.ones_like(mask, dtype=weights.dtype)
    total = ops.cast(ops.sum(output.loss(y_true, y_pred, weights)), "float32")
    if answer.reduces == "sum":
        return total
    total = total * ops.cast(ops.shape(column)[0], "float32")
    if answer.reduces == "masked_mean":
        # As for other masked losses: the mean over all entries, with 0 for masked ones.
        total = total * ops.mean(ops.cast(mask, "float32"))
    return total


def _answer_of(output: OutputLoss) -> OwnCall:
    if output.own_call is None:
        raise RuntimeError("the loss was not asked")
    return output.own_call


def _weight_axes(answer: OwnCall, mask: Tensor | None) -> tuple[int, ...]:
    return tuple(mask.shape[1:]) if answer.full and mask is not None else (1,) * answer.rank


def _valid_shares(output: OutputLoss, mask: Tensor | None, like: Tensor) -> Tensor:
    if mask is None or _answer_of(output).reduces != "masked_mean":
        return ops.ones_like(like)
    return over_axes(ops.mean, ops.cast(mask, like.dtype))
