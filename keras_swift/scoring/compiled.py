"""What a compiled model consists of: its losses, each with the output that it is of.

This file decides what is read off a model that a user has compiled, and builds it from a batch.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_swift import backends
from keras_swift._keras import (
    built_losses,
    compile_loss,
    flat_losses,
    own_methods,
    symbolic_build,
)
from keras_swift.data.leaves import is_ragged, is_text
from keras_swift.data.streams import is_stream
from keras_swift.scoring.gradient_norm import OutputLoss, output_activation
from keras_swift.scoring.labels import label_check
from keras_swift.scoring.structures import Matching, follow, paths, wrong_targets, wrong_weights
from keras_swift.validation import why_own_batches

# To build a model for: Keras takes a bare array of as many examples as the model has outputs for a
# list of targets.
_EXAMPLES = 61


def accepts_training(model: keras.Model) -> bool:
    """Whether the model's `call` takes `training`."""
    parameters = inspect.signature(model.call).parameters
    return "training" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


@dataclasses.dataclass(frozen=True)
class CompiledLosses:
    """The losses of a model and what they compare.

    Attributes:
        outputs: list of `OutputLoss`, one for each loss.
        matching: `Matching`, how targets and weights are matched with them.
        y_pred: structure of specifications, what the model puts out for one example.
        missing: str, why there are no losses where there are none.
    """

    outputs: list[OutputLoss]
    matching: Matching
    y_pred: Any
    missing: str = ""


def build(model: keras.Model, x: Any, y: Any) -> CompiledLosses:
    """Builds model, losses, metrics and optimizer from one batch, as `fit` would.

    `fit` would do so itself, by fetching an item before training starts.

    Args:
        model: a compiled `keras.Model`.
        x, y: NumPy structures, a batch.

    Returns:
        `CompiledLosses`; with none if the model was compiled without, or if
            it computes its loss by itself and those compiled do not fit.

    Raises:
        ValueError: if the targets do not fit the outputs.
    """
    try:
        # Variables of the optimizer may be made here, which have to be where the model's are.
        with backends.active().scope_of(model):
            symbolic_build(model, *(_specified(part, _EXAMPLES) for part in (x, y)))
    except Exception as error:
        if model.built:
            # It may be the structure of the targets, which Keras does not name.
            y_pred = symbolic_outputs(model, x)
            _, outputs = _matched(model, y, y_pred)
            if _is_an_output(outputs, str(error)):
                raise wrong_targets(y, y_pred, getattr(model, "output_names", None)) from error
        raise
    y_pred = symbolic_outputs(model, x)
    if compile_loss(model) is None:
        return CompiledLosses([], Matching(None), y_pred, f"{NO_LOSS} {_SCORE}")
    unused = not compile_loss(model).built
    try:
        targets, outputs = _matched(model, y, y_pred)
        container = built_losses(model, _specified(targets), outputs)
        losses = compiled_losses(model, container)
        for output in losses:
            if not _is_complete(output, targets):
                raise wrong_targets(y, y_pred, getattr(model, "output_names", None))
    except Exception as error:
        if not unused and "compute_loss" not in own_methods(model):
            raise
        # The model's own `compute_loss` knows what to do with them.
        missing = (
            "The model computes its loss by itself, and the compiled one does not fit what it puts "
            f"out: {error} {_SCORE}"
        )
        return CompiledLosses([], Matching(None), y_pred, missing)
    return CompiledLosses(losses, Matching(container), y_pred)


NO_LOSS = "The model is compiled without a loss, so the loss of an example cannot be read."


def why_uniform(model: keras.Model, score: Any, x: Any, y: Any) -> str | None:
    """Why a model can be trained on uniform batches alone, as far as that is known beforehand.

    The rest, a loss without a value for an example, is found when the first
    batch is scored, which raises `NoExampleLoss`.

    Args:
        model: a compiled `keras.Model`.
        score: as for `ImportanceTraining`.
        x, y: what `fit` was given.

    Returns:
        What the matter is and how to mend it, or `None` if nothing is known
        against drawing by importance.
    """
    reason = why_own_batches(model)
    if reason is not None:
        return reason
    if any(map(is_ragged, keras.tree.flatten((x, y)))):
        return (
            "Rows of different lengths cannot be drawn into one batch. Received: a ragged tensor. "
            "Make it dense with `.to_tensor()`."
        )
    if compile_loss(model) is None and not callable(score):
        return f"{NO_LOSS} {_SCORE}"
    if y is None and not is_stream(x) and own_methods(model) and not callable(score):
        return f"There are no targets, so the loss of an example cannot be read. {_SCORE}"
    return None


