"""Which trial counts as the best, by hand-made trials."""

import dataclasses
import math
import types

import numpy as np
import pytest
from made_up_record import made_up_record

from keras_swift import SwiftSampler
from keras_swift.src.search.choice import candidates
from keras_swift.src.search.result import SearchResult
from keras_swift.src.search.trial import SearchTrial

RANKS = np.arange(100.0)
UNIFORM = SwiftSampler.uniform(["loss"], 3, "cdf")


def cut(share):
    """Draws that share of the examples, all alike."""
    return SwiftSampler([share, share], [1, 1, 0, 0], [1.0], ["loss"], "cdf")


def trial(number, sampler, objective, noise=0.0, right=None, **probabilities):
    """A trial whose difference to any of other noise has a standard error."""
    # Two validation examples: the standard error of a mean of `(-a, a)` is `a`.
    values = objective + np.array([-noise, noise])
    metrics = {f"val_{name}_probability": value for name, value in probabilities.items()}
    if right is not None:
        metrics["val_label_accuracy"] = right
    return SearchTrial(number, sampler, objective, 1.0, "COMPLETED", metrics, values)


def result(trials, confirmed=(), direction="max", **changes):
    settings = {
        "features": {"loss": RANKS},
        "trials": tuple(trials),
        "confirmed": tuple(confirmed),
        "objective": "val_score",
        "direction": direction,
        "record": made_up_record(),
        "classes": np.zeros(100, int),
        "pretrained_weights": [],
        "pretrain_epochs": 4,
        "finetune_epochs": 2,
        "pretrain_seconds": 1.0,
        "record_epochs": 1.0,
        "data_fingerprint": "",
    }
    return SearchResult(**{**settings, **changes})


@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize(
    ("noise", "best"),
    # Uniform 0.5. The clearly better ones are 2 standard errors of the difference ahead of it, and
    # as good as the highest are those within one standard error of it.
    [(0.0, 1), (0.009, 1), (0.011, 3), (0.0549, 3), (0.056, 0), (0.071, 0)],
)
def test_a_trial_has_to_be_clearly_better(direction, noise, best):
    sign = 1 if direction == "max" else -1
    trials = [
        trial(0, UNIFORM, sign * 0.5),
        trial(1, cut(0.3), sign * 0.62, noise),
        trial(2, cut(0.6), sign * 0.55, noise),
        trial(3, cut(0.5), sign * 0.61),
    ]
    # The noise of 1 against 3 is that of 1; 3 has none against uniform.
    trials[3] = dataclasses.replace(trials[3], values=trials[3].values + [-noise, noise])
    trials[1] = dataclasses.replace(trials[1], values=trials[1].objective + np.zeros(2))
    trials[0] = dataclasses.replace(trials[0], values=trials[0].objective + np.zeros(2))
    found = result(trials, direction=direction)
    assert found.best.number == best
    assert found.gain == pytest.approx(0.0 if best == 0 else [0.5, 0.12, 0.05, 0.11][best])


def test_unknown_noise_counts_as_none_and_failures_are_never_the_best():
    plain = [
        dataclasses.replace(trial(k, sampler, value), values=None)
        for k, (sampler, value) in enumerate(
            [(UNIFORM, 0.5), (cut(0.5), 0.501), (cut(0.9), math.nan)]
        )
    ]
    assert result(plain).best.number == 1 and math.isnan(result(plain).noise)
    assert result(plain[:1]).best.number == 0
    assert result([dataclasses.replace(plain[0], objective=math.nan)]).best.number == 0
    assert result([trial(0, UNIFORM, 0.5), trial(1, cut(0.5), 0.5)]).best.number == 0


def test_candidates_are_the_most_even_of_the_best_then_the_highest():
    trials = [
        trial(0, UNIFORM, 0.9),
        trial(1, cut(0.4), 0.70, 0.02),
        trial(2, cut(0.8), 0.69),
        trial(3, cut(0.6), 0.66),
        trial(4, UNIFORM, 0.8),
        trial(5, cut(0.2), math.nan),
    ]
    found = candidates(trials, "max", {"loss": RANKS}, 2)
    assert [t.number for t in found] == [2, 1]
    assert [t.number for t in candidates(trials, "max", {"loss": RANKS}, 9)] == [2, 1, 3]
    assert [t.number for t in candidates(trials, "min", {"loss": RANKS}, 1)] == [3]
    assert candidates(trials[:1], "max", {"loss": RANKS}, 2) == []


