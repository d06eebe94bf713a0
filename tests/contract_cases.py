"""The models, sources and settings of the contract with `model.fit`: a case is a line.

`MODELS` maps a name to a function that gives an uncompiled model, its data and what it is compiled
with; `SOURCES` maps a name to a function from arrays to what `fit` is given; `SETTINGS` maps a name
to a `Setting`.
"""

import collections
import dataclasses
import importlib.util

import keras
import numpy as np
import pytest
import scipy.sparse
from keras import layers, ops

import keras_swift as ks

SIZE, BATCH = 44, 8
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(SIZE, 6)).astype("float32")
LABELS = RANDOM.integers(0, 3, SIZE)
ONE_HOT = np.eye(3, dtype="float32")[LABELS]
NUMBERS = RANDOM.normal(size=(SIZE, 2)).astype("float32")
IMAGES = RANDOM.normal(size=(SIZE, 6, 6, 1)).astype("float32")
WORDS = RANDOM.integers(1, 9, (SIZE, 5)) * (np.arange(5) < RANDOM.integers(1, 6, (SIZE, 1)))
TAGS = RANDOM.integers(0, 3, (SIZE, 5))
WEIGHTS = RANDOM.uniform(0.2, 2.0, SIZE).astype("float32")

SPARSE = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
MSE = {"loss": "mse", "metrics": ["mae"]}


def mlp():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )


def functional():
    inputs = keras.Input((6,))
    hidden = layers.Dense(4, activation="tanh")(inputs)
    outputs = layers.Dense(3)(layers.Concatenate()([inputs, hidden]))
    return keras.Model(inputs, layers.Softmax()(outputs))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(5, activation="relu")
        self.drop = layers.Dropout(0.0)
        self.out = layers.Dense(3, activation="softmax")

    def call(self, x, training=False):
        return self.out(self.drop(self.hidden(x), training=training))


class NoTraining(keras.Model):
    def __init__(self):
        super().__init__()
        self.out = layers.Dense(3, activation="softmax")

    def call(self, x):
        return self.out(x)


class DictOutput(keras.Model):
    def __init__(self):
        super().__init__()
        self.kind = layers.Dense(3, activation="softmax")
        self.size = layers.Dense(2)

    def call(self, x):
        return {"kind": self.kind(x["a"]), "size": self.size(x["b"])}


class OwnStep(keras.Sequential):
    """A user's own `train_step`, which on each backend looks different."""

    own_steps = 0

    def train_step(self, *arguments):
        self.own_steps += 1
        return super().train_step(*arguments)


def two_inputs(form):
    first, second = keras.Input((6,), name="a"), keras.Input((2,), name="b")
    merged = layers.Concatenate()([first, second])
    inputs = {"a": first, "b": second} if form is dict else [first, second]
    data = {"a": X, "b": NUMBERS} if form is dict else [X, NUMBERS]
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(merged)), data, LABELS, SPARSE


def two_outputs(form):
    inputs = keras.Input((6,))
    hidden = layers.Dense(5, activation="relu")(inputs)
    kind = layers.Dense(3, activation="softmax", name="kind")(hidden)
    size = layers.Dense(2, name="size")(hidden)
    if form is dict:
        outputs, y = {"kind": kind, "size": size}, {"kind": LABELS, "size": NUMBERS}
        compiled = {
            "loss": {"kind": "sparse_categorical_crossentropy", "size": "mse"},
            "loss_weights": {"kind": 0.7, "size": 1.5},
            "metrics": {"kind": ["accuracy"], "size": ["mae"]},
        }
    else:
        outputs, y = [kind, size], [LABELS, NUMBERS]
        compiled = {
            "loss": ["sparse_categorical_crossentropy", "mse"],
            "loss_weights": [0.7, 1.5],
            "metrics": [["accuracy"], ["mae"]],
        }
    return keras.Model(inputs, outputs), X, y, compiled


def one_loss_for_both():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, [layers.Dense(2, name=name)(inputs) for name in "pq"])
    return model, X, [NUMBERS, -NUMBERS], {"loss": "mse"}


