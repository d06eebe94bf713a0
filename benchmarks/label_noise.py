"""What a searched sampler is worth where labels are wrong.

    python benchmarks/label_noise.py digits
    python benchmarks/label_noise.py symmetric noisy-validation --data cifar10.npz
    python benchmarks/label_noise.py worse aggre --data cifar10.npz --human-labels cifar10n.npz
    python benchmarks/label_noise.py --summary results.jsonl

For each seed: search a sampler, then train the same network from scratch
uniformly and under the sampler, for as many epochs, and compare their accuracy
on clean test data after the last one ("test"), and with the weights averaged
over the last epoch ("averaged"). The test data are used for nothing else.
Each run prints its lines as it ends and appends a JSON line to `--out`.

digits            scikit-learn's digits: 1,000 training images, 40 % wrong labels, an MLP, 300
                  clean validation images
digits-noisy-validation, digits-clean
                  the same, and validation labels are as wrong; the same without wrong labels
symmetric         CIFAR-10: 10,000 training images, 40 % of labels moved uniformly to other
                  classes, a small CNN, 3,000 clean validation images
noisy-validation  the same, and validation labels are as wrong as the training labels
worse, aggre      human labels of CIFAR-10N, 40 % and 9 % wrong; clean validation labels
clean             CIFAR-10 as it is

`--data` is an .npz file with x_train, y_train, x_test, y_test; without it Keras downloads CIFAR-10.
`--human-labels` is an .npz file with the arrays `worse` and `aggre`, in CIFAR-10's order.
"""

import argparse
import collections
import functools
import importlib.util
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

import keras_swift as ks
from keras_swift.src.fitting.weight_average import WeightAverage
from keras_swift.src.swift.feature_table import RECORDED_NAMES

Data = collections.namedtuple("Data", "x y wrong x_validation y_validation x_test y_test")


def move_labels(labels, share, generator, classes=10):
    """Moves that share of the labels uniformly to other classes."""
    moved = generator.random(len(labels)) < share
    steps = generator.integers(1, classes, len(labels))
    return np.where(moved, (labels + steps) % classes, labels)


def digits(setting, seed):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(y))
    x, y = (x[order] / 16).astype("float32"), y[order]
    noisy = y[:1000] if setting == "digits-clean" else move_labels(y[:1000], 0.4, generator)
    y_validation = y[1000:1300]
    if setting == "digits-noisy-validation":
        y_validation = move_labels(y_validation, 0.4, generator)
    return Data(x[:1000], noisy, noisy != y[:1000], x[1000:1300], y_validation, x[1300:], y[1300:])


def cifar10(setting, seed, arguments):
    if arguments.data:
        with np.load(arguments.data) as file:
            arrays = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    else:
        (x, y), (x_test, y_test) = keras.datasets.cifar10.load_data()
        arrays = [x, y, x_test, y_test]
    x, y, x_test, y_test = arrays
    y, y_test = y.reshape(-1).astype("int64"), y_test.reshape(-1).astype("int64")
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(y))
    train = order[: arguments.examples]
    validation = order[arguments.examples : arguments.examples + arguments.validation]
    y_validation = y[validation]
    if setting == "clean":
        noisy = y[train]
    elif setting in ("worse", "aggre"):
        if not arguments.human_labels:
            raise SystemExit(f"{setting} needs --human-labels FILE.npz")
        with np.load(arguments.human_labels) as file:
            noisy = file[setting].astype("int64")[train]
    else:
        noisy = move_labels(y[train], 0.4, generator)
    if setting == "noisy-validation":
        y_validation = move_labels(y_validation, 0.4, generator)

    def images(array):
        return (array.astype("float32") / 255 - 0.5) / 0.25

    return Data(
        images(x[train]),
        noisy,
        noisy != y[train],
        images(x[validation]),
        y_validation,
        images(x_test),
        y_test,
    )


def generalised_cross_entropy(y_true, y_pred, q=0.7):
    """Zhang and Sabuncu, NeurIPS 2018: `(1 - p_y**q) / q`, from logits."""
    labels = keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int32"), 10)
    probability = keras.ops.sum(labels * keras.ops.softmax(y_pred), axis=-1)
    return (1.0 - probability**q) / q


