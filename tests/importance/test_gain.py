import keras
import pytest

from keras_swift.src.importance.gain import step_power


@pytest.mark.parametrize(
    ("optimizer", "power"),
    [
        (keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), 1.0),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), 1.0),
        (keras.optimizers.AdamW(), 0.5),
        (keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 9)), 1.0),
        (keras.optimizers.RMSprop(), 0.5),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), 0.5),
    ],
    ids=["momentum", "scaled SGD", "AdamW", "schedule", "RMSprop", "scaled Adam"],
)
def test_adam_and_its_kin_at_a_rate_without_a_schedule_take_the_root_of_the_gain(optimizer, power):
    assert step_power(optimizer) == power
