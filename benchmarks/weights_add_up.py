"""Whether the weights of each kind of example add up to 1 over an epoch, as those of `fit` do.

    python benchmarks/weights_add_up.py [--rows 20000] [--seeds 0 1 2]

A table of eight classes, an MLP, batches of 128, four epochs of importance training from arrays and
from a generator with ids. For each epoch drawn by importance and each tenth of the examples, by
their score when the epoch begins: the sum of an example's importance weights in the epoch, over the
mean of all. It is 1 for each tenth if the average gradient is that of the data. Scores change while
the epoch lasts, most of all those of the examples that are drawn: a draw whose probabilities they
change at once shows here. Rows of a generator are drawn from for a quarter of an epoch after they
were read; those that an epoch inherits so from the one before are left out.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import make_classification

import keras_swift as ks

BATCH, EPOCHS = 128, 4


def table(rows):
    return make_classification(
        rows,
        n_features=24,
        n_informative=12,
        n_redundant=0,
        n_classes=8,
        n_clusters_per_class=3,
        weights=[0.4, 0.2, 0.12, 0.1, 0.08, 0.05, 0.03],
        class_sep=1.5,
        flip_y=0,
        random_state=0,
    )


def build(seed, steps):
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(64, "relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((24,)), *hidden, keras.layers.Dense(8, "softmax")])
    rate = keras.optimizers.schedules.CosineDecay(0.11, steps * EPOCHS)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


class Weights(keras.callbacks.Callback):
    """The sum of the weights of each example in each epoch, and its score when that begins.

    Args:
        trainer: `ImportanceTraining`.
        orders: list of int arrays, to which a generator adds the rows of each pass; empty for
            arrays.
        rows: int, how many examples there are.
    """

    def __init__(self, trainer, orders, rows):
        super().__init__()
        self.trainer, self.orders = trainer, orders
        self.sums = np.zeros((EPOCHS, rows))
        self.scores, self.late = np.zeros((EPOCHS, rows)), np.zeros((EPOCHS, rows), bool)
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, memory = epoch, self.trainer.memory
        if epoch:
            self.scores[epoch] = memory.score
            if self.orders:
                order = self.orders[epoch - 1]
                late = order[-len(order) // 4 :]
                self.late[epoch] = np.isin(np.asarray(memory.ids).astype(int), late)

    def on_batch_drawn(self, batch):
        np.add.at(self.sums[self.epoch], batch.indices, batch.importance)

    def by_tenth(self, epoch):
        """The mean sum in each tenth of the examples, by rising score."""
        sums, scores = (part[epoch][~self.late[epoch]] for part in (self.sums, self.scores))
        tenths = np.array_split(np.argsort(scores, kind="stable"), 10)
        return np.array([sums[rows].mean() for rows in tenths]) / sums.mean()


def run(source, x, y, seed):
    steps, orders = -(-len(x) // BATCH), []
    model = build(seed, steps)
    trainer = ks.ImportanceTraining(model, seed=seed)
    weights = Weights(trainer, orders, len(x))
    given = {"epochs": EPOCHS, "verbose": 0, "callbacks": [weights]}
    if source == "arrays":
        trainer.fit(x, y, batch_size=BATCH, **given)
    else:

        def batches():
            generator = np.random.default_rng(seed)
            while True:
                orders.append(generator.permutation(len(x)))
                for rows in np.split(orders[-1], range(BATCH, len(x), BATCH)):
                    yield x[rows], y[rows], None, rows

        trainer.fit(batches(), steps_per_epoch=steps, **given)
    return [weights.by_tenth(epoch) for epoch in range(1, EPOCHS)]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    x, y = table(arguments.rows)
    x = x.astype("float32")
    print(f"| source | epoch | {' | '.join(f'tenth {n}' for n in range(1, 11))} |")
    print(f"|{'---|' * 12}")
    for source in ("arrays", "generator"):
        found = [run(source, x, y, seed) for seed in arguments.seeds]
        for epoch, by_tenth in enumerate(np.mean(found, axis=0), 2):
            print(f"| {source} | {epoch} | {' | '.join(f'{mean:.2f}' for mean in by_tenth)} |")
        if len(found) > 1:
            errors = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
            print(f"standard errors up to {errors.max():.2f}")


if __name__ == "__main__":
    main()
