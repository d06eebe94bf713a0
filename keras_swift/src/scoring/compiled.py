"""The losses of a compiled model, each with its output.

This file decides what is read from a user's compiled model, and builds the model from a batch.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_swift.src import backends
from keras_swift.src._keras import own_methods, symbolic_build
from keras_swift.src._keras_losses import (
    built_losses,
    compile_loss,
    explains_loss,
    flat_losses,
    user_loss,
)
from keras_swift.src._pages import read_on
from keras_swift.src._types import ArrayTree, Score
from keras_swift.src.data.leaves import is_ragged
from keras_swift.src.data.reader import Reader
from keras_swift.src.data.streams import is_stream
from keras_swift.src.scoring.finite import check_weights_are_finite
from keras_swift.src.scoring.forward import specified, symbolic_outputs, without_list_of_one
from keras_swift.src.scoring.labels import label_check
from keras_swift.src.scoring.output_loss import NoExampleLoss, OutputLoss, output_activation
from keras_swift.src.scoring.own_call import with_answers
from keras_swift.src.scoring.structures import Matching, follow, paths, wrong_targets, wrong_weights
from keras_swift.src.validation import why_own_batches


@dataclasses.dataclass(frozen=True)
class CompiledLosses:
    """The losses of a model and what they compare.

    Attributes:
        outputs: list of `OutputLoss`, one for each loss.
        matching: `Matching`, how targets and weights are matched with them.
        y_pred: structure of specifications, the model's output for one example.
        missing: str, why there are no losses, if there are none.
    """

    outputs: list[OutputLoss]
    matching: Matching
    y_pred: ArrayTree
    missing: str = ""


def build(model: keras.Model, x: ArrayTree, y: ArrayTree) -> CompiledLosses:
    """Builds model, losses, metrics and optimizer from one batch.

    `fit` would do so itself, but by fetching an item of its data before training starts.

    Args:
        model: a compiled `keras.Model`.
        x, y: NumPy structures, a batch.

    Returns:
        `CompiledLosses`; without outputs if the model was compiled without a
            loss, or if it computes its loss itself and the compiled ones do not fit.

    Raises:
        ValueError: if the targets do not fit the outputs.
    """
    try:
        # Optimizer variables may be created here, and must be on the model's devices.
        with backends.active().scope_of(model):
            count = backends.active().EXAMPLES_TO_BUILD
            symbolic_build(model, *(specified(part, count) for part in (x, y)))
    except Exception as error:
        if model.built:
            # The error may be about the structure of the targets, which Keras does not name.
            y_pred = symbolic_outputs(model, x)
            _, outputs = _matched(model, y, y_pred)
            if explains_loss(error) and _are_outputs(user_loss(compile_loss(model)), outputs):
                raise wrong_targets(y, y_pred, getattr(model, "output_names", None)) from error
        raise
    y_pred = symbolic_outputs(model, x)
    if compile_loss(model) is None:
        return CompiledLosses([], Matching(None), y_pred, NO_LOSS)
    unused = not compile_loss(model).built
    try:
        targets, outputs = _matched(model, y, y_pred)
        container = built_losses(model, specified(targets), outputs)
        losses = compiled_losses(model, container)
        for output in losses:
            if not _is_complete(output, targets):
                raise wrong_targets(y, y_pred, getattr(model, "output_names", None))
    except Exception as error:
        if not unused and "compute_loss" not in own_methods(model):
            raise
        # The model's own `compute_loss` handles its targets and outputs.
        missing = (
            "The model computes its loss by itself, and the compiled one does not fit its outputs: "
            f"{error}"
        )
        return CompiledLosses([], Matching(None), y_pred, missing)
    losses = [_with_rows(output, outputs) for output in losses]
    matching = Matching(container)
    return CompiledLosses(with_answers(model, losses, matching, x, y), matching, y_pred)


def _with_rows(output: OutputLoss, outputs: ArrayTree) -> OutputLoss:
    """The loss, with a refusal if the output for one example has more rows than one."""
    shapes = [tuple(leaf.shape) for leaf in keras.tree.flatten(output.of(outputs))]
    wrong = [shape for shape in shapes if not shape or shape[0] not in (1, None)]
    if not wrong:
        return output
    refusal = NoExampleLoss(
        "The model must put out one row for each example, because examples are weighted one by "
        f"one. Received: an output of shape {wrong[0]} for one example. Keep the axis of the "
        "examples first, for example with `keras.layers.Reshape` or `TimeDistributed`, and let "
        "the loss join what it compares."
    )
    return dataclasses.replace(output, refusal=refusal)


NEEDS_LOSS = (
    "`model` must be compiled with a loss that has a value for each example. Received: one without."
)
NO_LOSS = "The model is compiled without a loss, so the loss of an example cannot be read."


def why_uniform(model: keras.Model, score: Score, x: Any, y: ArrayTree) -> str | None:
    """Why a model can be trained only on uniform batches, as far as is known beforehand.

    One reason, a loss without a value per example, shows only when the first
    batch is scored, which raises `NoExampleLoss`.

    Args:
        model: a compiled `keras.Model`.
        score: as for `ImportanceTraining`.
        x, y: what `fit` was given.

    Returns:
        The reason and the cure, or `None` if the model can be trained by
        importance as far as is known.
    """
    reason = why_own_batches(model)
    if reason is not None:
        return reason
    if any(map(is_ragged, keras.tree.flatten((x, y)))):
        return (
            "Rows of different lengths cannot be in one drawn batch. Received: a ragged tensor. "
            "Make it dense with `.to_tensor()`."
        )
    if compile_loss(model) is None and not callable(score):
        return f"{NO_LOSS} {GIVE_SCORE}"
    if y is None and not is_stream(x) and own_methods(model) and not callable(score):
        return f"There are no targets, so the loss of an example cannot be read. {GIVE_SCORE}"
    return None


def needs_targets(model: keras.Model, score: Any) -> bool:
    """Whether scores need targets.

    They do not if the model computes its loss by itself and a callable computes the score.

    Args:
        model: a compiled `keras.Model`.
        score: as for `ImportanceTraining`.
    """
    return not (callable(score) and own_methods(model))


GIVE_SCORE = (
    "Give `score=`, a callable `(y_true, y_pred) -> (n,)` in `keras.ops` that says how much each "
    "example matters, and a loss that takes `sample_weight`."
)


def uniform_warning(reason: str) -> str:
    """The warning that a model is trained uniformly, with the reason.

    Args:
        reason: str, a sentence or more.
    """
    page = read_on("compatibility.md#what-does-not-work")
    return f"{reason} Until then it is trained by `model.fit`, on uniform batches. {page}"


def _is_complete(output: OutputLoss, targets: ArrayTree) -> bool:
    """Whether a loss has all its targets."""
    try:
        return all(leaf is not None for leaf in keras.tree.flatten(output.of(targets)))
    except (KeyError, IndexError, TypeError):
        return False


def _are_outputs(loss: Any, outputs: ArrayTree) -> bool:
    """Whether each loss that the model was compiled with belongs to one of its outputs."""
    leaves = zip(paths(loss), keras.tree.flatten(loss), strict=True)
    try:
        for path in (path for path, one in leaves if one is not None):
            follow(path, outputs)
    except (KeyError, IndexError, TypeError):
        return False
    return True


def _matched(model: keras.Model, y: ArrayTree, y_pred: ArrayTree) -> tuple[ArrayTree, ArrayTree]:
    """Targets and outputs as the model's losses compare them."""
    try:
        return Matching(compile_loss(model)).aligned(y, y_pred)
    except ValueError as error:
        raise wrong_targets(y, y_pred, getattr(model, "output_names", None)) from error


