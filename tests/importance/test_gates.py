import pytest

from keras_swift.src.importance.gates import CostGate, PublishedGate, variance_gain


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