def subclassed_with_dicts():
    compiled = {"loss": {"kind": "sparse_categorical_crossentropy", "size": "mse"}}
    return (
        DictOutput(),
        {"a": X, "b": NUMBERS},
        {"kind": LABELS, "size": NUMBERS},
        compiled,
    )


def keys_apart_from_names():
    """Outputs whose keys are not the names of the layers that make them."""
    inputs = keras.Input((6,))
    outputs = {
        "b": layers.Dense(3, activation="softmax", name="first")(inputs),
        "a": layers.Dense(2, name="second")(inputs),
    }
    compiled = {
        "loss": {"a": "mse", "b": "sparse_categorical_crossentropy"},
        "loss_weights": {"a": 1.5, "b": 0.7},
        "metrics": {"b": ["accuracy"]},
    }
    return keras.Model(inputs, outputs), X, {"a": NUMBERS, "b": LABELS}, compiled


Pair = collections.namedtuple("Pair", ["kind", "size"])


def nested_outputs(form):
    inputs = keras.Input((6,))
    kind = layers.Dense(3, activation="softmax", name="kind")(inputs)
    size, other = (layers.Dense(2, name=name)(inputs) for name in ("size", "other"))

    def packed(kind, size, other):
        if form is Pair:
            return Pair(kind, {"p": size, "q": other})
        return form([kind, form([size, other])])

    y = packed(LABELS, NUMBERS, -NUMBERS)
    losses = packed("sparse_categorical_crossentropy", "mse", "mae")
    return keras.Model(inputs, packed(kind, size, other)), X, y, {"loss": losses}


def both(y_true, y_pred):
    """A loss of two outputs together."""
    return sum(
        ops.mean(ops.square(true - pred), axis=-1)
        for true, pred in zip(keras.tree.flatten(y_true), keras.tree.flatten(y_pred), strict=True)
    )


def loss_of_two_outputs():
    inputs = keras.Input((6,))
    p, q = (layers.Dense(2, name=name)(inputs) for name in "pq")
    model = keras.Model(inputs, {"p": p, "q": q})
    losses = [both, {"p": "mse", "q": "mae"}]
    return model, X, {"p": NUMBERS, "q": -NUMBERS}, {"loss": losses}


def one_of_two_outputs(y):
    inputs = keras.Input((6,))
    outputs = {"a": layers.Dense(2)(inputs), "b": layers.Dense(3)(inputs)}
    return keras.Model(inputs, outputs), X, y, {"loss": {"a": "mse"}}


def optional_input(names):
    first = keras.Input((6,), name=names[0])
    second = keras.Input((2,), name=names[1], optional=True)

    class Added(layers.Layer):
        def call(self, pair):
            return pair[0] if pair[1] is None else ops.concatenate(pair, axis=-1)

        def compute_output_shape(self, pair):
            return pair[0]

    outputs = layers.Dense(2)(Added()([first, second]))
    inputs, data = ({names[0]: a, names[1]: b} for a, b in ((first, second), (X, None)))
    return keras.Model(inputs, outputs), data, NUMBERS, MSE


