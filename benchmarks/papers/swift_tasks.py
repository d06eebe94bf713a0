"""What `swift.py` trains: the data, the networks, and how long each is trained at each scale.

Test data are used for nothing but the reported numbers: what a search is judged by is held out from
the training data.
"""

import collections
import dataclasses
import os

import keras
import label_noise
import numpy as np

# `wrong`: which labels were moved; `frequency`: how common the words of a sequence are.
Data = collections.namedtuple(
    "Data", "x y wrong x_validation y_validation x_test y_test frequency", defaults=(None,)
)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of data, with its networks and how long they are trained.

    Attributes:
        name: `"digits"`, `"cifar10"`, `"cifar100"` or `"wikitext2"`.
        network, larger: names of networks, see `build`; the larger one is for the transfer.
        examples, validation: ints; of a text, words.
        shares: shares of wrong labels in the noise table.
        epochs: int, of each training from scratch, and of the pretraining.
        trials, finetune_epochs, confirm: ints, of each search.
        side: int, of an image after averaging pixels.
        classes, length: ints, of a text the vocabulary and the words in a sequence.
        base: int, classes that few-shot training sees; the others are for its episodes.
    """

    name: str
    network: str
    larger: str
    examples: int
    validation: int
    epochs: int
    batch_size: int
    trials: int
    finetune_epochs: int
    confirm: int
    shares: tuple[float, ...] = ()
    side: int = 32
    classes: int = 10
    length: int = 0
    base: int = 5


def scales():
    """The tasks of each scale, by the name of the data."""
    digits = Task("digits", "mlp-64", "mlp-256", 1000, 300, 30, 32, 12, 3, 2, SHARES)
    small_cifar = Task(
        "cifar10", "cnn", "wide-cnn", 2000, 1000, 8, 128, 8, 1, 1, (0.0, 0.2, 0.4), side=16
    )
    small_text = Task(
        "wikitext2", "transformer-64", "", 24_000, 6_000, 6, 32, 8, 1, 1, classes=1000, length=24
    )
    cifar = Task("cifar10", "resnet-18", "resnet-34", 45_000, 5_000, 80, 128, 40, 5, 2, SHARES)
    text = Task(
        "wikitext2", "transformer-200", "", 0, 0, 20, 64, 40, 1, 2, classes=33_278, length=35
    )
    tiny = Task("digits", "mlp-16", "mlp-32", 500, 300, 3, 32, 3, 1, 1, (0.4,))
    tiny_text = Task("wikitext2", "transformer-8", "", 600, 300, 2, 8, 2, 1, 1, (), 0, 20, 6)
    return {
        "quick": {"digits": tiny, "wikitext2": tiny_text},
        "small": {"digits": digits, "cifar10": small_cifar, "wikitext2": small_text},
        "paper": {
            "cifar10": cifar,
            "cifar100": dataclasses.replace(cifar, name="cifar100", classes=100, base=64),
            "wikitext2": text,
        },
    }


def load(task, share, seed, files):
    """Training data with that share of the labels moved, clean validation and clean test data."""
    if task.name == "wikitext2":
        return load_text(task, files["wikitext2"])
    x, y, x_test, y_test = arrays(task, seed, files)
    generator = np.random.default_rng(seed)
    train = slice(0, task.examples)
    held_out = slice(task.examples, task.examples + task.validation)
    noisy = label_noise.move_labels(y[train], share, generator, task.classes)
    wrong = noisy != y[train]
    return Data(x[train], noisy, wrong, x[held_out], y[held_out], x_test, y_test)


def arrays(task, seed, files):
    """All training and test examples, the training examples in an order of the seed."""
    generator = np.random.default_rng([seed, 1])
    if task.name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        order = generator.permutation(len(y))
        x, y = (x[order] / 16).astype("float32"), y[order].astype("int64")
        return x[:1300], y[:1300], x[1300:], y[1300:]
    if files.get(task.name):
        with np.load(files[task.name]) as file:
            x, y, x_test, y_test = (file[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    else:
        (x, y), (x_test, y_test) = getattr(keras.datasets, task.name).load_data()
    # Only as many are converted as a seed needs, also where it leaves out half of the classes.
    order = generator.permutation(len(y))[: 4 * (task.examples + task.validation)]
    return (
        images(x[order], task.side),
        y[order].reshape(-1).astype("int64"),
        images(x_test, task.side),
        y_test.reshape(-1).astype("int64"),
    )


def images(pixels, side):
    """Pixels scaled to a standard deviation of about 1, and averaged to `side` in a row."""
    scaled = (pixels.astype("float32") / 255 - 0.5) / 0.25
    step = scaled.shape[1] // side
    if step > 1:
        count = len(scaled)
        scaled = scaled.reshape(count, side, step, side, step, 3).mean(axis=(2, 4))
    return scaled


def load_few_shot(task, seed, files):
    """Training data of the base classes, and all examples of the others for the episodes."""
    x, y, x_test, y_test = arrays(task, seed, files)
    classes = np.random.default_rng([seed, 2]).permutation(task.classes)
    # Mini-ImageNet has 64 base classes, 16 for validation, which nothing here needs, and 20.
    novel = classes[-20:] if task.classes == 100 else classes[task.base :]
    label = np.full(task.classes, -1)
    label[classes[: task.base]] = np.arange(task.base)
    seen = np.flatnonzero(label[y] >= 0)[: task.examples + task.validation]
    share = task.validation / (task.examples + task.validation)
    held_out, train = np.split(seen, [round(share * len(seen))])
    new = np.isin(y_test, novel)
    return Data(
        x[train], label[y[train]], np.zeros(len(train), bool), x[held_out], label[y[held_out]],
        x_test[new], y_test[new],
    )  # fmt: skip


def load_text(task, folder):
    """Sequences of words, each with the next ones as its targets."""
    words = {}
    limits = {"train": task.examples, "valid": task.validation, "test": task.validation}
    for part, limit in limits.items():
        with open(os.path.join(folder, f"{part}.txt"), encoding="utf-8") as file:
            found = file.read().replace("\n", " <eos> ").split()
        words[part] = found[:limit] if limit else found
    counts = collections.Counter(words["train"])
    number = {word: k for k, (word, _) in enumerate(counts.most_common(task.classes - 1), start=1)}
    sequences = []
    for part in limits:
        # 0 is every word outside the vocabulary.
        encoded = np.array([number.get(word, 0) for word in words[part]], "int32")
        rows = (len(encoded) - 1) // task.length
        sequences.append(encoded[: rows * task.length].reshape(rows, task.length))
        sequences.append(encoded[1 : rows * task.length + 1].reshape(rows, task.length))
    x, y = sequences[:2]
    common = np.bincount(np.append(x, y), minlength=task.classes)
    frequency = np.log(common[y]).mean(axis=1)
    return Data(x, y, np.zeros(len(x), bool), *sequences[2:], frequency)


def build(network, task, seed, steps, final=False):
    """A compiled network. `final`: with the rate that its schedule ends with, to fine-tune."""
    keras.utils.set_random_seed(seed)
    classes = task.classes
    kind, _, size = network.partition("-")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if kind == "resnet":
        model = resnet({"18": (2, 2, 2, 2), "34": (3, 4, 6, 3)}[size], classes)
        # The paper says "divided by 10"; when is ours.
        rate = 1e-3
        if not final:
            ends = [steps * task.epochs // 2, steps * task.epochs * 3 // 4]
            rate = keras.optimizers.schedules.PiecewiseConstantDecay(ends, [0.1, 0.01, 1e-3])
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    elif kind == "transformer":
        model = transformer(classes, task.length, int(size))
        optimizer = keras.optimizers.Adam(1e-3 if int(size) > 100 else 4e-3, clipnorm=1.0)
    else:
        optimizer = keras.optimizers.Adam(1e-3)
        if kind == "mlp":
            hidden = [keras.layers.Dense(int(size), activation="relu") for _ in range(2)]
            layers = [keras.Input((64,)), *hidden, keras.layers.Dense(classes)]
        else:
            layers = convolutions(task.side, classes, 2 if kind == "wide" else 1)
        model = keras.Sequential(layers)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def convolutions(side, classes, width):
    """The layers of `label_noise.cnn`, for images of any size."""
    layers = keras.layers
    same = {"padding": "same", "activation": "relu"}
    return [
        keras.Input((side, side, 3)),
        layers.Conv2D(32 * width, 5, strides=2, **same),
        layers.Conv2D(64 * width, 3, **same),
        layers.MaxPooling2D(),
        layers.Conv2D(128 * width, 3, **same),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(128 * width, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(classes),
    ]


def resnet(depths, classes):
    """ResNet for images of 32 pixels, with the usual shifts by up to 4 pixels and flips."""
    layers = keras.layers
    # Keras adds `l2 * w**2`, whose gradient is twice that: the weight decay is 1e-3.
    decay = keras.regularizers.L2(5e-4)

    def convolution(x, filters, size, strides):
        x = layers.Conv2D(
            filters, size, strides, "same", use_bias=False, kernel_regularizer=decay,
            kernel_initializer="he_normal",
        )(x)  # fmt: skip
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.RandomFlip("horizontal")(inputs)
    x = layers.RandomTranslation(0.125, 0.125, fill_mode="constant", interpolation="nearest")(x)
    x = layers.ReLU()(convolution(x, 64, 3, 1))
    for stage, depth in enumerate(depths):
        filters = 64 * 2**stage
        for block in range(depth):
            strides = 2 if stage and not block else 1
            y = layers.ReLU()(convolution(x, filters, 3, strides))
            y = convolution(y, filters, 3, 1)
            if x.shape[-1] != filters:
                x = convolution(x, filters, 1, strides)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    # In float32 with mixed precision too.
    outputs = layers.Dense(classes, kernel_regularizer=decay, dtype="float32")(x)
    return keras.Model(inputs, outputs)


class Positions(keras.layers.Layer):
    """Adds a learned vector for each position."""

    def build(self, shape):
        self.vectors = self.add_weight(shape=shape[1:], initializer="uniform", name="vectors")

    def call(self, inputs):
        return inputs + self.vectors


def transformer(vocabulary, length, width):
    """Two causal blocks."""
    layers = keras.layers
    inputs = keras.Input((length,), dtype="int32")
    x = Positions()(layers.Embedding(vocabulary, width)(inputs))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(2, width // 2, dropout=0.1)(y, y, use_causal_mask=True)
        x = layers.Add()([x, layers.Dropout(0.2)(y)])
        y = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dropout(0.2)(layers.Dense(width)(y))])
    x = layers.LayerNormalization()(x)
    return keras.Model(inputs, layers.Dense(vocabulary, dtype="float32")(x))
