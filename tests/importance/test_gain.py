import dataclasses

import keras
import numpy as np
import pytest

from keras_swift.src.importance.gain import RealisedGain, step_power
from keras_swift.src.importance.resampling import importance_weights, sampling_probability
from keras_swift.src.importance.step_records import Moments

RANDOM = np.random.default_rng(0)
SCORES = RANDOM.lognormal(size=300)
CANDIDATES = importance_weights(sampling_probability(SCORES, 0.5))


def measured(weights, candidates, scores):
    gain = RealisedGain()
    gain.update(**dataclasses.asdict(Moments().plus(weights, candidates, scores)))
    # Half of the first measurement, which replaces half of the 1.0 that it starts from.
    return 2 * gain.value - 1


def test_uniform_steps_on_all_examples_measure_the_ratio_of_second_moments():
    ratio = np.mean(SCORES**2) / np.mean(CANDIDATES * SCORES**2)
    assert measured(np.ones(300), CANDIDATES, SCORES) == pytest.approx(ratio)
    assert ratio > 1.5


@pytest.mark.parametrize("drawn", [False, True])
def test_equal_scores_never_show_a_gain_whichever_examples_they_are_of(drawn):
    for _ in range(100):
        candidates = RANDOM.choice(CANDIDATES, size=8)
        weights = candidates if drawn else np.ones(8)
        assert measured(weights, candidates, np.full(8, 3.0)) <= 1 + 1e-12


def test_sums_of_several_steps_are_those_of_all_their_examples():
    parts = Moments()
    for rows in (slice(0, 100), slice(100, 300)):
        parts = parts.plus(np.ones(300)[rows], CANDIDATES[rows], SCORES[rows])
    whole = dataclasses.asdict(Moments().plus(np.ones(300), CANDIDATES, SCORES))
    assert dataclasses.asdict(parts) == pytest.approx(whole)
    assert Moments().plus(np.ones(2), np.ones(2), np.array([np.nan, 2.0])).uniform == 4.0


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
