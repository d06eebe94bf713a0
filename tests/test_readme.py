"""The code of the README, of every page in docs/ and of the notebooks runs as it stands.

The blocks of one page share their names, as a reader who copies them one after the other has it.
`<!-- needs: torch -->` on the line before a block leaves it out where that is not installed.
"""

import importlib.util
import json
import pathlib
import re

import keras
import pytest

import keras_swift as ks

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
BLOCK = re.compile(r"(?:^<!-- needs: (\w+) -->\n)?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(text):
    """The code blocks of a page, each with empty lines before it, so that errors name its line."""
    for match in BLOCK.finditer(text):
        needed = match.group(1)
        if needed is None or importlib.util.find_spec(needed) is not None:
            yield "\n" * text.count("\n", 0, match.start(2)) + match.group(2)


# Each page on one backend, for they name none; a page that is not here runs on PyTorch. `.ci/run`
# runs the README's code with the others, from a wheel.
PAGE_ON = {
    "README.md": "tensorflow",
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
    for block in blocks(PAGES[page]):
        exec(compile(block, ROOT / page, "exec"), names)
    assert names


NOTEBOOKS = sorted((ROOT / "docs" / "gallery").glob("*.ipynb"))
# A notebook tells nothing new on a second backend, so each is run on one.
RUN_ON = {
    "backends": "torch",
    "digits": "torch",
    "lstm": "jax",
    "noisy_labels": "jax",
    "rare_class": "torch",
    "tf_data": "tensorflow",
    "transfer": "torch",
}


@pytest.mark.parametrize(
    "notebook",
    [path for path in NOTEBOOKS if RUN_ON[path.stem] == keras.backend.backend()],
    ids=lambda path: path.stem,
)
def test_notebooks_run(notebook, tmp_path, monkeypatch):
    from matplotlib import pyplot

    if notebook.stem == "backends":
        pytest.importorskip("jax")
    assert sorted(RUN_ON) == [path.stem for path in NOTEBOOKS]
    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    cells = [
        cell
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    names = {}
    for number, cell in enumerate(cells, 1):
        exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)
    assert pyplot.get_fignums()
    pyplot.close("all")


def test_every_page_is_run_somewhere():
    run = [page for name in ("tensorflow", "jax", "torch") for page in pages_of(name)]
    with_code = {name for name in PAGES if "```python" in PAGES[name]}
    assert set(run) == with_code


def test_blocks_are_found():
    text = "a\n```python\nx = 1\n```\n<!-- needs: absent_package -->\n```python\nx = 2\n```\n"
    assert list(blocks(text)) == ["\n\nx = 1\n"]
    assert len(list(blocks(PAGES["README.md"]))) >= 2


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_as_run(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    # From top to bottom, without what frameworks log, and every figure as a picture.
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    shown = [output["data"] for output in outputs if "data" in output]
    assert any("image/png" in data for data in shown)
    for data in shown:
        assert "image/png" in data or "Figure size" not in "".join(data["text/plain"])


def test_notebooks_become_pages():
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    notebooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(notebooks)
    html = '<div>\n<style scoped>\n  .a {}\n</style>\n<table border="1">\n\n<tr/></table></div>'
    outputs = [
        {"data": {"text/html": [html], "text/plain": ["a frame"]}},
        {"name": "stdout", "text": ["\x1b[1m12", " lines\x1b[0m\n"]},
        {"name": "stderr", "text": ["a log"]},
        {"data": {"image/png": ["aGk="], "text/plain": ["<Figure>"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# A", "B"]},
        {"cell_type": "code", "source": ["f();"], "outputs": outputs},
    ]
    text, figures = notebooks.as_markdown({"cells": cells})
    ((name, content),) = figures.items()
    assert content == b"hi"
    assert text == "\n\n".join(
        [
            "# AB",
            "```python\nf()\n```",
            '<div class="output"><div> <table> <tr/></table></div></div>',
            "```text\n12 lines\n```",
            f"![What the code above draws]({name})\n",
        ]
    )


def test_every_public_name_has_a_page():
    for name in ks.__all__:
        assert PAGES[f"docs/api/{name}.md"] == f"::: keras_swift.{name}\n"
        assert f"]({name}.md)" in PAGES["docs/api/index.md"]


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
