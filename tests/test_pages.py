"""Every page that a message names is there, with its heading."""

import ast
import pathlib
import re

from keras_swift.src._pages import DOCS, read_on

ROOT = pathlib.Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def named_pages():
    """`(file, page)` of every call of `read_on`."""
    for path in sorted((ROOT / "keras_swift").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "read_on":
                yield path.name, node.args[0].value


def anchors(text):
    """The anchors that MkDocs gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {
        re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", each).strip().lower()) for each in headings
    }


def test_pages_that_messages_name_exist():
    found = list(named_pages())
    assert len(found) >= 15
    for file, page in found:
        name, _, anchor = page.partition("#")
        text = (ROOT / DOCS / name).read_text(encoding="utf-8")
        assert not anchor or anchor in anchors(text), f"{file} names {page}"


def test_anchors_are_those_of_mkdocs():
    text = "# Losses, weights, metrics\n\n```\n# A comment\n```\n\n## `fit` and Keras' own\n"
    assert anchors(text) == {"losses-weights-metrics", "fit-and-keras-own"}


def test_messages_end_with_the_page():
    assert read_on("guides/resuming.md#a-search").endswith("docs/guides/resuming.md#a-search")
