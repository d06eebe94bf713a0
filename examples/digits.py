"""scikit-learn's digits: uniform against importance training at equal cost.

Needs no download and runs in under a minute:

    python examples/digits.py --plot digits.png
"""

import common
import keras


def build():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def main():
    parser = common.parser(__doc__, epochs=60)
    parser.set_defaults(batch_size=32)
    parser.add_argument("--rate", type=float, default=0.02)
    arguments = parser.parse_args()
    if arguments.data:
        data = common.load(arguments, "mnist")
    else:
        (x, y), test = common.digits()
        data = (
            (common.as_images(x[: arguments.examples]), y[: arguments.examples]),
            (common.as_images(test[0]), test[1]),
        )
    if data[0][0].shape[1:] != (8, 8, 1):
        parser.error("`--data` must hold 8 x 8 images with one channel for this network")
    common.compare(build, arguments, data, arguments.rate)


if __name__ == "__main__":
    main()
