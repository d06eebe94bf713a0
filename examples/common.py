"""What the examples share: arguments, data, and a fair comparison."""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops

import keras_swift as ks

SHAKESPEARE = "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt"


def ratio_or_auto(text):
    return text if text == "auto" else float(text)


def parser(description, epochs, seeds=1, plot=None):
    """The arguments every example takes; `plot` is the file of its figure, if it always has one."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--epochs", type=int, default=epochs)
    found.add_argument("--seed", type=int, default=0, help="the first seed")
    found.add_argument("--seeds", type=int, default=seeds, help="how many, from the first one on")
    found.add_argument("--batch-size", type=int, default=32)
    found.add_argument(
        "--presample",
        type=ratio_or_auto,
        help="examples scored per trained, the paper's rule, or auto, the default",
    )
    found.add_argument("--tau-threshold", type=float, help="default: the paper's; 0: always on")
    found.add_argument("--examples", type=int, help="train on that many examples only")
    found.add_argument(
        "--data",
        metavar="FILE.npz",
        help="arrays x_train, y_train, x_test, y_test; default: Keras downloads them, and without "
        "a network scikit-learn's digits are used",
    )
    found.add_argument(
        "--plot",
        metavar="FILE.png",
        default=plot,
        help="the figure of the last run; default: %(default)s",
    )
    return found


def set_seed(seed):
    """`keras.utils.set_random_seed`, but leaves TensorFlow unseeded.

    With a seed for TensorFlow `fit` shuffles arrays in the same order in every
    epoch (Keras 3.15), and uniform training ends far worse than it has to.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.random.set_seed(None)


class FlipAndShift(keras.layers.Layer):
    """Flips half of the images and shifts all by up to an eighth, in training only."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator()

    def call(self, images, training=False):
        if not training:
            return images
        count, size = ops.shape(images)[0], images.shape[1]
        pad = size // 8
        flips = keras.random.uniform((count, 1, 1, 1), seed=self.seeds) < 0.5
        images = ops.where(flips, ops.flip(images, axis=2), images)
        # A product with zeros and ones: gathering rows image by image is slow on most backends.
        for pattern in ("bij,bjkc->bikc", "bij,bkjc->bkic"):
            shifts = keras.random.randint((count,), -pad, pad + 1, seed=self.seeds)
            places = ops.expand_dims(shifts, 1) + ops.arange(size, dtype=shifts.dtype)
            # Rows of zeros where the place is outside.
            found = ops.expand_dims(places, 2) == ops.arange(size, dtype=shifts.dtype)
            images = ops.einsum(pattern, ops.cast(found, images.dtype), images)
        return images


def digits():
    """scikit-learn's digits as `(n, 8, 8)` bytes: 1,437 for training, 360 for testing."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.round(images * (255 / 16)).astype("uint8").reshape(-1, 8, 8)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1437], order[1437:]
    return (images[train], labels[train]), (images[test], labels[test])


def load(arguments, name):
    """`(x, y), (x_test, y_test)` of images `(n, height, width, channels)` in [0, 1]."""
    if arguments.data:
        with np.load(arguments.data) as file:
            data = (
                (file["x_train"], file["y_train"]),
                (file["x_test"], file["y_test"]),
            )
    else:
        try:
            data = getattr(keras.datasets, name).load_data()
        except Exception as error:
            print(f"{name} cannot be downloaded ({error}); using scikit-learn's digits.")
            data = digits()
    return tuple(
        (as_images(x), np.reshape(y, -1).astype("int64"))
        for x, y in ((data[0][0][: arguments.examples], data[0][1][: arguments.examples]), data[1])
    )


def read_text(path):
    """The text of a file, or one that can be had without."""
    if path is None:
        try:
            path = keras.utils.get_file("shakespeare.txt", SHAKESPEARE)
        except Exception as error:
            print(f"No text can be downloaded ({error}); using scikit-learn's descriptions.")
            from sklearn import datasets

            names = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
            return "\n".join(getattr(datasets, f"load_{name}")().DESCR for name in names)
    with open(path, encoding="utf-8") as file:
        return file.read()


def as_images(x):
    x = x.astype("float32") / 255
    return x if x.ndim == 4 else x[..., None]


def falling(rate, arguments, examples):
    """The rate falls along a cosine to zero: a schedule under which uniform training is strong."""
    steps = -(-examples // arguments.batch_size) * arguments.epochs
    return keras.optimizers.schedules.CosineDecay(rate, steps)


def compare(build, arguments, data):
    """Trains with `model.fit` and by importance, on the same seeds; prints a table.

    Both sides pass over the data equally often. Remembered scores cost nothing beyond that; with a
    number for `--presample` the scoring of presamples comes on top, and the table says how much.

    Args:
        build: function of no arguments that returns a compiled model.
        arguments: what `parser` read.
        data: what `load` returned.
    """
    (x, y), (x_test, y_test) = data
    print(f"{len(x)} training examples of shape {x.shape[1:]}, {len(x_test)} test examples")
    print(f"backend {keras.backend.backend()}, batch {arguments.batch_size}, ", end="")
    print(f"{arguments.epochs} epochs, {arguments.seeds} seeds", flush=True)
    rows, history = {}, None
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    # A bar for whoever watches, not for a file.
    bar = 1 if sys.stdout.isatty() else 0
    settings = {"batch_size": arguments.batch_size, "epochs": arguments.epochs, "verbose": bar}
    # Importance training eases off where the validation loss stops falling.
    settings["validation_split"] = 0.1
    for side in ("fit", "importance"):
        rows[side] = []
        for seed in seeds:
            if bar:
                print(f"{side}, seed {seed}")
            set_seed(seed)
            model = build()
            cost = 1.0
            if side == "fit":
                model.fit(x, y, **settings)
            else:
                trainer = ks.ImportanceTraining(
                    model,
                    presample=arguments.presample,
                    tau_threshold=arguments.tau_threshold,
                    seed=seed,
                )
                history = trainer.fit(x, y, **settings).history
                ratio, share = (np.mean(history[name]) for name in ("presample", "importance"))
                # `presample` counts a uniform step as 1, which scores nothing. A forward pass is
                # about a third of training on an example.
                cost += (ratio - 1 + share) / 3 if ratio > 1 else 0.0
            loss = model.evaluate(x, y, batch_size=512, verbose=0, return_dict=True)["loss"]
            test = model.evaluate(x_test, y_test, batch_size=512, verbose=0, return_dict=True)
            rows[side].append((cost, loss, test["loss"], 1 - test["accuracy"]))
    print("\n| training | cost | train loss | test loss | test error |\n|---|---|---|---|---|")
    for name, found in rows.items():
        cost, *measured = np.mean(found, axis=0)
        print(f"| {name} | {cost:.2f} | {' | '.join(f'{value:.4f}' for value in measured)} |")
    print(
        f"\nDrawn by importance: {np.mean(history['importance']):.0%} of the steps. At the end "
        f"a step has the noise of a batch {history['gain'][-1]:.2f} times as large."
    )
    change = np.mean(rows["importance"], axis=0) / np.mean(rows["fit"], axis=0) - 1
    print(
        f"Against `model.fit`: train loss {change[1]:+.0%}, test loss {change[2]:+.0%}, test error "
        f"{change[3]:+.0%}."
    )
    if arguments.plot:
        try:
            ks.plot_training(history, arguments.plot)
        except ImportError as error:
            # After minutes of training a missing figure is no reason to fail.
            print(error)
        else:
            print(f"wrote {arguments.plot}")
