import pytest

from keras_swift.importance.gate.published import Gate


def test_default_threshold_is_the_papers():
    assert Gate(presample_size=640, batch_size=128).tau_threshold == pytest.approx(8 / 3)
    assert Gate(presample_size=96, batch_size=32).tau_threshold == 2


def test_running_mean_starts_from_zero():
    gate = Gate(96, 32)
    gate.update(3.0)
    assert gate.tau == pytest.approx(0.3)
    gate.update(1.0)
    assert gate.tau == pytest.approx(0.9 * 0.3 + 0.1)


def test_a_value_that_stands_for_steps_counts_that_often():
    once, often = Gate(96, 32), Gate(96, 32)
    once.update(3.0, steps=5)
    for _ in range(5):
        often.update(3.0)
    assert once.tau == pytest.approx(often.tau)


def test_opens_above_the_threshold_and_shuts_again():
    gate = Gate(96, 32, tau_threshold=1.5)
    gate.update(1.5, steps=1000)
    assert not gate.is_open
    gate.update(2.0, steps=3)
    assert gate.is_open
    gate.update(1.0, steps=30)
    assert not gate.is_open


def test_threshold_zero_is_open_from_the_start():
    assert Gate(96, 32, tau_threshold=0).is_open
