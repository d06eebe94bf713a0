import math

import pytest

from keras_swift.importance.gate.measured import (
    LOST_STEPS,
    MeasuredGate,
    predicted_gain,
    uniform_noise_share,
)
from keras_swift.importance.gate.published import Gate, variance_gain


def test_variance_gain_is_limited_by_tau_and_by_the_presample():
    assert variance_gain(2.0, 4) == pytest.approx(1 / (1 / 4 + 1 / 4))
    assert variance_gain(1e9, 3) == pytest.approx(3)
    assert variance_gain(3.0, 1e9) == pytest.approx(9)
    assert variance_gain(0.0, 2) == 1


def test_predicted_gain_by_hand():
    # k = 2; (1 - 0.6) * (1 + 0.1 * 4) ** a + 0.6 / 2
    expected = 1 / (0.4 * 1.4**LOST_STEPS + 0.3)
    assert predicted_gain(4, 2.0, 0.1, 0.6) == pytest.approx(expected)
    # The rate doubled: steps go twice as far, the noise is what it was.
    expected = 1 / (0.4 * 0.7**LOST_STEPS + 0.6)
    assert predicted_gain(4, 2.0, 0.1, 0.6, highest_scale=9.0) == pytest.approx(expected)
    expected = 1 / (0.4 * (1.4 / 1.5) ** LOST_STEPS + 0.6 * 1.5 / 2)
    assert predicted_gain(4, 2.0, 0.1, 0.6, highest_scale=1.5) == pytest.approx(expected)
    # For the last quarter of a run whose loss falls with the square of its steps: at the rate as it
    # is, and doubled.
    late = {"exponent": 2.0, "share_left": 0.25}
    expected = 1 / (0.4 * 1.1**2 + 0.3)
    assert predicted_gain(4, 2.0, 0.1, 0.6, **late) == pytest.approx(expected)
    expected = 1 / (0.4 * (1.1 / 1.25) ** 2 + 0.6)
    assert predicted_gain(4, 2.0, 0.1, 0.6, highest_scale=9.0, **late) == pytest.approx(expected)


def test_nothing_is_gained_without_noise_or_without_variance_reduction():
    assert predicted_gain(3, 5.0, 0.1, 0.0) < 1
    assert predicted_gain(3, 1.0, 0.1, 0.9) < 1
    # Where all of the loss is noise, the cost of a step does not matter.
    assert predicted_gain(3, 1.0, 0.1, 1.0) == 1


def test_noise_under_importance_sampling_is_told_in_that_of_uniform():
    # A loss of 1, half of it noise; with three times less noise it is 2/3, a quarter noise.
    assert uniform_noise_share((0.5 / 3) / (0.5 + 0.5 / 3), 3.0) == pytest.approx(0.5)


def run(gate, share, *, tau=4.0, cost_ratio=0.1, looks=10, **known):
    """Looks at a run whose loss falls; the ratios after each."""
    ratios = []
    for look in range(looks):
        averaged = 1 / (look + 10)
        gate.update(tau, steps=100)
        now = share
        if gate.is_open:
            # The noise there is under the ratio the gate has chosen.
            k = variance_gain(tau, gate.ratio)
            now = share / k / (1 - share + share / k)
        gate.observe(averaged / (1 - now), averaged, cost_ratio, **known)
        ratios.append(gate.ratio)
    return ratios


def test_opens_where_noise_is_the_limit_at_the_best_ratio():
    gate = MeasuredGate((2, 3, 5))
    ratios = run(gate, share=0.7)
    # Two looks are not judged, and two have to agree.
    assert ratios[:3] == [0, 0, 0]
    assert ratios[3] > 0
    assert gate.noise_share == pytest.approx(0.7)
    gains = {r: predicted_gain(r, gate.tau, 0.1, 0.7) for r in (2, 3, 5)}
    assert ratios[-1] == max(gains, key=gains.get)
    assert gate.gain == pytest.approx(max(gains.values()))
    assert gate.gain > 1.1


