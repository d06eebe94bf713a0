"""Several processes that train one model: two real ones, on this machine."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import keras_swift as ks
from keras_swift.src.importance.resampling import importance_weights, sampling_probability
from keras_swift.src.importance.settings import FRESH_FLOOR
from keras_swift.src.records.columns import FinishedRecord
from keras_swift.src.suspects.mixture import find_doubts

SCRIPT = pathlib.Path(__file__).parents[1] / "processes_process.py"
pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras does so on JAX")
COUNT, BATCH = 2, 16


def start(what, folder, devices=1):
    """Both processes, each of so many devices, not waited for."""
    # What another backend brings along takes longer to load than the tests take.
    (folder / "tensorflow.py").write_text("raise ModuleNotFoundError('not needed here')\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": flags}
    arguments = [sys.executable, SCRIPT, what, str(port), str(COUNT)]
    return [
        subprocess.Popen(
            [*arguments, str(process), folder],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(COUNT)
    ]


def run(what, folder, devices=1):
    """What each of the processes has found."""
    processes = start(what, folder, devices)
    try:
        errors = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0, error
    return [json.loads((folder / f"{what}{i}.json").read_text()) for i in range(COUNT)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run("train", tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("name", ["fresh", "remembered", "mixed", "dataset", "swift"])
def test_weights_and_history_are_equal_on_all_processes(trained, name):
    first, second = (found[name] for found in trained)
    assert first["weights"] == second["weights"]
    assert np.isfinite(np.concatenate(first["weights"])).all()
    assert first["history"] == second["history"]


@pytest.mark.parametrize("name", ["fresh", "remembered", "mixed"])
def test_each_process_draws_by_itself(trained, name):
    first, second = (found[name] for found in trained)
    assert first["drawn"] != second["drawn"]
    assert [len(batch) for batch in first["drawn"]] == [BATCH] * 24
    assert [len(batch) for batch in second["drawn"]] == [BATCH] * 24


def test_scores_are_remembered_and_steps_scaled(trained):
    histories = [found["remembered"]["history"] for found in trained]
    assert histories[0]["presample"] == [1.0] * 6
    assert histories[0]["importance"][-1] == 1.0
    # The gains differ; the history has their mean, and the steps one rate.
    rates = [found["remembered"]["rates"] for found in trained]
    assert rates[0] != rates[1] and max(rates[0] + rates[1]) > 1
    assert 0 < trained[0]["mixed"]["history"]["importance"][4] <= 1
    for found in trained:
        np.testing.assert_allclose(
            found["step"]["remembered"], found["step"]["predicted"], rtol=1e-5
        )


def last_kernel_gradients(step, process):
    """The gradient of each example's loss in the last kernel, in NumPy: `(n, 16, 3)`."""
    x = np.random.default_rng(process).normal(size=(64, 8)).astype("float32").astype("float64")
    y = labels_of(process)
    kernel, bias, last, last_bias = map(np.array, step["before"])
    hidden = np.maximum(x @ kernel + bias, 0)
    outputs = np.exp(hidden @ last + last_bias)
    outputs = outputs / outputs.sum(1, keepdims=True) - np.eye(3)[y]
    return hidden[:, :, None] * outputs[:, None, :]


def test_a_step_is_the_mean_of_estimates_without_bias(trained):
    estimates, expected, whole = [], [], []
    for process, found in enumerate(trained):
        step = found["step"]
        gradients = last_kernel_gradients(step, process)
        probability = sampling_probability(np.array(step["scores"]), FRESH_FLOOR)
        # Those drawn weigh what the probabilities of this process' own part say.
        weights = importance_weights(probability)
        indices = step["indices"]
        np.testing.assert_allclose(step["importance"], weights[indices], rtol=1e-5)
        drawn = np.array(step["importance"])[:, None, None] * gradients[indices]
        estimates.append(drawn.mean(0))
        expected.append(np.einsum("i,i,ijk->jk", probability, weights, gradients))
        whole.append(gradients.mean(0))
    step = trained[0]["step"]
    taken = np.array(step["before"][2]) - np.array(step["after"][2])
    np.testing.assert_allclose(taken, np.mean(estimates, axis=0), atol=1e-6)
    np.testing.assert_allclose(np.mean(expected, axis=0), np.mean(whole, axis=0), atol=1e-6)


