"""How much variance each score removes from the gradient: the ablation of the paper.

    python benchmarks/variance_reduction.py --data FOLDER --seeds 0 1 2

At checkpoints along uniform training, `B` examples are presampled and scored. For every score the
table has

- distance: the root mean square, over all draws of `b` of the `B`, of the distance between the
  weighted mean gradient of the draw and the presample's mean gradient, as a share of what it is
  for uniform draws with replacement. It is computed exactly, not by drawing:
  `(sum_i |g_i|^2 / (B^2 p_i) - |mean g|^2) / b`. Below 1, the score helps;
- rank: Spearman's correlation of the score with the true norm of the example's gradient.

Scores: the loss; the upper bound of the gradient norm (`"gradient_norm"`); the true norm, by one
training step for each example, the best any score can do. All are mixed with the default floor of
0.1. Means and standard errors are over seeds; each seed averages four presamples.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from scipy.stats import spearmanr
from tasks import TASKS

from keras_swift.src.importance.resampling import sampling_probability
from keras_swift.src.scoring.scorer import Scorer

SCORES = ("loss", "bound", "true norm")
FLOOR, PRESAMPLES = 0.1, 4


def squared_distance(norms, mean, probability):
    """The variance of the weighted mean gradient of one draw."""
    return np.sum(norms**2 / probability) / len(norms) ** 2 - mean**2


def gradient_norm(model, probe, x, y):
    """The norm of the batch's gradient, by one step of rate 1 on a copy of the model."""
    start = model.get_weights()
    probe.set_weights(start)
    probe.train_on_batch(x, y)
    moved = zip(start, probe.get_weights(), strict=True)
    return np.sqrt(sum(np.sum((a - b) ** 2.0) for a, b in moved))


def checkpoint(model, probe, scorer, x, y, size, generator):
    """One row of numbers for each score, meaned over presamples."""
    rows = []
    for _ in range(PRESAMPLES):
        chosen = generator.choice(len(x), size, replace=False)
        batch = x[chosen], y[chosen]
        scored = scorer(*batch)
        rows_of_batch = [[part[i : i + 1] for part in batch] for i in range(size)]
        norms = np.array([gradient_norm(model, probe, *row) for row in rows_of_batch])
        mean = gradient_norm(model, probe, *batch)
        scores = {"loss": scored["loss"], "bound": scored["gradient_norm"], "true norm": norms}
        uniform = squared_distance(norms, mean, np.full(size, 1 / size))
        row = []
        for name in SCORES:
            probability = sampling_probability(scores[name].astype(np.float64), FLOOR)
            row.append(np.sqrt(squared_distance(norms, mean, probability) / uniform))
            row.append(spearmanr(scores[name], norms).statistic)
        rows.append(row)
    return np.mean(rows, axis=0)


def run(name, rate, arguments, seed):
    task = TASKS[name]
    x, y, _, _ = task.load(arguments.data, arguments.examples or task.examples, seed)
    keras.utils.set_random_seed(seed)
    model, probe = task.build(), task.build()
    loss = "sparse_categorical_crossentropy"
    model.compile(task.optimizer(rate), loss)
    probe.compile(keras.optimizers.SGD(1.0), loss)
    scorer = Scorer(model)
    generator = np.random.default_rng(seed)
    table, done = [], 0
    for steps in arguments.checkpoints:
        rows = generator.integers(0, len(x), (steps - done) * 128)
        if len(rows):
            model.fit(x[rows], y[rows], batch_size=128, shuffle=False, verbose=0)
        done = steps
        table.append(checkpoint(model, probe, scorer, x, y, arguments.presample, generator))
    return np.array(table)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["fashion-cnn", "cifar10"])
    parser.add_argument("--data", metavar="FOLDER")
    parser.add_argument("--examples", type=int, help="training examples; default: the task's")
    parser.add_argument("--presample", type=int, default=384, metavar="B")
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[20, 100, 500, 2000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="one seed, two early checkpoints")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.checkpoints, arguments.seeds, arguments.presample = [5, 20], [0], 64
    for name in arguments.tasks:
        rate = TASKS[name].rates[1]
        tables = np.array([run(name, rate, arguments, seed) for seed in arguments.seeds])
        mean = tables.mean(axis=0)
        error = tables.std(axis=0, ddof=1) / np.sqrt(len(tables)) if len(tables) > 1 else 0 * mean
        print(
            f"\n{name}, {keras.backend.backend()}, rate {rate:g}, B = {arguments.presample}, "
            f"seeds {arguments.seeds}\n"
        )
        head = [f"{score}: {kind}" for score in SCORES for kind in ("distance", "rank")]
        print(f"| step | {' | '.join(head)} |\n|{'---|' * (len(head) + 1)}")
        for steps, values, errors in zip(arguments.checkpoints, mean, error, strict=True):
            cells = [f"{v:.3f} ± {e:.3f}" for v, e in zip(values, errors, strict=True)]
            print(f"| {steps} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
