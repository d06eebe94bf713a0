"""A killed or a slower process never leaves half of a file, or another's."""

import errno
import json
import os
import secrets
import stat
import threading

import pytest

from keras_swift.src.fitting.atomic import create_atomically, write_atomically


def write_json(path, content):
    write_atomically(path, lambda file: file.write(json.dumps(content).encode()))


@pytest.mark.parametrize("write", [write_atomically, create_atomically])
def test_files_are_never_half_written(tmp_path, write):
    def killed(file):
        file.write(b"half")
        raise KeyboardInterrupt

    path = tmp_path / "file"
    with pytest.raises(KeyboardInterrupt):
        write(str(path), killed)
    assert not path.exists()
    write(str(path), lambda file: file.write(b"whole"))
    with pytest.raises(KeyboardInterrupt):
        write(str(path), killed)
    assert path.read_bytes() == b"whole"


def test_the_last_to_write_counts_and_the_first_to_create(tmp_path):
    for text in ("first", "second"):
        write_json(str(tmp_path / "written"), {"text": text})
        create_atomically(
            str(tmp_path / "created"), lambda file, text=text: file.write(text.encode())
        )
    assert (tmp_path / "written").read_text() == '{"text": "second"}'
    assert (tmp_path / "created").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["created", "written"]


@pytest.mark.parametrize("write", [write_atomically, create_atomically])
def test_a_link_with_the_temporary_name_is_not_followed(tmp_path, monkeypatch, write):
    monkeypatch.setattr(secrets, "token_hex", lambda count: "guessed")
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "file.guessed.part").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        write(str(tmp_path / "file"), lambda file: file.write(b"new"))
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "file").exists()


def test_a_link_in_place_of_the_file_is_replaced(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "victim")
    write_json(str(tmp_path / "file"), 1)
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (tmp_path / "file").is_symlink() and (tmp_path / "file").read_text() == "1"


def test_permissions_are_those_of_the_file_before_or_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(str(tmp_path / "new"), 1)
        create_atomically(str(tmp_path / "created"), lambda file: file.write(b"1"))
    finally:
        os.umask(before)
    for name, mode in {"private": 0o600, "shared": 0o664}.items():
        write_json(str(tmp_path / name), 1)
        os.chmod(tmp_path / name, mode)
        write_json(str(tmp_path / name), 2)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"new": 0o640, "created": 0o640, "private": 0o600, "shared": 0o664}


def test_failures_name_the_file_and_leave_nothing_behind(tmp_path):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = str(tmp_path / "full")
    with pytest.raises(OSError, match=f"No space left on device: '{path}'$"):
        write_atomically(path, full)
    path = str(tmp_path / "absent" / "file")
    with pytest.raises(FileNotFoundError, match=f"No such file or directory: '{path}'$"):
        write_json(path, 1)
    (tmp_path / "folder").mkdir()
    path = str(tmp_path / "folder")
    with pytest.raises(IsADirectoryError, match=f"Is a directory: '{path}'$"):
        write_json(path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_threads_may_write_to_one_file(tmp_path):
    path, errors = tmp_path / "file", []

    def work(number):
        try:
            for _ in range(30):
                write_json(str(path), {"number": number})
                assert json.loads(path.read_text())["number"] in (0, 1)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and os.listdir(tmp_path) == ["file"]
