"""A killed or a slower process never leaves half of a file, or another's."""

import pytest

from keras_swift.src.fitting.atomic import create_atomically, write_atomically, write_json


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
