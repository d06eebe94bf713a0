"""Checks of arguments and targets, all made before any data move."""

import contextlib
import math

import keras
import numpy as np

from keras_swift._keras import check_release

SCORES = ("gradient_norm", "loss", "full_gradient_norm")
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
    stateful = [layer.name for layer in model._flatten_layers() if getattr(layer, "stateful", 0)]
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


def check_settings(presample, tau_threshold, score, floor, cost_ratio=None):
    """Raises for settings outside their ranges."""
    if isinstance(presample, str) and presample == "auto":
        if tau_threshold is not None:
            raise ValueError(
                '`tau_threshold` is for a presample of a given size; `presample="auto"` decides by '
                f"what it measures. Received: tau_threshold={tau_threshold!r}. Give "
                "`presample=3.0` with it, or leave it out."
            )
    elif cost_ratio is not None:
        raise ValueError(
            '`cost_ratio` is what `presample="auto"` would measure. Received: '
            f"cost_ratio={cost_ratio!r} with presample={presample!r}. Leave one of them out."
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
        x, y: NumPy structures, the examples that are tried.
    """
    try:
        yield
    except Exception as error:
        if _raised_here(error):
            raise
        raise ValueError(
            "`x` and `y` must fit the model, its loss and the score. Received: x of shape "
            f"{_shapes(x)}, y of shape {_shapes(y)}. The first examples gave "
            f"{type(error).__name__}: {str(error).strip()[:600]}"
        ) from error


def _raised_here(error):
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals.get("__name__", "").startswith("keras_swift.")


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
    if scale_learning_rate not in (False, True, "plain", "capped"):
        raise ValueError(
            "`scale_learning_rate` must be False, True, 'plain' or 'capped'. Received: "
            f"scale_learning_rate={scale_learning_rate!r}. 'capped' suits schedules that decay."
        )
    if scale_learning_rate and getattr(model, "optimizer", None) is None:
        raise ValueError(
            "`scale_learning_rate` needs a model that was compiled with an optimizer. Received: "
            "one without. Leave it False."
        )


def align_targets(y, y_pred, output_names):
    """The targets in the structure of the predictions, as `compile` allows them.

    Targets may come as a dict by output name, as a list in the order of the
    outputs, or bare for a single output.
    """
    if not keras.tree.is_nested(y_pred):
        return keras.tree.flatten(y)[0] if keras.tree.is_nested(y) else y
    if isinstance(y_pred, dict):
        if isinstance(y, dict):
            return y
        names = output_names or sorted(y_pred)
        return dict(zip(names, keras.tree.flatten(y), strict=True))
    if isinstance(y, dict):
        return [y[name] for name in output_names]
    return list(y) if keras.tree.is_nested(y) else [y]


_SPARSE = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.sparse_categorical_crossentropy,
)


def label_check(model, losses, x):
    """A function that raises for class numbers the output has no place for.

    Frameworks would read a neighbour's probability, or put out NaN.

    Args:
        model: a built `keras.Model`.
        losses: list of `OutputLoss`.
        x: NumPy structure of some inputs.

    Returns:
        A function of targets, a NumPy structure, that raises a `ValueError`
        for labels below 0 or past the last class.
    """
    sparse = [
        output
        for output in losses
        if isinstance(output.loss, _SPARSE[0]) or getattr(output.loss, "fn", None) is _SPARSE[1]
    ]
    if not sparse:
        return lambda y: None
    y_pred = model(
        keras.tree.map_structure(
            lambda leaf: keras.KerasTensor(
                (1, *leaf.shape[1:]),
                dtype="string" if leaf.dtype.kind in "US" else leaf.dtype.name,
            ),
            x,
        )
    )
    names = getattr(model, "output_names", None)

    def check(y):
        y = align_targets(y, y_pred, names)
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
