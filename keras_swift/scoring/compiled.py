"""What a compiled model consists of: its losses, each with the output that it is of.

This file decides what is read off a model that a user has compiled, and builds it from a batch.
"""

import inspect
import warnings

import keras

from keras_swift import backends
from keras_swift._keras import compile_loss, flat_losses, symbolic_build
from keras_swift.scoring.gradient_norm import OutputLoss, output_activation
from keras_swift.validation import (
    check_targets,
    check_weights,
    label_check,
    symbolic_outputs,
    without_list_of_one,
)


def accepts_training(model):
    """Whether the model's `call` takes `training`."""
    parameters = inspect.signature(model.call).parameters
    return "training" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def build(model, x, y):
    """Builds model, losses, metrics and optimizer from one batch, as `fit` would.

    `fit` would do so itself, by fetching an item before training starts.

    Raises:
        ValueError: if the model was compiled without a loss.
    """
    if compile_loss(model) is None:
        raise ValueError(
            "The model must be compiled with a loss: an example's importance is read off it. "
            "Received: a model compiled without `loss`. Call "
            "`model.compile(optimizer=..., loss=...)`."
        )
    try:
        # Variables of the optimizer may be made here, which have to be where the model's are.
        with backends.active().scope_of(model):
            symbolic_build(model, x, y)
    except Exception:
        if model.built:
            # It may be the structure of the targets, which Keras does not name.
            y_pred = symbolic_outputs(model, x)
            check_targets(y, y_pred, None, getattr(model, "output_names", None))
        raise


def build_for(model, supply):
    """Builds a model and checks that the data fit its losses.

    Args:
        model: a compiled `keras.Model`.
        supply: where batches come from, as in `keras_swift.data.reader`.

    Returns:
        A function that raises for targets that do not fit, to be called with
        those of each batch: it does nothing where all were checked here.
    """
    x, y, sample_weight = supply.first(2)
    build(model, x, y)
    losses = compiled_losses(model)
    y_pred = symbolic_outputs(model, x)
    names = getattr(model, "output_names", None)
    check_targets(y, y_pred, losses, names)
    check_weights(sample_weight, y_pred, names)
    for output in losses:
        if output.loss.reduction == "mean_with_sample_weight":
            warnings.warn(
                f"The loss {output.loss.name!r} divides by the sum of the weights "
                '(reduction="mean_with_sample_weight"): the estimate is then '
                "self-normalised, with a bias of order 1/b. "
                '`reduction="sum_over_batch_size"` has none.',
                stacklevel=5,
            )
    check = label_check(y_pred, losses, names)
    targets = supply.targets()
    # What is not all at hand is checked as it comes.
    check(y if targets is None else targets)
    return check if targets is None else lambda y: None


def compiled_losses(model):
    """The losses of a compiled, built model, one `OutputLoss` for each."""
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
        for path, loss, weight, _ in flat_losses(model)
    ]


def paths(structure, before=()):
    """The way to each leaf of a structure, in the order of `keras.tree`.

    Returns:
        A list of tuples of keys and positions, as `follow` takes them.
    """
    if isinstance(structure, dict):
        # `keras.tree` flattens dicts in the order of their sorted keys.
        items = sorted(structure.items())
    elif isinstance(structure, list | tuple):
        items = list(enumerate(structure))
    else:
        return [before]
    return [path for key, part in items for path in paths(part, (*before, key))]


def follow(path, structure):
    """The part of a structure at the end of a path."""
    for step in path:
        structure = structure[step]
    return structure
