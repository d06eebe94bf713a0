"""The files of a search: whole or named, by one process at a time."""

import os
import threading
import time
import warnings

import keras
import numpy as np
import pytest
from search_process import describe, run_search

from keras_swift.src.search import processes
from keras_swift.src.search.store import CONFIRMED, START, TRIAL, VALUES, Store, UnreadableFile

QUICK = {"max_trials": 2}
# Files of a search of two trials, and what is said of one that is not whole.
FILES = {
    START: "put a whole copy in its place, or pass overwrite=True",
    TRIAL.format(0): "Trial 0 is run again",
    VALUES.format(1): "Trial 1 is run again",
    CONFIRMED.format(1): "Trial 1 is trained from scratch again",
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The folder of a finished search, and its result."""
    directory = tmp_path_factory.mktemp("searched")
    return directory, describe(run_search(directory, **QUICK))


@pytest.fixture
def copied(searched, tmp_path):
    """A copy of it that may be damaged."""
    store = Store(str(searched[0] / "swift_search"))
    for name in FILES | dict.fromkeys([TRIAL.format(1), VALUES.format(0)]):
        target = tmp_path / "swift_search" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(store.path(name), "rb") as file:
            target.write_bytes(file.read())
    return tmp_path


def flipped(data, place):
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


def test_every_changed_byte_is_seen(tmp_path):
    store = Store(str(tmp_path), "this")
    store.write_values(0, np.arange(3.0))
    path = tmp_path / VALUES.format(0)
    whole = path.read_bytes()
    assert store.read_values(0).tolist() == [0.0, 1.0, 2.0]
    damaged = [flipped(whole, place) for place in range(len(whole))]
    damaged += [whole[:end] for end in range(len(whole))] + [whole + b"\n", whole + whole]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(UnreadableFile, match=f"{VALUES.format(0)} (has no|is dam|is of|belo)"):
            store.read_values(0)


def test_files_of_others_are_named(tmp_path):
    store = Store(str(tmp_path), "this")
    store.write_values(0, np.arange(3.0))
    os.replace(tmp_path / VALUES.format(0), tmp_path / VALUES.format(1))
    with pytest.raises(UnreadableFile, match="belongs to another search or trial"):
        store.read_values(1)
    store.of_search("that").write_values(0, np.arange(3.0))
    with pytest.raises(UnreadableFile, match="belongs to another search or trial"):
        store.read_values(0)
    path = tmp_path / VALUES.format(0)
    path.write_bytes(path.read_bytes().replace(b'"keras_swift": 3', b'"keras_swift": 2'))
    with pytest.raises(UnreadableFile, match="is of version 2, this release reads 3"):
        store.read_values(0)
    with pytest.raises(UnreadableFile, match="is missing"):
        store.read_values(2)


def test_a_finished_search_needs_no_folder_to_write_in(copied, searched, monkeypatch):
    def no_lock(self):
        raise PermissionError("read-only")

    monkeypatch.setattr(Store, "alone", no_lock)
    monkeypatch.setattr(keras.Sequential, "fit", None)
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    assert describe(run_search(copied, **QUICK)) == searched[1]
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [None, lambda data: flipped(data, 40)], ids=["gone", "flipped"])
def test_what_is_lost_is_run_again_and_only_that(copied, searched, name, damage, monkeypatch):
    path = copied / "swift_search" / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    fit, fits = keras.Sequential.fit, []
    monkeypatch.setattr(keras.Sequential, "fit", lambda *a, **k: (fits.append(1), fit(*a, **k))[1])
    if name == START and damage:
        with pytest.raises(ValueError, match=f"{name} is damaged.*{FILES[name]}"):
            run_search(copied, **QUICK)
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert describe(run_search(copied, **QUICK)) == searched[1]
    assert len(fits) == 1
    messages = [str(warning.message) for warning in said if warning.category is UserWarning]
    # A start or a confirmation that is not there may not have been made yet.
    if damage or name not in (START, CONFIRMED.format(1)):
        (message,) = messages
        assert f"{name} " in message and FILES[name] in message
    else:
        assert not messages
    monkeypatch.setattr(keras.Sequential, "fit", None)
    assert describe(run_search(copied, **QUICK)) == searched[1]


def test_a_full_disk_and_a_forbidden_file_are_named_and_lose_nothing(copied, searched, monkeypatch):
    from keras_swift.src.search import store as module

    path = copied / "swift_search" / TRIAL.format(0)
    path.unlink()

    def full(path, write):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched.setattr(module, "write_atomically", full)
        with pytest.raises(OSError, match="No space left.*repeat the call") as error:
            run_search(copied, **QUICK)
    assert error.value.errno == 28
    assert error.value.filename.endswith(VALUES.format(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert describe(run_search(copied, **QUICK)) == searched[1]
    path.unlink()

    def forbidden(path, *mode):
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patched:
        patched.setattr(module, "open", forbidden, raising=False)
        with pytest.raises(ValueError, match=f"{START} cannot be read .Permission denied"):
            run_search(copied, **QUICK)


def test_another_search_in_the_folder_is_waited_for_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "INTERVAL", 0.01)
    held, order = threading.Event(), []

    def first():
        with Store(str(tmp_path)).alone():
            held.set()
            time.sleep(0.1)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with pytest.warns(UserWarning, match=f"Another process searches in {tmp_path}"):
        with Store(str(tmp_path)).alone():
            order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_deleting_a_search_begins_with_what_the_rest_belongs_to(copied, monkeypatch):
    store, removed = Store(str(copied / "swift_search")), []
    remove = os.remove

    def noted(path):
        removed.append(os.path.basename(path))
        remove(path)

    monkeypatch.setattr(os, "remove", noted)
    with store.alone():
        store.clear()
    assert removed[0] == START
    assert os.listdir(store.folder) == ["search.lock"]