def needs_targets(model: keras.Model, score: Any) -> bool:
    """Whether examples without targets have no importance.

    They have if the model computes its loss by itself, and a callable the score.

    Args:
        model: a compiled `keras.Model`.
        score: as for `ImportanceTraining`.
    """
    return not (callable(score) and own_methods(model))


_SCORE = (
    "Give `score=`, a callable `(y_true, y_pred) -> (n,)` in `keras.ops` that says how much each "
    "example matters, and a loss that takes `sample_weight`."
)


def uniform_warning(reason: str) -> str:
    """The warning that a model is trained uniformly, and what to do about it.

    Args:
        reason: str, a sentence or more.
    """
    return f"{reason} Until then it is trained by `model.fit`, on uniform batches."


def _is_complete(output: OutputLoss, targets: Any) -> bool:
    """Whether a loss has all its targets."""
    try:
        return all(leaf is not None for leaf in keras.tree.flatten(output.of(targets)))
    except (KeyError, IndexError, TypeError):
        return False


def _is_an_output(outputs: Any, message: str) -> bool:
    """Whether Keras could not find a path in the targets that leads to an output."""
    found = re.search(r"The path: (\(.*?\)) in the `loss` argument", message)
    try:
        follow(ast.literal_eval(found[1]) if found else (None,), outputs)
    except (KeyError, IndexError, TypeError, ValueError, SyntaxError):
        return False
    return True


def _matched(model: keras.Model, y: Any, y_pred: Any) -> tuple[Any, Any]:
    """Targets and outputs as the model's losses compare them."""
    try:
        return Matching(compile_loss(model)).aligned(y, y_pred)
    except ValueError as error:
        raise wrong_targets(y, y_pred, getattr(model, "output_names", None)) from error


def build_for(model: keras.Model, supply: Any) -> Callable[[Any], None]:
    """Builds a model and checks that the data fit its losses.

    Args:
        model: a compiled `keras.Model`.
        supply: where batches come from, as in `keras_swift.data.reader`.

    Returns:
        A function that raises for targets that do not fit, to be called with
        those of each batch: it does nothing where all were checked here.
    """
    x, y, sample_weight = supply.first(2)
    losses = build(model, x, y)
    check_weights(sample_weight, losses)
    for output in losses.outputs:
        if output.loss.reduction == "mean_with_sample_weight":
            warnings.warn(
                f"The loss {output.loss.name!r} divides by the sum of the weights "
                '(reduction="mean_with_sample_weight"): the estimate is then '
                "self-normalised, with a bias of order 1/b. "
                '`reduction="sum_over_batch_size"` has none.',
                stacklevel=5,
            )
    check = label_check(losses.y_pred, losses.outputs, losses.matching)
    targets = supply.targets()
    # What is not all at hand is checked as it comes.
    check(y if targets is None else targets)
    return check if targets is None else lambda y: None


def check_weights(sample_weight: Any, losses: CompiledLosses) -> None:
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
        # There are none before they are built, which an own `compute_loss` may never do.
        for path, loss, weight, _ in flat_losses(container or compile_loss(model)) or []
    ]


def symbolic_outputs(model: keras.Model, x: Any) -> Any:
    """What a built model puts out for one example, as `KerasTensor`s.

    Args:
        model: a built `keras.Model`.
        x: NumPy structure of some inputs.
    """
    specified = _specified(x)
    if any(leaf is None for leaf in keras.tree.flatten(specified)):
        # A functional model takes no `None` for a symbolic input; its `call` does.
        return without_list_of_one(keras.Operation.compute_output_spec(model, specified))
    return without_list_of_one(model(specified))


def _specified(structure: Any, count: int = 1) -> Any:
    """`KerasTensor`s for that many examples of a NumPy structure, one by default."""

    def one(leaf: Any) -> Any:
        if leaf is None:
            return None
        dtype = "string" if is_text(leaf) else leaf.dtype.name
        return keras.KerasTensor((count, *leaf.shape[1:]), dtype=dtype)

    return keras.tree.map_structure(one, structure)


def without_list_of_one(outputs: Any) -> Any:
    """What Keras makes of outputs where it computes: a list of one is that one."""
    one = isinstance(outputs, list | tuple) and len(outputs) == 1
    return outputs[0] if one else outputs
