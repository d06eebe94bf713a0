"""Networks as people use them, in a size for two processor cores and in full size.

`--data FOLDER` holds cifar10.npz, fashion_mnist.npz and wikitext2/train.txt; what is not there
Keras downloads, and where it cannot, scikit-learn's digits and descriptions stand in, and a line
says so. The table is made by scikit-learn's `make_classification`, the images with many objects
from Fashion-MNIST. The pretrained backbone is kept in that folder, or in the present one.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops
from tasks import dataset, rare_rows, set_seed

# Of the examples, whose folder `tasks` finds.
import bucketed_lines  # isort: skip
import cifar10_importance  # isort: skip
import common  # isort: skip

CLASSES = "sparse_categorical_crossentropy"
COLOUR, GREY = (32, 32, 3), (28, 28, 1)
VOCABULARY = 2_000


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of a task is trained.

    Attributes:
        examples: int, training examples.
        epochs: int, passes over them.
        width: int, of the first stage of the network, or its units.
    """

    examples: int
    epochs: int
    width: int


@dataclasses.dataclass
class Data:
    """The data of one run.

    Attributes:
        x, y: arrays to train on, or a `PyDataset` and `None`.
        x_test, y_test: likewise, to measure.
        weights: array, the sample weights of `y`, or `None`.
        test_weights: array, those of `y_test`, or `None`.
        given: dict, more arguments of `fit`.
    """

    x: object
    y: object
    x_test: object
    y_test: object
    weights: object = None
    test_weights: object = None
    given: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Side:
    """A way to train by `model.fit`.

    Attributes:
        loss: the loss in place of the task's, or `None`.
        data: function of `Data` that returns what is trained on, or `None`.
        class_weight: function of `Data`, or `None`.
        kept: float, the share of the negatives that `data` keeps, for which the predictions are
            corrected. Defaults to 1.0.
    """

    loss: object = None
    data: Callable | None = None
    class_weight: Callable | None = None
    kept: float = 1.0


@dataclasses.dataclass(frozen=True)
class Real:
    """One task.

    Attributes:
        load: function of a data folder (or None), a `Size` and a seed that returns `Data`.
        build: function of `Data` and a width that returns a model, not compiled.
        optimizer: function of a rate or a schedule.
        rates: tuple of learning rates, the grid.
        batch_size: int.
        small, full: `Size`.
        measure: function of a model and `Data` that returns a dict with `loss`, `error`, `ece`.
        measured: str, what `error` is.
        loss: the loss, as `compile` takes it.
        sides: dict from name to `Side`, other ways in which people would train here.
        prepare: function `(model, folder, width)` that trains it beforehand, or None; its layer
            `backbone` is then frozen for the first quarter of the epochs.
        pipeline: bool, whether a generator makes the images, flipped and shifted. Defaults to
            False.
        stream: bool, whether the data come as batches. Defaults to False.
    """

    load: Callable
    build: Callable
    optimizer: Callable
    rates: tuple
    batch_size: int
    small: Size
    full: Size
    measure: Callable
    measured: str = "test error"
    loss: object = CLASSES
    sides: dict = dataclasses.field(default_factory=dict)
    prepare: Callable | None = None
    pipeline: bool = False
    stream: bool = False


def resnet(data, width, augment=True, dropout=0.0):
    # The small size reads images at half their resolution.
    strides = 2 if width < 16 else 1
    return cifar10_importance.network(COLOUR, 10, width, strides, augment, dropout)


def cifar(folder, size, seed):
    x, y, x_test, y_test = dataset("cifar10", COLOUR, folder)
    rows = np.random.default_rng(seed).permutation(len(x))[: size.examples]
    return Data(x[rows], y[rows], x_test, y_test)


def cifar_wrong(folder, size, seed):
    """A fifth of the training labels moved to another class."""
    data = cifar(folder, size, seed)
    generator = np.random.default_rng(seed)
    wrong = generator.random(len(data.y)) < 0.2
    moved = (data.y + generator.integers(1, 10, len(data.y))) % 10
    return dataclasses.replace(data, y=np.where(wrong, moved, data.y))


def cifar_rare(folder, size, seed):
    """A tenth of the cats, in training and where it is measured all of them."""
    data = cifar(folder, size, seed)
    kept = (data.y != 3) | (np.random.default_rng(seed).random(len(data.y)) < 0.1)
    return dataclasses.replace(data, x=data.x[kept], y=data.y[kept])


def cifar_few(folder, size, seed):
    """A tenth of the training images validates, and ends the training."""
    data = cifar(folder, size, seed)
    held = len(data.x) // 10
    stop = keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True)
    given = {"validation_data": (data.x[:held], data.y[:held]), "validation_batch_size": 1000}
    given["callbacks"] = [stop]
    return dataclasses.replace(data, x=data.x[held:], y=data.y[held:], given=given)


