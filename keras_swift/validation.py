"""Checks of arguments and targets, all made before any data move."""

import contextlib
import math

import keras
import numpy as np

from keras_swift._keras import check_release, flatten_layers

SCORES = ("gradient_norm", "loss", "full_gradient_norm")
# The presample ratio where the paper's gate is asked for by its threshold alone.
PRESAMPLE = 3.0
SCORING_DTYPES = ("auto", "float32", "bfloat16", "float16")


def check_model(model):
    """Raises unless `model` is a compiled Keras model."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a `keras.Model`. Received: {type(model).__module__}."
            f"{type(model).__qualname__}."
        )
    if not model.compiled:
        raise ValueError(
            "`model` must be compiled before it is trained. Received: a model that is not. Call "
            "`model.compile(optimizer=..., loss=...)` first."
        )
    check_release(model)
    stateful = [layer.name for layer in flatten_layers(model) if getattr(layer, "stateful", 0)]
    if stateful:
        raise ValueError(
            "`model` must not carry state from one batch to the next: the batches that are scored "
            f"and drawn are others than those before. Received: stateful layers {stateful}. Use "
            "`stateful=False`."
        )
    fixed = [
        tensor.name
        for tensor in getattr(model, "inputs", None) or []
        if tensor.shape and tensor.shape[0] is not None
    ]
    if fixed:
        raise ValueError(
            "`model` must take batches of any size, because a presample is larger than a batch. "
            f"Received: inputs of a fixed batch size, {fixed}. Use `keras.Input(shape)` in place "
            "of `batch_shape`."
        )


def chosen_presample(presample, tau_threshold):
    """What `presample=None` stands for: `"auto"`, or the paper's ratio with its threshold."""
    if presample is not None:
        return presample
    return "auto" if tau_threshold is None else PRESAMPLE


def check_settings(presample, tau_threshold, score, floor, cost_ratio=None):
    """Raises for settings outside their ranges."""
    presample = chosen_presample(presample, tau_threshold)
    if isinstance(presample, str) and presample == "auto":
        if tau_threshold is not None:
            raise ValueError(
                '`tau_threshold` is for a presample of a given size; `presample="auto"` decides by '
                f"what it measures. Received: tau_threshold={tau_threshold!r}. Give "
                "`presample=3.0` with it, or leave it out."
            )
    elif cost_ratio is not None:
        raise ValueError(
            '`cost_ratio` is for the gate of `presample="auto"`. Received: '
            f"cost_ratio={cost_ratio!r} with presample={presample!r} and "
            f"tau_threshold={tau_threshold!r}. Leave it out, or the others."
        )
    elif not _is_number(presample) or not 1 < presample < math.inf:
        raise ValueError(
            f"`presample` must be greater than 1 and finite. Received: presample={presample!r}. "
            "Use 3.0 to score three batches for each batch trained, or 'auto'."
        )
    if cost_ratio is not None and not (_is_number(cost_ratio) and 0 < cost_ratio < math.inf):
        raise ValueError(
            "`cost_ratio` must be greater than 0 and finite, or None. Received: "
            f"cost_ratio={cost_ratio!r}. It is the cost of scoring an example over that of "
            "training on it: about 0.3 where both are in the same float type."
        )
    if tau_threshold is not None and not (
        _is_number(tau_threshold) and 0 <= tau_threshold < math.inf
    ):
        raise ValueError(
            "`tau_threshold` must be 0 or more and finite, or None. Received: "
            f"tau_threshold={tau_threshold!r}. Use 0 to draw every batch by importance, None for "
            "the paper's threshold."
        )
    if not _is_number(floor) or not 0 <= floor < 1:
        raise ValueError(
            f"`floor` must be in [0, 1). Received: floor={floor!r}. It is the uniform share of "
            "the draws: 0.1 bounds the weights by 10."
        )
    check_score(score)


