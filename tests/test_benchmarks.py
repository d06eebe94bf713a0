"""The comparisons: that their short forms run, what they print, and how one chooses settings."""

import importlib
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"


def run(*arguments, script="time_to_loss.py"):
    command = [sys.executable, FOLDER / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


# In processes of their own, and alike on every backend: once is enough.
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="run on one backend")
def test_the_quick_form_trains_and_prints_what_it_wrote(tmp_path):
    out = tmp_path / "rows.jsonl"
    done = run("--quick", "--methods", "uniform", "ours", "infobatch", "--out", out)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["task"], row["method"], row["seed"]) for row in rows] == [
        ("digits", "uniform", 2),
        ("digits", "ours", 2),
        ("digits", "infobatch", 2),
    ]
    assert [row["importance"] > 0 for row in rows] == [False, True, True]
    assert all(row["cost"] == 1.0 and row["test_error"] < 0.2 for row in rows)
    # The tables are those of the file.
    again = run("--summary", out, "--plot", tmp_path / "figure.png")
    assert again.stdout.startswith(done.stdout[done.stdout.index("\ndigits, ") :])
    assert (tmp_path / "figure.png").stat().st_size > 5000


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="run on one backend")
def test_the_quick_form_of_the_ordinary_tasks_goes_on_after_a_kill(tmp_path):
    out, script = tmp_path / "rows.jsonl", "ordinary.py"
    done = run("--quick", "--sides", "fit", "ours", "without data", "--out", out, script=script)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = out.read_text().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    assert [row["side"] for row in rows] == ["fit", "ours", "without data"]
    assert all(len(row["val_loss"]) == len(row["seconds"]) == 6 for row in rows)
    assert [max(row["importance"] or [0]) > 0 for row in rows] == [False, True, True]
    # Until it eases off, data to validate change no draw.
    assert rows[1]["val_loss"] == pytest.approx(rows[2]["val_loss"], rel=1e-5)
    over = rows[1]["val_loss"][-1] / rows[0]["val_loss"][-1]
    assert f"| ours | {over:.3f} | {over:.3f} | {over:.3f} | {over:.3f} |" in done.stdout
    # Of a killed run: two rows, and one cut off.
    out.write_text("".join(lines[:2]) + lines[2][:40])
    again = run("--quick", "--sides", "fit", "ours", "--out", out, script=script)
    assert again.returncode == 0, again.stderr[-2000:]
    assert out.read_text() == "".join(lines[:2]) and "constant ours" not in again.stdout


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="run on one backend")
def test_the_real_networks_are_reported_at_the_rates_they_chose_once(tmp_path):
    out, script = tmp_path / "rows.jsonl", "real_networks.py"
    done = run("--quick", "--rates", "1e-5", "0.01", "--out", out, script=script)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = out.read_text().splitlines(keepends=True)
    # As after a kill while the last row was written.
    out.write_text("".join(lines[:3]) + lines[3][:40])
    report = ("--quick", "--report", "--seeds", "2", "--sides", "fit", "ours", "undersampling")
    done = run(*report, "--out", out, script=script)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    seen = [(row["side"], row["rate"], row["seed"]) for row in rows]
    assert seen[:3] == [("fit", 1e-5, 0), ("fit", 0.01, 0), ("ours", 1e-5, 0)]
    best = min(rows[:2], key=lambda row: row["test error"])["rate"]
    assert seen[3:] == [("fit", best, 2), ("ours", 1e-5, 2), ("undersampling", best, 2)]
    # As many examples pass, so the few that were kept pass more often.
    assert [row["trained"] for row in rows[3:5]] == [4, 4] and 25 < rows[5]["trained"] < 40
    assert f"| undersampling | {best:g} † |" in done.stdout
    again = run(*report, "--out", out, script=script)
    assert again.stdout.startswith("\ntable-256: ") and len(out.read_text().splitlines()) == 6
    some = run("--summary", out, "--seeds", "0", "--rates", "1e-5", script=script).stdout
    assert "| fit | 1e-05 |" in some and "| ours | 1e-05 |" in some and "| 2 |" not in some


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="run on one backend")
def test_the_weights_of_each_tenth_of_the_examples_add_up():
    done = run("--rows", "4000", "--seeds", "0", script="weights_add_up.py")
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[s, e] for s in ("arrays", "generator") for e in "234"]
    sums = np.array([row[2:] for row in rows], np.float64)
    assert np.abs(sums - 1).max() < 0.15
    # The three tenths with the highest scores had 0.94 while scores changed within an epoch.
    assert abs(sums[:3, 7:].mean() - 1) < 0.03


