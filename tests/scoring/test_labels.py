"""Class numbers are checked against the classes that the output has, on the axis of the loss."""

import keras
import numpy as np
import pytest

from keras_swift.src.scoring.labels import label_check
from keras_swift.src.scoring.output_loss import OutputLoss
from keras_swift.src.scoring.structures import Matching


def check(loss, shape):
    output = OutputLoss((), loss, 1.0, None)
    return label_check(keras.KerasTensor((1, *shape)), [output], Matching(None))


@pytest.mark.parametrize(("axis", "shape"), [(-1, (4, 6)), (1, (6, 4))])
def test_classes_are_counted_on_the_axis_of_the_loss(axis, shape):
    labels_fit = check(keras.losses.SparseCategoricalCrossentropy(axis=axis), shape)
    labels = np.full((3, 4), 5)
    labels_fit(labels)
    labels[1, 2] = 6
    with pytest.raises(ValueError, match=r"from 0 to 5, because .* 6 classes.*at index 1 \(6\)"):
        labels_fit(labels)


def test_names_of_classes_are_no_class_numbers():
    labels_fit = check(keras.losses.SparseCategoricalCrossentropy(), (3,))
    with pytest.raises(ValueError, match="must hold class numbers.*np.unique"):
        labels_fit(np.array(["cat", "dog"]))