def check_positive_integer(name, value):
    """Raises unless `value` is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}.")


def _is_number(value):
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def check_score(score):
    """Raises unless `score` is a known name or a callable."""
    if not callable(score) and score not in SCORES:
        raise ValueError(
            f"`score` must be one of {', '.join(repr(name) for name in SCORES)}, or a callable "
            f"`(y_true, y_pred) -> (n,)` in `keras.ops`. Received: score={score!r}."
        )


@contextlib.contextmanager
def explained(x, y):
    """Names the data where a model, loss or score of the user's cannot take them.

    Frameworks say which of their operations failed, not which argument did.

    Args:
        x, y: NumPy structures, the examples that are computed on.
    """
    try:
        yield
    except Exception as error:
        if _raised_here(error) or _out_of_memory(error):
            raise
        raise ValueError(
            "`x` and `y` must fit the model, its loss and the score. Received: x of shape "
            f"{_shapes(x)}, y of shape {_shapes(y)}. They gave "
            f"{type(error).__name__}: {str(error).strip()[:600]}"
        ) from error


def _raised_here(error):
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    ours = trace.tb_frame.f_globals.get("__name__", "").startswith("keras_swift.")
    # Not one that Python raised on a line of ours.
    return ours and "Received:" in str(error)


def _out_of_memory(error):
    named = type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError")
    return named or isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _shapes(structure):
    return keras.tree.map_structure(lambda leaf: ("n", *leaf.shape[1:]), structure)


def check_scoring_dtype(dtype):
    """Raises unless `dtype` is a type that scores can be computed in."""
    if dtype is not None and not (isinstance(dtype, str) and dtype in SCORING_DTYPES):
        raise ValueError(
            f"`scoring_dtype` must be one of {', '.join(repr(name) for name in SCORING_DTYPES)}, "
            f"or None for the layers' own. Received: scoring_dtype={dtype!r}. Use 'auto' to have "
            "bfloat16 where it is measured to be faster."
        )


def check_rate_scaling(scale_learning_rate, model):
    """Raises unless the model's learning rate can be scaled in this way."""
    if scale_learning_rate not in (False, True, None):
        raise ValueError(
            "`scale_learning_rate` must be True, False, or None for what suits `presample`. "
            f"Received: scale_learning_rate={scale_learning_rate!r}."
        )
    if scale_learning_rate and getattr(model, "optimizer", None) is None:
        raise ValueError(
            "`scale_learning_rate` needs a model that was compiled with an optimizer. Received: "
            "one without. Leave it False."
        )


def align_targets(y, y_pred, output_names, losses):
    """The targets in the structure of the predictions, as `compile` allows them.

    Targets may come as a dict by output name, as a list in the order of the
    outputs, or bare for a single output; also for those outputs alone that
    have a loss.

    Args:
        y: structure of targets, one that `check_targets` lets pass.
        y_pred: structure of the model's outputs.
        output_names: list of str, or `None` for a subclassed model.
        losses: list of `OutputLoss`.
    """
    if not keras.tree.is_nested(y_pred):
        return keras.tree.flatten(y)[0] if keras.tree.is_nested(y) else y
    leaves = keras.tree.flatten(y)
    if len(leaves) == len(losses) < len(keras.tree.flatten(y_pred)) and not isinstance(y, dict):
        by_place = {output.path[0]: leaf for output, leaf in zip(losses, leaves, strict=True)}
        return (
            by_place if isinstance(y_pred, dict) else [by_place.get(k) for k in range(len(y_pred))]
        )
    if isinstance(y_pred, dict):
        if isinstance(y, dict):
            return y
        names = output_names or sorted(y_pred)
        return dict(zip(names, leaves, strict=True))
    if isinstance(y, dict):
        return [y.get(name) for name in output_names]
    return list(y) if keras.tree.is_nested(y) else [y]


_SPARSE = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.sparse_categorical_crossentropy,
)


def symbolic_outputs(model, x):
    """What a built model puts out for one example, as `KerasTensor`s.

    Args:
        model: a built `keras.Model`.
        x: NumPy structure of some inputs.
    """
    y_pred = model(
        keras.tree.map_structure(
            lambda leaf: keras.KerasTensor(
                (1, *leaf.shape[1:]),
                dtype="string" if leaf.dtype.kind in "US" else leaf.dtype.name,
            ),
            x,
        )
    )
    return without_list_of_one(y_pred)


def without_list_of_one(outputs):
    """What Keras makes of outputs where it computes: a list of one is that one."""
    one = isinstance(outputs, list | tuple) and len(outputs) == 1
    return outputs[0] if one else outputs