# Three tables that share one search, so that it is also read back.
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="run on one backend")
def test_the_quick_form_of_the_swift_papers_tables_resumes_and_prints_its_rows(tmp_path):
    out, script = tmp_path / "rows.jsonl", "papers/swift.py"
    tables = ("--tables", "noise", "language", "figure")
    done = run("--quick", *tables, "--out", out, script=script)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    measured = {row["table"]: row for row in rows if "missing" not in row}
    assert list(measured) == ["noise", "figure"]
    assert "wikitext2: not run: no --text FOLDER" in done.stdout
    row = measured["noise"]
    assert {row["backend"], row["seed"], row["scale"]} == {"torch", 2, "quick"}
    assert all(0.05 < row[kind] < 1.0 for kind in ("uniform", "package", "paper"))
    # 3 trials of 1 epoch after 3 epochs are 1 training, one confirmed is another; to look at all
    # examples takes a third of an epoch, once for the paper's features. Ours cost nothing.
    assert row["price paper"] == pytest.approx(1.0 + 1.0 / 9.0)
    assert row["price package"] == pytest.approx(1.0 + 1.0)
    # The rows of a killed run: a whole one, and one cut off.
    lines = out.read_text().splitlines(keepends=True)
    noise = next(line for line in lines if '"table": "noise"' in line and "missing" not in line)
    out.write_text(noise + lines[-1][:40])
    again = run("--quick", *tables, "--out", out, "--plot", tmp_path / "swift", script=script)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "1/1 figure" in again.stdout
    tables_printed = done.stdout[done.stdout.index("\n### noise") :]
    assert tables_printed in again.stdout
    assert (tmp_path / "swift-noise.png").stat().st_size > 5000
    assert run("--summary", out, script=script).stdout.endswith(tables_printed)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="run on one backend")
def test_the_quick_form_of_the_papers_comparison_gives_every_run_its_seconds(tmp_path):
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, FOLDER / "papers" / "katharopoulos.py"]
    quick = [*command, "--quick", "--out", out]
    methods = ["uniform", "bound", "published", "ours"]
    done = subprocess.run(
        [*quick, "--methods", *methods], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["method"], row["seed"]) for row in rows] == [(name, 2) for name in methods]
    assert all(row["seconds"] <= row["seconds_spent"] < 2 * row["seconds"] for row in rows)
    # A run that ended leaves no backup.
    assert not (tmp_path / "rows.jsonl.runs").exists()
    share = {row["method"]: row["share"] for row in rows}
    assert share["uniform"] == 0 < share["bound"]
    # What is in the file is not run again, and the tables are those of the file.
    before = out.read_text()
    again = subprocess.run(
        [*quick, "--methods", "uniform", "--plot", tmp_path / "figure.png"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert out.read_text() == before
    assert again.stdout.startswith(done.stdout) and "| published |" in done.stdout
    assert (tmp_path / "figure-digits.png").stat().st_size > 5000


def test_a_budget_that_was_partly_spent_continues_where_it_was(katharopoulos, tmp_path):
    file = tmp_path / "clock.json"
    saved = {"seconds": 6.0, "cpu_seconds": 5.0, "steps": 70.0, "importance": 7.0}
    file.write_text(json.dumps({"3": saved | dict.fromkeys(("gain", "tau", "scored"), 1.0)}))
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.5), "mse")
    clock = katharopoulos.Clock(10.0, 0.5, (0.4, 0.8), 16, file)
    clock.set_model(model)
    clock.on_epoch_begin(3)
    assert 6.0 <= clock.spent < 7.0 and clock.notes["steps"] == 70.0
    # More than 40 % is spent: the first drop.
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_the_layer_and_the_copies_move_images_alike(katharopoulos):
    images = np.arange(16 * 16 * 3, dtype="float32").reshape(1, 16, 16, 3)
    layer = katharopoulos.FlipAndShift()
    keras.utils.set_random_seed(0)
    moved = layer(np.repeat(images, 1000, axis=0), training=True)
    moved = {image.tobytes() for image in keras.ops.convert_to_numpy(moved)}
    copies = {image.tobytes() for image in katharopoulos.augmented(images, [0], 1000, 0)[0]}
    # Of 2 * 5 * 5 forms one is missed in a thousand draws with probability 1e-7.
    assert moved == copies and len(copies) == 50
    assert np.array_equal(keras.ops.convert_to_numpy(layer(images)), images)


