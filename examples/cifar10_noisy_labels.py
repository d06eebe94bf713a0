"""CIFAR-10 with wrong labels: search a sampler, then train with and without it.

A share of the training labels is moved to other classes. The search sees
neither which, nor the test data; it has a clean validation set. Printed are
what it found, and the test accuracy of the same network trained from scratch
uniformly and under the sampler.

    python examples/cifar10_noisy_labels.py --data cifar10.npz --plot search.png

On one CPU core the defaults take several minutes; without `--data` and without
a network, scikit-learn's digits take a minute.
"""

import argparse

import common
import keras
import numpy as np

import keras_swift as ks


def build(shape, seed):
    """A small CNN; half the width and no striding for images as small as the digits."""
    common.set_seed(seed)
    width, strides = (32, 2) if shape[0] >= 28 else (16, 1)
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(width, 5, strides=strides, padding="same", activation="relu"),
            keras.layers.Conv2D(2 * width, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(4 * width, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        "adam",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--epochs", type=int, default=12, help="of each training from scratch; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--data", metavar="FILE.npz", help="x_train, y_train, x_test, y_test")
    parser.add_argument("--plot", metavar="FILE.png", help="write the figure of the search")
    parser.add_argument(
        "--noise", type=float, default=0.4, help="share of labels moved; default: %(default)s"
    )
    parser.add_argument(
        "--examples", type=int, default=10_000, help="for training; default: %(default)s"
    )
    parser.add_argument(
        "--validation", type=int, default=3_000, help="clean, from the rest; default: %(default)s"
    )
    parser.add_argument(
        "--trials", type=int, default=12, help="samplers to try; default: %(default)s"
    )
    parser.add_argument("--pretrain-epochs", type=int, default=12, help="default: %(default)s")
    parser.add_argument("--finetune-epochs", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--directory", help="keep the search here, to stop and resume it")
    arguments = parser.parse_args()
    loading = argparse.Namespace(data=arguments.data, examples=None)
    (x, y), (x_test, y_test) = common.load(loading, "cifar10")
    generator = np.random.default_rng(arguments.seed)
    order = generator.permutation(len(y))
    # The digits are fewer than CIFAR-10's images: three quarters of them for training.
    size = min(arguments.examples, 3 * len(y) // 4)
    train, held_out = order[:size], order[size : size + arguments.validation]
    wrong = generator.random(size) < arguments.noise
    labels = np.where(wrong, (y[train] + generator.integers(1, 10, size)) % 10, y[train])

    print(
        f"{size} training examples of shape {x.shape[1:]}, {wrong.mean():.0%} with a wrong label; "
        f"{len(held_out)} to validate, {len(y_test)} to test"
    )

    model = build(x.shape[1:], arguments.seed)
    result = ks.search(
        model,
        x[train],
        labels,
        validation_data=(x[held_out], y[held_out]),
        max_trials=arguments.trials,
        pretrain_epochs=arguments.pretrain_epochs,
        finetune_epochs=arguments.finetune_epochs,
        batch_size=arguments.batch_size,
        directory=arguments.directory,
        seed=arguments.seed,
    )
    print(result)
    print(f"wrong labels: {wrong.mean():.3f} of the data", end=", ")
    print(f"{result.probabilities[wrong].sum():.3f} of the draws", end=", ")
    print(f"{wrong[result.suspects(100)].mean():.2f} of the 100 suspects")
    print(f"training twice from scratch, {arguments.epochs} epochs each", flush=True)
    for name in ("uniform", "sampler"):
        fresh = build(x.shape[1:], 1000 + arguments.seed)
        settings = {"batch_size": arguments.batch_size, "epochs": arguments.epochs, "verbose": 0}
        if name == "uniform":
            fresh.fit(x[train], labels, **settings)
        else:
            training = ks.SwiftTraining(fresh, result, seed=arguments.seed)
            training.fit(x[train], labels, **settings)
        accuracy = fresh.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
        print(f"test accuracy, {name} from scratch: {accuracy:.4f}")
    if arguments.plot:
        result.plot(arguments.plot)
        print(f"wrote {arguments.plot}")


if __name__ == "__main__":
    main()
