"""More than one device: scoring is shared, and the result is that of one device."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from small_models import classifier

import keras_swift as ks

SCRIPT = pathlib.Path(__file__).parents[1] / "devices_process.py"
BACKEND = keras.backend.backend()


def train_on(devices, folder):
    output = folder / f"{devices}.json"
    command = [sys.executable, SCRIPT, str(devices), output]
    flag = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flag}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(output.read_text())


@pytest.mark.skipif(BACKEND == "torch", reason="Keras trains on one device there")
def test_several_devices_give_the_result_of_one(tmp_path):
    devices = 4 if BACKEND == "jax" else 2
    one, several = train_on(1, tmp_path), train_on(devices, tmp_path)
    for first, second in zip(one["histories"], several["histories"], strict=True):
        assert first.keys() == second.keys()
        for name, values in first.items():
            np.testing.assert_allclose(second[name], values, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(several["weights"], one["weights"], rtol=1e-4)
    assert one["default"]["presample"] == [1.0] * 3
    if BACKEND == "jax":
        # Each device's rows are remembered as those of one device.
        for name, values in one["default"].items():
            np.testing.assert_allclose(several["default"][name], values, rtol=1e-3, err_msg=name)
        assert several["default"]["importance"][-1] == 1.0
    else:
        # Scores are fresh under a `MirroredStrategy`.
        assert several["default"]["presample"][-1] > 1
        assert several["default"]["loss"][-1] < 1.1 * one["default"]["loss"][0]
    # While the gate is shut exactly; drawn by importance, a rounded score may move a draw.
    assert several["drawn"][:20] == one["drawn"][:20]
    same = [a == b for a, b in zip(one["drawn"][20:], several["drawn"][20:], strict=True)]
    assert len(same) == 20 and sum(same) > 15
    # Each device scores its share of the 94, filled up to a multiple.
    if BACKEND == "jax":
        assert one["devices"] == [] and [96, 4] in several["devices"]
    else:
        assert 94 in one["rows"] and 47 in several["rows"] and 94 not in several["rows"]


def test_several_processes_are_refused(digits, monkeypatch):
    module = importlib.import_module(f"keras_swift.src.backends.{BACKEND}")
    if BACKEND == "jax":
        monkeypatch.setattr(module.jax, "process_count", lambda: 2)
    elif BACKEND == "torch":
        monkeypatch.setattr(module.torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(module.torch.distributed, "get_world_size", lambda: 2)
    else:
        monkeypatch.setattr(
            module.tf.distribute, "MultiWorkerMirroredStrategy", module.tf.distribute.Strategy
        )
    with pytest.raises(ValueError, match="must run on JAX.*Received: .*search` runs on several"):
        ks.ImportanceTraining(classifier()).fit(digits[0][:100], digits[1][:100])