def test_each_trial_says_why_it_was_confirmed_or_not():
    sure = {"tempered": 0.7, "label": 0.6}
    trials = [
        trial(0, UNIFORM, 0.5, **sure),
        trial(1, cut(0.4), 0.70, 0.02, **sure),
        trial(2, cut(0.8), 0.69, **sure),
        trial(3, cut(0.5), 0.695, 0.01, tempered=0.7, label=0.8),
        trial(4, cut(0.6), 0.60, **sure),
        trial(5, cut(0.2), math.nan),
    ]
    confirmed = [trial(0, UNIFORM, 0.6), trial(2, cut(0.8), 0.7), trial(3, cut(0.5), 0.61, 0.02)]
    text = str(result(trials, confirmed))
    expected = [
        "trial 1       0.7000 (+0.2000, noise 0.0200); not confirmed: as good as the best within "
        "the noise, but draws less evenly, number 3 in the order in which 2 were confirmed",
        "trial 3       0.6950 (+0.1950, noise 0.0100); confirmed: of 3 as good as the best within "
        "the noise, it made the model most confident in the labels; from scratch 0.6100 (+0.0100, "
        "noise 0.0200), not clearly better than uniform",
        "trial 2       0.6900 (+0.1900, noise 0.0000); confirmed: of 3 as good as the best within "
        "the noise, it draws most evenly; from scratch 0.7000 (+0.1000, noise 0.0000), chosen",
        "trial 4       0.6000 (+0.1000, noise 0.0000); not confirmed: next by its objective, "
        "number 4 in the order in which 2 were confirmed",
        "trial 0       0.5000; uniform: the pretraining was its training from scratch",
        "trial 5       completed; not confirmed: it has no objective",
    ]
    lines = [line.strip() for line in text.splitlines() if line.startswith("  trial ")]
    assert lines == expected


def test_what_was_confirmed_decides():
    trials = [trial(0, UNIFORM, 0.5), trial(1, cut(0.4), 0.9), trial(2, cut(0.6), 0.8)]
    confirmed = [trial(0, UNIFORM, 0.6), trial(1, cut(0.4), 0.55), trial(2, cut(0.6), 0.65, 0.01)]
    found = result(trials, confirmed)
    assert found.best is trials[2]
    assert found.gain == pytest.approx(0.05) and found.noise == pytest.approx(0.01)
    assert "from scratch  uniform 0.6000, trial 2 0.6500 (+0.0500, noise 0.0100)" in str(found)
    # Three standard errors are no longer clear where one of them is 0.03.
    confirmed[2] = trial(2, cut(0.6), 0.65, 0.03)
    found = result(trials, confirmed)
    assert found.best is trials[0] and found.gain == 0.0 and found.noise == 0.0
    assert "uniform draws: nothing is clearly better" in str(found)


@pytest.mark.parametrize(
    ("probability", "right", "best"),
    # Uniform: 0.6 and 0.8. Of two examples' accuracy, 0.25 is chance.
    [
        (0.65, 0.70, 0),
        (0.65, 0.80, 0),
        (0.65, 0.81, 1),
        (0.75, 0.80, 1),
        (0.75, 0.56, 1),
        (0.75, 0.54, 0),
    ],
)
def test_a_surer_model_that_gets_no_more_right_has_to_be_much_surer(probability, right, best):
    trials = [trial(0, UNIFORM, 0.5), trial(1, cut(0.6), 0.9)]
    confirmed = [
        trial(0, UNIFORM, 0.6, right=0.8, label=0.6),
        trial(1, cut(0.6), probability, right=right, label=probability),
    ]
    found = result(trials, confirmed, objective="val_label_probability")
    assert found.best.number == best
    # Who asks for another objective gets it.
    assert result(trials, confirmed).best.number == 1


