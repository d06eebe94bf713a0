"""Objects say what they are, as text and as HTML that fits every theme."""

import html.parser

import keras
import numpy as np
import pytest
from made_up_record import made_up_suspects
from small_models import classifier

import keras_swift as ks


class Cells(html.parser.HTMLParser):
    """The text of a table's cells by their names; fails on tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.styles = [], [], []
        self.feed(text)
        assert not self.open
        self.rows = dict(zip(self.texts[1::2], self.texts[2::2], strict=True))

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.styles += [name for name, _ in attributes if name in ("style", "bgcolor", "color")]
        if tag in ("strong", "th", "td"):
            self.texts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts[-1] += data


def shown(thing):
    cells = Cells(thing._repr_html_())
    assert not cells.styles
    return cells.texts[0], cells.rows


SAMPLER = ks.SwiftSampler([0.5], [1.0, 1.0, 0.25], [0.5, -1.0], ["loss", "<age>"], "cdf")


def test_a_sampler_shows_its_numbers():
    title, rows = shown(SAMPLER)
    assert title == "SwiftSampler, 6 numbers"
    assert rows["features, with coefficients"] == "loss 0.5, <age> -1"
    assert rows["values at 0, the knots and 1"] == "1, 1, 0.25"
    # Names come from the user: they are text, never tags.
    assert "<age>" not in SAMPLER._repr_html_()


def test_a_uniform_sampler_says_so():
    assert shown(ks.SwiftSampler.uniform())[0] == "SwiftSampler, uniform"


def test_a_trainer_shows_what_differs_from_the_defaults():
    model = classifier()
    model.name = "digits"
    trainer = ks.ImportanceTraining(model)
    assert repr(trainer) == "ImportanceTraining(model='digits', presample='auto')"

    def own_score(y_true, y_pred):
        return keras.ops.abs(y_pred[:, 0])

    trainer = ks.ImportanceTraining(model, tau_threshold=0, score=own_score, floor=0.2)
    settings = "presample=3.0, score=own_score, tau_threshold=0, floor=0.2"
    assert repr(trainer) == f"ImportanceTraining(model='digits', {settings})"


def test_a_trainer_shows_what_it_remembers(digits):
    x, y = digits[0][:64], digits[1][:64]
    trainer = ks.ImportanceTraining(classifier(), seed=0)
    assert shown(trainer)[1]["remembers"] == "nothing yet"
    trainer.fit(x, y, verbose=0)
    title, rows = shown(trainer)
    assert title == "ImportanceTraining"
    assert rows["remembers"] == "ExampleMemory of 64 examples, 100% seen"
    assert rows["presample"] == "'auto'"
    assert rows["model"] == f"{trainer.model.name}, {trainer.model.count_params():,} parameters"


def test_a_model_that_is_not_built_has_no_count():
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    assert shown(ks.ImportanceTraining(model))[1]["model"] == f"{model.name}, not built yet"


def test_swift_training_shows_its_sampler():
    model, reference = classifier(), classifier()
    training = ks.SwiftTraining(model, SAMPLER, reference)
    assert repr(SAMPLER) in repr(training) and repr(reference.name) in repr(training)
    title, rows = shown(training)
    assert title == f"SwiftTraining of {model.name}"
    assert rows == {"sampler": repr(SAMPLER), "features": f"computed by {reference.name}"}
    assert shown(ks.SwiftTraining(model, SAMPLER))[1]["features"] == "none"
    given = ks.SwiftTraining(model, SAMPLER, features={"loss": np.ones(3)})
    assert shown(given)[1]["features"] == "as given"


def test_suspects_show_the_first_of_them():
    found = made_up_suspects()
    title, rows = shown(found)
    assert title == "2 of 80 labels are more likely wrong than right"
    first = "example 7: labelled 3, predicted 0; example 3: labelled 3, predicted 0"
    assert rows["most suspicious"] == first
    assert rows["estimated share of wrong labels"] == str(found.wrong_share)


@pytest.mark.parametrize("sampler", [SAMPLER, ks.SwiftSampler.uniform()])
def test_keras_serializes_a_sampler(sampler):
    config = keras.saving.serialize_keras_object(sampler)
    assert config["registered_name"] == "keras_swift>SwiftSampler"
    assert keras.saving.deserialize_keras_object(config) == sampler
