"""Which wrong targets are found, by whom, at which price: targets of every kind.

    python benchmarks/suspects.py
    python benchmarks/suspects.py multi-label values --seeds 20 21 --out suspects.jsonl
    python benchmarks/suspects.py --summary suspects.jsonl

digits, digits next   scikit-learn's digits as classes, 20 % moved at random or to the next class
table                 `make_classification`, five classes, 20 % moved at random
multi-label           six labels a row, one wrong in a tenth of the rows
steps                 a tag at each of eight steps, 8 % wrong
values                Friedman's first function, a twentieth of the values off by 3 to 8 deviations

Ours is `find_suspects`, one training. "importance" is `trainer.suspects()` after
`ImportanceTraining.fit`, "sampler" after a `SwiftTraining.fit` that leaves out a fifth by its own
record, both at no price of their own. "small loss" is the loss when last seen. "margins"
is the area under the margin (Pleiss et al., 2020): the logit of the label less the largest other,
summed over the epochs; one training and a forward pass after each epoch. cleanlab
(`pip install cleanlab`, left out if it is missing) gets predictions of three networks, each trained
on two thirds of the data, as its documentation asks for: two trainings. The price is in trainings.

AUROC and average precision of a wrong target; precision and recall of those that each chooses;
whether the interval holds the truth.
"""

import argparse
import importlib.util
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import (
    load_digits,
    make_classification,
    make_friedman1,
    make_multilabel_classification,
)
from sklearn.metrics import average_precision_score, roc_auc_score

import keras_swift as ks

EPOCHS = 20
# Leaves out the fifth with the smallest mean margins.
FOUR_FIFTHS = ks.SwiftSampler([0.2, 0.2], [0, 0, 1, 1], [1.0], ["mean_margin"], "cdf")


def classes_of(kind, generator):
    if kind == "table":
        x, y = make_classification(
            1500, 20, n_informative=10, n_classes=5, class_sep=1.6, flip_y=0, random_state=7
        )
        x, count = (x - x.mean(0)) / x.std(0), 5
    else:
        x, y = load_digits(return_X_y=True)
        x, count = x / 16, 10
    wrong = generator.random(len(y)) < 0.2
    steps = 1 if kind == "digits next" else generator.integers(1, count, len(y))
    return x.astype("float32"), np.where(wrong, (y + steps) % count, y), wrong


def multi_label(generator):
    x, y = make_multilabel_classification(
        1500, 30, n_classes=6, random_state=int(generator.integers(1000))
    )
    rows = np.flatnonzero(generator.random(1500) < 0.1)
    wrong = np.zeros(y.shape, bool)
    wrong[rows, generator.integers(0, 6, len(rows))] = True
    return (x / x.std()).astype("float32"), np.where(wrong, 1 - y, y).astype("float32"), wrong


def steps(generator):
    """The tag of a token depends on it and the one before."""
    x = generator.integers(1, 30, (600, 8))
    before = np.concatenate([np.zeros((600, 1), int), x[:, :-1]], axis=1)
    y = (x + (before > 15)) % 4
    wrong = generator.random(y.shape) < 0.08
    return x, np.where(wrong, (y + generator.integers(1, 4, y.shape)) % 4, y), wrong


def values(generator):
    x, y = make_friedman1(1500, 10, noise=1.0, random_state=int(generator.integers(1000)))
    wrong = generator.random(1500) < 0.05
    off = generator.uniform(3, 8, 1500) * generator.choice([-1, 1], 1500) * 5.0 / 2
    y = (y - y.mean()) / y.std()
    return x.astype("float32"), (y + wrong * off / 2.5).astype("float32"), wrong


MADE = {"multi-label": multi_label, "steps": steps, "values": values}
KINDS = ("digits", "digits next", "table", *MADE)


