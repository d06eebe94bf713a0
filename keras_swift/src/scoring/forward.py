"""A model's outputs for some examples, as numbers or as specifications."""

from __future__ import annotations

import inspect
from typing import Any

import keras

from keras_swift.src import backends
from keras_swift.src._types import ArrayTree
from keras_swift.src.backends.base import Values
from keras_swift.src.data.leaves import is_text, present_leaves, with_leaves


def accepts_training(model: keras.Model) -> bool:
    """Whether the model's `call` takes `training`."""
    parameters = inspect.signature(model.call).parameters
    return "training" in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def predicted(model: keras.Model, x: ArrayTree) -> tuple[ArrayTree, list[Any]]:
    """The outputs of a built model for some inputs; changes no variable.

    Args:
        model: a built `keras.Model`.
        x: NumPy structure of inputs.

    Returns:
        A tuple `(y_pred, losses)`: a structure of tensors, and the losses that layers added.
    """
    local = backends.active().local_state(model)
    arguments = {"training": False} if accepts_training(model) else {}
    # Stateless, because a layer may assign to a variable, such as a count of its calls.
    with keras.StatelessScope(local, collect_losses=True) as scope:
        y_pred = model(tensors(x), **arguments)
    return without_list_of_one(y_pred), scope.losses


def outputs_with(model: keras.Model, values: Values, x: ArrayTree) -> ArrayTree:
    """The outputs of a built model with these values of its variables, in inference mode."""
    arguments = {"training": False} if accepts_training(model) else {}
    y_pred, _ = model.stateless_call(*values, x, **arguments)
    return y_pred


def tensors(structure: ArrayTree) -> ArrayTree:
    """The structure with tensors for its leaves; `None` stays."""
    return with_leaves(structure, map(keras.ops.convert_to_tensor, present_leaves(structure)))


def symbolic_outputs(model: keras.Model, x: ArrayTree, count: int = 1) -> ArrayTree:
    """A built model's output for `count` examples, as `KerasTensor`s.

    Args:
        model: a built `keras.Model`.
        x: NumPy structure of some inputs.
        count: int. Defaults to 1.
    """
    inputs = specified(x, count)
    if any(leaf is None for leaf in keras.tree.flatten(inputs)):
        # A functional model takes no `None` for a symbolic input; its `call` does.
        return without_list_of_one(keras.Operation.compute_output_spec(model, inputs))
    return without_list_of_one(model(inputs))


def specified(structure: ArrayTree, count: int | None = 1) -> ArrayTree:
    """`KerasTensor`s for `count` examples of a NumPy structure; `None` for any number."""

    def one(leaf: Any) -> Any:
        if leaf is None:
            return None
        dtype = "string" if is_text(leaf) else backends.active().array_dtype(leaf.dtype.name)
        return keras.KerasTensor((count, *leaf.shape[1:]), dtype=dtype)

    return keras.tree.map_structure(one, structure)


def without_list_of_one(outputs: ArrayTree) -> ArrayTree:
    """Outputs as Keras computes them: it replaces a list of one by its item."""
    one = isinstance(outputs, list | tuple) and len(outputs) == 1
    return outputs[0] if one else outputs
