"""Every comparison of Katharopoulos and Fleuret (ICML 2018), at equal wall-clock seconds.

    python benchmarks/papers/katharopoulos.py --scale small --data FOLDER --choose --out rows.jsonl
    python benchmarks/papers/katharopoulos.py --scale small --data FOLDER --out rows.jsonl \\
        --plot figure.png
    python benchmarks/papers/katharopoulos.py --scale paper --data FOLDER --out rows.jsonl
    python benchmarks/papers/katharopoulos.py --summary rows.jsonl --plot figure.png
    python benchmarks/papers/katharopoulos.py --quick

Every run gets the same number of seconds, whatever it does in them. FOLDER holds cifar10.npz,
cifar100.npz, mnist.npz, fashion_mnist.npz and mit67.npz with the arrays x_train, y_train, x_test
and y_test; a task whose file is missing is not run, and the tables say so. Without `--data` Keras
downloads what it can. Runs whose rows are in `--out` are not repeated, and a run that was killed
continues from the end of its last epoch, with the seconds it had spent by then.

Methods
-------

uniform          model.fit
uniform, layer   the same with the augmentation in the model, a control (see below)
loss             fresh scores of a presample, `score="loss"`, the task's presample and threshold
bound            the same with the bound of the gradient norm, the paper's method
published        the published library's rule
same rate        remembered scores, without the larger step (`scale_learning_rate=False`)
ours             ImportanceTraining(model), nothing else

"published" is what `ImportanceTraining(model).fit(x, y)` of the package `keras-importance-sampling`
0.10 does by default, according to its source. Reproduced: a presample of 3 b examples, and the
threshold (B + 3b) / (3b) = 2; batches and presamples drawn from the whole data set with
replacement, so that there are no passes; no floor under the probabilities; weights 1 / (B p) and no
bias; the running mean of tau from 0 with momentum 0.9; one learning rate throughout; scores in
inference mode. It is the rule of "bound" with other numbers, without the floor, and with
replacement. Not reproduced: while its gate is shut, that library takes tau from every training
step; here every 16th to 64th batch is scored and counts as that many, which is cheaper and makes
the mean as long. It scores in chunks of b; here the presample is scored at once. Where a network's
last layer contains the softmax, that library takes the gradient in its output and prints a
warning; here it is always the one before the softmax, which its documentation asks for. Its speed
on Keras 2 is not reproduced at all: the training step and the scoring are those of keras_swift.

Augmentation
------------

CIFAR only: flips, and shifts by up to an eighth of the image, 4 pixels of 32. The paper enlarges
the data set beforehand, to 1.5 million images. So do here the methods that score afresh, because an
augmentation layer is off when a presample is scored: the image trained on would not be the one
scored. Uniform training gets the same images, which spares it the augmentation in the step.
Remembered scores need the opposite. An index must come back for its score to be of use, and in a
data set of 30 copies it comes back too rarely. So there the layer is in the model, and the score of
an index is that of its last augmented image. That makes it staler, which costs variance but no
bias. The control tells whether a difference comes from the layer.

Scales
------

`paper` has the paper's networks, batches, presamples, thresholds and rates. Where the paper's text
leaves a detail open (layer normalisation in the wide network, the L2 penalty), it is that of the
authors' code. The budgets are for a GPU of today: the paper's were hours on one of 2017. Its
fine-tuning of a pretrained ResNet-50 on MIT67 is the task "mit67"; "fine-tuning" trains on half of
the classes first, so it needs neither file. `small` is for two CPU cores: 10,000 images of CIFAR at
half the size and a narrow network, Fashion-MNIST for the fine-tuning, 16 pixels of the permuted
images a step, and a rate that drops in every task; batches, presamples and thresholds are the
paper's.

Time
----

The clock starts when the first epoch begins and ends with the last step; between two looks at the
clock, every 200th of the budget, the device is not waited for. Compilation is not charged: before
that the same model and the same trainer take a few steps in each of their ways (the gate shut, then
forced open), and weights and optimizer are set back. Nor are loading, evaluation and backups
charged; drawing and scoring are. The rate is set by the share of the budget that is spent. Losses
and errors are measured at the end, in inference mode, on images that are not augmented; the
training loss leaves out the weight penalty. `passes` are steps times batch size over the number of
training images without their copies, `scored` counts in the same way what was scored beyond that.

Rates
-----

`--scale paper` uses the paper's. At `--scale small`, `--choose` trains uniformly on seed 0 at each
rate of a small grid. Later runs take, for all methods, the rate where uniform training had the
lowest test error, or the task's own if none was chosen. So importance training is compared with
uniform training at the best rate of that, not at its own.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import shutil
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import keras
import numpy as np
import tasks
from keras import layers, ops
from tasks import FlipAndShift

import keras_swift as ks
from keras_swift.src.data.reader import ArrayReader
from keras_swift.src.fitting import arguments as fitting_arguments

CHOOSING = (0, 1)
UNITS = {"wall": "s", "cpu": "CPU s"}
MEASURES = ("train_loss", "test_loss", "test_error")
# How often the clock waits for the device, per budget.
LOOKS = 200
WARM_STEPS = 12
# The state of the draws is saved on the run's time: 24 MB where there are 30 copies.
COPIES_AN_EPOCH = 5


@dataclasses.dataclass(frozen=True)
class Setting:
    """One task at one scale.

    Attributes:
        claim: str, what the paper reports.
        needs: str, the name of the data file.
        load: function of a data folder (or None) and a seed, that returns
            `x, y, x_test, y_test`.
        build: function of `augments`, bool, that returns a model, not
            compiled.
        optimizer: function of a rate.
        batch_size: int.
        presample: int, `B`.
        tau_threshold: float, the paper's.
        rate: float, unless one was chosen.
        rates: tuple of floats, the grid of `--choose`.
        drops: tuple of floats, at which shares of the budget the rate is
            divided by 5.
        seconds: float, the budget.
        copies: int, how many augmented copies of each image there are; 0
            without augmentation.
        prepare: function `(model, data, seed)` that trains it beforehand, or
            None.
    """

    claim: str
    needs: str
    load: Callable
    build: Callable
    optimizer: Callable
    batch_size: int
    presample: int
    tau_threshold: float
    rate: float
    rates: tuple
    drops: tuple
    seconds: float
    copies: int = 0
    prepare: Callable | None = None


METHODS = {
    "uniform": lambda setting: None,
    "uniform, layer": lambda setting: None,
    "loss": lambda setting: _papers_rule(setting) | {"score": "loss"},
    "bound": lambda setting: _papers_rule(setting),
    "published": lambda setting: {"presample": 3.0, "floor": 0.0},
    "same rate": lambda setting: {"scale_learning_rate": False},
    "ours": lambda setting: {},
}
IN_THE_MODEL = ("uniform, layer", "same rate", "ours")


def _papers_rule(setting):
    ratio = setting.presample / setting.batch_size
    return {"presample": ratio, "tau_threshold": setting.tau_threshold}


class WithReplacement(ArrayReader):
    """Every batch and presample is drawn from all examples with replacement."""

    def __init__(self, source, batch_size, generators, shuffle):
        super().__init__(source, batch_size, generators, shuffle)
        # Saved and restored with the permutation that holds it too.
        self._draws = generators[0]

    def uniform(self, by_index=False):
        return self.examples(self._draws.integers(self.size, size=self.batch_size), by_index)

    def presample(self, size):
        found = self.examples(self._draws.integers(self.size, size=size))
        return dataclasses.replace(found, batches=size / self.batch_size)

    def take_back(self, count):
        """Independent draws need no putting back."""


@contextlib.contextmanager
def drawing(method):
    """A context in which `ImportanceTraining` reads the data as `method` does."""
    before = fitting_arguments.ArrayReader
    if method == "published":
        fitting_arguments.ArrayReader = WithReplacement
    try:
        yield
    finally:
        fitting_arguments.ArrayReader = before


def augmented(x, y, copies, seed):
    """`copies` times as many images, flipped and shifted as `FlipAndShift` does."""
    generator = np.random.default_rng(seed)
    rows = np.empty((copies * len(x), *x.shape[1:]), x.dtype)
    size = x.shape[1]
    pad = size // 8
    for copy in range(copies):
        part = rows[copy * len(x) : (copy + 1) * len(x)]
        flips = generator.random(len(x)) < 0.5
        shifts = generator.integers(0, 2 * pad + 1, (len(x), 2))
        for position in range(len(x)):
            image = x[position, :, ::-1] if flips[position] else x[position]
            down, right = shifts[position]
            padded = np.zeros((size + 2 * pad, size + 2 * pad, x.shape[3]), x.dtype)
            padded[pad : pad + size, pad : pad + size] = image
            part[position] = padded[down : down + size, right : right + size]
    return rows, np.tile(y, copies)


class NotAtHand(Exception):
    """The data or the pretrained weights of a task are missing."""


def arrays(name, folder):
    """`x, y, x_test, y_test` as they are stored."""
    if folder is None:
        if not hasattr(keras.datasets, name):
            raise NotAtHand(f"no {name}.npz (`--data`)")
        try:
            (x, y), (x_test, y_test) = getattr(keras.datasets, name).load_data()
        except Exception as error:
            raise NotAtHand(f"{name} could not be downloaded ({error})") from error
    else:
        path = pathlib.Path(folder) / f"{name}.npz"
        if not path.exists():
            raise NotAtHand(f"no {path.name}")
        with np.load(path) as file:
            x, y, x_test, y_test = (file[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    return x, y.reshape(-1).astype("int64"), x_test, y_test.reshape(-1).astype("int64")


def part(x, y, count, seed, batch_size):
    """Some of the examples, in a random order; a multiple of the batch size.

    A shorter last batch would be compiled for itself, in the middle of a run.
    """
    count = min(count, len(x)) // batch_size * batch_size
    chosen = np.random.default_rng(seed).permutation(len(x))[:count]
    return x[chosen], y[chosen]


def bytes_of(name, count, batch_size):
    """Images as bytes, which the model scales itself: 1.5 million of them take 4.6 GB."""

    def load(folder, seed):
        x, y, x_test, y_test = arrays(name, folder)
        return *part(x, y, count, seed, batch_size), x_test, y_test

    return load


def halved(name, count, batch_size):
    """The same with the mean of every four pixels."""
    load_all = bytes_of(name, count, batch_size)

    def load(folder, seed):
        x, y, x_test, y_test = load_all(folder, seed)
        x, x_test = (
            p.reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4)).astype("uint8") for p in (x, x_test)
        )
        return x, y, x_test, y_test

    return load


def small_fashion(folder, seed):
    x, y, x_test, y_test = arrays("fashion_mnist", folder)
    x, x_test = (p[..., None].astype("float32") / 255 for p in (x, x_test))
    return *part(x, y, 10_000, seed, 16), x_test, y_test


def pixels(count, per_step):
    """MNIST's pixels in one random order, some a time step."""

    def load(folder, seed):
        x, y, x_test, y_test = arrays("mnist", folder)
        order = np.random.default_rng(0).permutation(784)
        x, x_test = (
            (p.reshape(-1, 784)[:, order] / 255)
            .astype("float32")
            .reshape(-1, 784 // per_step, per_step)
            for p in (x, x_test)
        )
        return *part(x, y, count, seed, 32), x_test, y_test

    return load


def digits(folder, seed):
    x, y, x_test, y_test = tasks.scaled_digits((32, 32, 3))
    x, x_test = ((255 * p[:, ::2, ::2]).astype("uint8") for p in (x, x_test))
    return *part(x, y, 1024, seed, 16), x_test, y_test


def from_bytes(shape, augments, network):
    """A model of images in bytes."""
    inputs = keras.Input(shape, dtype="uint8")
    x = layers.Rescaling(1 / 255)(inputs)
    if augments:
        x = FlipAndShift()(x)
    return keras.Model(inputs, network(x))


def small_residual(classes):
    network = functools.partial(tasks.residual, 8, 16, classes)
    return lambda augments: from_bytes((16, 16, 3), augments, network()())


def tiny(augments):
    def network(x):
        x = layers.Dense(32, activation="relu")(layers.Flatten()(x))
        return layers.Dense(10, activation="softmax")(x)

    return from_bytes((16, 16, 3), augments, network)


def wide_resnet(classes, depth=28, width=2):
    """WRN-28-2 with layer normalisation, as the authors' code has it, and the weight decay.

    They normalise over a whole image with one gain; here each channel has its own.
    """

    def convolution(filters, size, strides=1):
        return layers.Conv2D(
            filters,
            size,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            kernel_regularizer=keras.regularizers.L2(5e-4),
        )

    def activation(x):
        return layers.Activation("relu")(layers.GroupNormalization(1)(x))

    def network(x):
        x = convolution(16, 3)(x)
        for stage in range(3):
            filters = 16 * width * 2**stage
            for block in range((depth - 4) // 6):
                strides = 2 if stage and not block else 1
                before = activation(x)
                shortcut = convolution(filters, 1, strides)(before) if not block else x
                x = convolution(filters, 3, strides)(before)
                x = layers.Add()([shortcut, convolution(filters, 3)(activation(x))])
        x = layers.GlobalAveragePooling2D()(activation(x))
        decay = keras.regularizers.L2(5e-4)
        return layers.Dense(classes, activation="softmax", kernel_regularizer=decay)(x)

    return lambda augments: from_bytes((32, 32, 3), augments, network)


def pretrained_resnet(augments):
    """ResNet-50 trained on ImageNet, with 67 new outputs. Its batch statistics stay as they are."""
    try:
        net = keras.applications.ResNet50(include_top=False, pooling="avg", weights="imagenet")
    except Exception as error:
        raise NotAtHand(f"the weights of ResNet-50 could not be downloaded ({error})") from error
    for layer in net.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    inputs = keras.Input((None, None, 3), dtype="uint8")
    x = layers.Resizing(224, 224)(ops.cast(inputs, "float32"))
    x = net(keras.applications.resnet.preprocess_input(x))
    return keras.Model(inputs, layers.Dense(67, activation="softmax")(x))


def lstm(steps, per_step, units):
    def build(augments):
        return keras.Sequential(
            [
                keras.Input((steps, per_step)),
                layers.LSTM(units),
                layers.Dense(10, activation="softmax"),
            ]
        )

    return build


def half_of_the_classes(epochs, rate):
    """A function that trains on classes 0 to 4, so that the run to compare is a fine-tuning."""
    known = {}

    def prepare(model, data, seed):
        # The methods begin from the same weights, trained once for each seed.
        if seed not in known:
            x, y = data
            rows = np.random.default_rng(seed).permutation(np.flatnonzero(y < 5))
            rows = rows[: len(rows) // 128 * 128]
            model.compile(
                keras.optimizers.SGD(rate, momentum=0.9), "sparse_categorical_crossentropy"
            )
            model.fit(x[rows], y[rows], batch_size=128, epochs=epochs, verbose=0)
            known[seed] = model.get_weights()
        model.set_weights(known[seed])

    return prepare


def sgd(rate):
    return keras.optimizers.SGD(rate, momentum=0.9)


def adam(rate):
    return keras.optimizers.Adam(rate, clipnorm=1.0)


CIFAR10 = "training loss 10 times lower, test error 0.079 in place of 0.087"
CIFAR100 = "training loss 3 times lower, test error 0.32 in place of 0.34"
TUNING = "test error 28.1 % in place of 33.7 % (MIT67, a pretrained ResNet-50)"
PIXELS = "training loss 20 % lower, test error 7 % lower"
TWICE = (0.4, 0.8)
SCALES = {
    "small": {
        "cifar10": Setting(
            CIFAR10,
            "cifar10",
            halved("cifar10", 10_000, 128),
            small_residual(10),
            sgd,
            *(128, 640, 1.5, 0.1, (0.05, 0.1, 0.2), TWICE, 10.0),
            copies=4,
        ),
        "cifar100": Setting(
            CIFAR100,
            "cifar100",
            halved("cifar100", 10_000, 128),
            small_residual(100),
            sgd,
            *(128, 640, 1.5, 0.1, (0.05, 0.1, 0.2), TWICE, 10.0),
            copies=4,
        ),
        "fine-tuning": Setting(
            TUNING,
            "fashion_mnist",
            small_fashion,
            lambda augments: tasks.small_cnn(),
            sgd,
            *(16, 48, 2.0, 0.005, (0.00125, 0.0025, 0.005, 0.01), TWICE, 10.0),
            prepare=half_of_the_classes(4, 0.05),
        ),
        "permuted-mnist": Setting(
            PIXELS,
            "mnist",
            pixels(6_400, 16),
            lstm(49, 16, 64),
            adam,
            *(32, 128, 1.8, 0.004, (0.004, 0.008, 0.016, 0.032, 0.064), TWICE, 10.0),
        ),
    },
    "paper": {
        "cifar10": Setting(
            CIFAR10,
            "cifar10",
            bytes_of("cifar10", 50_000, 128),
            wide_resnet(10),
            sgd,
            *(128, 640, 1.5, 0.1, (0.1,), TWICE, 1800.0),
            copies=30,
        ),
        "cifar100": Setting(
            CIFAR100,
            "cifar100",
            bytes_of("cifar100", 50_000, 128),
            wide_resnet(100),
            sgd,
            *(128, 640, 1.5, 0.1, (0.1,), TWICE, 1800.0),
            copies=30,
        ),
        "fine-tuning": Setting(
            TUNING,
            "cifar10",
            bytes_of("cifar10", 50_000, 16),
            wide_resnet(10),
            sgd,
            *(16, 48, 2.0, 0.001, (0.001,), (), 600.0),
            prepare=half_of_the_classes(30, 0.05),
        ),
        "mit67": Setting(
            TUNING,
            "mit67",
            bytes_of("mit67", 10**6, 16),
            pretrained_resnet,
            sgd,
            *(16, 48, 2.0, 0.001, (0.001,), (), 1800.0),
        ),
        "permuted-mnist": Setting(
            PIXELS,
            "mnist",
            pixels(60_000, 1),
            lstm(784, 1, 128),
            adam,
            *(32, 128, 1.8, 0.001, (0.001,), (), 1800.0),
        ),
    },
    "quick": {
        "digits": Setting(
            "none: a check that the script runs",
            "scikit-learn",
            digits,
            tiny,
            sgd,
            *(16, 48, 0.05, 0.01, (0.01, 0.02), TWICE, 2.0),
            copies=10,
        ),
    },
}


class Clock(keras.callbacks.Callback):
    """Sets the rate by the share of the budget that is spent, stops when all is, and takes notes.

    Args:
        seconds: float, the budget.
        rate: float, the first learning rate.
        drops: tuple of floats, the shares at which it is divided by 5.
        batch_size: int, `b`.
        file: path of the notes of every epoch, for a run that continues; or None.
        by_cpu: bool, whether the budget is of CPU seconds.
    """

    def __init__(self, seconds, rate, drops, batch_size, file=None, by_cpu=False):
        super().__init__()
        self._by_cpu = by_cpu
        self._seconds, self._rate, self._drops = seconds, rate, drops
        self._batch_size, self._file = batch_size, file
        self._begin = self._begin_cpu = None
        # Spent on backups, which are not charged.
        self.free = self.free_cpu = 0.0
        self._done = {"seconds": 0.0, "cpu_seconds": 0.0}
        self.notes = dict.fromkeys(("steps", "importance", "gain", "tau", "scored"), 0.0)
        self._next_look = 0.0
        self.resumed_at = None

    @property
    def spent(self):
        return self._done["seconds"] + time.perf_counter() - self._begin - self.free

    @property
    def spent_cpu(self):
        return self._done["cpu_seconds"] + time.process_time() - self._begin_cpu - self.free_cpu

    @property
    def charged(self):
        return self.spent_cpu if self._by_cpu else self.spent

    def on_epoch_begin(self, epoch, logs=None):
        if self._begin is not None:
            return
        if epoch:
            # `BackupAndRestore` has put back the weights of this epoch's beginning.
            saved = json.loads(self._file.read_text())[str(epoch)]
            self._done = {name: saved.pop(name) for name in self._done}
            self.notes = saved
            self.resumed_at = self._done["cpu_seconds" if self._by_cpu else "seconds"]
        self._begin, self._begin_cpu = time.perf_counter(), time.process_time()
        self._set_rate(self.charged)

    def on_train_batch_begin(self, batch, logs=None):
        if self.charged >= self._next_look:
            # Waits for the device. On JAX `self.model` also puts the state back into the model, so
            # it is touched here only.
            self._steps()
            spent = self.charged
            self._set_rate(spent)
            self._next_look = spent + self._seconds / LOOKS
            # One more step follows.
            self.model.stop_training = spent >= self._seconds

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        steps, notes = self._steps(), self.notes
        new = steps - notes["steps"]
        share = logs.get("importance", 0.0)
        notes["steps"] = steps
        notes["importance"] += new * share
        notes["gain"] += new * logs.get("gain", 1.0)
        notes["tau"] += new * logs.get("tau", 0.0)
        # `presample` counts a uniform step as 1, which scores nothing.
        ratio = logs.get("presample", 1.0)
        notes["scored"] += new * (ratio - 1 + share if ratio > 1 else 0.0)
        self.seconds, self.cpu_seconds = self.spent, self.spent_cpu
        if self._file is not None:
            self._note(epoch + 1)

    def _note(self, epoch):
        # The last two epochs: a run killed before its weights are saved continues from the one
        # before.
        saved = json.loads(self._file.read_text()) if self._file.exists() else {}
        times = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds}
        kept = {str(epoch): self.notes | times}
        if str(epoch - 1) in saved:
            kept[str(epoch - 1)] = saved[str(epoch - 1)]
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(kept))
        new.replace(self._file)

    def _set_rate(self, spent):
        passed = sum(spent >= share * self._seconds for share in self._drops)
        rate = self._rate / 5**passed
        if not np.isclose(float(self.model.optimizer.learning_rate), rate):
            self.model.optimizer.learning_rate = rate

    def _steps(self):
        return int(ops.convert_to_numpy(self.model.optimizer.iterations))


class Backup(keras.callbacks.BackupAndRestore):
    """Saves after every epoch, and does not charge it."""

    # Keras waits for the device after every step for a callback that has a method of its own here.
    on_train_batch_end = keras.callbacks.Callback.on_train_batch_end

    def __init__(self, folder, clock):
        super().__init__(str(folder), delete_checkpoint=False)
        self._clock = clock

    def on_epoch_end(self, epoch, logs=None):
        start, start_cpu = time.perf_counter(), time.process_time()
        super().on_epoch_end(epoch, logs)
        self._clock.free += time.perf_counter() - start
        self._clock.free_cpu += time.process_time() - start_cpu


class StopAfter(keras.callbacks.Callback):
    """Stops after some steps, and takes the time of the last half of them."""

    def __init__(self, steps):
        super().__init__()
        self._steps = steps

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self._steps // 2:
            float(logs["loss"])
            self._begin = time.perf_counter()
        if batch + 1 >= self._steps:
            float(logs["loss"])
            taken = self._steps - self._steps // 2
            self.seconds_a_step = (time.perf_counter() - self._begin) / taken
            self.model.stop_training = True


def warm_up(model, trainer, x, y, batch_size, steps=WARM_STEPS):
    """Compiles all that training will call, and sets the model back.

    Returns:
        The seconds of a uniform step.
    """
    model.optimizer.build(model.trainable_variables)
    weights = model.get_weights()
    slots = [ops.convert_to_numpy(v) for v in model.optimizer.variables]
    stop = StopAfter(steps)
    settings = {"batch_size": batch_size, "verbose": 0}
    if trainer is None:
        model.fit(x, y, callbacks=[stop], **settings)
    else:
        trainer.fit(x, y, callbacks=[stop], **settings)
        if trainer.settings.presample is not None:
            before = trainer.settings
            trainer.settings = dataclasses.replace(before, tau_threshold=0.0)
            trainer.fit(x, y, callbacks=[StopAfter(steps)], **settings)
            trainer.settings = before
        # What it remembers of these steps would be a head start.
        trainer.forget()
    model.set_weights(weights)
    for variable, value in zip(model.optimizer.variables, slots, strict=True):
        variable.assign(value)
    return stop.seconds_a_step


@functools.lru_cache(maxsize=1)
def loaded(scale, task, folder, seed):
    """The task's data and its augmented copies."""
    setting = SCALES[scale][task]
    x, y, x_test, y_test = setting.load(folder, seed)
    copies = augmented(x, y, setting.copies, seed) if setting.copies else (x, y)
    return x, y, x_test, y_test, copies


def made(scale, task, method, seed, rate, folder):
    """Data, a compiled model and its trainer (or None) for a run."""
    setting = SCALES[scale][task]
    x, y, x_test, y_test, copies = loaded(scale, task, folder, seed)
    in_the_model = setting.copies > 0 and method in IN_THE_MODEL
    tasks.set_seed(seed)
    model = setting.build(in_the_model)
    if setting.prepare is not None:
        setting.prepare(model, (x, y), seed)
    # Another order than that of preparing.
    tasks.set_seed(seed)
    model.compile(setting.optimizer(rate), "sparse_categorical_crossentropy")
    chosen = METHODS[method](setting)
    trainer = None if chosen is None else ks.ImportanceTraining(model, seed=seed, **chosen)
    return (x, y), (x_test, y_test), (x, y) if in_the_model else copies, model, trainer


def run(key, folder, data_folder):
    """Trains once.

    Args:
        key: dict of what identifies a run.
        folder: path for backups, or None.
        data_folder: path, or None.
    """
    scale, task, method, seed, rate = (key[k] for k in ("scale", "task", "method", "seed", "rate"))
    setting = SCALES[scale][task]
    train, test, (x, y), model, trainer = made(scale, task, method, seed, rate, data_folder)
    with drawing(method):
        warm_up(model, trainer, x, y, setting.batch_size)
        clock = Clock(
            key["seconds"],
            rate,
            setting.drops,
            setting.batch_size,
            None if folder is None else folder / "clock.json",
            by_cpu=key["clock"] == "cpu",
        )
        callbacks = [clock]
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            callbacks.append(Backup(folder, clock))
        fit = model.fit if trainer is None else trainer.fit
        settings = {"batch_size": setting.batch_size, "epochs": 10**6, "verbose": 0}
        if len(x) > len(train[0]) and setting.copies % COPIES_AN_EPOCH == 0:
            # A pass through 1.5 million images is too long between two backups.
            images = COPIES_AN_EPOCH * len(train[0])
            settings["steps_per_epoch"] = images // setting.batch_size
        fit(x, y, callbacks=callbacks, **settings)
    notes = clock.notes
    steps = notes["steps"]
    test_loss, test_error = evaluate(model, *test)
    per_pass = setting.batch_size / len(train[0])
    row = key | {
        "seconds_spent": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "resumed_at": clock.resumed_at,
        "batch_size": setting.batch_size,
        "examples": len(train[0]),
        "steps": int(steps),
        "passes": steps * per_pass,
        "scored": notes["scored"] * per_pass,
        "share": notes["importance"] / steps,
        "gain": notes["gain"] / steps,
        "tau": notes["tau"] / steps,
        "train_loss": evaluate(model, *train)[0],
        "test_loss": test_loss,
        "test_error": test_error,
        "keras": keras.__version__,
        "keras_swift": ks.__version__,
    }
    if folder is not None:
        shutil.rmtree(folder)
    return row


def evaluate(model, x, y):
    """The mean loss without penalties, and the share of wrong answers."""
    probability = model.predict(x, batch_size=500, verbose=0)
    of_label = probability[np.arange(len(y)), y]
    loss = float(-np.log(np.maximum(of_label, 1e-7)).mean())
    return loss, float((probability.argmax(axis=1) != y).mean())


@functools.cache
def machine():
    """The name of the device that trains."""
    name = None
    if keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        name = None if device.platform == "cpu" else device.device_kind
    elif keras.backend.backend() == "torch":
        import torch

        name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    else:
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        name = tf.config.experimental.get_device_details(found[0])["device_name"] if found else None
    if name is None:
        name = f"{processor()}, {len(os.sched_getaffinity(0))} cores"
    return name


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def read(file):
    if file is None or not os.path.exists(file):
        return []
    with open(file) as lines:
        return [json.loads(line) for line in lines]


def chosen_rate(rows, scale, task, method="uniform"):
    """The rate with the lowest test error of uniform training on the seeds for choosing."""
    errors = collections.defaultdict(list)
    for row in rows:
        same = (row["scale"], row["task"], row.get("method")) == (scale, task, method)
        if same and row["seed"] in CHOOSING:
            errors[row["rate"]].append(row["test_error"])
    if not errors:
        return SCALES[scale][task].rate
    return min(errors, key=lambda rate: np.mean(errors[rate]))


def planned(arguments, rows):
    """The runs that were asked for, a list of dicts."""
    keys = []
    for task in arguments.tasks:
        setting = SCALES[arguments.scale][task]
        seconds = arguments.seconds or setting.seconds
        methods = [m for m in arguments.methods if setting.copies or m != "uniform, layer"]
        rates = arguments.rates or (chosen_rate(rows, arguments.scale, task),)
        seeds = arguments.seeds
        if arguments.choose:
            methods, seeds = ["uniform"], CHOOSING[:1]
            rates = arguments.rates or setting.rates
        for seed in seeds:
            for method in methods:
                for rate in rates:
                    keys.append(
                        {
                            "task": task,
                            "scale": arguments.scale,
                            "method": method,
                            "seed": seed,
                            "rate": rate,
                            "seconds": seconds,
                            "clock": arguments.clock,
                            "backend": keras.backend.backend(),
                            "machine": machine(),
                        }
                    )
    return keys


def is_done(key, rows):
    return any(all(row.get(name) == value for name, value in key.items()) for row in rows)


def train_all(arguments):
    rows = read(arguments.out)
    new = []
    keys = [key for key in planned(arguments, rows) if not is_done(key, rows)]
    missing = {}
    foretell(keys, missing, arguments)
    for key in keys:
        if key["task"] in missing:
            continue
        folder = None
        if arguments.out:
            name = "-".join(str(value) for value in key.values())
            safe = "".join(c if c.isalnum() or c in "-." else "_" for c in name)
            folder = pathlib.Path(f"{arguments.out}.runs") / safe
        row = run(key, folder, arguments.data)
        new.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        keep(row, arguments.out)
    for task, reason in missing.items():
        row = {"task": task, "scale": arguments.scale, "not_run": reason}
        if row not in rows:
            new.append(row)
            keep(row, arguments.out)
    if arguments.out:
        with contextlib.suppress(OSError):
            os.rmdir(f"{arguments.out}.runs")
    return rows + new


def keep(row, out):
    if out:
        with open(out, "a") as file:
            file.write(json.dumps(row) + "\n")


def foretell(keys, missing, arguments):
    """Says how long the runs will take, and finds out what is missing."""
    total = 0.0
    for task in dict.fromkeys(key["task"] for key in keys):
        mine = [key for key in keys if key["task"] == task]
        first = mine[0]
        settings = (arguments.scale, task, "uniform", first["seed"], first["rate"], arguments.data)
        start = time.perf_counter()
        try:
            made(*settings)
        except NotAtHand as error:
            missing[task] = str(error)
            print(f"{task}: not run: {error}", file=sys.stderr)
            continue
        # Data, copies and the network to fine-tune are made once for each seed.
        once = time.perf_counter() - start
        start = time.perf_counter()
        of_train, of_test, (x, y), model, trainer = made(*settings)
        batch_size = SCALES[arguments.scale][task].batch_size
        step = warm_up(model, trainer, x, y, batch_size)
        evaluate(model, *of_train)
        evaluate(model, *of_test)
        # Fresh scores compile about as much again.
        around = time.perf_counter() - start
        passes = first["seconds"] / step * batch_size / len(of_train[0])
        seeds = len({key["seed"] for key in mine})
        hours = (len(mine) * (first["seconds"] + around) + seeds * once) / 3600
        total += hours
        print(
            f"{task}: {len(mine)} runs of {first['seconds']:g} s, and about {around:.0f} s around "
            f"each: {60 * hours:.0f} minutes. A uniform step takes {1000 * step:.1f} ms, so "
            f"uniform training makes about {passes:.0f} passes.",
            file=sys.stderr,
        )
    if keys:
        print(f"All together about {60 * total:.0f} minutes.", file=sys.stderr, flush=True)


def cells(rows):
    """Rows by what a table is about.

    Returns:
        A dict from `(scale, task, rate, seconds, clock, backend, machine)` to a dict
        from method to list of rows.
    """
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in rows:
        if "not_run" not in row and row["seed"] not in CHOOSING:
            names = ("scale", "task", "rate", "seconds", "clock", "backend", "machine")
            found[tuple(row[name] for name in names)][row["method"]].append(row)
    return found


def summarise(rows):
    tables = cells(rows)
    for (scale, task, rate, seconds, clock, backend, device), methods in tables.items():
        setting = SCALES[scale][task]
        tried = {
            row["rate"]
            for row in rows
            if (row["scale"], row["task"]) == (scale, task) and row.get("seed") in CHOOSING
        }
        grid = ", ".join(f"{r:g}" for r in sorted(tried))
        chosen = f"chosen for uniform on seed 0 out of {grid}" if tried else "not chosen"
        examples = next(iter(methods.values()))[0]["examples"]
        print(f"\n{task} ({scale}): the paper reports {setting.claim}.\n")
        print(
            f"{seconds:g} {UNITS[clock]} a run, {examples:,} examples, batches of "
            f"{setting.batch_size}, B = {setting.presample}, threshold {setting.tau_threshold:g}, "
            f"rate {rate:g} ({chosen}), {backend} on {device}.\n"
        )
        print(
            "| method | steps | passes | scored | share | gain | tau | train loss | test loss |"
            " test error | difference in train loss | in test error | seeds |\n|" + "---|" * 13
        )
        uniform = {row["seed"]: row for row in methods.get("uniform", [])}
        for method in [name for name in METHODS if name in methods]:
            found = methods[method]
            line = [method, f"{np.mean([r['steps'] for r in found]):,.0f}"]
            line += [f"{np.mean([r[name] for r in found]):.1f}" for name in ("passes", "scored")]
            line += [f"{np.mean([r[k] for r in found]):.2f}" for k in ("share", "gain", "tau")]
            line += [with_error([r[name] for r in found]) for name in MEASURES]
            paired = [r for r in found if r["seed"] in uniform and method != "uniform"]
            for name in ("train_loss", "test_error"):
                of_uniform = [uniform[r["seed"]][name] for r in paired]
                pairs = [r[name] - value for r, value in zip(paired, of_uniform, strict=True)]
                share = f" ({np.mean(pairs) / np.mean(of_uniform):+.0%})" if pairs else ""
                line.append(with_error(pairs, sign=True) + share if pairs else "")
            line.append(" ".join(str(r["seed"]) for r in sorted(found, key=lambda r: r["seed"])))
            print(f"| {' | '.join(line)} |")
    run = {(scale, task) for scale, task, *_ in tables}
    for row in rows:
        if "not_run" in row and (row["scale"], row["task"]) not in run:
            setting = SCALES[row["scale"]][row["task"]]
            print(f"\n{row['task']} ({row['scale']}): the paper reports {setting.claim}.\n")
            print(f"not run: {row['not_run']}")


def plot(rows, file):
    """A figure for each table, in `file` with the task's name added."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    tables = cells(rows)
    path = pathlib.Path(file)
    names = collections.Counter()
    for (scale, task, rate, seconds, clock, _, device), methods in tables.items():
        order = [name for name in METHODS if name in methods]
        figure = Figure(figsize=(9, 0.35 * len(order) + 1.6), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for panel, measure, name in zip(
            panels, ("train_loss", "test_error"), ("training loss", "test error"), strict=True
        ):
            for place, method in enumerate(order):
                values = [row[measure] for row in methods[method]]
                error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
                # Okabe and Ito's colours, which colour-blind readers can tell apart.
                color = {"ours": "#0072B2", "uniform": "#000000"}.get(method, "#E69F00")
                panel.errorbar(np.mean(values), place, xerr=error, color=color, marker="o")
                panel.plot(values, [place] * len(values), "|", color=color, alpha=0.5)
            if "uniform" in methods:
                level = np.mean([row[measure] for row in methods["uniform"]])
                panel.axvline(level, color="grey", linewidth=0.8, linestyle="--")
            panel.set_xlabel(name)
            panel.grid(axis="x", alpha=0.3)
        losses = [row["train_loss"] for name in order for row in methods[name]]
        if max(losses) > 5 * min(losses):
            panels[0].set_xscale("log")
            # By default each of 2 to 9 has a label, and they overlap.
            panels[0].xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            panels[0].xaxis.set_major_formatter("{x:g}")
            panels[0].xaxis.set_minor_formatter(NullFormatter())
        panels[0].set_yticks(range(len(order)), order)
        panels[0].invert_yaxis()
        figure.suptitle(
            f"{task} ({scale}), {seconds:g} {UNITS[clock]} a run at rate {rate:g}, {device}", size=9
        )
        names[task] += 1
        number = f"-{names[task]}" if names[task] > 1 else ""
        target = path.with_name(f"{path.stem}-{task}{number}{path.suffix}")
        figure.savefig(target, dpi=130)
        print(f"\nwrote {target}")


def with_error(values, sign=False):
    mean = f"{np.mean(values):{'+' if sign else ''}.4f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.4f}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = sorted({task for scale in SCALES.values() for task in scale})
    parser.add_argument("--scale", choices=("small", "paper"), default="small")
    parser.add_argument("--tasks", nargs="+", choices=every, help="default: all of the scale")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--rates", nargs="+", type=float, help="default: the chosen one")
    parser.add_argument("--seconds", type=float, help="the budget of a run; default: the task's")
    parser.add_argument(
        "--clock",
        choices=UNITS,
        default="wall",
        help="cpu: the budget is of CPU seconds, for a machine that does other work too; give it "
        "one core (taskset -c 0), so that they are the seconds of an idle one",
    )
    parser.add_argument("--choose", action="store_true", help="only uniform runs, at each rate")
    parser.add_argument("--data", metavar="FOLDER")
    parser.add_argument("--out", metavar="FILE.jsonl", help="append a line for each run")
    parser.add_argument(
        "--summary", nargs="+", metavar="FILE.jsonl", help="read in place of training"
    )
    parser.add_argument("--plot", metavar="FILE.png", help="draw a figure of each table")
    parser.add_argument("--quick", action="store_true", help="digits, two seconds each, one seed")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.scale, arguments.seeds = "quick", [2]
    known = SCALES[arguments.scale]
    arguments.tasks = arguments.tasks or list(known)
    unknown = [task for task in arguments.tasks if task not in known]
    if unknown:
        parser.error(f"`--scale {arguments.scale}` has no task {unknown[0]}")
    if arguments.summary:
        rows = [row for name in arguments.summary for row in read(name)]
    else:
        rows = train_all(arguments)
    summarise(rows)
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
