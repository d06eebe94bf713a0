"""scikit-learn's digits: `model.fit` against importance training, over five seeds.

Needs no download and runs in about a minute. Both have one rate, which was tuned for neither, and a
tenth of the training data for validation:

    python examples/digits.py --plot digits.png
"""

import common
import keras


def main():
    parser = common.parser(__doc__, epochs=20, seeds=5)
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
    examples, *shape = data[0][0].shape

    def build():
        model = keras.Sequential(
            [
                keras.Input(shape),
                keras.layers.Flatten(),
                keras.layers.Dense(128, activation="relu"),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
        rate = common.falling(arguments.rate, arguments, examples)
        model.compile(
            keras.optimizers.SGD(rate, momentum=0.9),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return model

    common.compare(build, arguments, data)


if __name__ == "__main__":
    main()