def test_a_backup_resumes_the_part_of_each_process(tmp_path):
    # With two devices each, over which a process shares its batches and scores.
    for process, found in enumerate(run("resume", tmp_path, devices=2)):
        whole, resumed = found["whole"], found["resumed"]
        assert resumed["weights"] == whole["weights"]
        assert resumed["drawn"] == whole["drawn"][-len(resumed["drawn"]) :]
        assert len(resumed["drawn"]) == 12
        # The last backup before the fourth epoch ended was made after three of its four steps.
        assert found["ours"]["weights"] == whole["weights"]
        assert found["ours"]["drawn"] == whole["drawn"][-len(found["ours"]["drawn"]) :]
        files = [name for name in found["resumed_files"] if name.startswith("keras_swift")]
        assert files and all(f"_{process}of2_" in name for name in files)


def test_what_would_wait_for_ever_is_an_error_on_every_process(tmp_path):
    for found in run("refuse", tmp_path):
        assert found["uneven"] == 6
        assert "must have a multiple of `batch_size`" in found["multiple"]
        assert "Received: 60 examples, batch_size=16. Leave out 12 of them." in found["multiple"]
        assert "The number of steps in an epoch must be the same" in found["steps"]
        assert "Received: [2, 3] in processes 0 to 1" in found["steps"]
        assert "`batch_size` must be the same in every process" in found["batch_size"]
        assert "The number of examples in an epoch must be the same" in found["swift"]
        assert "DataParallel(auto_shard_dataset=False)" in found["shards"]
        assert "ModelParallel" in found["parallel"] and "DataParallel" in found["parallel"]
        assert "distribution()=None" in found["alone"]


def test_features_and_suspects_are_those_of_all_parts(tmp_path):
    found = run("features", tmp_path)
    sampler = ks.SwiftSampler([0.5], [1.0, 1.0, 0.0], [1.0], ["order"], "cdf")
    records = {
        name: np.concatenate([part["suspects"]["record"][name] for part in found])
        for name in found[0]["suspects"]["record"]
    }
    labels = [labels_of(process) for process in range(COUNT)]
    doubts = find_doubts(FinishedRecord(**records), np.concatenate(labels))
    assert doubts.suspect.any()
    for process, part in enumerate(found):
        predicted = np.array(part["predicted"])[np.arange(64), labels[process]]
        np.testing.assert_allclose(part["loss"], -np.log(predicted), rtol=1e-4)
        # To the last bit.
        values = np.concatenate([k + np.arange(5 + k) * 1e-12 for k in range(COUNT)])
        assert part["gathered"] == [values.tolist(), (-values).tolist()]
        assert part["own"] == [5 * process, 5 + 6 * process, COUNT]
        own = slice(64 * process, 64 * process + 64)
        suspects = part["suspects"]
        assert part["as it was"]
        assert suspects["scores"] == doubts.scores[own].tolist()
        assert sorted(suspects["indices"]) == np.flatnonzero(doubts.suspect[own]).tolist()
        assert suspects["share"] == [doubts.share.estimate, doubts.share.high]
        assert len(suspects["instead"]) == len(suspects["indices"])
        for index, other in zip(suspects["indices"], suspects["instead"], strict=True):
            assert other in {0, 1, 2} - {labels[process][index]}
        for name, distance in {"overlapping": 32, "apart": 640}.items():
            order = np.concatenate([np.arange(64) + k * distance for k in range(COUNT)])
            whole = sampler.probabilities({"order": order})[own]
            np.testing.assert_allclose(part[name], whole / whole.sum(), rtol=1e-12)
        assert "Each process must have examples that the sampler draws" in part["nothing"]


def labels_of(process):
    """The labels of the data of a process."""
    x = np.random.default_rng(process).normal(size=(64, 8)).astype("float32")
    y = (x @ np.random.default_rng(9).normal(size=(8, 3))).argmax(1)
    y[:8] = (y[:8] + 1) % 3
    return y


def test_a_process_that_dies_ends_the_other(tmp_path):
    first, second = start("die", tmp_path)
    try:
        second.communicate(timeout=300)
        assert second.returncode == 9
        died = time.monotonic()
        error = first.communicate(timeout=60)[1]
        assert time.monotonic() - died < 60
        assert first.returncode == 3, error
        assert "JaxRuntimeError" in error and "Connection" in error
    finally:
        first.kill()
        second.kill()