def build_for(model: keras.Model, reader: Reader) -> Callable[[ArrayTree], None]:
    """Builds a model and checks that the data fit its losses.

    Args:
        model: a compiled `keras.Model`.
        reader: `Reader`.

    Returns:
        A function that raises for targets that do not fit, to call with the
        targets of each batch; it does nothing if all were checked here.
    """
    x, y, sample_weight = reader.first(2)
    losses = build(model, x, y)
    check_weights(sample_weight, losses)
    for output in losses.outputs:
        if output.loss.reduction == "mean_with_sample_weight":
            warnings.warn(
                f"The loss {output.loss.name!r} divides by the sum of the weights "
                '(reduction="mean_with_sample_weight"): the estimate is then '
                "self-normalised, with a bias of order 1/b. "
                '`reduction="sum_over_batch_size"` has none. '
                + read_on("compatibility.md#losses-weights-metrics"),
                stacklevel=5,
            )
    check = label_check(losses.y_pred, losses.outputs, losses.matching)
    source = reader.source
    if source is None or not source.is_in_memory:
        # Targets that cannot all be read now are checked batch by batch.
        check(y)
        return check
    check(source.y)
    check_weights_are_finite(source.sample_weight, source.size)
    return lambda y: None


def check_weights(sample_weight: ArrayTree, losses: CompiledLosses) -> None:
    """Raises unless the weights are one array, or one for each output.

    Args:
        sample_weight: structure of weights, or `None`.
        losses: `CompiledLosses` of the model.
    """
    if not losses.outputs:
        return
    try:
        losses.matching.weights(
            sample_weight, losses.y_pred, [output.path for output in losses.outputs]
        )
    except ValueError as error:
        raise wrong_weights(sample_weight, losses.y_pred) from error


def compiled_losses(model: keras.Model, container: Any = None) -> list[OutputLoss]:
    """The losses of a compiled, built model, one `OutputLoss` for each.

    Args:
        model: a compiled `keras.Model`.
        container: the built container of its losses. Defaults to `None`, the
            model's own.
    """
    tensors = getattr(model, "outputs", None)
    activations = {}
    if tensors:
        structure = model.output if not isinstance(model, keras.Sequential) else tensors[0]
        structure = without_list_of_one(structure)
        leaves = keras.tree.flatten(structure)
        activations = {
            path: output_activation(leaf)
            for path, leaf in zip(paths(structure), leaves, strict=True)
        }
    return [
        OutputLoss(
            path=tuple(path),
            loss=loss,
            weight=1.0 if weight is None else float(weight),
            activation=activations.get(tuple(path)),
        )
        # Losses exist once they are built, which a model's own `compute_loss` may never do.
        for path, loss, weight, _ in flat_losses(container or compile_loss(model)) or []
    ]
