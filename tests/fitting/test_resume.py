"""A run that was killed and taken up ends where one that was not does, to the last bit."""

import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from resume_process import train
from small_models import classifier

import keras_swift as ks
from keras_swift.src._state import SavedState
from keras_swift.src.data.permutations import PermutationState
from keras_swift.src.fitting import resume
from keras_swift.src.fitting.states import alike, read_state, write_state
from keras_swift.src.importance.gates import CostGateState, PublishedGateState

SCRIPT = pathlib.Path(__file__).parents[1] / "resume_process.py"


@pytest.mark.parametrize(
    "kind",
    [
        "remembered",
        "remembered batches",
        "swift",
        pytest.param("arrays", marks=pytest.mark.slow),
        pytest.param("batches", marks=pytest.mark.slow),
    ],
)
def test_killed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path, kind):
    arguments = [sys.executable, SCRIPT, kind, tmp_path / "backup", tmp_path / "out.npz", "3"]
    killed = subprocess.run(arguments, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "out.npz").exists()
    resumed, history = train(kind, str(tmp_path / "backup"))
    unbroken, whole = train(kind, str(tmp_path / "other"))
    assert len(history["loss"]) == 2 and len(whole["loss"]) == 5
    for ours, theirs in zip(resumed, unbroken, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert history["loss"] == whole["loss"][3:]
    if kind.startswith("remembered"):
        assert whole["importance"][0] == 0.0 < whole["importance"][2]
        # It goes on drawing by what was restored. In the last epoch so much is learned that it may
        # have eased off, and the gain is 1.
        assert history["gain"] == whole["gain"][3:] and history["gain"][0] > 1
    elif kind != "swift":
        # Where it was killed the gate was open, and had opened on the way.
        assert whole["importance"][0] == 0.0 < whole["importance"][2]
        assert history["tau"] == whole["tau"][3:]


def test_three_states_are_kept_and_all_go_with_the_backup(digits, tmp_path):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(sorted(name for name in os.listdir(tmp_path / "b") if "sampling" in name))

    x, y = digits[0][:100], digits[1][:100]
    callbacks = [keras.callbacks.BackupAndRestore(str(tmp_path / "b")), Look()]
    ks.ImportanceTraining(classifier()).fit(x, y, epochs=5, verbose=0, callbacks=callbacks)
    assert seen[1] == ["keras_swift_sampling_1.npz", "keras_swift_sampling_2.npz"]
    assert seen[4] == [f"keras_swift_sampling_{epoch}.npz" for epoch in (3, 4, 5)]
    assert not (tmp_path / "b").exists()


def test_backup_of_a_plain_fit_is_taken_up_with_a_warning(digits, tmp_path):
    x, y = digits[0][:100], digits[1][:100]
    backup = {"backup_dir": str(tmp_path), "delete_checkpoint": False}
    first = classifier()
    first.fit(x, y, epochs=2, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(**backup)])
    second = classifier()
    with pytest.warns(UserWarning, match="not written by keras_swift: the draws.*start afresh"):
        history = ks.ImportanceTraining(second).fit(
            x, y, epochs=3, verbose=0, callbacks=keras.callbacks.BackupAndRestore(**backup)
        )
    assert history.epoch == [2]


def test_backup_of_other_settings_is_taken_up_with_a_warning(digits, tmp_path):
    x, y = digits[0][:100], digits[1][:100]
    backup = {"backup_dir": str(tmp_path), "delete_checkpoint": False}

    def resumed(epochs, **settings):
        callback = keras.callbacks.BackupAndRestore(**backup)
        trainer = ks.ImportanceTraining(classifier(), seed=0, **settings)
        return trainer.fit(x, y, epochs=epochs, verbose=0, callbacks=callback)

    resumed(2, presample="auto")
    with pytest.warns(UserWarning, match="a run with other settings: the draws.*start afresh"):
        history = resumed(3, presample=3.0)
    assert history.epoch == [2]


def test_backup_of_another_version_is_refused(digits, tmp_path, monkeypatch):
    def resumed(epochs):
        callback = keras.callbacks.BackupAndRestore(str(tmp_path), delete_checkpoint=False)
        ks.ImportanceTraining(classifier()).fit(
            digits[0][:100], digits[1][:100], epochs=epochs, verbose=0, callbacks=callback
        )

    monkeypatch.setattr(resume, "VERSION", 0)
    resumed(1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"of version {resume.VERSION}. Received: .* of version 0"):
        resumed(2)


def test_backups_elsewhere_keep_no_draws_and_say_so(digits, monkeypatch):
    callback = keras.callbacks.BackupAndRestore("store://bucket/run")
    for name in ("on_train_begin", "on_epoch_end", "on_train_end"):
        monkeypatch.setattr(callback, name, lambda *arguments, **named: None)
    with pytest.warns(UserWarning, match="only kept in local folders"):
        ks.ImportanceTraining(classifier()).fit(
            digits[0][:100], digits[1][:100], verbose=0, callbacks=[callback]
        )


def test_states_survive_the_round_trip(tmp_path):
    generator = np.random.default_rng(5)
    state = {
        "order": PermutationState(np.arange(5), 3, generator.bit_generator.state),
        "none": None,
        "tau": np.float64(1.5),
        "nested": {"flags": [True, 2]},
    }
    write_state(tmp_path / "state.npz", state)
    found = read_state(tmp_path / "state.npz")
    order = found["order"]
    assert isinstance(order, PermutationState)
    assert order.order.tolist() == [0, 1, 2, 3, 4] and order.position == 3
    again = np.random.default_rng()
    again.bit_generator.state = order.generator
    assert again.random() == generator.random()
    assert (found["none"], found["tau"], found["nested"]) == (None, 1.5, {"flags": [True, 2]})
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_a_state_that_this_release_does_not_know_is_read_as_a_dict(tmp_path, monkeypatch):
    """So that its version can be told, and refused."""
    write_state(tmp_path / "state.npz", {"version": 9, "gate": CostGateState(1.5, 0.25)})
    monkeypatch.delitem(SavedState.KINDS, "CostGateState")
    found = read_state(tmp_path / "state.npz")
    assert found["version"] == 9 and found["gate"]["tau"] == 1.5
    # One with other fields.
    monkeypatch.setitem(SavedState.KINDS, "CostGateState", PermutationState)
    assert read_state(tmp_path / "state.npz")["gate"]["weight"] == 0.25


def test_states_are_alike_if_they_are_of_one_kind():
    gate, other = CostGateState(1.0, 0.5), PublishedGateState(1.0)
    assert alike({"gate": gate}, {"gate": CostGateState(2.0, 0.1)})
    assert not alike({"gate": gate}, {"gate": other})
    assert not alike({"gate": gate}, {"gate": {"tau": 1.0, "weight": 0.5}})
    assert not alike(None, gate)
