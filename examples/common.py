"""What the examples share: arguments, data, and a fair comparison."""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_swift as ks

CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def ratio_or_auto(text):
    return text if text == "auto" else float(text)


def parser(description, epochs):
    """The arguments every example takes."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--epochs", type=int, default=epochs, help="epochs of uniform training")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--batch-size", type=int, default=128)
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
        "--clock",
        choices=CLOCKS,
        default="cpu",
        help="what equal cost means: the process' CPU seconds, or (on a GPU) wall-clock seconds",
    )
    found.add_argument("--plot", metavar="FILE.png", help="write a figure of the run")
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


def as_images(x):
    x = x.astype("float32") / 255
    return x if x.ndim == 4 else x[..., None]


class Clock(keras.callbacks.Callback):
    """Counts the seconds of training steps, and ends the run when they are spent.

    A step that takes ten times the median has compiled something; it counts as
    a median one, because the comparison is about training. The learning rate
    follows `schedule`, a function of the spent share of the run, at the start
    of each epoch.
    """

    def __init__(self, clock, rate, schedule, epochs, seconds=None):
        super().__init__()
        self.now = CLOCKS[clock]
        self.rate, self.schedule, self.epochs, self.budget = rate, schedule, epochs, seconds
        self.steps = []

    def spent(self):
        if not self.steps:
            return 0.0
        return float(np.minimum(self.steps, 10 * np.median(self.steps)).sum())

    def on_epoch_begin(self, epoch, logs=None):
        done = epoch / self.epochs if self.budget is None else min(1.0, self.spent() / self.budget)
        self.model.optimizer.learning_rate = self.rate * self.schedule(done)
        self.start = self.now()

    def on_train_batch_end(self, batch, logs=None):
        now = self.now()
        self.steps.append(now - self.start)
        self.start = now
        # The median over a long list is taken now and then.
        if self.budget is not None and len(self.steps) % 8 == 0 and self.spent() >= self.budget:
            self.model.stop_training = True


SCHEDULES = {
    "constant": lambda done: 1.0,
    "step": lambda done: 1.0 if done < 0.5 else (0.2 if done < 0.75 else 0.04),
    "cosine": lambda done: 0.5 * (1 + np.cos(np.pi * done)),
}


def compare(build, arguments, data, rate, schedule="constant"):
    """Trains uniformly, then by importance for the same seconds; prints a table.

    Args:
        build: function of no arguments that returns a compiled model.
        arguments: what `parser` read.
        data: what `load` returned.
        rate: float, the initial learning rate.
        schedule: a name of `SCHEDULES`. Defaults to `"constant"`.
    """
    (x, y), (x_test, y_test) = data
    print(f"{len(x)} training examples of shape {x.shape[1:]}, {len(x_test)} test examples")
    print(f"backend {keras.backend.backend()}, seed {arguments.seed}, {schedule} rate {rate:g}")
    rows, seconds = [], None
    for name in ("uniform", "importance"):
        set_seed(arguments.seed)
        model = build()
        clock = Clock(arguments.clock, rate, SCHEDULES[schedule], arguments.epochs, seconds)
        print(f"\n{name}")
        if name == "uniform":
            model.fit(
                x, y, batch_size=arguments.batch_size, epochs=arguments.epochs, callbacks=[clock]
            )
            seconds = clock.spent()
        else:
            # An example may come with the paper's threshold.
            threshold = None if arguments.presample == "auto" else arguments.tau_threshold
            measured = arguments.presample in ("auto", None) and threshold is None
            trainer = ks.ImportanceTraining(
                model,
                presample=arguments.presample,
                tau_threshold=threshold,
                seed=arguments.seed,
            )
            history = trainer.fit(
                x,
                y,
                batch_size=arguments.batch_size,
                # The clock ends the run. "auto" is told of the end; the paper's gate may make
                # epochs cheap.
                epochs=arguments.epochs if measured else 10 * arguments.epochs,
                callbacks=[clock],
            )
        loss = model.evaluate(x, y, batch_size=512, verbose=0, return_dict=True)["loss"]
        test = model.evaluate(x_test, y_test, batch_size=512, verbose=0, return_dict=True)
        rows.append((name, len(clock.steps), clock.spent(), loss, 1 - test["accuracy"]))
    if arguments.plot:
        ks.plot_training(history, arguments.plot)
        print(f"\nwrote {arguments.plot}")
    print(
        f"\n| training | steps | {arguments.clock} seconds | train loss | test error |\n"
        "|---|---|---|---|---|"
    )
    for name, steps, spent, loss, error in rows:
        print(f"| {name} | {steps} | {spent:.1f} | {loss:.4f} | {error:.4f} |")
    print(
        f"\nSteps drawn by importance, by epoch: first "
        f"{history.history['importance'][0]:.0%}, last {history.history['importance'][-1]:.0%}; "
        f"variance reduction tau at the end {history.history['tau'][-1]:.2f}."
    )
