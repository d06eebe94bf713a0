"""The comparison at equal passes: that its short form runs, and how it chooses settings."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import keras
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"


def run(*arguments):
    command = [sys.executable, FOLDER / "time_to_loss.py", *arguments]
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
