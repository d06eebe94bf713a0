"""Matches targets, outputs and weights with the compiled losses.

Keras matches them by key and by position, through nested dicts, lists, tuples and named tuples,
with leaves left out if an output has no loss. This file lets Keras do the matching, so there is one
set of rules. Nothing here reads a leaf: leaves may be arrays, tensors or specifications.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_swift.src._keras_losses import as_compared
from keras_swift.src._types import ArrayTree, Path
from keras_swift.src.data.leaves import structure_key
from keras_swift.src.validation import UnfitData


class Matching:
    """Matches the losses of a compiled model with what they compare.

    Keras matches each combination of structures once; the result is kept.

    Args:
        container: the container of the compiled losses, built or not; or `None`
            for a model without losses, whose targets get the structure of the
            outputs if they fit it.
    """

    def __init__(self, container: Any) -> None:
        self._container = container
        self._answers: dict[tuple[str, str], tuple[ArrayTree, ArrayTree]] = {}

    def aligned(self, y: ArrayTree, y_pred: ArrayTree) -> tuple[ArrayTree, ArrayTree]:
        """Targets and outputs in the structures in which Keras compares them.

        Args:
            y: structure of targets.
            y_pred: structure of the model's outputs.

        Returns:
            A tuple of two structures, in which the path of a compiled loss leads to the parts that
            it compares. A missing target is `None`.

        Raises:
            ValueError: if Keras cannot match them.
        """
        key = (structure_key(y), structure_key(y_pred))
        if key not in self._answers:
            self._answers[key] = self._asked(y, y_pred)
        targets, outputs = self._answers[key]
        return _filled(targets, y), _filled(outputs, y_pred)

    def like(self, y: ArrayTree, y_pred: ArrayTree) -> ArrayTree:
        """The targets in the structure of the outputs, or in Keras' if some are missing.

        Args:
            y: structure of targets.
            y_pred: structure of the model's outputs.
        """
        targets, _ = self.aligned(y, y_pred)
        try:
            return keras.tree.pack_sequence_as(y_pred, keras.tree.flatten(targets))
        except (ValueError, TypeError):
            return targets

    def weights(self, sample_weight: ArrayTree, y_pred: ArrayTree, paths: list[Path]) -> list[Any]:
        """The weights for each compiled loss: the same for all, or one array for each output.

        Weights may have the structure of the outputs, as in Keras, or any structure that targets
        may have.

        Args:
            sample_weight: one array, a structure of arrays or `None`.
            y_pred: structure of the model's outputs.
            paths: the path of each loss.

        Raises:
            ValueError: if they cannot be matched.
        """
        if not keras.tree.is_nested(sample_weight):
            return [sample_weight for _ in paths]
        places = _places(sample_weight)
        try:
            found = [follow(path, places) for path in paths]
        except (KeyError, IndexError, TypeError):
            found = [places]
        if any(keras.tree.is_nested(part) for part in found):
            targets, _ = self._asked(sample_weight, y_pred)
            try:
                found = [follow(path, targets) for path in paths]
            except (KeyError, IndexError, TypeError) as error:
                raise ValueError(f"no weights at {error}") from error
        if any(keras.tree.is_nested(part) for part in found):
            raise ValueError("more than one array of weights for one loss")
        leaves = keras.tree.flatten(sample_weight)
        return [None if place is None else leaves[place.index] for place in found]

    def _asked(self, y: ArrayTree, y_pred: ArrayTree) -> tuple[ArrayTree, ArrayTree]:
        """What `aligned` returns, with the places of the leaves instead of the leaves."""
        targets, outputs = _places(y), _places(y_pred)
        if self._container is None:
            try:
                return keras.tree.pack_sequence_as(outputs, keras.tree.flatten(targets)), outputs
            except (ValueError, TypeError):
                return targets, outputs
        try:
            targets, outputs = as_compared(self._container, targets, outputs)
        except Exception as error:
            raise ValueError(str(error)) from error
        for leaf in keras.tree.flatten((targets, outputs)):
            # Keras takes anything with a length for a list of leaves, such as the keys of a dict.
            if leaf is not None and not isinstance(leaf, _Place):
                raise ValueError("y_true and y_pred have different structures.")
        return targets, outputs


class _Place:
    """Stands for a leaf of a structure."""

    def __init__(self, index: int) -> None:
        self.index = index


def _places(structure: ArrayTree) -> Any:
    leaves = keras.tree.flatten(structure)
    return keras.tree.pack_sequence_as(structure, [_Place(index) for index in range(len(leaves))])


def _filled(places: Any, structure: ArrayTree) -> Any:
    leaves = keras.tree.flatten(structure)
    return keras.tree.map_structure(
        lambda place: None if place is None else leaves[place.index], places
    )


def paths(structure: ArrayTree, before: Path = ()) -> list[Path]:
    """The path of each leaf of a structure, in the order of `keras.tree`.

    Returns:
        A list of tuples of keys and positions, for `follow`.
    """
    if isinstance(structure, dict):
        # `keras.tree` flattens dicts in the order of their sorted keys.
        items = sorted(structure.items())
    elif isinstance(structure, list | tuple):
        items = list(enumerate(structure))
    else:
        return [before]
    return [path for key, part in items for path in paths(part, (*before, key))]


def follow(path: Path, structure: ArrayTree) -> ArrayTree:
    """The part of a structure at the end of a path."""
    for step in path:
        structure = structure[step]
    return structure


def described(structure: ArrayTree) -> str:
    """A structure in words, for errors."""
    if isinstance(structure, dict):
        return f"a dict with the keys {', '.join(map(repr, structure))}"
    if keras.tree.is_nested(structure):
        nested = any(keras.tree.is_nested(part) for part in structure)
        return f"a {'nested ' if nested else ''}list of {len(structure)}"
    return "one array"


def wrong_targets(y: ArrayTree, y_pred: ArrayTree, output_names: list[str] | None) -> UnfitData:
    """The error for targets that do not fit the outputs.

    Args:
        y: structure of targets.
        y_pred: structure of the model's outputs.
        output_names: list of str, or `None` for a subclassed model.
    """
    count = len(keras.tree.flatten(y_pred))
    if not keras.tree.is_nested(y_pred):
        form, outputs, cure = "one array", "one output", " Pass the array that belongs to it."
    else:
        flat = not any(keras.tree.is_nested(part) for part in _values(y_pred))
        names = sorted(y_pred) if isinstance(y_pred, dict) else output_names
        form, outputs, cure = f"a list of {count} arrays", f"{count} outputs", ""
        if not flat:
            form = f"arrays in the structure {keras.tree.map_structure(lambda _: '*', y_pred)}"
        elif names is not None:
            form += f", or a dict with the keys {', '.join(map(repr, names))}"
    return UnfitData(
        f"`y` must be {form}: the model has {outputs}. Received: {described(y)}.{cure}"
    )


def wrong_weights(sample_weight: ArrayTree, y_pred: ArrayTree) -> UnfitData:
    """The error for weights that do not fit the outputs."""
    return UnfitData(
        "`sample_weight` must be one array for all outputs, or one for each of the model's "
        f"{len(keras.tree.flatten(y_pred))}. Received: {described(sample_weight)}."
    )


def _values(structure: ArrayTree) -> Any:
    return structure.values() if isinstance(structure, dict) else structure