def check_targets(y, y_pred, losses, output_names):
    """Raises unless the targets come in a structure that `compile` allows.

    Args:
        y: structure of targets.
        y_pred: structure of the model's outputs.
        losses: list of `OutputLoss`, or `None` if all outputs are to have one.
        output_names: list of str, or `None` for a subclassed model.
    """
    leaves = keras.tree.flatten(y)
    if not keras.tree.is_nested(y_pred):
        if len(leaves) != 1 or isinstance(y, dict):
            raise ValueError(
                "`y` must be one array: the model has one output. Received: "
                f"{_described(y)}. Pass the array that belongs to it."
            )
        return
    if any(keras.tree.is_nested(part) for part in _parts(y_pred)):
        return
    count = len(keras.tree.flatten(y_pred))
    names = sorted(y_pred) if isinstance(y_pred, dict) else output_names
    if isinstance(y, dict) and names is not None:
        needed = set(names)
        if losses is not None:
            found = [output.path[0] for output in losses]
            needed = set(found if isinstance(y_pred, dict) else [names[step] for step in found])
        right = needed <= set(y) <= set(names)
    else:
        counts = {count} if losses is None else {count, len(losses)}
        # A bare array Keras takes apart, example by example, where it meets two outputs.
        bare = not keras.tree.is_nested(y)
        right = not isinstance(y, dict) and len(leaves) in counts and (count == 1 or not bare)
    if not right or any(keras.tree.is_nested(part) for part in _parts(y)):
        form = f"a list of {count} arrays"
        if names is not None:
            form += f", or a dict with the keys {', '.join(map(repr, names))}"
        raise ValueError(
            f"`y` must be {form}: the model has {count} outputs. Received: {_described(y)}."
        )


def check_weights(sample_weight, y_pred, output_names):
    """Raises unless the weights are one array, or one for each output.

    Args:
        sample_weight: structure of weights, or `None`.
        y_pred: structure of the model's outputs.
        output_names: list of str, or `None` for a subclassed model.
    """
    count = len(keras.tree.flatten(y_pred))
    leaves = keras.tree.flatten(sample_weight)
    if not keras.tree.is_nested(sample_weight) or (len(leaves) == count == 1):
        return
    names = sorted(y_pred) if isinstance(y_pred, dict) else output_names
    right = len(leaves) == count
    if isinstance(sample_weight, dict):
        right = names is not None and set(sample_weight) == set(names)
    if not right:
        raise ValueError(
            "`sample_weight` must be one array for all outputs, or one for each of the model's "
            f"{count}. Received: {_described(sample_weight)}."
        )


def _parts(structure):
    if not keras.tree.is_nested(structure):
        return [structure]
    return structure.values() if isinstance(structure, dict) else structure


def _described(structure):
    if isinstance(structure, dict):
        return f"a dict with the keys {', '.join(map(repr, structure))}"
    if keras.tree.is_nested(structure):
        nested = any(keras.tree.is_nested(part) for part in structure)
        return f"a {'nested ' if nested else ''}list of {len(structure)}"
    return "one array"


def label_check(y_pred, losses, output_names):
    """A function that raises for class numbers the output has no place for.

    Frameworks would read a neighbour's probability, or put out NaN.

    Args:
        y_pred: structure of the model's outputs.
        losses: list of `OutputLoss`.
        output_names: list of str, or `None` for a subclassed model.

    Returns:
        A function of targets, a NumPy structure, that raises a `ValueError`
        for labels below 0 or past the last class.
    """
    sparse = [
        output
        for output in losses
        if isinstance(output.loss, _SPARSE[0]) or getattr(output.loss, "fn", None) is _SPARSE[1]
    ]

    def check(y):
        y = align_targets(y, y_pred, output_names, losses)
        for output in sparse:
            labels, scores = y, y_pred
            for step in output.path:
                labels, scores = labels[step], scores[step]
            _check_output(output.loss, np.asarray(labels), scores.shape[-1])

    return check


def _check_output(loss, labels, classes):
    wrong = (labels < 0) | (labels >= classes)
    ignored = getattr(loss, "ignore_class", None)
    if ignored is not None:
        wrong &= labels != ignored
    if wrong.any():
        first = np.argwhere(wrong)[0]
        raise ValueError(
            f"`y` must hold class numbers from 0 to {classes - 1}, because the model puts out "
            f"{classes} classes. Received: {wrong.sum()} labels outside, the first at index "
            f"{int(first[0])} ({labels[tuple(first)]}). Renumber the classes, or widen the last "
            "layer."
        )