def network(kind, x, y, seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    stack, loss = [layers.Dense(64, activation="relu")], "sparse_categorical_crossentropy"
    if kind == "steps":
        stack = [layers.Embedding(30, 16), layers.Conv1D(32, 2, padding="causal"), layers.ReLU()]
    if kind == "values":
        stack, loss = [*stack, layers.Dense(1)], "mae"
    elif kind == "multi-label":
        stack, loss = [*stack, layers.Dense(6, activation="sigmoid")], "binary_crossentropy"
    else:
        stack = [*stack, layers.Dense(int(y.max()) + 1, activation="softmax")]
    model = keras.Sequential([keras.Input(x.shape[1:]), *stack])
    model.compile(keras.optimizers.Adam(0.003), loss)
    return model


def predicted_by_others(kind, x, y, seed):
    folds = np.random.default_rng(seed).integers(3, size=len(x))
    found = None
    for fold in range(3):
        model = network(kind, x, y, 50 + seed)
        model.fit(x[folds != fold], y[folds != fold], epochs=EPOCHS, verbose=0)
        outputs = model.predict(x[folds == fold], verbose=0)
        found = np.zeros((len(x), *outputs.shape[1:])) if found is None else found
        found[folds == fold] = outputs
    return found


def by_cleanlab(kind, x, y, seed):
    """Doubts and choices of cleanlab; for several targets by the example."""
    p = predicted_by_others(kind, x, y, seed)
    if kind == "values":
        from cleanlab.regression.rank import get_label_quality_scores

        return -get_label_quality_scores(y, p.reshape(-1)), None
    if kind == "multi-label":
        from cleanlab.multilabel_classification import filter as issues
        from cleanlab.multilabel_classification.rank import get_label_quality_scores

        labels = [list(np.flatnonzero(row)) for row in y]
        chosen = issues.find_label_issues(labels=labels, pred_probs=p)
        return -get_label_quality_scores(labels, p), chosen
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    # Steps are so many labels.
    p = p.reshape(-1, p.shape[-1])
    p /= p.sum(axis=1, keepdims=True)
    labels = y.reshape(-1)
    chosen = find_label_issues(labels=labels, pred_probs=p, n_jobs=1)
    return -get_label_quality_scores(labels=labels, pred_probs=p), chosen


class Margins(keras.callbacks.Callback):
    """Sums the margins of all labels over the epochs."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.labels, self.area = x, y.reshape(-1).astype(int), 0.0

    def on_epoch_end(self, epoch, logs=None):
        p = self.model.predict(self.x, verbose=0)
        # Logits but for a constant of each example, of which a margin is free.
        logits = np.log(np.maximum(p.reshape(-1, p.shape[-1]).astype(np.float64), 1e-30))
        rows = np.arange(len(logits))
        own = logits[rows, self.labels]
        logits[rows, self.labels] = -np.inf
        self.area = self.area + own - logits.max(axis=1)


def by_margins(kind, x, y, seed):
    margins = Margins(x, y)
    network(kind, x, y, seed).fit(x, y, epochs=EPOCHS, verbose=0, callbacks=[margins])
    return -margins.area


def measured(wrong, scores, chosen=None):
    row = {
        "AUROC": float(roc_auc_score(wrong, scores)),
        "average precision": float(average_precision_score(wrong, scores)),
    }
    if chosen is not None:
        row["precision"] = float(wrong[chosen].mean()) if chosen.any() else 1.0
        row["recall"] = float(chosen[wrong].mean())
    return row


def one(kind, seed):
    generator = np.random.default_rng(seed)
    x, y, wrong = MADE[kind](generator) if kind in MADE else classes_of(kind, generator)
    found = ks.find_suspects(network(kind, x, y, seed), x, y, epochs=EPOCHS, seed=seed, verbose=0)
    chosen = np.zeros(wrong.shape, bool)
    place = (found.indices,) if found.entries is None else (found.indices, found.entries)
    chosen[place] = True
    rows = {"ours": measured(wrong.reshape(-1), found.scores.reshape(-1), chosen.reshape(-1))}
    share = found.wrong_share
    rows["ours"] |= {"price": 1.0, "held": bool(share.low <= wrong.mean() <= share.high)}
    by_row = wrong if wrong.ndim == 1 else wrong.any(axis=1)
    if wrong.ndim == 1:
        rows["small loss"] = {**measured(wrong, found.record.loss), "price": 1.0}
    else:
        worst = found.scores.max(axis=1)
        rows["ours by example"] = {**measured(by_row, worst, chosen.any(axis=1)), "price": 1.0}
    if kind in ("digits", "digits next", "table"):
        trainer = ks.ImportanceTraining(network(kind, x, y, seed), seed=seed)
        trainer.fit(x, y, epochs=EPOCHS, verbose=0)
        again = trainer.suspects()
        rows["importance"] = {**measured(wrong, again.scores, ~again.keep), "price": 0.0}
        trainer = ks.SwiftTraining(network(kind, x, y, seed), FOUR_FIFTHS, seed=seed)
        trainer.fit(x, y, epochs=EPOCHS, verbose=0)
        again = trainer.suspects()
        rows["sampler"] = {**measured(wrong, again.scores, ~again.keep), "price": 0.0}
    if kind not in ("multi-label", "values"):
        doubts = by_margins(kind, x, y, seed)
        rows["margins"] = {**measured(wrong.reshape(-1), doubts), "price": 1.3}
    if importlib.util.find_spec("cleanlab") is not None:
        doubts, flagged = by_cleanlab(kind, x, y, seed)
        truth = by_row if kind == "multi-label" else wrong.reshape(-1)
        rows["cleanlab"] = {**measured(truth, doubts, flagged), "price": 2.0}
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", default=[], choices=[*KINDS, []])
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22, 23, 24])
    parser.add_argument("--out", help="append a JSON line for each run; those in it are not redone")
    parser.add_argument("--summary", metavar="FILE.jsonl", help="read, train nothing")
    arguments = parser.parse_args()
    where = arguments.summary or arguments.out
    rows = []
    if where and os.path.exists(where):
        with open(where) as opened:
            rows = [json.loads(line) for line in opened if line.endswith("\n")]
    made = {(row["kind"], row["seed"]) for row in rows}
    for kind in [] if arguments.summary else arguments.kinds or KINDS:
        for seed in arguments.seeds:
            if (kind, seed) in made:
                continue
            rows.append({"kind": kind, "seed": seed, **one(kind, seed)})
            if arguments.out:
                with open(arguments.out, "a") as opened:
                    opened.write(json.dumps(rows[-1]) + "\n")
    summarise(rows)


def summarise(rows):
    names = ("AUROC", "average precision", "precision", "recall", "held", "price")
    print(f"| targets | method | {' | '.join(names)} | seeds |\n|{'---|' * (len(names) + 3)}")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        some = [row for row in rows if row["kind"] == kind]
        for name in some[0]:
            if name in ("kind", "seed"):
                continue
            cells = []
            for measure in names:
                found = [row[name][measure] for row in some if measure in row[name]]
                cells.append(f"{np.mean(found):.3f}" if found else "")
            print(f"| {kind} | {name} | {' | '.join(cells)} | {len(some)} |")


if __name__ == "__main__":
    main()