class OwnLoss(keras.Model):
    """A loss that the model computes by itself, beside one that is compiled and not used."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        values = ops.mean(ops.abs(y - y_pred), axis=-1)
        return ops.mean(values if sample_weight is None else values * sample_weight)


def own_loss():
    inputs = keras.Input((6,))
    return OwnLoss(inputs, layers.Dense(2)(inputs)), X, NUMBERS, {"loss": "mse"}


def classes_first():
    stack = [layers.Dense(10), layers.Reshape((2, 5)), layers.Softmax(axis=1)]
    loss = keras.losses.CategoricalCrossentropy(axis=1)
    y = np.eye(2, dtype="float32")[TAGS % 2].transpose(0, 2, 1)
    return sequential((6,), *stack), X, y, {"loss": loss}


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


def tagger():
    stack = [layers.Embedding(9, 4, mask_zero=True), layers.LSTM(4, return_sequences=True)]
    return sequential((5,), *stack, layers.Dense(3, activation="softmax"))


def transformer():
    inputs = keras.Input((5,))
    x = layers.Embedding(9, 4)(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 2)(x, x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def convolutions():
    stack = [layers.Conv2D(3, 3, activation="relu"), layers.BatchNormalization()]
    return sequential((6, 6, 1), *stack, layers.GlobalAveragePooling2D(), layers.Dense(3))


def autoencoder():
    return sequential((6,), layers.Dense(3, activation="tanh"), layers.Dense(6))


def unet():
    same = {"padding": "same"}
    stack = [layers.Conv2D(2, 3, activation="relu", **same)]
    return sequential((6, 6, 1), *stack, layers.Conv2D(1, 1, activation="sigmoid"))


class AddsLoss(layers.Layer):
    def call(self, x):
        self.add_loss(0.01 * ops.mean(ops.square(x)))
        return x


LOGITS = {
    "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "metrics": ["accuracy"],
}


def binary():
    # A metric for each model: before its first batch Keras resets none, and so would begin with
    # what the model before has left in a shared one.
    return {"loss": "binary_crossentropy", "metrics": ["accuracy", keras.metrics.AUC(name="auc")]}


MODELS = {
    "sequential": lambda: (mlp(), X, LABELS, SPARSE),
    "functional": lambda: (functional(), X, LABELS, SPARSE),
    "subclassed": lambda: (Subclassed(), X, LABELS, SPARSE),
    "no training argument": lambda: (NoTraining(), X, LABELS, SPARSE),
    "two inputs, list": lambda: two_inputs(list),
    "two inputs, dict": lambda: two_inputs(dict),
    "two outputs, list": lambda: two_outputs(list),
    "two outputs, dict": lambda: two_outputs(dict),
    "one loss for two outputs": one_loss_for_both,
    "subclassed with dicts": subclassed_with_dicts,
    "tags with a mask": lambda: (tagger(), WORDS, TAGS, SPARSE),
    "embedding and LSTM": lambda: (
        sequential((5,), layers.Embedding(9, 4, mask_zero=True), layers.LSTM(4), layers.Dense(3)),
        WORDS,
        LABELS,
        LOGITS,
    ),
    "transformer": lambda: (transformer(), WORDS, TAGS, SPARSE),
    "convolutions, batch norm": lambda: (convolutions(), IMAGES, LABELS, LOGITS),
    "autoencoder": lambda: (autoencoder(), X, X, MSE),
    "pixel by pixel": lambda: (unet(), IMAGES, (IMAGES > 0).astype("float32"), binary()),
    "adds losses": lambda: (
        sequential((6,), layers.Dense(4), AddsLoss(), layers.Dense(2)),
        X,
        NUMBERS,
        MSE,
    ),
    "own train step": lambda: (
        OwnStep([keras.Input((6,)), layers.Dense(3, activation="softmax")]),
        X,
        LABELS,
        SPARSE,
    ),
    "keys apart from names": keys_apart_from_names,
    "nested outputs, lists": lambda: nested_outputs(list),
    "nested outputs, tuples": lambda: nested_outputs(tuple),
    "nested outputs, named tuple": lambda: nested_outputs(Pair),
    "loss of two outputs": loss_of_two_outputs,
    "bare target for two outputs": lambda: one_of_two_outputs(NUMBERS),
    "no target for an output": lambda: one_of_two_outputs({"a": NUMBERS, "b": None}),
    "optional input": lambda: optional_input("ab"),
    "optional input, the first": lambda: optional_input("ba"),
    "own loss": own_loss,
    "classes first": classes_first,
    "regularized": lambda: (
        sequential((6,), layers.Dense(2, kernel_regularizer="l2")),
        X,
        NUMBERS,
        MSE,
    ),
}


class Batches(keras.utils.PyDataset):
    """The arrays by the batch."""

    def __init__(self, *arrays, **settings):
        super().__init__(**settings)
        self.arrays = arrays

    @property
    def num_batches(self):
        return -(-SIZE // BATCH)

    def __getitem__(self, index):
        return rows(self.arrays, slice(index * BATCH, index * BATCH + BATCH))


class Endless(Batches):
    num_batches = None

    def __getitem__(self, index):
        return super().__getitem__(index % 5)


def rows(arrays, selected):
    return tuple(keras.tree.map_structure(lambda array: array[selected], part) for part in arrays)


def generator(arrays):
    index = 0
    while True:
        yield rows(arrays, slice(8 * (index % 5), 8 * (index % 5) + 8))
        index += 1


def hdf5(x, y, folder):
    import h5py

    file = h5py.File(folder / "data.h5", "a")
    for name in list(file):
        del file[name]
    return {"x": file.create_dataset("x", data=x), "y": file.create_dataset("y", data=y)}


def in_batches(convert, weights=False):
    """A generator of batches, the inputs converted; with `None` for weights if there are to be."""

    def source(x, y, folder):
        def batches():
            for part, target in generator((x, y)):
                yield (convert(part), target, *((None,) if weights else ()))

        return {"x": batches(), "steps_per_epoch": 6}

    return source


def memory_mapped(x, y, folder):
    np.save(folder / "x.npy", x)
    return {"x": np.load(folder / "x.npy", mmap_mode="r"), "y": y}


def pandas_objects(x, y, folder):
    import pandas

    return {"x": pandas.DataFrame(x), "y": pandas.Series(y)}


def mixed_frame(x, y, folder):
    import pandas

    frame = pandas.DataFrame(x.astype("float64"))
    frame[0] = frame[0] > 0
    return {"x": frame, "y": pandas.DataFrame({"label": y})}


def tf_sparse(x):
    import tensorflow as tf

    return tf.sparse.from_dense(x)


def tf_data(x, y, folder, shuffle=False):
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).prefetch(1)}


def tf_data_forever(x, y, folder):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((x[:40], y[:40])).batch(BATCH).repeat()
    return {"x": data, "steps_per_epoch": 6}


def torch_loader(x, y, folder):
    import torch

    data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    return {"x": torch.utils.data.DataLoader(data, batch_size=BATCH)}


def grain_dataset(x, y, folder):
    import grain

    return {"x": grain.MapDataset.range(SIZE).map(lambda i: (x[i], y[i])).batch(BATCH)}


def has(package):
    return importlib.util.find_spec(package) is not None


SOURCES = {
    "arrays": lambda x, y, folder: {"x": x, "y": y},
    "tensors": lambda x, y, folder: {
        "x": ops.convert_to_tensor(x),
        "y": ops.convert_to_tensor(y),
    },
    "float64 and int32": lambda x, y, folder: {"x": x.astype("float64"), "y": y.astype("int32")},
    "PyDataset": lambda x, y, folder: {"x": Batches(x, y)},
    "PyDataset, workers": lambda x, y, folder: {"x": Batches(x, y, workers=2)},
    "PyDataset, weights": lambda x, y, folder: {"x": Batches(x, y, WEIGHTS)},
    "PyDataset without end": lambda x, y, folder: {"x": Endless(x, y), "steps_per_epoch": 6},
    "generator": lambda x, y, folder: {"x": generator((x, y)), "steps_per_epoch": 6},
    "generator, weights": lambda x, y, folder: {
        "x": generator((x, y, WEIGHTS)),
        "steps_per_epoch": 6,
    },
    "generator, None for weights": in_batches(lambda x: x, weights=True),
    "SciPy's sparse": lambda x, y, folder: {"x": scipy.sparse.csr_matrix(x), "y": y},
    "h5py": hdf5,
    "memory-mapped": memory_mapped,
    **({"pandas": pandas_objects, "pandas, mixed types": mixed_frame} if has("pandas") else {}),
    **({"tf.data": tf_data, "tf.data without end": tf_data_forever} if has("tensorflow") else {}),
    **({"DataLoader": torch_loader} if has("torch") else {}),
    **({"grain": grain_dataset} if has("grain") else {}),
}

# Keras' workers lose and repeat batches where an epoch begins with batches left over from its look
# at the first one, so plain `fit` is asked without them.
PLAIN = {"PyDataset, workers": "PyDataset"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is different from the plain call.

    Attributes:
        fit: arguments of `fit`, or a function of the folder that gives them.
        compile: arguments of `compile`, or a function that gives them.
        model: name in `MODELS`.
        policy: dtype policy the model is built under.
        change: function that changes the built model.
        tolerance: relative tolerance of the comparison with plain `fit`.
        backends: where Keras has it.
        once: backends where plain `fit` fails if it is called again.
    """

    fit: object = dataclasses.field(default_factory=dict)
    compile: object = dataclasses.field(default_factory=dict)
    model: str = "sequential"
    policy: str = "float32"
    change: object = None
    tolerance: float = 2e-4
    backends: tuple = ("tensorflow", "jax", "torch")
    once: tuple = ()


