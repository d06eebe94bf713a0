"""Which trial counts as the best, by hand-made trials."""

import math

import numpy as np
import pytest

from keras_swift import SwiftSampler
from keras_swift.swift.search.result import SearchResult, SearchTrial

RANKS = np.arange(100.0)


def cut(share):
    """Draws that share of the examples, all alike."""
    return SwiftSampler([share, share], [1, 1, 0, 0], [1.0], ["loss"], "cdf")


def result(trials, direction="max", tolerance=0.0):
    """A result of `(sampler, objective)` pairs, the first one uniform."""
    return SearchResult(
        features={"loss": RANKS},
        trials=tuple(
            SearchTrial(k, sampler, objective, 1.0, "COMPLETED")
            for k, (sampler, objective) in enumerate(trials)
        ),
        objective="val_accuracy" if direction == "max" else "val_loss",
        direction=direction,
        suspicion=RANKS,
        pretrained_weights=[],
        pretrain_epochs=4,
        finetune_epochs=2,
        pretrain_seconds=1.0,
        data_fingerprint="",
        tolerance=tolerance,
    )


UNIFORM = SwiftSampler.uniform(["loss"], 3, "cdf")


@pytest.mark.parametrize(
    ("tolerance", "best"),
    # The lower an objective here, the more evenly its sampler draws.
    [(0.0, 1), (0.009, 1), (0.011, 3), (0.069, 3), (0.071, 2), (0.119, 2), (0.121, 0)],
)
def test_the_most_even_draw_wins_among_equally_good_trials(tolerance, best):
    trials = [(UNIFORM, 0.5), (cut(0.3), 0.62), (cut(0.8), 0.55), (cut(0.6), 0.61)]
    for sign, direction in ((1, "max"), (-1, "min")):
        found = result([(s, sign * value) for s, value in trials], direction, tolerance)
        assert found.best.number == best
        assert found.gain == pytest.approx(trials[best][1] - 0.5)


def test_equal_trials_leave_the_first_and_failures_are_never_the_best():
    assert result([(UNIFORM, 0.5), (cut(0.5), 0.5)]).best.number == 0
    trials = [(UNIFORM, math.nan), (cut(0.3), 0.4), (cut(0.9), math.nan)]
    found = result(trials, tolerance=1.0)
    assert found.best.number == 1 and math.isnan(found.gain)
    assert result([(UNIFORM, math.nan)]).best.number == 0


def test_noise_is_printed_where_it_is_known():
    trials = [(UNIFORM, 0.5), (cut(0.5), 0.6)]
    assert "+0.1000 (noise 0.0500)" in str(result(trials, tolerance=0.05))
    assert "noise" not in str(result(trials))


def test_drawn_deciles_and_suspects():
    found = result([(UNIFORM, 0.5), (cut(0.5), 0.6)])
    np.testing.assert_allclose(found.loss_deciles(), [0.2] * 5 + [0.0] * 5, atol=0.02)
    assert found.suspects(3).tolist() == [99, 98, 97]
    assert len(found.suspects(1000)) == 100
    assert found.epochs == 4 and found.price == 1.0
    with pytest.raises(ValueError, match="must not be negative"):
        found.suspects(-1)
