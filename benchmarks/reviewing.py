"""What leaving suspects out, relabelling or correcting them gains.

    python benchmarks/reviewing.py
    python benchmarks/reviewing.py --seeds 5

scikit-learn's digits: 1,000 training images, a part of them with wrong labels, moved at random or
to the next class. `find_suspects` trains once; then the same network is trained from scratch on the
labels as given, without the suspects, with the proposals in place of their labels, with the right
labels of the suspects (an expert who looks at each), and with all labels right. Test accuracy on
the 797 other images, mean and standard deviation over seeds.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_swift as ks

SETTINGS = {"10 %": (0.1, False), "30 %": (0.3, False), "30 % to the next": (0.3, True)}


def network(seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def one(share, neighbour, seed, epochs):
    """Test accuracy after each way to train, and the precision and recall of the suspects."""
    x, y = load_digits(return_X_y=True)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(y))
    x, y = (x[order] / 16).astype("float32"), y[order]
    wrong = generator.random(1000) < share
    steps = 1 if neighbour else generator.integers(1, 10, 1000)
    given = np.where(wrong, (y[:1000] + steps) % 10, y[:1000])
    found = ks.find_suspects(network(seed), x[:1000], given, epochs=epochs, seed=seed, verbose=0)
    relabelled, corrected = given.copy(), given.copy()
    relabelled[found.indices] = found.instead
    corrected[found.indices] = y[:1000][found.indices]
    every = np.ones(1000, bool)
    ways = {
        "as given": (given, every),
        "without": (given, found.keep),
        "relabelled": (relabelled, every),
        "corrected": (corrected, every),
        "all right": (y[:1000], every),
    }
    results = {}
    for name, (labels, chosen) in ways.items():
        model = network(100 + seed)
        model.fit(x[:1000][chosen], labels[chosen], epochs=epochs, verbose=0)
        results[name] = model.evaluate(x[1000:], y[1000:], verbose=0)[1]
    results["precision"] = float(wrong[found.indices].mean()) if len(found) else 1.0
    results["recall"] = float(wrong[found.indices].sum() / max(wrong.sum(), 1))
    return results


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    for name, (share, neighbour) in SETTINGS.items():
        runs = [one(share, neighbour, seed, arguments.epochs) for seed in range(arguments.seeds)]
        parts = []
        for key in runs[0]:
            values = [run[key] for run in runs]
            parts.append(f"{key} {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")
        print(f"{name}: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