def freeze(model):
    model.layers[0].trainable = False


def adam(**arguments):
    return lambda: {"optimizer": keras.optimizers.Adam(0.01, **arguments)}


def scaled():
    return {"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))}


def with_callback(make):
    return Setting(fit=lambda folder: {"callbacks": [make(folder)]})


K = keras.callbacks
COMPILED = ("tensorflow", "jax")
HELD_OUT = (X[:10], LABELS[:10])

SETTINGS = {
    "sample_weight": Setting({"sample_weight": WEIGHTS}),
    "sample_weight, column": Setting({"sample_weight": WEIGHTS[:, None]}),
    "sample_weight, steps": Setting(
        {"sample_weight": np.ones((SIZE, 5), "float32") * WEIGHTS[:, None]},
        model="transformer",
    ),
    "sample_weight, outputs": Setting(
        {"sample_weight": {"kind": WEIGHTS, "size": WEIGHTS[::-1].copy()}},
        model="two outputs, dict",
    ),
    "class_weight": Setting({"class_weight": {0: 3.0, 2: 0.5}}),
    "class_weight of batches": Setting(
        lambda folder: {
            "x": Batches(X, LABELS),
            "y": None,
            "batch_size": None,
            "class_weight": {0: 3.0},
        }
    ),
    "weighted_metrics": Setting(
        {"sample_weight": WEIGHTS}, lambda: {"weighted_metrics": ["accuracy"]}
    ),
    "AUC": Setting(
        compile=lambda: {
            "loss": "categorical_crossentropy",
            "metrics": [keras.metrics.AUC(name="auc"), keras.metrics.F1Score(name="f1")],
        },
        fit={"y": ONE_HOT},
    ),
    "loss summed": Setting(
        compile=lambda: {"loss": keras.losses.SparseCategoricalCrossentropy(reduction="sum")}
    ),
    "loss of one's own": Setting(
        {"y": ONE_HOT}, lambda: {"loss": lambda y, p: ops.sum(ops.abs(y - p), axis=-1)}
    ),
    "mixed_float16": Setting(policy="mixed_float16", tolerance=2e-2),
    "mixed_float16, scaled": Setting(policy="mixed_float16", compile=scaled, tolerance=2e-2),
    "mixed_bfloat16": Setting(policy="mixed_bfloat16", tolerance=6e-2),
    "jit_compile": Setting(compile={"jit_compile": True}, backends=COMPILED),
    "no jit_compile": Setting(compile={"jit_compile": False}),
    "run_eagerly": Setting(compile={"run_eagerly": True}),
    "steps_per_execution": Setting(compile={"steps_per_execution": 2}, backends=COMPILED),
    "gradient accumulation": Setting(compile=adam(gradient_accumulation_steps=2)),
    "averaged weights": Setting(
        compile=adam(use_ema=True, ema_overwrite_frequency=4), once=("jax",)
    ),
    "clipped gradients": Setting(compile=adam(global_clipnorm=0.1)),
    "frozen layer": Setting(change=freeze),
    "initial_epoch": Setting({"initial_epoch": 1}),
    "steps_per_epoch": Setting({"steps_per_epoch": 3, "batch_size": BATCH}),
    "batch_size larger": Setting({"batch_size": 100}),
    "shuffle batch": Setting({"shuffle": "batch"}, tolerance=1e-3),
    "verbose": Setting({"verbose": 1}),
    "verbose, a line": Setting({"verbose": 2}),
    "validation_split": Setting({"validation_split": 0.25}),
    "validation_data": Setting({"validation_data": HELD_OUT, "validation_batch_size": 5}),
    "validation_data, batches": Setting(
        lambda folder: {"validation_data": Batches(X, LABELS), "validation_steps": 2}
    ),
    "validation_freq": Setting({"validation_data": HELD_OUT, "validation_freq": 2}),
    "validation at [1]": Setting({"validation_data": HELD_OUT, "validation_freq": [1]}),
    "learning rate schedule": Setting(
        compile=lambda: {
            "optimizer": keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.2, 12, 0.01))
        }
    ),
    "ModelCheckpoint": with_callback(
        lambda f: K.ModelCheckpoint(f / "a.weights.h5", "loss", save_weights_only=True)
    ),
    "ModelCheckpoint, whole": with_callback(lambda f: K.ModelCheckpoint(f / "{epoch}.keras")),
    "EarlyStopping": with_callback(
        lambda f: K.EarlyStopping("loss", 10.0, 0, restore_best_weights=True)
    ),
    "ReduceLROnPlateau": with_callback(lambda f: K.ReduceLROnPlateau("loss", 0.1, 0, min_delta=9)),
    "LearningRateScheduler": with_callback(lambda f: K.LearningRateScheduler(lambda e, r: r / 2)),
    "CSVLogger": with_callback(lambda f: K.CSVLogger(f / "log.csv")),
    "TerminateOnNaN": with_callback(lambda f: K.TerminateOnNaN()),
    "LambdaCallback": with_callback(lambda f: K.LambdaCallback(on_epoch_end=lambda e, logs: None)),
    "BackupAndRestore": with_callback(lambda f: K.BackupAndRestore(f / "backup")),
    "BackupAndRestore, ours": with_callback(lambda f: ks.BackupAndRestore(f / "backup", 2)),
    "SwapEMAWeights": Setting(
        compile=adam(use_ema=True),
        once=("jax",),
        fit=lambda folder: {"callbacks": [K.SwapEMAWeights(swap_on_epoch=True)]},
    ),
}
# Cases that go through the same code of ours as one that stays in the quick suite.
SLOW = {
    "functional",
    "no training argument",
    "nested outputs, lists",
    "nested outputs, tuples",
    "autoencoder",
    "transformer",
    "optional input",
    "regularized",
    "float64 and int32",
    "PyDataset, weights",
    "generator, weights",
    "pandas",
    "tf.data without end",
    "sample_weight, column",
    "sample_weight, steps",
    "weighted_metrics",
    "loss summed",
    "mixed_float16, scaled",
    "no jit_compile",
    "clipped gradients",
    "frozen layer",
    "initial_epoch",
    "batch_size larger",
    "verbose, a line",
    "validation_freq",
    "validation at [1]",
    "learning rate schedule",
    "TerminateOnNaN",
    "LambdaCallback",
    "ModelCheckpoint, whole",
    "LearningRateScheduler",
    "SwapEMAWeights",
}


