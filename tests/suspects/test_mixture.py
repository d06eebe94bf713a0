"""How many labels are wrong, on records whose answer is known."""

import types

import numpy as np
import pytest

from keras_swift.src.suspects.mixture import MEMORISED, NOT_LEARNED, find_doubts


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
    return wrong, made_up(np.exp(log_loss), margin)


def made_up(mean_loss, mean_margin):
    """A record with probabilities that suit the margins."""
    return types.SimpleNamespace(
        mean_loss=mean_loss,
        mean_margin=mean_margin,
        mean_probability=(1 + mean_margin) / 2,
        margin=mean_margin,
    )


def of_a_poor_network(share, n=6000, seed=0):
    """Right labels are the most probable class of about half of the examples."""
    generator = np.random.default_rng(seed)
    wrong = generator.random(n) < share
    truth = generator.beta(1.6, 1.6, n) * 0.9
    other = (1 - truth) * generator.uniform(0.4, 0.8, n)
    rest = (1 - truth) * generator.uniform(0.02, 0.2, n)
    probability = np.where(wrong, rest, truth)
    margin = probability - np.where(wrong, np.maximum(truth, other), other)
    loss = -np.log(probability) * np.exp(generator.normal(0.0, 0.2, n))
    return wrong, types.SimpleNamespace(
        mean_loss=loss, mean_margin=margin, mean_probability=probability, margin=margin
    )


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4, 0.6])
def test_wrong_labels_are_counted_and_found(share):
    wrong, seen = record(share)
    found = find_doubts(seen, None)
    assert abs(found.share.estimate - wrong.mean()) < 0.012
    assert found.share.low < wrong.mean() < found.share.high
    assert found.verdict == ""
    assert wrong[found.suspect].mean() > 0.6 and found.suspect[wrong].mean() > 0.97
    assert np.all(found.probability[found.suspect] > 0.5)
    np.testing.assert_array_equal(found.scores, -seen.mean_margin)


def test_clean_data_have_hardly_any():
    # A mixture on its own would call the hard tenth wrong.
    found = find_doubts(record(0.0)[1], None)
    assert found.share.estimate < 0.015
    without_margin = made_up(record(0.0)[1].mean_loss, np.full(4000, -1.0))
    assert find_doubts(without_margin, None).share.estimate > 0.05


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_hard_examples_of_a_poor_network_are_not_called_wrong(share):
    wrong, seen = of_a_poor_network(share)
    # The mixture would say so: its upper component is large without a single wrong label.
    doubted = np.mean(seen.mean_margin < 0)
    assert doubted > 0.35 + 0.5 * share
    found = find_doubts(seen, None)
    assert abs(found.share.estimate - share) < 0.06
    assert found.share.low <= found.share.estimate <= found.share.high
    # Up to what the mixture says.
    assert found.share.high > 0.3
    assert found.suspect.sum() <= round(found.share.estimate * len(wrong))
    if share:
        assert wrong[found.suspect].mean() > wrong[seen.mean_margin < 0].mean()
    assert np.all((found.probability > 0.5) == found.suspect)
    if share < 0.4:
        # Those with the lowest margins.
        assert seen.mean_margin[found.suspect].max() < np.quantile(seen.mean_margin, share + 0.1)


def test_a_network_that_is_mostly_contradicted_is_no_judge():
    # The next word is rarely the most probable one.
    generator = np.random.default_rng(0)
    loss = np.exp(generator.normal(1.5, 0.3, 3000))
    found = find_doubts(made_up(loss, generator.uniform(-0.4, -0.05, 3000)), None)
    assert found.share.estimate == found.share.low == 0.0 and not found.suspect.any()
    # The mixture would say half.
    assert found.share.high > 0.3


def test_a_class_with_two_kinds_is_judged_by_them_beside_a_hard_one():
    wrong, hard = of_a_poor_network(0.0, n=3000)
    bad, easy = record(0.3, n=1000)
    both = types.SimpleNamespace(
        **{
            name: np.concatenate([getattr(hard, name), getattr(easy, name)])
            for name in ("mean_loss", "mean_margin", "mean_probability", "margin")
        }
    )
    found = find_doubts(both, np.repeat([0, 1], [3000, 1000]))
    assert found.suspect[:3000].mean() < 0.1
    assert np.mean(found.suspect[3000:] == bad) > 0.95


def test_large_classes_are_judged_on_their_own():
    # Right labels of the hard class have the losses of wrong ones of the easy class.
    generator = np.random.default_rng(0)
    classes = np.repeat([3, 7], 1000)
    wrong = generator.random(2000) < 0.3
    centre = np.where(classes == 3, np.where(wrong, -1.0, -4.0), np.where(wrong, 2.0, -1.0))
    loss = np.exp(generator.normal(centre, 0.3))
    seen = made_up(loss, np.full(2000, -0.1))
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
    seen = made_up(one_kind, nothing)
    assert find_doubts(seen, None).share.estimate == 0.0
    np.testing.assert_array_equal(find_doubts(seen, None).scores, one_kind)
    wrong = generator.random(2000) < 0.2
    two_kinds = np.exp(np.where(wrong, 2.0, -3.0) + generator.normal(0, 0.4, 2000))
    seen = made_up(two_kinds, nothing)
    found = find_doubts(seen, None)
    assert np.mean(found.suspect == wrong) > 0.99


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("hard", [0.0, 0.3])
def test_the_interval_holds_the_truth_if_some_wrong_labels_are_believed(share, hard):
    for seed in range(5):
        wrong, seen = record(share, n=600, hard=hard, seed=seed)
        believed = wrong & (np.random.default_rng(100 + seed).random(600) < 0.25)
        margin = np.where(believed, 0.5, seen.mean_margin)
        found = find_doubts(made_up(np.where(believed, 0.05, seen.mean_loss), margin), None).share
        assert found.low <= wrong.mean() <= found.high
        assert found.low <= found.estimate <= found.high


def test_of_a_network_that_has_not_learned_few_labels_are_suspects():
    wrong, seen = of_a_poor_network(0.1)
    # Contradicted, but hardly any with confidence.
    doubts = seen.mean_margin * np.where(seen.mean_margin < 0, 0.5, 1.0)
    # Of the most confident predictions a part contradicts: anchors alone would have more suspects.
    odd = (doubts < 0) & (np.arange(len(doubts)) % 20 == 0)
    seen = made_up(seen.mean_loss, doubts)
    seen.mean_probability = np.where(odd, 1.0, seen.mean_probability * 0.9)
    found = find_doubts(seen, None)
    assert found.verdict == NOT_LEARNED
    assert found.suspect.sum() <= found.share.low * len(wrong) < 0.1 * len(wrong)
    assert np.mean(doubts < 0) > 0.3 and found.share.low < wrong.mean() < found.share.high


def test_labels_that_were_doubted_and_then_learned_are_memorised():
    wrong, seen = record(0.2)
    assert find_doubts(seen, None).verdict == ""
    seen.margin = np.where(wrong, 0.9, seen.mean_margin)
    found = find_doubts(seen, None)
    assert found.verdict == MEMORISED
    # They are still found by the whole of training.
    assert found.suspect[wrong].mean() > 0.97


@pytest.mark.parametrize("loss", [np.zeros(50), np.full(50, 2.0), np.linspace(-3, -1, 50)])
def test_degenerate_losses_are_no_error(loss):
    seen = made_up(loss, np.ones(len(loss)))
    with np.errstate(all="raise", under="ignore"):
        found = find_doubts(seen, None)
    assert found.share.estimate == 0.0 and not found.suspect.any()
