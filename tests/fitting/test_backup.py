"""A run with our backup that ends anywhere goes on to the last bit, or says what is wrong."""

import errno
import json
import os
import random
import shutil
import stat

import keras
import numpy as np
import pytest
from backup_cases import (
    EPOCHS,
    EndAt,
    Ended,
    assert_goes_on,
    build,
    ended,
    fit,
    train,
)

import keras_swift as ks
from keras_swift.src.fitting import backup_file
from keras_swift.src.fitting.backup_file import CURRENT, PREVIOUS
from keras_swift.src.fitting.random_states import random_states, restore_random_states

EXECUTIONS = 1 if keras.backend.backend() == "torch" else 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of the default kind that nothing has ended."""
    return train(tmp_path_factory.mktemp("whole"), save_freq=4)


@pytest.mark.parametrize(
    ("kind", "source", "spe"),
    [
        ("remembered", "batches", 1),
        ("fresh", "arrays", EXECUTIONS),
        ("own record", "arrays", 1),
        ("plain", "arrays", EXECUTIONS),
        pytest.param("remembered", "arrays", EXECUTIONS, marks=pytest.mark.slow),
        pytest.param("fresh", "batches", 1, marks=pytest.mark.slow),
        pytest.param("swift", "arrays", 1, marks=pytest.mark.slow),
        pytest.param("plain", "batches", 1, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path, kind, source, spe):
    settings = {"kind": kind, "source": source, "spe": spe, "save_freq": 4}
    expected = train(tmp_path / "whole", **settings)
    ended(tmp_path / "b", EPOCHS - 1, 6, **settings)
    found = train(tmp_path / "b", **settings)
    assert len(found[1]["loss"]) == 1
    assert_goes_on(found, expected)
    assert not (tmp_path / "b").exists()


@pytest.mark.any_backend
def test_the_first_epoch_of_a_dataset_goes_on_where_it_was_ended(tmp_path):
    settings = {"kind": "remembered", "source": "batches", "spe": 1, "save_freq": 4}
    expected = train(tmp_path / "whole", **settings)
    ended(tmp_path / "b", 0, 6, **settings)
    assert_goes_on(train(tmp_path / "b", **settings), expected)


def test_a_run_ends_twice_in_an_epoch_and_goes_on(tmp_path, whole):
    ended(tmp_path, 1, 2, save_freq=4)
    ended(tmp_path, 1, 8, save_freq=4)
    found = train(tmp_path, save_freq=4)
    assert len(found[1]["loss"]) == EPOCHS - 1
    assert_goes_on(found, whole)


def test_backups_change_nothing(tmp_path, whole):
    model = build()
    history = fit(model)(epochs=EPOCHS, verbose=0)
    assert_goes_on((model.get_weights(), history.history), whole)


def test_callbacks_see_the_steps_that_pass_by(tmp_path):
    seen = []

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((batch, logs["loss"]))

    with pytest.raises(Ended):
        train(tmp_path, See(), EndAt(0, 5), save_freq=4)
    before, seen[:] = dict(seen), []
    train(tmp_path, See(), epochs=1, save_freq=4)
    assert [batch for batch, _ in seen] == list(range(10))
    # With the metrics of the backup, from which they go on.
    assert [loss for _, loss in seen[:4]] == [before[3]] * 4
    assert dict(seen)[5] == before[5]


def test_what_an_exception_leaves_is_the_model_as_it_was(tmp_path):
    ended(tmp_path, 0, 5, save_freq=4)
    model = build()
    # The second callback ends the run while a step is about to pass by.
    late = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: 1 / 0)
    backup = ks.BackupAndRestore(tmp_path, save_freq=4)
    with pytest.raises(ZeroDivisionError):
        fit(model)(epochs=1, verbose=0, callbacks=[backup, late])
    assert getattr(model.train_function, "__name__", "") != "pass_by"
    assert len(fit(model)(epochs=1, verbose=0).epoch) == 1


@pytest.mark.parametrize("epoch", [1, 2])
def test_after_a_pass_a_run_goes_on_and_within_it_warns(tmp_path, epoch):
    def run(folder, *others):
        model, data = build(), {"epochs": 5, "steps_per_epoch": 5, "verbose": 0}
        history = fit(model)(callbacks=[ks.BackupAndRestore(folder), *others], **data)
        return model.get_weights(), history.history

    with pytest.raises(Ended):
        run(tmp_path / "b", EndAt(epoch, 2))
    if epoch == 2:
        # Two epochs were one pass.
        assert_goes_on(run(tmp_path / "b"), run(tmp_path / "whole"))
    else:
        with pytest.warns(UserWarning, match="from the end of a pass.*5 steps of a pass of 10"):
            run(tmp_path / "b")


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "save_weights"])
def test_a_run_that_ends_in_a_write_goes_on(tmp_path, monkeypatch, whole, call, moment):
    owner, name = (os, call[3:]) if call.startswith("os.") else (keras.Model, call)
    own, count = getattr(owner, name), []

    def write(*arguments, **named):
        count.append(0)
        # Not the first one, so that there is a backup before.
        if len(count) == 4 and moment == "before":
            raise Ended
        result = own(*arguments, **named)
        if len(count) == 4:
            raise Ended
        return result

    monkeypatch.setattr(owner, name, write)
    # As a kill: what was written stays.
    monkeypatch.setattr(os, "unlink", lambda path: None)
    with pytest.raises(Ended):
        train(tmp_path / "b", save_freq=4)
    monkeypatch.undo()
    assert_goes_on(train(tmp_path / "b", save_freq=4), whole)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("double", [False, True])
def test_a_run_that_ends_while_it_deletes_returns_the_trained_model(tmp_path, monkeypatch, double):
    settings = {"kind": "plain", "double_checkpoint": double}
    expected = train(tmp_path / "whole", **settings)

    def end(path):
        own(path)
        if CURRENT.split(".")[0] in os.fspath(path) and "part" not in os.fspath(path):
            raise Ended

    own = os.unlink
    monkeypatch.setattr(os, "unlink", end)
    with pytest.raises(Ended):
        train(tmp_path / "b", **settings)
    monkeypatch.undo()
    assert_goes_on(train(tmp_path / "b", **settings), expected)


def emptied(content):
    return b""


def halved(content):
    return content[: len(content) // 2]


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [emptied, halved, flipped])
def test_a_damaged_backup_is_named_or_the_one_before_is_used(tmp_path, whole, damage):
    path = tmp_path / CURRENT
    ended(tmp_path, 1, 8, save_freq=4, double_checkpoint=True)
    assert (tmp_path / PREVIOUS).exists()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    with pytest.warns(UserWarning, match=f"{path}: its checksum.*goes on from.*{PREVIOUS}"):
        found = train(tmp_path, save_freq=4, double_checkpoint=True)
    assert_goes_on(found, whole)
    (tmp_path / "b").mkdir(parents=True)
    (tmp_path / "b" / CURRENT).write_bytes(damage(content))
    with pytest.raises(OSError, match=f"{tmp_path / 'b' / CURRENT}: its checksum.*Delete the file"):
        train(tmp_path / "b", save_freq=4)


def test_a_damaged_backup_does_not_take_the_place_of_the_one_before(tmp_path, whole):
    ended(tmp_path, 1, 8, save_freq=4, double_checkpoint=True)
    (tmp_path / CURRENT).write_bytes(b"")
    with pytest.warns(UserWarning, match="The run goes on from the backup before it"):
        # It ends after one more backup.
        ended(tmp_path, 1, 7, save_freq=4, double_checkpoint=True)
    assert all((tmp_path / name).stat().st_size for name in (CURRENT, PREVIOUS))
    assert_goes_on(train(tmp_path, save_freq=4, double_checkpoint=True), whole)


def test_a_backup_of_something_else_is_refused(tmp_path, monkeypatch):
    ended(tmp_path, 1, 3)
    callbacks = {"epochs": 1, "verbose": 0, "callbacks": [ks.BackupAndRestore(tmp_path)]}
    for other, settings, reason in (
        ({}, {"seed": 5}, "seed: 0 there, 5 here"),
        ({"seed": 5}, {}, "keras_seed: 1 there, 5 here"),
        ({"width": 9}, {}, "variables: "),
        ({}, {"source": "batches"}, "the state of the draws"),
        ({}, {"kind": "swift"}, "trainer: ImportanceTraining there, SwiftTraining here"),
        ({}, {"kind": "plain"}, "trainer: ImportanceTraining there, model.fit here"),
        ({}, {"kind": "fresh"}, "the state of the draws"),
    ):
        message = f"must be of this run. Received: {tmp_path / CURRENT}.*{reason}"
        with pytest.raises(ValueError, match=message):
            fit(build(**other), **settings)(**callbacks)
    model = build()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=f"this optimizer. Received: {tmp_path / CURRENT}"):
        fit(model)(**callbacks)
    found = backup_file.VERSION
    monkeypatch.setattr(backup_file, "VERSION", found + 1)
    message = f"version {found + 1}. Received: {tmp_path / CURRENT} of version {found}"
    with pytest.raises(ValueError, match=message):
        fit(build())(**callbacks)


def test_the_folders_of_the_two_callbacks_are_not_mixed_up(tmp_path):
    keras_own = keras.callbacks.BackupAndRestore(tmp_path / "keras", delete_checkpoint=False)
    fit(build(), "plain")(epochs=1, verbose=0, callbacks=[keras_own])
    with pytest.raises(ValueError, match="with a backup of `keras.callbacks.BackupAndRestore`"):
        train(tmp_path / "keras")
    ended(tmp_path / "ours", 1, 3)
    other = keras.callbacks.BackupAndRestore(tmp_path / "ours")
    with pytest.raises(ValueError, match="with a backup of `keras_swift.BackupAndRestore`"):
        fit(build())(epochs=1, verbose=0, callbacks=[other])
    assert (tmp_path / "ours" / CURRENT).exists()


def test_a_full_disk_is_named_and_the_backup_before_is_kept(tmp_path, monkeypatch, whole):
    own, count = os.fsync, []

    def full(descriptor):
        count.append(0)
        if len(count) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        own(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    message = f"cannot write the backup {tmp_path / CURRENT}.*No space left.*Make room"
    with pytest.raises(OSError, match=message):
        train(tmp_path, save_freq=4)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == [CURRENT]
    assert_goes_on(train(tmp_path, save_freq=4), whole)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system has it not")
@pytest.mark.any_backend
def test_room_is_asked_for_before_hdf5_writes(tmp_path, monkeypatch, whole):
    asked, begun, own = [], [], os.posix_fallocate
    save = keras.Model.save_weights

    def noted(descriptor, offset, count):
        asked.append(count)
        own(descriptor, offset, count)

    def counted(*arguments, **named):
        begun.append(0)
        save(*arguments, **named)

    def full(descriptor, offset, count):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", noted)
    monkeypatch.setattr(keras.Model, "save_weights", counted)
    ended(tmp_path, 1, 8, save_freq=4)
    # Adam has two numbers beside each weight, of four bytes; the second asks for the first's size.
    assert asked[0] > 3 * 4 * build().count_params()
    assert asked[-1] >= 0.9 * os.path.getsize(tmp_path / CURRENT)
    monkeypatch.setattr(os, "posix_fallocate", full)
    begun.clear()
    with pytest.raises(OSError, match=f"{tmp_path / CURRENT}.*No space left.*Make room"):
        train(tmp_path, save_freq=4)
    assert not begun and os.listdir(tmp_path) == [CURRENT]

    def unknown(descriptor, offset, count):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    # A file system that cannot tell.
    monkeypatch.setattr(os, "posix_fallocate", unknown)
    assert_goes_on(train(tmp_path, save_freq=4), whole)


@pytest.mark.skipif(os.name == "nt", reason="permissions of another kind")
def test_the_permissions_of_a_backup_are_kept_from_the_first_byte_on(tmp_path, monkeypatch):
    ended(tmp_path, 1, 3, kind="plain")
    (tmp_path / CURRENT).chmod(0o600)
    save, modes = keras.Model.save_weights, []

    def noted(self, path, *arguments, **named):
        modes.append(stat.S_IMODE(os.stat(path).st_mode))
        save(self, path, *arguments, **named)

    monkeypatch.setattr(keras.Model, "save_weights", noted)
    ended(tmp_path, 2, 3, kind="plain")
    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / CURRENT).stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_written_to_is_named_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    folder, begun = tmp_path / "file" / "backup", []
    begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))
    with pytest.raises(OSError, match=f"cannot write a backup {folder / CURRENT}.*Make room"):
        train(folder, begin)
    assert not begun


def test_a_finished_run_is_kept_on_request_and_a_later_fit_begins_afresh(tmp_path):
    model = build()
    backup = ks.BackupAndRestore(tmp_path, delete_checkpoint=False)
    for expected in ([0, 1], []):
        history = fit(model, "plain")(epochs=2, verbose=0, callbacks=[backup])
        assert history.epoch == expected
    # Keras' own callback leaves the epoch in the model.
    assert fit(model, "plain")(epochs=1, verbose=0).epoch == [0]


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    train(tmp_path, kind="plain", epochs=1)
    assert os.listdir(tmp_path) == ["mine.txt"]


def test_all_random_states_are_restored():
    def draws():
        layer = keras.layers.Dropout(0.5)
        return [
            random.random(),
            np.random.random(),
            keras.ops.convert_to_numpy(keras.random.uniform((2,))).tolist(),
            keras.ops.convert_to_numpy(layer(np.ones((1, 64)), training=True)).tolist(),
        ]

    draws()
    states = random_states()
    first = draws()
    restore_random_states(states)
    assert draws() == first


def test_folders_elsewhere_are_left_to_keras(monkeypatch):
    called = []
    for name in ("on_train_begin", "on_epoch_end", "on_train_end"):
        own = lambda self, *arguments, name=name, **named: called.append(name)  # noqa: E731
        monkeypatch.setattr(keras.callbacks.BackupAndRestore, name, own)
    model = build()
    with pytest.warns(UserWarning, match="only in local folders is a backup one unit"):
        backup = ks.BackupAndRestore("store://bucket/run")
        fit(model)(epochs=1, verbose=0, callbacks=[backup])
    assert called == ["on_train_begin", "on_epoch_end", "on_train_end"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backup_dir": ""}, "`backup_dir` must be the path of a folder"),
        ({"backup_dir": 3}, "`backup_dir` must be.*backup_dir=3"),
        ({"save_freq": 0}, "`save_freq` must be.*save_freq=0"),
        ({"save_freq": True}, "`save_freq` must be.*save_freq=True"),
        ({"save_freq": "batch"}, "`save_freq` must be.*'batch'"),
        ({"double_checkpoint": "yes"}, "`double_checkpoint` must be True or False.*'yes'"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ks.BackupAndRestore(**{"backup_dir": "backup", **arguments})


@pytest.mark.any_backend
def test_of_a_resumed_run_keras_own_parts_belong_together(tmp_path, monkeypatch):
    def keras_own(folder, *others, **backup):
        backup = keras.callbacks.BackupAndRestore(folder, **backup)
        return fit(build())(epochs=EPOCHS, verbose=0, callbacks=[backup, *others])

    def run(name, *others, **backup):
        with pytest.raises(Ended):
            keras_own(tmp_path / name, *others, **backup)
        return tmp_path / name

    folder = run("whole", EndAt(1, 3))
    # Killed between weights and position.
    position = folder / "training_metadata.json"
    for epoch, message in {1: None, 2: "after 10 steps.*epoch 2, which is after 20"}.items():
        shutil.copytree(folder, tmp_path / f"at {epoch}")
        (tmp_path / f"at {epoch}" / position.name).write_text(json.dumps({"epoch": epoch}))
        if epoch == 2:
            later = run("later", EndAt(2, 3)) / "keras_swift_sampling_2.npz"
            shutil.copy(later, tmp_path / "at 2")
            with pytest.raises(ValueError, match=message):
                keras_own(tmp_path / "at 2")
    for name in ("latest.weights.h5", position.name):
        shutil.copytree(folder, tmp_path / f"without {name}")
        (tmp_path / f"without {name}" / name).unlink()
        with pytest.raises(
            ValueError, match="must have weights and a position. Received: .* alone"
        ):
            keras_own(tmp_path / f"without {name}")
        shutil.copytree(folder, tmp_path / f"half {name}")
        path = tmp_path / f"half {name}" / name
        path.write_bytes(halved(path.read_bytes()))
        with pytest.raises(ValueError, match=f"must be readable. Received: {path}.*in place"):
            keras_own(path.parent)
    with pytest.raises(ValueError, match="of the middle of the first"):
        keras_own(run("within the first", EndAt(0, 7), save_freq=4))
    with pytest.raises(ValueError, match="weights after 18 steps.*`save_freq` is a number"):
        keras_own(run("within", EndAt(1, 8), save_freq=9))