# Cases whose code of ours is NumPy's alone, or that is Keras' own: no backend makes a difference.
ANY_BACKEND = {
    "tensors",
    "PyDataset",
    "PyDataset without end",
    "generator",
    "h5py",
    "memory-mapped",
    "pandas, mixed types",
    "grain",
    "DataLoader",
    "gradient accumulation",
    "sample_weight, outputs",
    "class_weight",
    "class_weight of batches",
    "validation_data",
    "validation_data, batches",
    "validation_split",
    "shuffle batch",
    "verbose",
    "EarlyStopping",
    "ReduceLROnPlateau",
    "CSVLogger",
    "TensorBoard",
    "ModelCheckpoint",
    "BackupAndRestore",
    "averaged weights",
    "AUC",
}


def marked(names):
    """The names as parameters of a test, with their marks."""
    return [
        pytest.param(
            name,
            marks=[pytest.mark.slow] * (name in SLOW)
            + [pytest.mark.any_backend] * (name in ANY_BACKEND),
        )
        for name in names
    ]


if keras.backend.backend() != "torch":
    # Plain `fit` has not learned them there.
    SOURCES["generator, SciPy's sparse"] = in_batches(scipy.sparse.csr_matrix)
if keras.backend.backend() == "tensorflow":
    SOURCES["generator, tf.sparse"] = in_batches(tf_sparse)
if has("tensorboard"):
    SETTINGS["TensorBoard"] = with_callback(lambda f: K.TensorBoard(f / "board"))
