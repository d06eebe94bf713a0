"""By which feature of a training to leave examples out.

    python benchmarks/features.py digits digits-clean --out rows.jsonl
    python benchmarks/features.py symmetric worse clean --data cifar10.npz \\
        --human-labels cifar10n.npz --out rows.jsonl
    python benchmarks/features.py --summary benchmarks/features.jsonl

Settings and files are those of `label_noise.py`. One uniform training gives the features; then the
same network is trained from scratch on the examples that a feature doubts least, a graded share of
them, and its test accuracy is compared with uniform training (mean of the last weights and of those
averaged over the last epoch). Nothing is searched or chosen: this is what a search could find.
"""

import argparse
import collections
import functools
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import label_noise
import numpy as np
from sklearn.metrics import roc_auc_score

import keras_swift as ks
from keras_swift.src.swift.feature_table import doubtful_end

# Each is a sum of the ranks of features. The `loss` is that of the trained network, by a forward
# pass without dropout.
COMPARED = {
    "loss": ("loss",),
    "loss as last trained on": ("last_loss",),
    "mean loss": ("mean_loss",),
    "mean margin": ("mean_margin",),
    "mean margin in class": ("mean_margin_in_class",),
    "both mean margins": ("mean_margin", "mean_margin_in_class"),
    "mean margin and loss": ("mean_margin", "loss"),
    "share wrong": ("share_wrong",),
}


def cut(features, keep):
    """The sampler that draws this share of the examples alike, the least doubtful ones."""
    coefficients = [doubtful_end(name) / len(features) for name in features]
    return ks.SwiftSampler([keep, keep], [1, 1, 0, 0], coefficients, features, "cdf")


def run(setting, seed, arguments):
    small = setting.startswith("digits")
    arguments.batch_size, epochs = (32, 30) if small else (128, 12)
    arguments.epochs = arguments.long or epochs
    data = (
        label_noise.digits(setting, seed)
        if small
        else label_noise.cifar10(setting, seed, arguments)
    )
    large = functools.partial(label_noise.cnn, width=arguments.width)
    build = label_noise.mlp if small else large
    names = {name for features in COMPARED.values() for name in features}
    # A search of one trial is a uniform training with a record.
    result = ks.search(
        build(seed),
        data.x,
        data.y,
        validation_data=(data.x_validation, data.y_validation),
        max_trials=1,
        confirm=0,
        finetune_epochs=1,
        pretrain_epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        space=ks.SamplerSpace(sorted(names), transform="cdf"),
        seed=seed,
        verbose=0,
    )
    columns = result.features

    def test(sampler):
        found = label_noise.retrained(build, sampler, data, seed, arguments, features=columns)
        return float(np.mean(found))

    uniform = test(ks.SwiftSampler.uniform(("loss",), transform="cdf"))
    row = {
        "setting": setting,
        "seed": seed,
        "width": arguments.width,
        "epochs": arguments.epochs,
        "backend": keras.backend.backend(),
        "uniform": uniform,
        "training accuracy": float(np.mean(result.record.margin > 0)),
        "gains": {},
        "AUROC": {},
    }
    for name in arguments.features:
        features = COMPARED[name]
        row["gains"][name] = {
            str(keep): test(cut(features, keep)) - uniform for keep in arguments.keep
        }
        print(f"{setting} seed {seed}, {name}: {row['gains'][name]}", flush=True)
        if data.wrong.any():
            doubt = cut(features, 0.5).transformed(columns)
            row["AUROC"][name] = float(roc_auc_score(data.wrong, doubt))
    return row


def summarise(rows):
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["setting"], row["width"], row["epochs"]].append(row)
    for (setting, width, epochs), found in groups.items():
        uniform = [row["uniform"] for row in found]
        known = np.mean([row["training accuracy"] for row in found])
        width = "" if setting.startswith("digits") else f" width {width},"
        print(f"\n{setting},{width} {epochs} epochs, seeds {[row['seed'] for row in found]}")
        print(f"uniform {np.mean(uniform):.3f}, accuracy in training {known:.3f}\n")
        keeps = list(next(iter(found[0]["gains"].values())))
        print(f"| kept | {' | '.join(keeps)} | AUROC |\n|{'---|' * (len(keeps) + 2)}")
        for name in found[0]["gains"]:
            cells = [name]
            for keep in keeps:
                gains = [row["gains"][name][keep] for row in found]
                spread = np.std(gains, ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else 0.0
                cells.append(f"{np.mean(gains):+.3f} ± {spread:.3f}")
            area = [row["AUROC"][name] for row in found if name in row["AUROC"]]
            cells.append(f"{np.mean(area):.3f}" if area else "")
            print(f"| {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", help="digits, symmetric, worse, ...")
    parser.add_argument("--data", metavar="FILE.npz")
    parser.add_argument("--human-labels", metavar="FILE.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--keep", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.6, 0.5])
    parser.add_argument(
        "--features", nargs="+", choices=COMPARED, default=list(COMPARED), metavar="NAME"
    )
    parser.add_argument("--long", type=int, help="epochs; default: 30 for digits, else 12")
    parser.add_argument("--examples", type=int, default=10_000, help="CIFAR-10 training images")
    parser.add_argument("--validation", type=int, default=3_000, help="CIFAR-10 validation images")
    parser.add_argument("--width", type=int, default=32, help="of the CIFAR-10 network")
    parser.add_argument("--out", metavar="FILE.jsonl")
    parser.add_argument("--summary", metavar="FILE.jsonl", help="read in place of training")
    arguments = parser.parse_args()
    if arguments.summary:
        with open(arguments.summary) as file:
            summarise([json.loads(line) for line in file])
        return
    rows = []
    for setting in arguments.settings:
        for seed in arguments.seeds:
            rows.append(run(setting, seed, arguments))
            if arguments.out:
                with open(arguments.out, "a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    summarise(rows)


if __name__ == "__main__":
    main()