def augmented(x, y, batch_size, seed, ids):
    """A generator without an end of flipped and shifted images, with or without ids."""
    generator = np.random.default_rng(seed)
    pads = ((0, 0), (4, 4), (4, 4), (0, 0))
    while True:
        order = generator.permutation(len(x))
        for rows in np.array_split(order, -(-len(x) // batch_size)):
            padded = np.pad(x[rows], pads)
            flips = generator.random(len(rows)) < 0.5
            padded[flips] = padded[flips][:, :, ::-1]
            starts = generator.integers(0, 9, (len(rows), 2))
            images = np.stack(
                [
                    image[down : down + 32, right : right + 32]
                    for image, (down, right) in zip(padded, starts, strict=True)
                ]
            )
            yield (images, y[rows], None, rows) if ids else (images, y[rows])


def rare_weights(data):
    """Class weights in inverse proportion to how often a class comes, as scikit-learn has them."""
    counts = np.bincount(data.y.astype(int))
    return {label: len(data.y) / (len(counts) * count) for label, count in enumerate(counts)}


KEPT = 0.1


def undersampled(data, kept=KEPT):
    """All positives and a share of the negatives."""
    rows = (data.y == 1) | (np.random.default_rng(0).random(len(data.y)) < kept)
    return dataclasses.replace(data, x=data.x[rows], y=data.y[rows])


def table(folder, size, seed):
    return Data(*rare_rows(size.examples, size.examples // 5, seed))


def tabular(data, width):
    hidden = [layers.Dense(width, activation="relu"), layers.Dense(width // 2, activation="relu")]
    return keras.Sequential([keras.Input((20,)), *hidden, layers.Dense(1, activation="sigmoid")])


def objects(folder, size, seed):
    """One to three things of Fashion-MNIST, at half their size, on a noisy ground of 32 by 32.

    The label of a pixel is 0 for the ground, else 1 + the class of the thing. Pixels at an edge
    have the weight 0, as the unclear ones of other data sets of this kind have.
    """
    x, y, x_test, y_test = dataset("fashion_mnist", GREY, folder)
    x, x_test = (part.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)) for part in (x, x_test))
    generator = np.random.default_rng(seed)
    train = scenes(x, y, size.examples, generator)
    test = scenes(x_test, y_test, 1_000, generator)
    return Data(*train[:2], *test[:2], weights=train[2], test_weights=test[2])


def scenes(images, labels, count, generator, side=32):
    most = side - images.shape[1]
    x = generator.random((count, side, side), dtype="float32") * 0.3
    y = np.zeros((count, side, side), "int32")
    for scene in range(count):
        for row in generator.integers(0, len(images), generator.integers(1, 4)):
            down, right = generator.integers(0, most + 1, 2)
            where = slice(down, down + side - most), slice(right, right + side - most)
            inside = images[row] > 0.1
            x[scene][where] = np.where(inside, images[row], x[scene][where])
            y[scene][where] = np.where(inside, labels[row] + 1, y[scene][where])
    edge = np.zeros(y.shape, bool)
    for axis in (1, 2):
        edge |= (np.roll(y, 1, axis) != y) | (np.roll(y, -1, axis) != y)
    return x[..., None], y, (~edge).astype("float32")


def unet(data, width):
    def twice(x, filters):
        for _ in range(2):
            x = layers.Activation("relu")(cifar10_importance.normalised(x, filters, 3))
        return x

    inputs = keras.Input((32, 32, 1))
    fine = twice(inputs, width)
    middle = twice(layers.MaxPooling2D()(fine), 2 * width)
    x = twice(layers.MaxPooling2D()(middle), 4 * width)
    for skip, filters in ((middle, 2 * width), (fine, width)):
        x = twice(layers.Concatenate()([layers.UpSampling2D()(x), skip]), filters)
    return keras.Model(inputs, layers.Conv2D(11, 1, activation="softmax")(x))


class Lines(bucketed_lines.Lines):
    """Lines of near lengths, and a weight of 0 for what only fills them up."""

    def __getitem__(self, index):
        words, following = super().__getitem__(index)
        return words, following, (following > 0).astype("float32")


def lines(folder, size, seed, vocabulary=VOCABULARY):
    path = None if folder is None else pathlib.Path(folder) / "wikitext2" / "train.txt"
    text = common.read_text(path if path is not None and path.exists() else None)
    found = bucketed_lines.encoded(text, vocabulary, size.examples)
    # Every tenth part of ten lines tests, so that both are of the same kind.
    part = np.arange(len(found)) // 10 % 10
    train, test = ([found[row] for row in np.flatnonzero(where)] for where in (part < 9, part == 9))
    return Data(Lines(train, 16, seed), None, Lines(test, 64), None)


class Positions(layers.Layer):
    """Adds a learned vector for each place of a line."""

    def __init__(self, most, units, **settings):
        super().__init__(**settings)
        self.table = layers.Embedding(most, units)

    def call(self, x):
        return x + self.table(ops.arange(ops.shape(x)[1]))


def transformer(data, width, vocabulary=VOCABULARY):
    inputs = keras.Input((None,), dtype="int32")
    x = Positions(bucketed_lines.LENGTHS[-1], width)(layers.Embedding(vocabulary, width)(inputs))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(4, width // 4)(y, y, use_causal_mask=True)
        x = layers.Add()([x, layers.Dropout(0.1)(y)])
        y = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dropout(0.1)(layers.Dense(width)(y))])
    outputs = layers.Dense(vocabulary, activation="softmax")(layers.LayerNormalization()(x))
    return keras.Model(inputs, outputs)


def lstm(data, width, vocabulary=VOCABULARY):
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(vocabulary, width),
            layers.LSTM(width, return_sequences=True),
            layers.Dropout(0.3),
            layers.Dense(vocabulary, activation="softmax"),
        ]
    )


def other_images(folder, size, seed):
    """Fashion-MNIST in the shape of CIFAR-10."""
    x, y, x_test, y_test = dataset("fashion_mnist", GREY, folder)
    rows = np.random.default_rng(seed).permutation(len(x))[: size.examples]
    x, x_test = (
        np.repeat(np.pad(part, ((0, 0), (2, 2), (2, 2), (0, 0))), 3, axis=-1)
        for part in (x[rows], x_test)
    )
    return Data(x, y[rows], x_test, y_test)


def pretrained(model, folder, width):
    """The weights of the backbone after ten epochs on CIFAR-10, trained once and kept in a file."""
    backend, kept = keras.backend.backend(), pathlib.Path(folder or ".")
    path = kept / f"backbone-{width}-{backend}.weights.h5"
    if not path.exists():
        set_seed(100)
        source = resnet(None, width)
        x, y, _, _ = dataset("cifar10", COLOUR, folder)
        rate = keras.optimizers.schedules.CosineDecay(0.1, -(-len(x) // 64) * 10)
        source.compile(sgd(rate), CLASSES)
        source.fit(x, y, batch_size=64, epochs=10, verbose=0)
        source.get_layer("backbone").save_weights(path)
    model.get_layer("backbone").load_weights(path)


def sgd(rate):
    return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4)


def adamw(rate):
    return keras.optimizers.AdamW(rate, weight_decay=0.01)


def clipped(rate):
    return keras.optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0)


def calibration_error(confidence, right, weights=None, bins=15):
    """The expected calibration error: the mean distance of confidence and accuracy over bins."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    weights = np.ones(len(confidence)) if weights is None else weights
    gap = np.bincount(place, weights * (confidence - right), bins)
    return float(np.abs(gap).sum() / weights.sum())


def of_classes(probability, y, weights=None):
    """Loss, error and calibration error of predictions `(n, classes)` for labels `(n,)`."""
    weights = np.ones(len(y)) if weights is None else weights
    loss = -np.log(np.maximum(probability[np.arange(len(y)), y], 1e-7))
    right = (probability.argmax(axis=1) == y).astype(float)
    return {
        "loss": float(np.average(loss, weights=weights)),
        "error": float(1.0 - np.average(right, weights=weights)),
        "ece": calibration_error(probability.max(axis=1), right, weights),
    }


def classes(model, x, y, weights=None):
    return of_classes(model.predict(x, batch_size=1000, verbose=0), y)


def words(model, batches, y=None, weights=None):
    """The loss is the mean over all words of the lines, its exponential the perplexity."""
    found = []
    for index in range(len(batches)):
        x, y, counted = batches[index]
        probability = np.asarray(model.predict_on_batch(x)).reshape(-1, VOCABULARY)
        known = counted.reshape(-1) > 0
        of_batch = of_classes(probability[known], y.reshape(-1)[known])
        found.append((known.sum(), *of_batch.values()))
    count, *rest = np.array(found).T
    loss, error, ece = (float(np.average(part, weights=count)) for part in rest)
    # The calibration error is the mean of those of the batches.
    return {"loss": loss, "error": float(np.exp(loss)), "wrong words": error, "ece": ece}


def pixels(model, x, y, weights, classes=11):
    """The error is one minus the mean intersection over union of the classes."""
    probability = model.predict(x, batch_size=100, verbose=0)
    probability = probability.reshape(-1, probability.shape[-1])
    y, weights = y.reshape(-1), weights.reshape(-1)
    found = of_classes(probability, y, weights)
    pairs = np.zeros((classes, classes))
    np.add.at(pairs, (y, probability.argmax(axis=1)), weights)
    union = pairs.sum(0) + pairs.sum(1) - pairs.diagonal()
    own = {"error": float(1.0 - (pairs.diagonal() / union).mean()), "wrong pixels": found["error"]}
    return found | own


def positives(model, x, y, weights=None):
    """The error is one minus the average precision, the area under precision and recall."""
    from sklearn.metrics import average_precision_score

    probability = model.predict(x, batch_size=10_000, verbose=0)[:, 0].astype(float)
    kept = np.clip(probability, 1e-7, 1 - 1e-7)
    return {
        "loss": float(-np.where(y == 1, np.log(kept), np.log1p(-kept)).mean()),
        "error": float(1.0 - average_precision_score(y, probability)),
        "ece": calibration_error(probability, y),
    }


class Corrected:
    """A model trained on all positives and a share of the negatives, with all of them in view.

    Dal Pozzolo et al., "Calibrating Probability with Undersampling for Unbalanced Classification",
    SSCI 2015.
    """

    def __init__(self, model, kept):
        self.model, self.kept = model, kept

    def predict(self, *data, **settings):
        probability = self.model.predict(*data, **settings)
        return self.kept * probability / (self.kept * probability + 1.0 - probability)


SMOOTH = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
FOCAL = keras.losses.CategoricalFocalCrossentropy(alpha=1.0)


def one_hot(data):
    return dataclasses.replace(data, y=np.eye(10, dtype="float32")[data.y])


SMOOTHING, FOCUS = Side(SMOOTH, one_hot), Side(FOCAL, one_hot)
BALANCED = Side(class_weight=rare_weights)
IMAGES = {"optimizer": sgd, "rates": (0.05, 0.1, 0.2), "batch_size": 64, "measure": classes}
FULL = Size(50_000, 20, 16)
TABLE = {"load": table, "build": tabular, "optimizer": adamw, "measure": positives}
TABLE |= {"measured": "1 - average precision", "loss": "binary_crossentropy"}
TABLE |= {"small": Size(1_000_000, 3, 128), "full": Size(1_000_000, 10, 256)}
TABLE["sides"] = {
    "class weight": BALANCED,
    "undersampling": Side(data=undersampled, kept=KEPT),
    "focal": Side(keras.losses.BinaryFocalCrossentropy()),
}
TEXT = {"load": lines, "measure": words, "measured": "perplexity", "batch_size": 16}
TEXT["stream"] = True
TASKS = {
    "resnet": Real(cifar, resnet, small=Size(50_000, 10, 8), full=FULL, **IMAGES),
    "resnet-long": Real(cifar, resnet, small=Size(50_000, 20, 8), full=FULL, **IMAGES),
    "resnet-pipeline": Real(
        cifar,
        functools.partial(resnet, augment=False),
        small=Size(20_000, 10, 8),
        full=FULL,
        pipeline=True,
        **IMAGES,
    ),
    "resnet-wrong": Real(
        cifar_wrong,
        resnet,
        small=Size(20_000, 10, 8),
        full=FULL,
        sides={"smoothing": SMOOTHING},
        **IMAGES,
    ),
    "resnet-rare": Real(
        cifar_rare,
        resnet,
        small=Size(20_000, 10, 8),
        full=FULL,
        sides={"class weight": BALANCED, "focal": FOCUS},
        **IMAGES,
    ),
    "resnet-few": Real(
        cifar_few,
        functools.partial(resnet, dropout=0.3),
        small=Size(10_000, 20, 8),
        full=Size(10_000, 60, 16),
        **IMAGES,
    ),
    "transformer": Real(
        build=transformer,
        optimizer=clipped,
        rates=(0.002, 0.004, 0.008),
        small=Size(3_000, 4, 64),
        full=Size(40_000, 10, 256),
        **TEXT,
    ),
    "lstm": Real(
        build=lstm,
        optimizer=clipped,
        rates=(0.002, 0.004, 0.008),
        small=Size(4_000, 4, 64),
        full=Size(40_000, 10, 256),
        **TEXT,
    ),
    "fine-tuning": Real(
        other_images,
        functools.partial(resnet, augment=False),
        small=Size(5_000, 8, 8),
        full=Size(20_000, 15, 16),
        prepare=pretrained,
        **IMAGES,
    ),
    "table-256": Real(rates=(0.002, 0.004, 0.008, 0.016), batch_size=256, **TABLE),
    "table-1024": Real(rates=(0.004, 0.008, 0.016, 0.032), batch_size=1024, **TABLE),
    "u-net": Real(
        objects,
        unet,
        adamw,
        (0.003, 0.01, 0.03),
        16,
        Size(3_000, 8, 8),
        Size(20_000, 20, 32),
        pixels,
        measured="1 - mean IoU",
    ),
}
