import dataclasses

import keras
import numpy as np
import pytest

from keras_swift.src.importance.gates import (
    CostGate,
    PublishedGate,
    RealisedGain,
    step_power,
    variance_gain,
)
from keras_swift.src.importance.resampling import importance_weights, sampling_probability
from keras_swift.src.importance.step_records import Moments

RANDOM = np.random.default_rng(0)
SCORES = RANDOM.lognormal(size=300)
CANDIDATES = importance_weights(sampling_probability(SCORES, 0.5))


def test_default_threshold_is_the_papers():
    assert PublishedGate(presample_size=640, batch_size=128).tau_threshold == pytest.approx(8 / 3)
    assert PublishedGate(presample_size=96, batch_size=32).tau_threshold == 2


def test_running_mean_starts_from_zero():
    gate = PublishedGate(96, 32)
    gate.update(3.0)
    assert gate.tau == pytest.approx(0.3)
    gate.update(1.0)
    assert gate.tau == pytest.approx(0.9 * 0.3 + 0.1)


def test_a_value_that_stands_for_steps_counts_that_often():
    once, often = PublishedGate(96, 32), PublishedGate(96, 32)
    once.update(3.0, steps=5)
    for _ in range(5):
        often.update(3.0)
    assert once.tau == pytest.approx(often.tau)


def test_opens_above_the_threshold_and_shuts_again():
    gate = PublishedGate(96, 32, tau_threshold=1.5)
    gate.update(1.5, steps=1000)
    assert not gate.is_open
    gate.update(2.0, steps=3)
    assert gate.is_open
    gate.update(1.0, steps=30)
    assert not gate.is_open


def test_threshold_zero_is_open_from_the_start():
    assert PublishedGate(96, 32, tau_threshold=0).is_open


def test_cost_gate_opens_where_the_gain_is_worth_the_scores():
    # k > 1 + f r for some ratio: with f = 1/3 never below r = 2's 5/3.
    for cost_ratio in (0.1, 1 / 3):
        for tau in (1.0, 1.3, 1.6, 2.0, 3.0, 5.0):
            gate = CostGate((2, 3, 5), cost_ratio)
            gate.update(tau, steps=10_000)
            worth = {r: variance_gain(tau, r) / (1 + cost_ratio * r) for r in (2, 3, 5)}
            assert gate.is_open == (max(worth.values()) > 1)
            assert gate.ratio == max(worth, key=worth.get)
            assert gate.gain == variance_gain(tau, gate.ratio)


def test_cost_gate_without_presamples_stays_shut():
    gate = CostGate((2, 3, 5), 0.1)
    gate.update(5.0, steps=100)
    assert gate.is_open
    gate.stay_shut()
    assert (gate.is_open, gate.ratio) == (False, 1.0)


def test_cost_gate_counts_its_first_measurement_whole():
    gate = CostGate((2,), 0.1)
    gate.update(2.0)
    assert gate.tau == pytest.approx(2.0)
    gate.update(1.0)
    # Weights 0.1 and 0.1 * 0.9, over their sum.
    assert gate.tau == pytest.approx((0.09 * 2.0 + 0.1 * 1.0) / 0.19)


def test_state_goes_round():
    gate, other = CostGate((2, 3)), CostGate((2, 3))
    gate.update(3.0, steps=7)
    other.restore(gate.state())
    for one in (gate, other):
        one.update(1.0, steps=2)
    assert other.tau == gate.tau


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