@pytest.fixture
def katharopoulos(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.syspath_prepend(FOLDER)
    file = FOLDER / "papers" / "katharopoulos.py"
    spec = importlib.util.spec_from_file_location("its_katharopoulos", file)
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks its module up.
    monkeypatch.setitem(sys.modules, "its_katharopoulos", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="run on one backend")
@pytest.mark.parametrize(
    ("script", "page"),
    [
        ("papers/katharopoulos.py", "evidence.md"),
        ("papers/swift.py", "evidence.md"),
        ("real_networks.py", "real_networks.md"),
    ],
)
def test_the_tables_of_the_docs_are_those_of_the_rows(script, page):
    rows = (FOLDER / script).with_suffix(".jsonl")
    done = run("--summary", rows, script=script)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (FOLDER.parent / "docs" / page).read_text(encoding="utf-8").splitlines()
    printed = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(printed) > 20 and set(printed) <= set(page)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="run on one backend")
def test_the_comparisons_at_equal_passes_are_those_of_the_rows():
    done = run("--summary", FOLDER / "time_to_loss.jsonl")
    assert done.returncode == 0, done.stderr[-2000:]
    text = (FOLDER.parent / "docs" / "performance.md").read_text(encoding="utf-8")
    # A method, and the batch size, rate and schedule that were chosen for it.
    shown = re.findall(r"^\| [a-z. ]+ \| \d+, [\d.]+, \w+ \|.*$", text, re.MULTILINE)
    assert len(shown) > 30 and set(shown) <= set(done.stdout.splitlines())


@pytest.fixture
def real_networks(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.syspath_prepend(FOLDER.parent / "examples")
    return importlib.import_module("real_networks")


def test_the_gain_of_a_rule_is_that_of_its_probabilities(real_networks):
    gains = importlib.import_module("score_spread").gains
    before, scores = np.array([1.0, 3.0, 2.0, np.nan]), np.array([4.0, 2.0, 2.0, 5.0])
    found = gains([np.array([3.0, 1.0, 2.0, np.nan]), before], scores)
    # Of the first two examples, whose score is new, the first was drawn 3/4 times in an epoch, so
    # it counts 4/3 times. Their probabilities were 3/4 and 5/4 by the last scores.
    uniform, drawn = 4 / 3 * 16 + 4, 4 / 3 * 16 / 0.75 + 4 / 1.25
    assert found["last"] == pytest.approx(uniform * (4 / 3 + 1) / (drawn * (1 + 1.25)))
    # The mean of the two last scores is 2 for all: uniform draws.
    assert found["mean of two"] == found["mean of two, floor 0.2"] == pytest.approx(1.0)
    # Draws by the norm itself have the least second moment, its squared mean.
    mean = (4 / 3 * 4 + 2) / (4 / 3 + 1)
    assert found["known, no floor"] == pytest.approx(uniform / (4 / 3 + 1) / mean**2)


@pytest.fixture
def real_tasks(real_networks):
    return importlib.import_module("real_tasks")


def test_sides_that_need_single_examples_are_left_out_for_streams(real_networks):
    assert {"infobatch", "fresh", "undersampling"} <= set(real_networks.sides_of("table-256"))
    for name in ("transformer", "resnet-pipeline"):
        sides = set(real_networks.sides_of(name))
        assert not {"infobatch", "fresh"} & sides and {"fit", "ours"} <= sides
        assert ("without ids" in sides) == (name == "resnet-pipeline")


def test_a_calibration_error_is_that_of_each_confidence(real_tasks):
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.3, 0.3])
    right = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    # |0.9 - 3/4| for four of six, |0.3 - 0| for two.
    expected = (4 * 0.15 + 2 * 0.3) / 6
    assert real_tasks.calibration_error(confidence, right) == pytest.approx(expected)
    halved = real_tasks.calibration_error(confidence, right, np.array([1, 1, 1, 1, 0, 0]))
    assert halved == pytest.approx(0.15)


def test_the_predictions_after_undersampling_are_corrected_by_bayes_rule(real_tasks):
    class Undersampled:
        # 30 positives and 700 negatives, a tenth of which were kept.
        def predict(self, x):
            return np.array([30 / 100])

    corrected = real_tasks.Corrected(Undersampled(), 0.1).predict(None)
    assert corrected == pytest.approx([30 / 730])


