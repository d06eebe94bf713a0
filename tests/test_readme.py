"""The code of the README, of every page in docs/ and of the notebooks runs as it stands.

The blocks of one page share their names, as a reader who copies them one after the other has it.
`<!-- needs: torch -->` on the line before a block leaves it out where that is not installed.
"""

import importlib.util
import json
import pathlib
import re

import pytest

import keras_swift as ks

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
# A synopsis of names, for models and data of the reader's own; the guides run all of it.
SYNOPSES = {"docs/swift_sampler.md"}
BLOCK = re.compile(r"(?:^<!-- needs: (\w+) -->\n)?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(text):
    """The code blocks of a page, each with empty lines before it, so that errors name its line."""
    for match in BLOCK.finditer(text):
        needed = match.group(1)
        if needed is None or importlib.util.find_spec(needed) is not None:
            yield "\n" * text.count("\n", 0, match.start(2)) + match.group(2)


@pytest.mark.parametrize(
    "page", [name for name in PAGES if "```python" in PAGES[name] and name not in SYNOPSES]
)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks(PAGES[page]):
        exec(compile(block, ROOT / page, "exec"), names)
    assert names


@pytest.mark.parametrize(
    "notebook", sorted((ROOT / "docs" / "gallery").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_notebooks_run(notebook, tmp_path, monkeypatch):
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    cells = [
        cell
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    # What is committed has been run from top to bottom.
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    names = {}
    for number, cell in enumerate(cells, 1):
        exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)
    assert pyplot.get_fignums()
    pyplot.close("all")


def test_blocks_are_found():
    text = "a\n```python\nx = 1\n```\n<!-- needs: absent_package -->\n```python\nx = 2\n```\n"
    assert list(blocks(text)) == ["\n\nx = 1\n"]
    assert len(list(blocks(PAGES["README.md"]))) >= 2


def test_every_public_name_has_a_page():
    for name in ks.__all__:
        assert PAGES[f"docs/api/{name}.md"] == f"::: keras_swift.{name}\n"
        assert f"]({name}.md)" in PAGES["docs/api/index.md"]


def test_the_readme_is_short():
    assert len([word for word in PAGES["README.md"].split() if re.search(r"\w", word)]) <= 700
