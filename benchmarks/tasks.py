"""The data and the networks that the benchmarks share.

`--data FOLDER` holds mnist.npz, fashion_mnist.npz and cifar10.npz with the arrays x_train, y_train,
x_test and y_test. What is not there Keras downloads; where it cannot, scikit-learn's digits stand
in, scaled up to the same shape, and a line says so.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable

import keras
import numpy as np
from keras import layers

# The examples have the data, the layer and the networks that are shared with them.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
from common import FlipAndShift, set_seed

__all__ = ["TASKS", "FlipAndShift", "Task", "dataset", "rare_rows", "set_seed"]


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of a comparison.

    Attributes:
        load: function of a data folder (or None), a number of training
            examples (or None for its own) and a seed, that returns
            `x, y, x_test, y_test`.
        build: function that returns a model, not compiled.
        rates: tuple of learning rates, the small grid.
        examples: int, training examples unless asked otherwise.
        epochs: int, passes over them unless asked otherwise.
        optimizer: function of a rate.
        prepare: function `(model, data, seed)` that trains it beforehand, or
            None.
    """

    load: Callable
    build: Callable
    rates: tuple
    examples: int
    epochs: int
    optimizer: Callable = lambda rate: keras.optimizers.SGD(rate, momentum=0.9)
    prepare: Callable | None = None


def scaled_digits(shape):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) / 16).astype("float32")
    pixels = np.arange(shape[0]) * 8 // shape[0]
    images = np.repeat(images[:, pixels][:, :, pixels][..., None], shape[2], axis=-1)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1437], order[1437:]
    return images[train], labels[train], images[test], labels[test]


