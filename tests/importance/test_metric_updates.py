"""Every metric of Keras, in steps whose batches are uniform or drawn by importance."""

import inspect

import keras
import numpy as np
import pytest

import keras_swift as ks

N, STEPS, CLASSES = 24, 5, 4
RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, CLASSES, (N, STEPS))
WEIGHTS = RANDOM.uniform(0.5, 2.0, (N, STEPS)).astype("float32")
# Where a time step is masked, the input is 0. No sequence is masked as a whole.
X = RANDOM.normal(size=(N, STEPS, 2)).astype("float32")
X[np.arange(STEPS) >= RANDOM.integers(1, STEPS + 1, (N, 1))] = 0.0

OF_LABELS = {
    "IoU": {"num_classes": CLASSES, "target_class_ids": [0, 2], "sparse_y_pred": False},
    "MeanIoU": {"num_classes": CLASSES, "sparse_y_pred": False},
    "SparseCategoricalAccuracy": {},
    "SparseCategoricalCrossentropy": {},
    "SparseTopKCategoricalAccuracy": {"k": 2},
}
ARGUMENTS = {
    "BinaryIoU": {"target_class_ids": [0, 1]},
    "MeanMetricWrapper": {"fn": keras.losses.log_cosh},
    "OneHotIoU": {"num_classes": CLASSES, "target_class_ids": [0, 2]},
    "OneHotMeanIoU": {"num_classes": CLASSES},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.3},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
    "TopKCategoricalAccuracy": {"k": 2},
}
# These take values, and no targets.
OF_VALUES = {"Mean", "Metric", "Sum"}
# Outputs of two axes, `(n, classes)`, are all that these take.
FLAT = {"F1Score", "FBetaScore", "R2Score"}
# XLA rounds this function in its last bit as the program around it has it.
OF_LOG_COSH = {"LogCoshError", "MeanMetricWrapper"}
# The weights of a confusion matrix must have the shape of the labels, so sequences have none for
# each example. `BinaryIoU` takes one label for each output and none for each row of them.
CONFUSIONS = {"IoU", "MeanIoU", "OneHotIoU", "OneHotMeanIoU"}


def names():
    return sorted(
        name
        for name, thing in vars(keras.metrics).items()
        if inspect.isclass(thing) and issubclass(thing, keras.metrics.Metric)
    )


def metric_of(name, prefix=""):
    metric = getattr(keras.metrics, name)(**ARGUMENTS.get(name, OF_LABELS.get(name, {})))
    metric.name = prefix + name
    return metric


def data_for(shape, weights):
    """`(x, y, sample_weight)`, with `y` for metrics of labels and for all others."""
    if shape == "flat":
        x, labels, given = X[:, 0], LABELS[:, 0], WEIGHTS[:, 0]
    else:
        x, labels, given = X, LABELS, WEIGHTS if weights == "step" else WEIGHTS[:, :1]
    one_hot = np.eye(CLASSES, dtype="float32")[labels]
    return x, (labels, one_hot), None if weights is None else given


def model_for(shape, loss, metrics):
    keras.utils.set_random_seed(0)
    masking = [keras.layers.Masking()] if shape == "masked" else []
    model = keras.Sequential(
        [
            keras.Input((2,) if shape == "flat" else (STEPS, 2)),
            *masking,
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1),
        loss,
        metrics=[metric_of(name) for name in metrics],
        weighted_metrics=[metric_of(name, "weighted_") for name in metrics],
    )
    return model


def refused_by_keras(shape, weights):
    """The metrics that refuse such data by themselves, whoever trains."""
    refused = set() if shape == "flat" else set(FLAT)
    if weights is not None:
        refused.add("BinaryIoU")
    if weights == "example" and shape != "flat":
        refused |= CONFUSIONS
    return refused


def metrics_that_keras_takes(of_labels, shape, weights):
    """The metrics whose plain `update_state` accepts such data, with a mask or without."""
    x, targets, given = data_for(shape, weights)
    model, y = model_for(shape, "mse", []), targets[0 if of_labels else 1]
    taken = []
    for name in names():
        if name in OF_VALUES or (name in OF_LABELS) != of_labels:
            continue
        try:
            for weight in (None, given):
                metric_of(name).update_state(
                    keras.ops.convert_to_tensor(y),
                    model(x),
                    None if weight is None else keras.ops.convert_to_tensor(weight),
                )
        except Exception:
            continue
        taken.append(name)
    return taken


SETTINGS = [
    (of_labels, shape, weights)
    for of_labels in (False, True)
    for shape in ("flat", "sequence", "masked")
    for weights in (None, "example", "step")
    if (shape, weights) != ("flat", "step")
]
QUICK = [(True, "masked", "step")]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("of_labels", "shape", "weights"),
    [
        pytest.param(*setting, marks=[] if setting in QUICK else pytest.mark.slow)
        for setting in SETTINGS
    ],
)
def test_metrics_of_a_shut_gate_are_those_of_fit_to_the_last_bit(of_labels, shape, weights):
    metrics = metrics_that_keras_takes(of_labels, shape, weights)
    x, targets, sample_weight = data_for(shape, weights)
    y = targets[0 if of_labels else 1]
    loss = "sparse_categorical_crossentropy" if of_labels else "mse"
    settings = {"batch_size": 8, "shuffle": False, "epochs": 2, "verbose": 0}
    try:
        plain = model_for(shape, loss, metrics).fit(x, y, sample_weight=sample_weight, **settings)
    except Exception as error:
        pytest.skip(f"plain `fit` fails: {error}")
    trainer = ks.ImportanceTraining(
        model_for(shape, loss, metrics), presample=2.0, tau_threshold=1e9
    )
    found = trainer.fit(x, y, sample_weight=sample_weight, **settings).history
    wanted = {name for name in names() if (name in OF_LABELS) == of_labels} - OF_VALUES
    assert set(metrics) == wanted - refused_by_keras(shape, weights)
    for name, values in plain.history.items():
        if keras.backend.backend() == "jax" and name.removeprefix("weighted_") in OF_LOG_COSH:
            np.testing.assert_allclose(found[name], values, rtol=2.5e-7, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_every_metric_of_keras_is_tried():
    tried = OF_VALUES | {
        name
        for of_labels in (False, True)
        for shape in ("flat", "sequence")
        for name in metrics_that_keras_takes(of_labels, shape, None)
    }
    assert tried == set(names())
