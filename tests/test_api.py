"""The API pages: every public name, every class that users receive, every argument."""

import ast
import dataclasses
import inspect
import pathlib
import re

import pytest

import keras_swift as ks
from keras_swift.src.records.columns import FinishedRecord as RECORD

ROOT = pathlib.Path(__file__).resolve().parents[1]
API = ROOT / "docs" / "api"
PUBLIC = {name: getattr(ks, name) for name in ks.__all__}
CLASSES = {
    node.name
    for path in (ROOT / "keras_swift").rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
}


def test_every_public_name_has_a_page():
    index = (API / "index.md").read_text(encoding="utf-8")
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for name in ks.__all__:
        assert (API / f"{name}.md").read_text(encoding="utf-8") == f"::: keras_swift.{name}\n"
        assert f"]({name}.md)" in index
        assert f"{name}: api/{name}.md" in site
    assert {path.stem for path in API.glob("*.md")} == {*ks.__all__, "index"}


def members(owner):
    """The public methods, properties and fields of a class, with their annotations as text."""
    for name, member in inspect.getmembers(owner):
        if name.startswith("_") or not _is_ours(member):
            continue
        if isinstance(member, property):
            yield name, member.fget, str(member.fget.__annotations__.get("return"))
        elif inspect.isroutine(member):
            returned = getattr(inspect.unwrap(member), "__annotations__", {}).get("return")
            yield name, member, str(returned)
    if dataclasses.is_dataclass(owner):
        for field in dataclasses.fields(owner):
            if not field.name.startswith("_"):
                yield field.name, None, str(field.type)


def _is_ours(member):
    function = member.fget if isinstance(member, property) else inspect.unwrap(member)
    return getattr(function, "__module__", "").startswith("keras_swift")


def received():
    """`(where, class name)` of what public names return, by their annotations."""
    for public, value in PUBLIC.items():
        pairs = [(public, str(getattr(value, "__annotations__", {}).get("return")))]
        if inspect.isclass(value):
            pairs = [(f"{public}.{name}", text) for name, _, text in members(value)]
        for where, text in pairs:
            for word in re.findall(r"\w+", text):
                if word in CLASSES:
                    yield where, word


def test_every_class_that_users_receive_is_public():
    found = sorted(received())
    # Seen at all: through a function, a property, a method and a field.
    for pair in [
        ("find_suspects", "Suspects"),
        ("ImportanceTraining.memory", "ExampleMemory"),
        ("ImportanceTraining.suspects", "Suspects"),
        ("SearchResult.sampler", "SwiftSampler"),
    ]:
        assert pair in found
    private = {pair for pair in found if pair[1] not in PUBLIC}
    # Only passed on by users; what can be read of it is in the docstring of what has it.
    record = {("SearchResult.record", "FinishedRecord"), ("Suspects.record", "FinishedRecord")}
    state = ("ExampleMemory.state", "MemoryState")  # For `restore`.
    assert private == {*record, state, ("SwiftSampler.layout", "Layout")}
    text = inspect.getdoc(ks.SwiftSampler.layout)
    assert all(f"`{name}`" in text for name in ("knots", "values", "coefficients", "names", "size"))
    for owner in (ks.SearchResult, ks.Suspects):
        text = inspect.getdoc(owner).partition("record: ")[2].partition("shape `(n,)`")[0]
        assert re.findall(r"`(\w+)`", text) == [each.name for each in dataclasses.fields(RECORD)]


def documented(text, section):
    """The names that a section of a docstring in Google's form lists."""
    match = re.search(rf"^{section}:\n((?: .*\n|\n)+)", inspect.cleandoc(text) + "\n", re.MULTILINE)
    return re.findall(r"^ {4}[*`]*(\w[\w, *]*?)`?:", match.group(1), re.MULTILINE) if match else []


def signatures():
    for public, value in PUBLIC.items():
        if not inspect.isclass(value):
            yield public, value, inspect.getdoc(value)
            continue
        yield public, value.__init__, inspect.getdoc(value)
        for name, member, _ in members(value):
            if inspect.isroutine(member):
                yield f"{public}.{name}", member, inspect.getdoc(member)


@pytest.mark.parametrize(
    ("name", "function", "text"),
    # Not by the functions, whose addresses differ between the processes of a suite.
    [pytest.param(*each, id=each[0]) for each in signatures()],
)
def test_every_argument_is_documented_by_its_name(name, function, text):
    parameters = inspect.signature(function).parameters
    given = [each for each in parameters if each not in ("self", "cls")]
    arguments, attributes = (documented(text, section) for section in ("Args", "Attributes"))
    # Each by itself: a page cannot show the type of "x, y".
    assert [each for each in arguments + attributes if "," in each] == []
    assert [each for each in arguments if each not in given] == []
    # A method of one plain argument says in its first line what that is.
    if "." not in name and not attributes:
        assert given == arguments