def smoothed_cross_entropy(y_true, y_pred, share=0.2):
    """Cross-entropy with label smoothing, from logits."""
    labels = keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int32"), 10)
    return keras.losses.categorical_crossentropy(
        labels, y_pred, from_logits=True, label_smoothing=share
    )


LOSSES = {"smoothing": smoothed_cross_entropy, "generalised": generalised_cross_entropy}


def compiled(layers, rate, loss=None):
    model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.Adam(rate),
        loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def mlp(seed, loss=None, width=128, classes=10):
    keras.utils.set_random_seed(seed)
    dense = [keras.layers.Dense(width, activation="relu") for _ in range(2)]
    return compiled([keras.Input((64,)), *dense, keras.layers.Dense(classes)], 1e-3, loss)


def cnn(seed, loss=None, classes=10, width=32):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return compiled(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(width, 5, strides=2, padding="same", activation="relu"),
            layers.Conv2D(2 * width, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(4 * width, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(classes),
        ],
        1e-3,
        loss,
    )


def pooled_cnn(seed):
    """Another architecture: no dense layer and no dropout, but batch normalisation."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    stack = [keras.Input((32, 32, 3))]
    for filters, size, strides in ((32, 5, 2), (64, 3, 2), (128, 3, 1)):
        stack += [
            layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    return compiled([*stack, layers.GlobalAveragePooling2D(), layers.Dense(10)], 1e-3)


def small_mlp(seed):
    return mlp(seed, width=64)


def accuracy(model, data):
    outputs = model.predict(data.x_test, batch_size=500, verbose=0)
    return float(np.mean(np.argmax(outputs, axis=-1) == data.y_test))


def retrained(build, sampler, data, seed, arguments, loss=None, **features):
    """Test accuracy after training from scratch under a sampler: as it ends, and averaged."""
    model = build(1000 + seed) if loss is None else build(1000 + seed, loss)
    steps = -(-len(data.y) // arguments.batch_size)
    average = WeightAverage(arguments.epochs, steps, steps)
    ks.SwiftTraining(model, sampler, seed=seed, **features).fit(
        data.x,
        data.y,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        callbacks=[average],
        verbose=0,
    )
    last = accuracy(model, data)
    average.put()
    return last, accuracy(model, data)


def by_cleanlab(build, data, seed, arguments):
    """What cleanlab finds by predictions for a third of the data, trained on the others.

    Three trainings on two thirds of the data cost two uniform ones. It takes any probabilities; so
    that it need not make do with those of memorised labels, no example is predicted by a network
    that was trained on it, as its documentation asks for.

    Returns:
        A bool array of the labels that it holds for wrong, and a doubt about each.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    folds = np.random.default_rng(seed).integers(3, size=len(data.y))
    probability = np.empty((len(data.y), 10))
    for fold in range(3):
        model = build(2000 + seed)
        known = folds != fold
        model.fit(
            data.x[known],
            data.y[known],
            batch_size=arguments.batch_size,
            epochs=arguments.pretrain_epochs,
            verbose=0,
        )
        outputs = model.predict(data.x[~known], batch_size=500, verbose=0)
        probability[~known] = keras.ops.convert_to_numpy(keras.ops.softmax(outputs))
    probability /= probability.sum(axis=1, keepdims=True)
    issues = find_label_issues(labels=data.y, pred_probs=probability, n_jobs=1)
    return issues, -get_label_quality_scores(labels=data.y, pred_probs=probability)


class Margins(keras.callbacks.Callback):
    """The sum over epochs of the logit of the label minus the largest other logit."""

    def __init__(self, x, labels):
        super().__init__()
        self.x, self.labels, self.area = x, labels, 0.0

    def on_epoch_end(self, epoch, logs=None):
        logits = self.model.predict(self.x, batch_size=500, verbose=0).astype("float64")
        rows = np.arange(len(self.labels))
        own = logits[rows, self.labels]
        logits[rows, self.labels] = -np.inf
        self.area = self.area + own - logits.max(axis=1)


def by_area_under_the_margin(build, data, seed, arguments):
    """Labels with a smaller margin than most examples of a class made up (Pleiss et al., 2020).

    As there, an eleventh of the examples gets that class and the others are judged by it; a second
    training judges those. Two trainings.

    Returns:
        A bool array of the labels that it holds for wrong, and a doubt about each.
    """
    made_up = np.random.default_rng(seed).permutation(len(data.y))
    count = len(data.y) // 11
    flagged, doubt = np.zeros(len(data.y), bool), np.zeros(len(data.y))
    for turn in range(2):
        chosen = made_up[turn * count : (turn + 1) * count]
        labels = data.y.copy()
        labels[chosen] = 10
        model, margins = build(3000 + seed, classes=11), Margins(data.x, labels)
        settings = {"batch_size": arguments.batch_size, "epochs": arguments.pretrain_epochs}
        model.fit(data.x, labels, callbacks=[margins], verbose=0, **settings)
        judged = np.setdiff1d(made_up, chosen) if turn == 0 else made_up[:count]
        threshold = np.percentile(margins.area[chosen], 99)
        flagged[judged] = margins.area[judged] < threshold
        doubt[judged] = -margins.area[judged]
    return flagged, doubt


# Each finds wrong labels in its own way, and costs as many trainings.
CLEANERS = {
    "cleanlab": (by_cleanlab, 2.0),
    "area under the margin": (by_area_under_the_margin, 2.0),
}
# What a searched sampler is compared with, besides uniform draws.
RIVALS = ["clean", "known share", "mixture", *LOSSES, *CLEANERS]


def run(setting, seed, arguments):
    small = setting.startswith("digits")
    data = digits(setting, seed) if small else cifar10(setting, seed, arguments)
    large = functools.partial(cnn, width=arguments.width)
    build, other = (mlp, small_mlp) if small else (large, pooled_cnn)
    begin = time.perf_counter()
    model = build(seed)
    result = ks.search(
        model,
        data.x,
        data.y,
        validation_data=(data.x_validation, data.y_validation),
        max_trials=arguments.trials,
        finetune_epochs=arguments.finetune_epochs,
        pretrain_epochs=arguments.pretrain_epochs,
        batch_size=arguments.batch_size,
        space=ks.SamplerSpace(arguments.features, arguments.segments, arguments.transform),
        method=arguments.method,
        objective=arguments.objective,
        confirm=arguments.confirm,
        seed=seed,
        verbose=0,
    )
    seconds = time.perf_counter() - begin
    print(result)
    suspects = result.suspects()
    found = {
        "setting": setting,
        "seed": seed,
        "wrong labels": float(data.wrong.mean()),
        "wrong share": result.wrong_share.estimate,
        "wrong drawn": float(result.probabilities[data.wrong].sum()),
        "effective share": float(1 / np.sum(result.probabilities**2) / len(data.y)),
        "validation gain": result.gain,
        "wrong among suspects": float(data.wrong[suspects].mean()) if len(suspects) else 0.0,
        "price": result.price,
        "search seconds": seconds,
        "trials": [
            [trial.objective, float(p[data.wrong].sum()), float(1 / np.sum(p**2) / len(p))]
            for trial in result.trials
            for p in [trial.sampler.probabilities(result.features)]
        ],
        "confirmed": [[trial.number, trial.objective] for trial in result.confirmed],
    }
    if data.wrong.any():
        record = result.record
        for name, scores in (
            ("suspects", result.suspicion),
            ("last loss", record.loss),
            ("mean loss", record.mean_loss),
            ("mean margin", -record.mean_margin),
            ("share wrong", record.share_wrong),
        ):
            found[f"AUROC {name}"] = float(roc_auc_score(data.wrong, scores))
        found["precision suspects"] = float(average_precision_score(data.wrong, result.suspicion))
    uniform = ks.SwiftSampler.uniform(result.sampler.features, transform=arguments.transform)
    ready = {"features": {**result.features, "last loss": result.record.loss}}
    trainings = {}
    if not arguments.search_only:
        trainings = {"uniform": (uniform, ready), "sampler": (result.sampler, ready)}

    def without(name, scores, share):
        """Draws all alike but the share with the highest scores."""
        if share <= 0.0:
            return uniform, ready
        # Where scores are 0 or 1, the lower ones all have the rank `1 - share`.
        keep = 1.0 - share * (0.5 if scores.dtype == bool else 1.0)
        sampler = ks.SwiftSampler([keep, keep], [1, 1, 0, 0], [1.0], [name], "cdf")
        return sampler, {"features": {name: np.asarray(scores, float)}}

    if arguments.own_record:
        recorded = all(name in RECORDED_NAMES for name in result.sampler.features)
        if recorded and not result.sampler.is_uniform:
            # No search of these data: the sampler's features come from the training itself.
            trainings["own record"] = (result.sampler, {"warmup": arguments.warmup})
        # Nor any search at all: a fixed share is left out.
        margins = {"mean_margin": result.record.mean_margin}
        for kept in (0.8, 0.6):
            cut = ks.SwiftSampler([1 - kept, 1 - kept], [0, 0, 1, 1], [1.0], list(margins), "cdf")
            trainings[f"cut to {kept}"] = (cut, {"features": margins})
            trainings[f"cut to {kept}, own record"] = (cut, {"warmup": arguments.warmup})
    if arguments.rivals is not None:
        rivals = arguments.rivals or RIVALS
        share = float(data.wrong.mean())
        # What nobody knows: exactly the wrong labels, and how many they are.
        trainings["clean"] = without("wrong", data.wrong, share)
        trainings["known share"] = without("last loss", result.record.loss, share)
        doubted = np.isin(np.arange(len(data.y)), suspects)
        trainings["mixture"] = without("suspect", doubted, float(doubted.mean()))
        trainings |= {name: (uniform, ready) for name in LOSSES}
        for name, (find, price) in CLEANERS.items():
            if name not in rivals:
                continue
            if name == "cleanlab" and importlib.util.find_spec("cleanlab") is None:
                print("cleanlab is not installed, so it is left out")
                continue
            flagged, doubt = find(build, data, seed, arguments)
            trainings[name] = without("flagged", flagged, float(flagged.mean()))
            found[f"price {name}"], found[f"flagged by {name}"] = price, float(flagged.mean())
            if data.wrong.any():
                found[f"wrong among {name}"] = float(data.wrong[flagged].mean())
                found[f"AUROC {name}"] = float(roc_auc_score(data.wrong, doubt))
        for name in set(trainings) & set(RIVALS) - set(rivals):
            del trainings[name]
    for name, (sampler, features) in trainings.items():
        if name != "uniform" and sampler.is_uniform and name not in LOSSES:
            # The same training again.
            last, averaged = found["test uniform"], found["averaged uniform"]
        else:
            last, averaged = retrained(
                build, sampler, data, seed, arguments, LOSSES.get(name), **features
            )
        found |= {f"test {name}": last, f"averaged {name}": averaged}
    if not arguments.search_only:
        found["gain"] = found["test sampler"] - found["test uniform"]
        found["averaged gain"] = found["averaged sampler"] - found["averaged uniform"]
    if arguments.transfer:
        # The features of the second network's data come from the first one.
        for name, sampler in (("uniform", uniform), ("sampler", result.sampler)):
            found[f"transfer {name}"], found[f"transfer averaged {name}"] = retrained(
                other, sampler, data, seed, arguments, features=result.features
            )
        for kind in ("transfer", "transfer averaged"):
            found[f"{kind} gain"] = found[f"{kind} sampler"] - found[f"{kind} uniform"]
    return found


def describe(found):
    """One line of every number of a run."""
    numbers = [
        f"{name} {value:.3f}" if abs(value) < 10 else f"{name} {value:.0f}"
        for name, value in found.items()
        if isinstance(value, float)
    ]
    return f"{found['setting']} seed {found['seed']}: " + ", ".join(numbers)


def summarise(rows):
    """Mean and standard deviation over seeds, one block for each setting and its options."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["setting"], json.dumps(row.get("options", {}), sort_keys=True)].append(row)
    for (setting, options), members in groups.items():
        print(f"\n{setting}, seeds {sorted(row['seed'] for row in members)}")
        print(f"  {options}")
        for name, value in members[0].items():
            values = [row[name] for row in members if name in row]
            if isinstance(value, float):
                spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
                print(f"  {name:28s} {np.mean(values):8.3f} ± {spread:.3f}")
        for name in [name for name in members[0] if name.startswith("test ")]:
            pairs = [row["test sampler"] - row[name] for row in members if name in row]
            if name != "test sampler" and "test sampler" in members[0] and len(pairs) > 1:
                text = f"sampler less {name.removeprefix('test ')}"
                print(f"  {text:28s} {np.mean(pairs):+8.3f} ± {np.std(pairs, ddof=1):.3f}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="digits, symmetric, noisy-validation, ...")
    parser.add_argument("--data", metavar="FILE.npz")
    parser.add_argument("--human-labels", metavar="FILE.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--pretrain-epochs", type=int, help="default: 30 for digits, else 12")
    parser.add_argument("--finetune-epochs", type=int, help="default: 3 for digits, else 2")
    parser.add_argument("--epochs", type=int, help="from scratch; default: 30 for digits, else 12")
    parser.add_argument("--batch-size", type=int, help="default: 32 for digits, else 128")
    parser.add_argument("--examples", type=int, default=10_000, help="CIFAR-10 training images")
    parser.add_argument("--validation", type=int, default=3_000, help="CIFAR-10 validation images")
    parser.add_argument(
        "--width", type=int, default=32, help="channels of the first layer for CIFAR-10, 32"
    )
    parser.add_argument("--segments", type=int, default=4)
    parser.add_argument("--transform", default="cgf", choices=["cgf", "cdf"])
    parser.add_argument("--method", default="bayesian", choices=["bayesian", "random"])
    parser.add_argument("--objective", help="default: that of `search`")
    parser.add_argument("--features", nargs="+", help="default: those of `search`")
    parser.add_argument("--confirm", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--transfer", action="store_true", help="also train a network of another kind"
    )
    parser.add_argument(
        "--rivals",
        nargs="*",
        choices=RIVALS,
        metavar="NAME",
        help="also train without the wrong labels (clean), without as many of the highest last "
        "losses (known share), without the suspects (mixture), with label smoothing (smoothing), "
        "with generalised cross-entropy (generalised), and without what cleanlab (if installed) "
        "and the area under the margin find; without names: all of them",
    )
    parser.add_argument(
        "--own-record",
        action="store_true",
        help="also train by a record of the training itself, under the sampler found and under "
        "two cuts, which keep 80 and 60 %% of the examples; and under these cuts by the record of "
        "the pretraining",
    )
    parser.add_argument("--warmup", type=int, help="epochs; default: that of `SwiftTraining`")
    parser.add_argument("--dtype", help="default: float32 for digits, else mixed_bfloat16")
    parser.add_argument("--search-only", action="store_true", help="do not train from scratch")
    parser.add_argument("--out", metavar="FILE.jsonl")
    parser.add_argument("--summary", metavar="FILE.jsonl", help="summarise a file and stop")
    given = parser.parse_args()
    if given.summary:
        with open(given.summary) as file:
            summarise([json.loads(line) for line in file])
        return
    print(f"keras {keras.__version__}, backend {keras.backend.backend()}")
    rows = []
    for setting in given.settings:
        arguments = argparse.Namespace(**vars(given))
        small = setting.startswith("digits")
        for name, value in (
            ("dtype", "float32" if small else "mixed_bfloat16"),
            ("pretrain_epochs", 30 if small else 12),
            ("finetune_epochs", 3 if small else 2),
            ("epochs", 30 if small else 12),
            ("batch_size", 32 if small else 128),
        ):
            if getattr(arguments, name) is None:
                setattr(arguments, name, value)
        keras.mixed_precision.set_global_policy(arguments.dtype)
        for seed in given.seeds:
            found = run(setting, seed, arguments)
            found["options"] = {
                name: value
                for name, value in vars(arguments).items()
                if name not in ("settings", "seeds", "out", "summary", "data", "human_labels")
            }
            print(describe(found), flush=True)
            rows.append(found)
            if given.out:
                with open(given.out, "a") as file:
                    file.write(json.dumps(found) + "\n")
    summarise(rows)


if __name__ == "__main__":
    main()