def test_the_mean_intersection_over_union_leaves_out_pixels_without_weight(real_tasks):
    y = np.array([[[0, 1], [1, 1]]])
    weights = np.array([[[1.0, 1.0], [1.0, 0.0]]])

    class Model:
        def predict(self, x, **settings):
            # The first and the second pixel of class 0, the others of class 1.
            return np.eye(11)[[[[0, 0], [1, 0]]]]

    found = real_tasks.pixels(Model(), None, y, weights, classes=2)
    # Class 0: 1 of 2; class 1: 1 of 2.
    assert found["error"] == pytest.approx(0.5) and found["wrong pixels"] == pytest.approx(1 / 3)


@pytest.fixture
def time_to_loss(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("its_time_to_loss", FOLDER / "time_to_loss.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_are_chosen_on_other_seeds_than_are_reported(time_to_loss):
    def row(seed, rate, loss):
        return {
            "task": "t", "epochs": 1, "examples": 9, "backend": "b", "method": "uniform",
            "batch_size": 32, "rate": rate, "schedule": "cosine", "seed": seed, "test_loss": loss,
        }  # fmt: skip

    rows = [row(0, 0.1, 1.0), row(0, 0.2, 2.0), row(1, 0.1, 1.2), row(1, 0.2, 0.1)]
    # Lower on average over the seeds for choosing, though not on the others.
    rows += [row(2, 0.1, 5.0), row(2, 0.2, 9.0)]
    ((methods),) = time_to_loss.chosen(rows, "test_loss").values()
    assert [(r["seed"], r["rate"]) for r in methods["uniform"]] == [(2, 0.2)]


def test_settings_tried_with_fewer_seeds_are_not_chosen(time_to_loss):
    row = {
        "task": "t", "epochs": 1, "examples": 9, "backend": "b", "method": "ours",
        "batch_size": 32, "schedule": "cosine",
    }  # fmt: skip
    tried = [(0.1, 0, 1.0), (0.1, 1, 1.2), (0.2, 0, 0.5), (0.2, 2, 0.1), (0.1, 2, 0.9)]
    rows = [{**row, "rate": rate, "seed": seed, "test_loss": loss} for rate, seed, loss in tried]
    ((methods,),) = [cell.values() for cell in time_to_loss.chosen(rows, "test_loss").values()]
    assert [(r["rate"], r["seed"]) for r in methods] == [(0.1, 2)]


def test_the_figure_says_what_was_gained_beyond_the_noise(time_to_loss):
    figure = time_to_loss.time_to_loss_figure
    baseline = [{"seed": seed, "test_error": 0.1} for seed in (2, 3)]
    rows = [{"seed": seed, "test_error": e} for seed, e in ((2, 0.09), (3, 0.11), (4, 9.0))]
    # Paired by seed: the third has no partner.
    assert figure.changes(rows, baseline) == (pytest.approx(0.0), pytest.approx(0.1))
    # As many errors together are no change, also where the seeds differ.
    uneven = [{"seed": 2, "test_error": 0.01}, {"seed": 3, "test_error": 0.03}]
    swapped = [{"seed": 2, "test_error": 0.03}, {"seed": 3, "test_error": 0.01}]
    assert figure.changes(swapped, uneven)[0] == pytest.approx(0.0)
    text = figure.sentence([(-0.05, 0.01), (-0.02, 0.01), (-0.01, 0.02), (0.03, 0.01)])
    assert "2% to 5% fewer errors in 2 of 4 tasks,\nmore in 1, where" in text
    assert figure.sentence([(-0.01, 0.02)]).endswith("no change beyond the noise")


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="run on one backend")
def test_a_report_trains_what_was_chosen_once(tmp_path):
    out = str(tmp_path / "rows.jsonl")
    choose = ["--tasks", "digits", "--methods", "uniform", "--epochs", "1", "--out", out]
    run(*choose, "--rates", "0.001", "0.1", "--seeds", "0")
    report = [*choose, "--report", "--seeds", "3"]
    run(*report)
    run(*report)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["rate"]) for row in rows] == [(0, 0.001), (0, 0.1), (3, 0.1)]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="run on one backend")
def test_features_are_compared_by_what_is_left_out(tmp_path):
    out, script = tmp_path / "rows.jsonl", "features.py"
    options = ("--seeds", "0", "--long", "12", "--keep", "0.6", "--features", "mean margin")
    done = run("digits", *options, "--out", out, script=script)
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads(out.read_text())
    assert row["AUROC"]["mean margin"] > 0.95 and row["gains"]["mean margin"]["0.6"] > -0.05
    assert "| mean margin | " in done.stdout and "± 0.000 | 0.9" in done.stdout
    assert done.stdout.endswith(run("--summary", out, script=script).stdout)