@pytest.mark.parametrize(
    ("tempered", "probability", "right", "best"),
    # Uniform: 0.6, 0.3 and 0.8; the standard error is 0.01. Of two examples' accuracy, 0.25 is
    # chance, and 0.475 closes a quarter of the gap to 1.
    [
        (0.63, 0.30, 0.81, 1),
        (0.63, 0.30, 0.56, 1),
        (0.63, 0.90, 0.54, 0),
        (0.61, 0.47, 0.90, 0),
        (0.61, 0.48, 0.56, 1),
        (0.595, 0.48, 0.56, 1),
        (0.585, 0.48, 0.90, 0),
        (0.61, 0.48, 0.54, 0),
    ],
)
def test_at_one_confidence_a_much_surer_model_has_only_to_be_no_worse(
    tempered, probability, right, best
):
    trials = [trial(0, UNIFORM, 0.5), trial(1, cut(0.6), 0.9)]
    confirmed = [
        trial(0, UNIFORM, 0.6, right=0.8, label=0.3),
        trial(1, cut(0.6), tempered, 0.01, right=right, label=probability),
    ]
    found = result(trials, confirmed, objective="val_tempered_probability")
    assert found.best.number == best


def test_the_surest_of_those_as_good_is_confirmed_too():
    def judged(number, share, tempered, label):
        both = {"tempered": tempered, "label": label}
        return trial(number, cut(share), tempered, 0.01 * number, **both)

    trials = [trial(0, UNIFORM, 0.5)]
    trials += [judged(1, 0.9, 0.60, 0.3), judged(2, 0.4, 0.605, 0.7), judged(3, 0.6, 0.61, 0.5)]
    trials += [judged(4, 0.3, 0.5, 0.9)]
    found = candidates(trials, "max", {"loss": RANKS}, 9)
    # The most even one, the surest, the best of the others; the fourth is too far behind.
    assert [t.number for t in found] == [1, 2, 3, 4]
    assert [t.number for t in candidates(trials, "max", {"loss": RANKS}, 2)] == [1, 2]


def test_price_counts_trials_confirmation_and_record():
    trials = [trial(0, UNIFORM, 0.5), trial(1, cut(0.5), 0.6)]
    found = result(trials, [trial(0, UNIFORM, 0.5), trial(1, cut(0.5), 0.6)])
    assert found.epochs == 2 * 2 + 1 * 4 + 1 and found.price == 9 / 4
    assert "2.2 uniform trainings of 4 epochs (1.0 in the trials, 1.0 to confirm" in str(found)
    assert "not confirmed" in str(result(trials))
    assert math.isnan(result(trials, pretrain_epochs=0).price)


def test_suspects_are_those_more_likely_wrong_than_right():
    found = result([trial(0, UNIFORM, 0.5), trial(1, cut(0.5), 0.6)])
    assert sorted(found.suspects()) == list(range(80, 100))
    assert found.wrong_share.estimate == 0.2
    assert found.wrong_share.low < 0.2 < found.wrong_share.high
    indices, scores = found.suspects(3, return_scores=True)
    order = np.argsort(found.record.mean_margin)[:3]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(scores, -found.record.mean_margin[order])
    assert len(found.suspects(1000)) == 100
    assert "wrong labels  20.0%" in str(found)
    with pytest.raises(ValueError, match="`count` must be an int of 0 or more"):
        found.suspects(-1)


def test_deciles_are_shares_of_the_draws():
    found = result([trial(0, UNIFORM, 0.5), trial(1, cut(0.5), 0.6)])
    ordered = dataclasses.replace(found.record, mean_loss=RANKS)
    deciles = result(found.trials, record=ordered).loss_deciles
    np.testing.assert_allclose(deciles, [0.2] * 5 + [0.0] * 5, atol=0.02)


def test_any_object_with_the_arrays_is_a_record():
    record = types.SimpleNamespace(**made_up_record().columns())
    assert sorted(result([trial(0, UNIFORM, 0.5)], record=record).suspects()) == list(
        range(80, 100)
    )
