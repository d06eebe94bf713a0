"""CIFAR-10: a residual network with batch normalisation and augmentation, both ways to train.

The network has three stages of two blocks. A layer of the model flips and shifts the images, so
that an example is known again in each epoch and its score is remembered. Each side takes about
four minutes of one processor core; `--width 16 --strides 1` has twice the filters, and images at
their full resolution.

    python examples/cifar10_importance.py --data cifar10.npz

Ends with a table and a figure, `cifar10_importance.png`.
"""

import common
import keras
from keras import layers


def normalised(x, filters, size, strides=1):
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


def network(shape, classes, width, strides=2, augment=True, dropout=0.0):
    """A residual network of three stages of two blocks.

    Args:
        shape: tuple, of an image.
        classes: int.
        width: int, filters of the first stage; each of the others has twice as many.
        strides: int, of the first convolution.
        augment: bool, whether images are flipped and shifted while training.
        dropout: float, before the last layer.
    """
    inputs = keras.Input(shape)
    x = layers.Activation("relu")(normalised(inputs, width, 3, strides))
    for stage in range(3):
        filters = width * 2**stage
        for block in range(2):
            step = 2 if stage and block == 0 else 1
            shortcut = x if step == 1 else normalised(x, filters, 1, step)
            x = layers.Activation("relu")(normalised(x, filters, 3, step))
            x = layers.Activation("relu")(layers.Add()([normalised(x, filters, 3), shortcut]))
    pooled = layers.GlobalAveragePooling2D()(x)
    return keras.Sequential(
        [
            keras.Input(shape),
            *([common.FlipAndShift()] if augment else []),
            keras.Model(inputs, pooled, name="backbone"),
            *([layers.Dropout(dropout)] if dropout else []),
            layers.Dense(classes, activation="softmax"),
        ]
    )


def main():
    parser = common.parser(__doc__, epochs=10, plot="cifar10_importance.png")
    parser.set_defaults(batch_size=64)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--width", type=int, default=8, help="filters of the first stage")
    parser.add_argument("--strides", type=int, default=2, help="of the first convolution")
    arguments = parser.parse_args()
    data = common.load(arguments, "cifar10")
    shape, classes = data[0][0].shape[1:], int(data[0][1].max()) + 1

    def build():
        model = network(shape, classes, arguments.width, arguments.strides)
        rate = common.falling(arguments.rate, arguments, len(data[0][0]))
        model.compile(
            keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-4),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        return model

    common.compare(build, arguments, data)


if __name__ == "__main__":
    main()
