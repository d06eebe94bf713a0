"""The code of the README and of every page in docs/ runs as it stands.

The blocks of one page share their names, as a reader who copies them one after the other has it.
`<!-- needs: torch -->` on the line before a block leaves it out where that is not installed.

A ```text block that follows is what the block prints (`printed.py`), numbers within a tenth.
`<!-- within 30 % -->` on the line before allows more, for what hangs on few examples.
"""

import contextlib
import importlib.util
import io
import pathlib
import re

import keras
import pytest
from printed import differences

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
BLOCK = re.compile(
    r"(?:^<!-- needs: (\w+) -->\n)?^```python\n(.*?)^```\n"
    r"(?:\n(?:<!-- within (\d+) % -->\n)?```text\n(.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


def blocks(text):
    """The code blocks of a page with what they print, if it is shown, and how exactly.

    Code has empty lines before it, so that errors name its line.
    """
    for match in BLOCK.finditer(text):
        needed, code, percent, shown = match.groups()
        if needed is None or importlib.util.find_spec(needed) is not None:
            yield "\n" * text.count("\n", 0, match.start(2)) + code, shown, int(percent or 10)


# Each page on one backend, for they name none; a page that is not here runs on PyTorch. `.ci/run`
# runs the README's code with the others, from a wheel.
PAGE_ON = {
    "README.md": "jax",
    "docs/guides/data_sources.md": "jax",
    "docs/guides/importance_training.md": "jax",
    "docs/guides/resuming.md": "jax",
}


def pages_of(backend):
    pages = [name for name in PAGES if "```python" in PAGES[name]]
    return [page for page in pages if PAGE_ON.get(page, "torch") == backend]


@pytest.mark.parametrize("page", pages_of(keras.backend.backend()))
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code, shown, percent in blocks(PAGES[page]):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, ROOT / page, "exec"), names)
        if shown is not None:
            assert not differences(printed.getvalue(), shown, percent)
    assert names


def test_every_page_is_run_somewhere():
    run = [page for name in ("tensorflow", "jax", "torch") for page in pages_of(name)]
    with_code = {name for name in PAGES if "```python" in PAGES[name]}
    assert set(run) == with_code


def test_blocks_are_found():
    text = "a\n```python\nx = 1\n```\n<!-- needs: absent_package -->\n```python\nx = 2\n```\n"
    assert list(blocks(text)) == [("\n\nx = 1\n", None, 10)]
    text = "```python\nx\n```\n\n<!-- within 30 % -->\n```text\n1\n```\n"
    assert list(blocks(text)) == [("\nx\n", "1\n", 30)]
    shown = [shown for _, shown, _ in blocks(PAGES["README.md"]) if shown]
    assert len(shown) >= 2


def test_printed_texts_are_compared_by_words_and_numbers():
    shown = "loss  0.50\n1,200 rows in 3 s"
    assert not differences("loss 0.52 1,290 rows in 70 s", shown, 10)
    assert not differences("9/9 ━━━━ 1s 2ms/step\nloss 0.52\n1,290 rows in 70 s", shown, 10)
    assert differences("loss 0.52 rows 1,290 in 70 s", shown, 10)
    assert differences("loss 0.44 1,200 rows in 3 s", shown, 10) == ["printed: 0.44, shown: 0.50"]
    assert differences("loss 0.50 1,400 rows in 3 s", shown, 10)
    assert not differences("loss 0.50 1,400 rows in 3 s", shown, 20)


MARKDOWN = [
    *sorted(ROOT.glob("*.md")),
    *(
        path
        for name in (".github", "docs", "examples")
        for path in sorted(ROOT.glob(f"{name}/**/*.md"))
    ),
]
FENCE = re.compile(r"^( *)(```+).*?^\1\2", re.DOTALL | re.MULTILINE)


def long_lines(text):
    """Lines above 100 characters that are neither code, a table, a picture nor one word."""
    without_code = FENCE.sub(lambda match: "\n" * match.group().count("\n"), text)
    return [
        (number, line)
        for number, line in enumerate(without_code.split("\n"), 1)
        if len(line) > 100 and not line.startswith(("|", "![", "[![")) and " " in line.strip()
    ]


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_wrap_at_100_characters(path):
    assert not long_lines(path.read_text(encoding="utf-8"))


def test_long_lines_are_found():
    long = "word " * 21
    text = f"```\n{long}\n```\n| {long} |\n{'x' * 120}\n{long}"
    assert long_lines(text) == [(6, long)]


def test_the_readme_is_short():
    assert len([word for word in PAGES["README.md"].split() if re.search(r"\w", word)]) <= 700
