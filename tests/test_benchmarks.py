"""The comparison at equal time: that its short form runs, and how it counts seconds."""

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


def test_the_quick_form_trains_and_prints_what_it_wrote(tmp_path):
    out = tmp_path / "rows.jsonl"
    done = run("--quick", "--methods", "uniform", "ours", "--out", out)
    if keras.backend.backend() == "jax":
        assert done.returncode != 0
        assert "Set KERAS_BACKEND to tensorflow or torch" in done.stderr
        return
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["task"], row["method"], row["seed"]) for row in rows] == [
        ("digits", "uniform", 0),
        ("digits", "ours", 0),
    ]
    for row in rows:
        assert row["spent"] >= 1.0
        assert row["loss"] < 0.1
        assert f"| constant, 0.1 | {row['method']} | {row['steps']} |" in done.stdout
    # The tables are those of the file.
    assert run("--summary", out).stdout == done.stdout


@pytest.fixture
def time_to_loss(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("its_time_to_loss", FOLDER / "time_to_loss.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_steps_that_compile_count_as_ten_of_their_kind(time_to_loss):
    seconds = time_to_loss.Seconds()
    for each in (50.0, 1.0, 1.0, 2.0, 30.0):
        seconds.add(each)
    assert seconds.total == 10 + 1 + 1 + 2 + 10
