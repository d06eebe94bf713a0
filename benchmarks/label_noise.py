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

digits            scikit-learn's digits: 1,000 training images, 40 % wrong labels, an MLP
symmetric         CIFAR-10: 10,000 training images, 40 % of labels moved uniformly to other
                  classes, a small CNN, 3,000 clean validation images
noisy-validation  the same, and validation labels are as wrong as the training labels
worse, aggre      human labels of CIFAR-10N, 40 % and 9 % wrong; clean validation labels

`--data` is an .npz file with x_train, y_train, x_test, y_test; without it Keras downloads CIFAR-10.
`--human-labels` is an .npz file with the arrays `worse` and `aggre`, in CIFAR-10's order.
"""

import argparse
import collections
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.metrics import roc_auc_score

import keras_swift as ks
from keras_swift.fitting.weight_average import WeightAverage

Data = collections.namedtuple("Data", "x y wrong x_validation y_validation x_test y_test")


def move_labels(labels, share, generator):
    """Moves that share of the labels uniformly to other classes."""
    moved = generator.random(len(labels)) < share
    steps = generator.integers(1, 10, len(labels))
    return np.where(moved, (labels + steps) % 10, labels)


def digits(seed):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(y))
    x, y = (x[order] / 16).astype("float32"), y[order]
    noisy = move_labels(y[:1000], 0.4, generator)
    return Data(x[:1000], noisy, noisy != y[:1000], x[1000:1300], y[1000:1300], x[1300:], y[1300:])


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
    if setting in ("worse", "aggre"):
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


def compiled(layers, rate):
    model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def mlp(seed, width=128):
    keras.utils.set_random_seed(seed)
    dense = [keras.layers.Dense(width, activation="relu") for _ in range(2)]
    return compiled([keras.Input((64,)), *dense, keras.layers.Dense(10)], 1e-3)


def cnn(seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return compiled(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, 5, strides=2, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(128, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10),
        ],
        1e-3,
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
    return model.evaluate(data.x_test, data.y_test, batch_size=500, verbose=0, return_dict=True)[
        "accuracy"
    ]


def retrained(build, sampler, data, seed, arguments, **features):
    """Test accuracy after training from scratch under a sampler: as it ends, and averaged."""
    model = build(1000 + seed)
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


def run(setting, seed, arguments):
    data = digits(seed) if setting == "digits" else cifar10(setting, seed, arguments)
    build, other = (mlp, small_mlp) if setting == "digits" else (cnn, pooled_cnn)
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
        segments=arguments.segments,
        transform=arguments.transform,
        method=arguments.method,
        objective=arguments.objective,
        seed=seed,
        verbose=0,
    )
    seconds = time.perf_counter() - begin
    print(result)
    found = {
        "setting": setting,
        "seed": seed,
        "wrong labels": float(data.wrong.mean()),
        "wrong drawn": float(result.probabilities[data.wrong].sum()),
        "effective share": float(1 / np.sum(result.probabilities**2) / len(data.y)),
        "validation gain": result.gain,
        "AUROC loss": float(roc_auc_score(data.wrong, result.features["loss"])),
        "AUROC suspects": float(roc_auc_score(data.wrong, result.suspicion)),
        "wrong in 300 suspects": float(data.wrong[result.suspects(300)].mean()),
        "wrong in 300 highest losses": float(
            data.wrong[np.argsort(-result.features["loss"])[:300]].mean()
        ),
        "price": result.price,
        "search seconds": seconds,
        "trials": [
            [trial.objective, float(p[data.wrong].sum()), float(1 / np.sum(p**2) / len(p))]
            for trial in result.trials
            for p in [trial.sampler.probabilities(result.features)]
        ],
    }
    uniform = ks.SwiftSampler.uniform(result.sampler.features, transform=arguments.transform)
    trainings = {}
    ready = {"features": result.features}
    if not arguments.search_only:
        trainings = {"uniform": (uniform, ready), "sampler": (result.sampler, ready)}
    if arguments.bound:
        # What leaving out exactly the wrong labels would give: no method knows them.
        clean = ks.SwiftSampler([0.99, 0.99], [1, 1, 0, 0], [1.0], ["wrong"], "cdf")
        trainings["clean"] = (clean, {"features": {"wrong": data.wrong}})
    for keep in arguments.lowest_losses:
        # What one can do without a search, where one knows how many labels are wrong.
        cut = ks.SwiftSampler([keep, keep], [1, 1, 0, 0], [1.0], ["loss"], "cdf")
        trainings[f"lowest {keep:g}"] = (cut, ready)
        found[f"wrong drawn lowest {keep:g}"] = float(
            cut.probabilities(result.features)[data.wrong].sum()
        )
    for name, (sampler, features) in trainings.items():
        if name == "sampler" and result.best.number == 0:
            # The same training again.
            last, averaged = found["test uniform"], found["averaged uniform"]
        else:
            last, averaged = retrained(build, sampler, data, seed, arguments, **features)
        found |= {f"test {name}": last, f"averaged {name}": averaged}
    if not arguments.search_only:
        found["gain"] = found["test sampler"] - found["test uniform"]
        found["averaged gain"] = found["averaged sampler"] - found["averaged uniform"]
    if arguments.transfer:
        # The features of the second network's data come from the first one.
        reference = build(seed)
        reference.set_weights(result.pretrained_weights)
        for name, sampler in (("uniform", uniform), ("sampler", result.sampler)):
            found[f"transfer {name}"], found[f"transfer averaged {name}"] = retrained(
                other, sampler, data, seed, arguments, reference=reference
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


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="digits, symmetric, noisy-validation, ...")
    parser.add_argument("--data", metavar="FILE.npz")
    parser.add_argument("--human-labels", metavar="FILE.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, help="default: 25 for digits, else 12")
    parser.add_argument("--pretrain-epochs", type=int, help="default: 30 for digits, else 12")
    parser.add_argument("--finetune-epochs", type=int, help="default: 3 for digits, else 5")
    parser.add_argument("--epochs", type=int, help="from scratch; default: 30 for digits, else 12")
    parser.add_argument("--batch-size", type=int, help="default: 32 for digits, else 128")
    parser.add_argument("--examples", type=int, default=10_000, help="CIFAR-10 training images")
    parser.add_argument("--validation", type=int, default=3_000, help="CIFAR-10 validation images")
    parser.add_argument("--segments", type=int, default=4)
    parser.add_argument("--transform", default="cgf", choices=["cgf", "cdf"])
    parser.add_argument("--method", default="bayesian", choices=["bayesian", "random"])
    parser.add_argument("--objective", help="default: val_accuracy")
    parser.add_argument(
        "--transfer", action="store_true", help="also train a network of another kind"
    )
    parser.add_argument("--bound", action="store_true", help="also train without wrong labels")
    parser.add_argument(
        "--lowest-losses",
        type=float,
        nargs="+",
        default=[],
        metavar="SHARE",
        help="also train on the lowest losses only, for each of these shares",
    )
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
        small = setting == "digits"
        for name, value in (
            ("dtype", "float32" if small else "mixed_bfloat16"),
            ("trials", 25 if small else 12),
            ("pretrain_epochs", 30 if small else 12),
            ("finetune_epochs", 3 if small else 5),
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
