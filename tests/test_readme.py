"""The code blocks of the README and of docs/compatibility.md run as they stand."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCKS = [
    block
    for name in ("README.md", "docs/compatibility.md")
    for block in re.findall(
        r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL
    )
]


@pytest.mark.parametrize("block", BLOCKS, ids=range(1, len(BLOCKS) + 1))
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "a block", "exec"), {})


def test_there_are_blocks():
    assert len(BLOCKS) >= 4
