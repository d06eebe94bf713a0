"""The notebooks of the gallery show what their code prints and draws.

Each runs on one backend, because a second one would say nothing new. What a cell prints and its
value are compared as in `printed.py`, and figures by their number and size. A cell whose metadata
have `"within": 30` may differ by 30 %, and with `"within": null`, where the words hang on rounding,
only the number of its lines is compared; one with `"python": "3.11"` is compared on that version
alone, because its text is Python's.
"""

import ast
import base64
import contextlib
import importlib.util
import io
import json
import pathlib
import platform
import re

import keras
import numpy as np
import pytest
from printed import differences

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "gallery").glob("*.ipynb"))
RUN_ON = {
    "backends": "torch",
    "data_loader": "torch",
    "digits": "torch",
    "lstm": "jax",
    "noisy_labels": "jax",
    "rare_class": "torch",
    "tf_data": "tensorflow",
    "transfer": "torch",
}


def code_cells(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def run(cell, name, names):
    """What a cell prints, its value as text, and the figures that it draws."""
    from matplotlib import figure, pyplot

    tree, value = ast.parse("".join(cell["source"])), None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        # A semicolon at the end keeps Jupyter from showing the value.
        if isinstance(tree.body[-1], ast.Expr) and not "".join(cell["source"]).endswith(";"):
            last = ast.Expression(tree.body.pop().value)
            exec(compile(tree, name, "exec"), names)
            value = eval(compile(last, name, "eval"), names)
        else:
            exec(compile(tree, name, "exec"), names)
    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    if isinstance(value, figure.Figure):
        figures, value = [*figures, value], None
    pictures = [picture(each) for each in figures]
    pyplot.close("all")
    return printed.getvalue(), "" if value is None else as_text(value), pictures


def as_text(value):
    """A value as a notebook shows it: its table, if it has one."""
    html = getattr(value, "_repr_html_", lambda: None)()
    return repr(value) if html is None else without_tags(html)


def without_tags(html):
    """The text of HTML."""
    return re.sub(r"<.*?>", " ", re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL))


def picture(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    return file.getvalue()


def size(content):
    """The width and height of a picture, in pixels."""
    from matplotlib import image

    height, width = image.imread(io.BytesIO(content)).shape[:2]
    return width, height


def stored(cell):
    """What a cell shows: printed text, value and pictures."""
    outputs = cell["outputs"]
    printed = "".join("".join(output["text"]) for output in outputs if "text" in output)
    shown = [output["data"] for output in outputs if "data" in output]
    pictures = [
        base64.b64decode("".join(data["image/png"])) for data in shown if "image/png" in data
    ]
    values = [
        without_tags("".join(data["text/html"]))
        if "text/html" in data
        else "".join(data["text/plain"])
        for data in shown
        if "image/png" not in data
    ]
    # Colours of a terminal are Jupyter's.
    return re.sub(r"\x1b\[[0-9;]*m", "", printed), "".join(values), pictures


def not_as_shown(cell, name, names):
    """What of a cell's outputs is not as it is stored."""
    results, shown = run(cell, name, names), stored(cell)
    if cell["metadata"].get("python", version()) != version():
        return []
    percent = cell["metadata"].get("within", 10)
    if percent is None:
        counts = [len(text.splitlines()) for text, *_ in (results, shown)]
        return [] if counts[0] == counts[1] else [f"printed, shown: {counts} lines"]
    found = [line for i in (0, 1) for line in differences(results[i], shown[i], percent)]
    if len(results[2]) != len(shown[2]):
        return [*found, f"drawn: {len(results[2])} figures, shown: {len(shown[2])}"]
    for i, sizes in enumerate(zip(map(size, results[2]), map(size, shown[2]), strict=True), 1):
        if not np.allclose(*sizes, rtol=0.05):
            found.append(f"figure {i} is drawn with {sizes[0]} pixels, shown with {sizes[1]}")
    return found


def version():
    return ".".join(platform.python_version_tuple()[:2])


@pytest.mark.parametrize(
    "notebook",
    [path for path in NOTEBOOKS if RUN_ON[path.stem] == keras.backend.backend()],
    ids=lambda path: path.stem,
)
def test_notebooks_show_what_they_print_and_draw(notebook, tmp_path, monkeypatch):
    from matplotlib import pyplot

    if notebook.stem == "backends":
        pytest.importorskip("jax")
    pyplot.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    names, found = {}, []
    for number, cell in enumerate(code_cells(notebook), 1):
        name = f"{notebook.name}, cell {number}"
        found += [f"{name}: {line}" for line in not_as_shown(cell, name, names)]
    assert not found


def test_every_notebook_is_run_somewhere():
    assert sorted(RUN_ON) == [path.stem for path in NOTEBOOKS]
    index = (ROOT / "docs" / "gallery" / "index.md").read_text(encoding="utf-8")
    assert all(f"]({name}.md)" in index for name in RUN_ON)


def cell_of(source, *outputs, **metadata):
    return {"source": [source], "outputs": list(outputs), "metadata": metadata}


def test_outputs_are_compared():
    printed, value = {"name": "stdout", "text": ["loss 0.50\n"]}, {"data": {"text/plain": ["3"]}}
    source = "x = 3\nprint('loss 0.52')\nx"
    assert not_as_shown(cell_of(source, printed, value), "a", {}) == []
    other = {"data": {"text/plain": ["4"]}}
    assert not_as_shown(cell_of(source, printed, other), "a", {}) == ["printed: 3, shown: 4"]
    assert not_as_shown(cell_of(source, printed, other, within=30), "a", {}) == []
    assert not_as_shown(cell_of(source, printed, other, python="2.7"), "a", {}) == []
    assert not_as_shown(cell_of(source, printed, other, within=None), "a", {}) == []
    longer = {"name": "stdout", "text": ["loss 0.50\nanother line\n"]}
    shorter = not_as_shown(cell_of(source, longer, other, within=None), "a", {})
    assert shorter == ["printed, shown: [1, 2] lines"]
    assert len(not_as_shown(cell_of(source + ";", printed, value), "a", {})) == 2
    assert len(not_as_shown(cell_of(source, value), "a", {})) == 2
    table = type("Table", (), {"_repr_html_": lambda self: "<style>p {}</style><p>loss <b>3"})
    html = {"data": {"text/html": ["<i>loss</i> 3"], "text/plain": ["a table"]}}
    assert not_as_shown(cell_of("t", html), "a", {"t": table()}) == []


def test_figures_are_compared():
    from matplotlib import figure

    def drawn(width):
        made = figure.Figure(figsize=(width, 3.4), layout="constrained")
        made.subplots().plot([3, 2, 1], marker=".")
        return made

    shown = {"data": {"image/png": base64.b64encode(picture(drawn(7))).decode()}}
    assert not_as_shown(cell_of("f(7)", shown), "a", {"f": drawn}) == []
    (line,) = not_as_shown(cell_of("f(5)", shown), "a", {"f": drawn})
    assert line.startswith("figure 1 is drawn with (")
    (line,) = not_as_shown(cell_of("1;", shown), "a", {})
    assert line == "drawn: 0 figures, shown: 1"


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