@pytest.mark.parametrize(
    "change",
    [{"share": 0.05}, {"share": 0.2, "tau": 1.8}, {"tau": 1.0}, {"cost_ratio": 20.0}],
    ids=["no noise", "as under a cosine schedule", "equal scores", "costly scores"],
)
def test_stays_shut_where_it_does_not_pay(change):
    gate = MeasuredGate()
    assert set(run(gate, **{"share": 0.5, "tau": 1.8, "cost_ratio": 0.3, **change})) == {0}
    assert gate.gain <= 1.05
    # What was changed is what keeps it shut.
    assert run(MeasuredGate(), share=0.5, tau=1.8, cost_ratio=0.3)[-1] > 0


def test_shuts_when_the_noise_is_gone_and_not_before():
    gate = MeasuredGate((3,))
    run(gate, share=0.7)
    assert gate.is_open
    # Where it would not open, and is predicted to lose a little, an open gate stays open.
    share = next(s / 1000 for s in range(1, 999) if predicted_gain(3, 4, 0.3, s / 1000) > 0.97)
    settings = {"share": share, "cost_ratio": 0.3, "looks": 20}
    assert share > 0.06
    assert set(run(gate, **settings)) == {3}
    assert set(run(MeasuredGate((3,)), **settings)) == {0}
    assert run(gate, share=0.04, cost_ratio=0.3)[-1] == 0


def test_shuts_when_too_much_would_be_lost_whatever_the_noise():
    gate = MeasuredGate((3,))
    run(gate, share=0.7)
    assert run(gate, share=0.5, cost_ratio=5.0, tau=1.0, looks=20)[-1] == 0
    assert gate.noise_share > 0.4


def test_another_ratio_is_taken_only_when_clearly_better():
    gate = MeasuredGate((5, 20))
    assert run(gate, share=0.4, tau=2.0, cost_ratio=0.3)[-1] == 5
    gains = {r: predicted_gain(r, 2.0, 0.3, 0.6) for r in (5, 20)}
    assert 1.01 < gains[20] / gains[5] < 1.02
    assert set(run(gate, share=0.6, tau=2.0, cost_ratio=0.3, looks=20)) == {5}
    assert run(MeasuredGate((5, 20)), share=0.6, tau=2.0, cost_ratio=0.3)[-1] == 20
    assert run(gate, share=0.6, tau=2.0, cost_ratio=0.05)[-1] == 20


def test_noise_at_one_look_does_not_open():
    gate = MeasuredGate((3,))
    for share in 5 * [0.0, 0.0, 0.0, 0.6]:
        assert run(gate, share=share, cost_ratio=0.3, looks=1) == [0]
        if share:
            assert gate.gain > 1.1
    assert run(gate, share=0.9, looks=1) == [3]
    # Anew after it was shut.
    run(gate, share=0.0, looks=10)
    assert not gate.is_open
    assert run(gate, share=0.9, looks=3)[0] == 0


def test_where_the_loss_falls_by_itself_noise_is_removed_late():
    settings = {"share": 0.6, "cost_ratio": 0.3, "fall": 4.0}
    # The end not known, or far.
    assert set(run(MeasuredGate((3,)), **settings)) == {0}
    assert set(run(MeasuredGate((3,)), **settings, share_left=0.8)) == {0}
    gate = MeasuredGate((3,))
    assert run(gate, **settings, share_left=0.1)[-1] == 3
    assert gate.exponent == gate.measured()["loss_exponent"] == 2.0
    # Once open it stays open, because the noise would come back, however much steps are worth.
    assert run(gate, **{**settings, "share": 0.2}, share_left=0.9)[-1] == 3
    assert gate.gain < 0.7
    # A loss that has stopped falling has nothing to wait for.
    assert run(MeasuredGate((3,)), **{**settings, "fall": 0.0})[-1] == 3
    # While the gate is open nothing new is known of uniform training.
    run(gate, **{**settings, "fall": None}, share_left=0.1)
    assert gate.exponent == 2.0