def dataset(name, shape, folder=None):
    """`x, y, x_test, y_test`: images in [0, 1] of `shape`, and class numbers."""
    path = None if folder is None else pathlib.Path(folder) / f"{name}.npz"
    if path is not None and path.exists():
        with np.load(path) as file:
            parts = [file[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    else:
        try:
            (x, y), (x_test, y_test) = getattr(keras.datasets, name).load_data()
            parts = [x, y, x_test, y_test]
        except Exception as error:
            print(f"{name} is not at hand ({error}): scikit-learn's digits stand in.")
            return scaled_digits(shape)
    x, y, x_test, y_test = parts
    x, x_test = (part.astype("float32").reshape(-1, *shape) / 255 for part in (x, x_test))
    return x, y.reshape(-1).astype("int64"), x_test, y_test.reshape(-1).astype("int64")


def loader(name, shape):
    def load(folder, examples, seed):
        x, y, x_test, y_test = dataset(name, shape, folder)
        chosen = np.random.default_rng(seed).permutation(len(x))[:examples]
        return x[chosen], y[chosen], x_test, y_test

    return load


def digits(folder, examples, seed):
    x, y, x_test, y_test = scaled_digits((8, 8, 1))
    return x[:examples], y[:examples], x_test, y_test


EASY = (1, 3, 5, 7, 8, 9)


def redundant(folder, examples, seed):
    """Fashion-MNIST, every image of the six easy classes ten times, 1,500 of the hard four.

    `examples` counts the rows, repeats included.
    """
    x, y, x_test, y_test = dataset("fashion_mnist", (28, 28, 1), folder)
    generator = np.random.default_rng(seed)
    easy = generator.permutation(np.flatnonzero(np.isin(y, EASY)))
    hard = generator.permutation(np.flatnonzero(~np.isin(y, EASY)))[: examples // 8]
    easy = easy[: (examples - len(hard)) // 10]
    rows = generator.permutation(np.concatenate([np.tile(easy, 10), hard]))
    return x[rows], y[rows], x_test, y_test


def permuted(folder, examples, seed):
    """MNIST's pixels in one random order, eight a time step."""
    x, y, x_test, y_test = loader("mnist", (28, 28, 1))(folder, examples, seed)
    order = np.random.default_rng(0).permutation(784)
    x, x_test = (part.reshape(-1, 784)[:, order].reshape(-1, 98, 8) for part in (x, x_test))
    return x, y, x_test, y_test


@functools.lru_cache(maxsize=1)
def rare_rows(train, test, seed):
    """A table of 1 % positives in eight clusters, 0.1 % of the labels at random, in four parts.

    Ten of its twenty columns count, four are sums of these. The parts: `x, y, x_test, y_test`.
    """
    from sklearn.datasets import make_classification

    x, y = make_classification(
        train + test,
        20,
        n_informative=10,
        n_redundant=4,
        n_clusters_per_class=8,
        weights=(0.991,),
        flip_y=0.001,
        class_sep=0.8,
        random_state=seed,
    )
    x = ((x - x.mean(0)) / x.std(0)).astype("float32")
    y = y.astype("float32")
    return x[:train], y[:train], x[train:], y[train:]


def mlp(shape, *widths):
    def build():
        hidden = [layers.Dense(width, activation="relu") for width in widths]
        return keras.Sequential(
            [keras.Input(shape), layers.Flatten(), *hidden, layers.Dense(10, activation="softmax")]
        )

    return build


def cnn():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )


def small_cnn():
    """A quarter of the arithmetic of `cnn`."""
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


def residual(width=8, size=32, classes=10):
    """Three stages of one residual block each, without batch normalisation."""

    def build():
        inputs = keras.Input((size, size, 3))
        x = layers.Conv2D(width, 3, strides=2, padding="same")(inputs)
        for stage in range(3):
            filters, stride = width * 2**stage, 1 if stage == 0 else 2
            shortcut = layers.Conv2D(filters, 1, strides=stride)(x) if stage else x
            for position in range(2):
                x = layers.Activation("relu")(x)
                # The block starts as the identity.
                start = "zeros" if position else "he_normal"
                stride = stride if position == 0 else 1
                x = layers.Conv2D(
                    filters, 3, padding="same", strides=stride, kernel_initializer=start
                )(x)
            x = layers.Add()([x, shortcut])
        x = layers.GlobalAveragePooling2D()(layers.Activation("relu")(x))
        return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))

    return build


def lstm():
    return keras.Sequential(
        [keras.Input((98, 8)), layers.LSTM(64), layers.Dense(10, activation="softmax")]
    )


def half_of_the_classes(model, data, seed):
    """Trains on classes 0 to 4 for four epochs, so that the run to compare is a fine-tuning."""
    x, y = data[:2]
    known = np.random.default_rng(seed).permutation(np.flatnonzero(y < 5))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy")
    model.fit(x[known], y[known], batch_size=128, epochs=4, verbose=0)


IMAGE = (28, 28, 1)
RATES = (0.01, 0.02, 0.04, 0.08)


def with_wrong_labels(share, name, shape):
    """A share of the training labels moved to another class."""

    def load(folder, examples, seed):
        x, y, x_test, y_test = loader(name, shape)(folder, examples, seed)
        generator = np.random.default_rng(seed)
        wrong = generator.random(len(y)) < share
        y = np.where(wrong, (y + generator.integers(1, 10, len(y))) % 10, y)
        return x, y, x_test, y_test

    return load


def with_a_rare_class(folder, examples, seed):
    """Fashion-MNIST with a tenth of the shirts, 1 % of the examples."""
    x, y, x_test, y_test = loader("fashion_mnist", IMAGE)(folder, examples, seed)
    kept = (y != 6) | (np.random.default_rng(seed).random(len(y)) < 0.1)
    return x[kept], y[kept], x_test, y_test


FASHION, MNIST = loader("fashion_mnist", IMAGE), loader("mnist", IMAGE)
TASKS = {
    "digits": Task(digits, mlp((8, 8, 1), 128), RATES, 1437, 40),
    "mnist-mlp": Task(MNIST, mlp(IMAGE, 256, 256), RATES, 60_000, 8),
    "fashion-mlp": Task(FASHION, mlp(IMAGE, 256, 256), RATES, 60_000, 8),
    "fashion-cnn": Task(FASHION, small_cnn, RATES, 60_000, 4),
    "fashion-10k": Task(FASHION, mlp(IMAGE, 256, 256), RATES, 10_000, 30),
    "redundant": Task(redundant, small_cnn, RATES, 12_000, 20),
    "wrong-labels": Task(
        with_wrong_labels(0.2, "fashion_mnist", IMAGE), mlp(IMAGE, 256, 256), RATES, 60_000, 5
    ),
    "rare-class": Task(with_a_rare_class, mlp(IMAGE, 256, 256), RATES, 60_000, 5),
    "adam": Task(
        FASHION,
        mlp(IMAGE, 256, 256),
        (0.0005, 0.001, 0.002, 0.004),
        60_000,
        5,
        keras.optimizers.Adam,
    ),
    "fine-tuning": Task(FASHION, small_cnn, RATES, 20_000, 6, prepare=half_of_the_classes),
    "cifar10": Task(
        loader("cifar10", (32, 32, 3)), residual(), (0.005, 0.01, 0.02, 0.04), 50_000, 4
    ),
    "permuted-mnist": Task(
        permuted,
        lstm,
        (0.0005, 0.001, 0.002, 0.004),
        10_000,
        6,
        lambda rate: keras.optimizers.Adam(rate, clipnorm=1.0),
    ),
}
