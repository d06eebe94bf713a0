"""Where a run is going, against runs whose future is known."""

import json

import pytest

from keras_swift.importance.gate.trends import FallWatch, RateWatch


def follow(rates, at=None):
    """A watch that has read these rates, by step; looks at the last step if not told where."""
    now = [0]
    watch = RateWatch(lambda: rates[now[0]])
    for step in rates:
        now[0] = step
        watch.follow(step)
    return watch, watch.decay(step if at is None else at)


def test_where_the_rate_is_going():
    # Halved in the last 100 of 200 steps: a quarter after 200 more.
    assert follow({0: 0.1, 100: 0.1, 200: 0.05})[1] == pytest.approx(0.25)
    assert follow({0: 0.1})[1] == 1
    assert follow({0: 0.1, 100: 0.1})[1] == 1
    # A rate that has risen counts as constant, also one that was 0.
    assert follow({0: 0.1, 100: 0.2})[1] == 1
    assert follow({0: 0.0, 100: 0.2})[1] == 1
    assert follow({0: 0.2, 100: 0.0})[1] == 0
    # An exponential decay is foretold as it is.
    rates = {step: 0.1 * 0.99**step for step in range(0, 5001, 10)}
    assert follow(rates)[1] == pytest.approx(0.99**5000)
    # One drop is not the beginning of a collapse, and is forgotten when the run is twice as long.
    rates = {step: 0.1 if step < 1000 else 0.05 for step in range(0, 3000, 50)}
    assert follow({s: r for s, r in rates.items() if s <= 1050})[1] == pytest.approx(0.26, abs=0.02)
    assert follow(rates)[1] == 1


def test_the_watch_of_the_rate_stays_small_and_goes_on():
    rates = {step: 0.1 * 0.9999**step for step in range(20_000)}
    watch, decay = follow(rates)
    assert decay == pytest.approx(0.9999**20_000, rel=0.01)
    assert len(watch.state()["seen"]) < 100
    other = RateWatch(lambda: 0.0)
    other.restore(json.loads(json.dumps(watch.state())))
    assert other.decay(19_999) == decay


def test_a_rate_that_is_not_known_counts_as_constant():
    watch = RateWatch(lambda: None)
    assert not watch.follow(0)
    assert watch.decay(100) == 1


def fall_of(losses):
    watch = FallWatch()
    for step, loss in losses.items():
        watch.follow(step, loss)
    return watch


def test_the_exponent_of_a_power_is_found():
    assert fall_of({s: 3.0 * s**-1.7 for s in (100, 200, 250, 300)}).exponent() == pytest.approx(
        1.7
    )
    assert fall_of({s: 0.1 * s**0.2 for s in (100, 120, 140)}).exponent() == pytest.approx(-0.2)
    # By least squares in logarithms.
    noisy = fall_of({100: 1.0, 141: 0.6, 200: 0.5})
    assert noisy.exponent() == pytest.approx(1.0, abs=0.01)


def test_the_fall_is_that_of_the_second_half():
    losses = {step: step**-0.1 for step in range(10, 500, 10)}
    assert fall_of(losses).exponent() == pytest.approx(0.1)
    losses |= {step: step**-2.0 for step in range(500, 1001, 10)}
    assert fall_of(losses).exponent() == pytest.approx(2.0)


def test_no_exponent_before_three_looks_nor_after_steps_that_were_not_uniform():
    watch = FallWatch()
    for step in (1, 60, 100):
        assert watch.exponent() is None
        watch.follow(step, 1 / step)
    # The first is in the first half, so it takes one more.
    assert watch.exponent() is None
    watch.follow(110, 1 / 110)
    other = FallWatch()
    other.restore(json.loads(json.dumps(watch.state())))
    assert other.exponent() == watch.exponent() == pytest.approx(1.0)
    watch.clear()
    assert watch.exponent() is None
