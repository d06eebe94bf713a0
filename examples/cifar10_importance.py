"""CIFAR-10: a residual network, uniform against importance training at equal cost.

The network has no batch normalisation, as in the paper's setting: statistics
of a batch that was drawn by importance are those of harder examples.
`--batch-norm` puts it in.

    python examples/cifar10_importance.py --epochs 10 --plot cifar10.png
"""

import common
import keras
from keras import layers


def residual_network(shape, classes, width, batch_norm):
    """Three stages of one residual block each, widening and halving."""
    inputs = keras.Input(shape)
    x = layers.Conv2D(width, 3, padding="same")(inputs)
    for stage in range(3):
        filters, stride = width * 2**stage, 1 if stage == 0 else 2
        shortcut = layers.Conv2D(filters, 1, strides=stride)(x) if stage else x
        for position in range(2):
            if batch_norm:
                x = layers.BatchNormalization()(x)
            x = layers.Activation("relu")(x)
            # The last convolution of a block starts at zero: without batch
            # normalisation the block then starts as the identity.
            x = layers.Conv2D(
                filters,
                3,
                padding="same",
                strides=stride if position == 0 else 1,
                kernel_initializer="zeros" if position and not batch_norm else "he_normal",
            )(x)
        x = layers.Add()([x, shortcut])
    x = layers.GlobalAveragePooling2D()(layers.Activation("relu")(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))


def main():
    parser = common.parser(__doc__, epochs=10)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--width", type=int, default=16, help="filters of the first stage")
    parser.add_argument("--batch-norm", action="store_true")
    arguments = parser.parse_args()
    data = common.load(arguments, "cifar10")

    def build():
        model = residual_network(
            data[0][0].shape[1:], int(data[0][1].max()) + 1, arguments.width, arguments.batch_norm
        )
        rate = common.falling(arguments.rate, arguments, len(data[0][0]))
        model.compile(
            keras.optimizers.SGD(rate, momentum=0.9, weight_decay=5e-4),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return model

    common.compare(build, arguments, data)


if __name__ == "__main__":
    main()
