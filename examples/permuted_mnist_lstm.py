"""Permuted pixel-by-pixel MNIST with an LSTM of 128 units (the paper's task).

An image is read as a sequence of its pixels, one a step, in one fixed random
order. The paper trains with Adam at 1e-3, batch 32, presample 128, threshold
1.8 and clipnorm 1: `--presample 4 --tau-threshold 1.8` is its rule, without
them scores are remembered.

    python examples/permuted_mnist_lstm.py --length 98 --examples 10000 --epochs 5
"""

import common
import keras
import numpy as np


def main():
    parser = common.parser(__doc__, epochs=10, plot="permuted_mnist_lstm.png")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument(
        "--length", type=int, help="read only that many pixels, the first in the order"
    )
    arguments = parser.parse_args()
    (x, y), (x_test, y_test) = common.load(arguments, "mnist")
    pixels = np.prod(x.shape[1:])
    order = np.random.default_rng(0).permutation(pixels)[: arguments.length]

    def sequences(images):
        return images.reshape(len(images), -1, 1)[:, order]

    def build():
        model = keras.Sequential(
            [
                keras.Input((len(order), 1)),
                keras.layers.LSTM(arguments.units),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
        model.compile(
            keras.optimizers.Adam(arguments.rate, clipnorm=1.0),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return model

    data = (sequences(x), y), (sequences(x_test), y_test)
    common.compare(build, arguments, data)


if __name__ == "__main__":
    main()