def test_where_the_loss_falls_by_itself_the_last_quarter_is_soon_enough():
    settings = {"share": 0.8, "fall": 0.8}
    # A gain is predicted from the beginning.
    early = MeasuredGate((3,))
    assert set(run(early, **settings, share_left=0.3)) == {0}
    assert early.gain > 1.5
    # The looks that agreed count.
    assert run(early, **settings, share_left=0.25, looks=1) == [3]
    assert run(early, **settings, share_left=0.24) == 10 * [3]
    # Nothing is known of the end.
    assert run(MeasuredGate((3,)), **settings)[-1] == 3
    # Nothing to wait for.
    assert run(MeasuredGate((3,)), **{**settings, "fall": 0.1}, share_left=0.3)[-1] == 3


def test_the_exponent_is_at_least_that_of_a_run_of_which_nothing_is_known():
    gate = MeasuredGate()
    assert gate.exponent == LOST_STEPS
    gate.observe(1.0, 0.5, 0.1, fall=-3.0)
    assert gate.exponent == LOST_STEPS


def test_noise_that_a_falling_rate_removes_does_not_count():
    constant, falling = MeasuredGate((3,)), MeasuredGate((3,))
    for gate, decay in ((constant, 1.0), (falling, 0.1)):
        for _ in range(10):
            gate.update(4.0, steps=100)
            gate.observe(1.0, 0.4, 0.3, decay=decay)
    assert constant.is_open
    assert not falling.is_open
    assert falling.noise_share == pytest.approx(0.6, rel=0.01)
    # Odds of 0.6 / 0.4, times 0.1.
    coming = 0.15 / 1.15
    assert falling.gain == pytest.approx(predicted_gain(3, falling.tau, 0.3, coming), rel=0.01)
    # An open gate shuts when the rate drops.
    constant.observe(1.0, 0.8, 0.3, decay=0.0)
    assert not constant.is_open


@pytest.mark.parametrize("loss", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_loss_without_a_share_keeps_the_gate_shut(loss):
    gate = MeasuredGate()
    run(gate, share=0.7)
    assert gate.is_open
    gate.observe(loss, 0.5, 0.1)
    assert not gate.is_open
    assert math.isnan(gate.measured()["predicted_gain"])
    # What was seen before that no longer counts.
    assert run(gate, share=0.7, looks=2) == [0, 0]


def test_unknown_cost_and_no_ratio_keep_the_gate_shut():
    assert set(run(MeasuredGate(), share=0.7, cost_ratio=None)) == {0}
    assert set(run(MeasuredGate(()), share=0.7)) == {0}


def test_a_cost_that_is_not_measured_anew_is_kept():
    gate = MeasuredGate()
    run(gate, share=0.7)
    assert gate.is_open
    # As at the first look after a run was resumed.
    assert run(gate, share=0.7, cost_ratio=None, looks=1)[0] > 0
    assert gate.cost_ratio == 0.1


def test_a_ratio_that_is_not_to_be_had_shuts_a_restored_gate():
    gate, other = MeasuredGate((2, 3, 5)), MeasuredGate((2,))
    gate.ratio = 5
    other.restore(gate.state())
    assert not other.is_open


def test_state_goes_on():
    gate, other = MeasuredGate(), MeasuredGate()
    run(gate, share=0.7, looks=3)
    other.restore(gate.state())
    for each in (gate, other):
        run(each, share=0.7, looks=1)
    assert gate.is_open
    assert other.state() == gate.state()


@pytest.mark.parametrize("gate", [Gate(96, 32, tau_threshold=1.5), MeasuredGate()])
def test_the_rate_is_scaled_by_the_gain_while_open(gate):
    gate.highest_scale = 10.0
    assert gate.rate_scale == 1
    gate.update(4.0, steps=1000)
    if isinstance(gate, MeasuredGate):
        gate.ratio = 3
    assert gate.rate_scale == pytest.approx(1 / (1 / 16 + 1 / 3))
    gate.highest_scale = 1.5
    assert gate.rate_scale == 1.5
    gate.highest_scale = 1.0
    assert gate.rate_scale == 1
