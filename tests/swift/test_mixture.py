"""How many labels are wrong, on records whose answer is known."""

import types

import numpy as np
import pytest
import scipy.stats

from keras_swift.swift import mixture
from keras_swift.swift.mixture import find_doubts


def record(share, n=4000, hard=0.1, seed=0):
    """Log losses normal in each kind; wrong labels have margins below 0, hard ones mostly not."""
    generator = np.random.default_rng(seed)
    wrong = generator.random(n) < share
    difficult = ~wrong & (generator.random(n) < hard)
    log_loss = generator.normal(-3.0, 0.6, n)
    log_loss[wrong] = generator.normal(1.0, 0.3, wrong.sum())
    log_loss[difficult] = generator.normal(-0.5, 0.5, difficult.sum())
    margin = generator.uniform(0.3, 1.0, n)
    margin[wrong] = generator.uniform(-1.0, -0.1, wrong.sum())
    margin[difficult] = generator.uniform(-0.05, 0.5, difficult.sum())
    return wrong, types.SimpleNamespace(mean_loss=np.exp(log_loss), mean_margin=margin)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4, 0.6])
def test_wrong_labels_are_counted_and_found(share):
    wrong, seen = record(share)
    found = find_doubts(seen, None)
    assert abs(found.share.estimate - wrong.mean()) < 0.012
    assert found.share.low < found.share.estimate < found.share.high
    assert found.share.high - found.share.low < 0.05
    assert wrong[found.suspect].mean() > 0.6 and found.suspect[wrong].mean() > 0.97
    assert np.all(found.probability[found.suspect] > 0.5)
    np.testing.assert_array_equal(found.scores, -seen.mean_margin)


def test_clean_data_have_hardly_any():
    # A mixture on its own would call the hard tenth wrong.
    found = find_doubts(record(0.0)[1], None)
    assert found.share.estimate < 0.015
    without_margin = types.SimpleNamespace(
        mean_loss=record(0.0)[1].mean_loss, mean_margin=np.full(4000, -1.0)
    )
    assert find_doubts(without_margin, None).share.estimate > 0.05


def test_large_classes_are_judged_on_their_own():
    # Right labels of the hard class have the losses of wrong ones of the easy class.
    generator = np.random.default_rng(0)
    classes = np.repeat([3, 7], 1000)
    wrong = generator.random(2000) < 0.3
    centre = np.where(classes == 3, np.where(wrong, -1.0, -4.0), np.where(wrong, 2.0, -1.0))
    loss = np.exp(generator.normal(centre, 0.3))
    seen = types.SimpleNamespace(mean_loss=loss, mean_margin=np.full(2000, -0.1))
    found = find_doubts(seen, classes)
    assert np.mean(found.suspect == wrong) > 0.99
    assert np.mean(find_doubts(seen, None).suspect == wrong) < 0.8


def test_small_classes_are_judged_together():
    wrong, seen = record(0.3, n=500)
    together = find_doubts(seen, np.arange(500) % 50)
    np.testing.assert_array_equal(together.suspect, find_doubts(seen, None).suspect)


def test_without_margins_two_kinds_have_to_be_apart():
    generator = np.random.default_rng(0)
    nothing = np.full(2000, np.nan)
    one_kind = generator.gamma(0.5, size=2000)
    seen = types.SimpleNamespace(mean_loss=one_kind, mean_margin=nothing)
    assert find_doubts(seen, None).share.estimate == 0.0
    np.testing.assert_array_equal(find_doubts(seen, None).scores, one_kind)
    wrong = generator.random(2000) < 0.2
    two_kinds = np.exp(np.where(wrong, 2.0, -3.0) + generator.normal(0, 0.4, 2000))
    seen = types.SimpleNamespace(mean_loss=two_kinds, mean_margin=nothing)
    found = find_doubts(seen, None)
    assert np.mean(found.suspect == wrong) > 0.99


def test_the_interval_covers_other_draws(monkeypatch):
    monkeypatch.setattr(mixture, "RESAMPLES", 60)
    # Of 60 intervals of 90 %, fewer than 46 or all 60 would surprise: below 1 in 200.
    covered = 0
    for seed in range(60):
        _, seen = record(0.3, n=600, hard=0.0, seed=seed)
        share = find_doubts(seen, None).share
        covered += share.low <= 0.3 <= share.high
    assert scipy.stats.binom.cdf(45, 60, 0.9) < 0.005
    assert 46 <= covered


@pytest.mark.parametrize("loss", [np.zeros(50), np.full(50, 2.0), np.linspace(-3, -1, 50)])
def test_degenerate_losses_are_no_error(loss):
    seen = types.SimpleNamespace(mean_loss=loss, mean_margin=np.ones(len(loss)))
    with np.errstate(all="raise", under="ignore"):
        found = find_doubts(seen, None)
    assert found.share.estimate == 0.0 and not found.suspect.any()


def test_one_seed_gives_one_interval(monkeypatch):
    monkeypatch.setattr(mixture, "RESAMPLES", 20)
    _, seen = record(0.3, n=300)
    assert find_doubts(seen, None).share == find_doubts(seen, None).share
    assert find_doubts(seen, None).share != find_doubts(seen, None, seed=1).share
