"""The package as a whole: its names, its imports, its figures."""

import ast
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import keras
import pytest
from small_models import classifier

import keras_swift as ks

ROOT = pathlib.Path(__file__).parents[1]


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_public_names():
    assert sorted(ks.__all__) == [
        "BackupAndRestore",
        "Batch",
        "ExampleMemory",
        "ImportanceDataset",
        "ImportanceTraining",
        "SamplerSpace",
        "SearchResult",
        "SearchTrial",
        "Suspects",
        "SwiftSampler",
        "SwiftTraining",
        "WrongShare",
        "compute_features",
        "find_suspects",
        "plot_training",
        "search",
    ]
    assert all(hasattr(ks, name) for name in ks.__all__)
    # No internal modules among them.
    assert dir(ks) == sorted([*ks.__all__, "__version__"])


def test_import_loads_the_active_framework_alone():
    others = {"tensorflow", "jax", "torch"} - {keras.backend.backend()}
    heavy = others | {"matplotlib", "sklearn", "keras_tuner"}
    code = f"import sys, keras_swift; print([n for n in {sorted(heavy)} if n in sys.modules])"
    # Keras itself imports what it finds installed, so it is asked first.
    before = python(f"import sys, keras; print([n for n in {sorted(heavy)} if n in sys.modules])")
    assert python(code).stdout == before.stdout


def test_without_a_backend_the_cure_is_named():
    name = keras.backend.backend()
    code = f"""
import sys
import tomllib

class Absent:
    def find_spec(self, module, path=None, target=None):
        if module.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError("No module named " + repr(module), name={name!r})

sys.meta_path.insert(0, Absent())
import keras_swift
"""
    result = python(code)
    assert "ImportError: Keras needs a backend" in result.stderr
    assert "pip install 'keras-swift[" in result.stderr


@pytest.mark.any_backend
def test_plot_training_draws_the_history(digits, tmp_path):
    x, y = digits[0][:200], digits[1][:200]
    history = ks.ImportanceTraining(classifier(), presample=3.0, seed=0).fit(
        x, y, epochs=3, validation_split=0.2, verbose=0
    )
    figure = ks.plot_training(history, tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 5000
    above, below, share = figure.axes
    assert [line.get_label() for line in above.get_lines()] == ["training", "validation"]
    assert list(above.get_lines()[0].get_ydata()) == history.history["loss"]
    assert list(below.get_lines()[0].get_ydata()) == history.history["gain"]
    assert (below.get_xlabel(), share.get_ylabel()) == ("epoch", "share of steps")


def test_plot_training_says_what_is_to_be_seen():
    values = {"loss": [2.0, 1.0, 0.5, 0.4], "gain": [1.0, 1.5, 2.0, 1.8], "val_loss": [1.2, 0.6]}
    above = ks.plot_training({**values, "importance": [0.0, 1.0, 1.0, 1.0]}).axes[0]
    assert above.get_title() == (
        "75% of the steps were drawn by importance,\n"
        "at best with the noise of a batch 2.0 times as large"
    )
    assert (above.get_yscale(), above.get_ylabel()) == ("linear", "loss")
    # Validated every second epoch.
    assert list(above.get_lines()[1].get_xdata()) == [2, 4]
    values["loss"][-1] = 0.1
    above = ks.plot_training({**values, "importance": [0.0] * 4}).axes[0]
    assert above.get_title().startswith("Every step was uniform")
    assert (above.get_yscale(), above.get_ylabel()) == ("log", "loss, on a log scale")


def test_plot_training_marks_where_it_eased_off_and_shows_its_whole_curve():
    gain = [1.0, 2.0, 4.0, 1.0, 1.0, 3.0, 1.0]
    importance = [0.0, 1.0, 1.0, 0.0, 0.0, 0.5, 0.0]
    values = {"loss": [1.0] * 7, "gain": gain, "importance": importance}
    figure = ks.plot_training(values)
    figure.draw_without_rendering()
    above, below, _ = figure.axes
    for panel, first in ((above, 1), (below, 2)):
        assert [line.get_xdata()[0] for line in panel.get_lines()[first:]] == [3.5, 6.5]
    assert below.get_ylim()[0] == 0 and below.get_ylim()[1] > 4
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts.count("uniform from here on") == 1 and len(texts) == 4
    assert not legend.get_window_extent().overlaps(below.get_window_extent())


def test_a_notebook_shows_a_figure_before_pyplot_has_drawn_one():
    values = {"loss": [2.0, 1.0], "gain": [1.0, 1.5], "importance": [0.0, 1.0]}
    picture = ks.plot_training(values)._repr_png_()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000


def test_plot_training_refuses_another_history():
    with pytest.raises(ValueError, match=r"must come from `ImportanceTraining.fit`.*\['gain'"):
        ks.plot_training({"loss": [1.0]})


def test_a_keras_that_keeps_things_elsewhere_is_named(monkeypatch):
    model = classifier()
    owner = next(base for base in type(model).__mro__ if "_symbolic_build" in vars(base))
    monkeypatch.delattr(owner, "_symbolic_build")
    with pytest.raises(
        ImportError, match=r"knows Keras 3.14 and 3.15.*without \['_symbolic_build'\]"
    ):
        ks.ImportanceTraining(model)


def private_names(tree):
    """Lines at which a private attribute of anything but `self` or `cls` is used."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not re.match(r"_[a-z]", node.attr):
            continue
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            yield node.lineno


PACKAGE = pathlib.Path(ks.__file__).parent


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_private_names_of_keras_are_used_in_two_files(path):
    if path.name not in ("_keras.py", "_keras_losses.py"):
        text = path.read_text(encoding="utf-8")
        assert not list(private_names(ast.parse(text)))
        assert "keras.src" not in text


def test_extras_with_tensorflow_bring_what_kerastuner_imports_there():
    root = pathlib.Path(__file__).parent.parent
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    for name in ("tensorflow", "cuda"):
        packages = {re.match(r"[\w-]+", line)[0] for line in extras["optional-dependencies"][name]}
        assert packages == {"tensorflow", "tensorboard"}


@pytest.mark.any_backend
def test_the_stations_of_a_fit_are_those_that_contributors_read_of(digits):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## From `fit` to a drawn batch")[1].split("\n## ")[0]
    stations = re.findall(r"^\d+\. `(\w+)` in `([\w/]+\.py)`", section, re.MULTILINE)
    folder, calls = str(ROOT / "keras_swift" / "src") + os.sep, {}

    def profile(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(folder):
            file = code.co_filename.removeprefix(folder).replace(os.sep, "/")
            calls.setdefault((code.co_name, file))

    trainer = ks.ImportanceTraining(classifier(0.3), seed=0)
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        trainer.fit(digits[0][:320], digits[1][:320], epochs=4, verbose=0)
    finally:
        sys.setprofile(before)
    assert len(stations) == 12 and [call for call in calls if call in stations] == stations
