"""What the pages and notebooks use is brought by the install commands that they name."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib

import keras
import pytest
from test_notebooks import NOTEBOOKS
from test_readme import BLOCK, PAGES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The names that packages are imported by, where they differ.
IMPORTED_AS = {"keras-tuner": "keras_tuner", "scikit-learn": "sklearn"}
# What packages bring with them that pages use.
BRINGS = {"keras-tuner[bayesian]": {"sklearn"}}
# What our functions import when they are called.
CALLS = {
    r"\.to_frame\(": "pandas",
    r"\.plot\(|plot_training\(": "matplotlib",
}
INSTALL = re.compile(r"pip install ([^\n`]+)")
# The command of README and the first page, which is not repeated on the others.
FIRST = INSTALL.search(PAGES["README.md"])[1]


def code_of(path):
    """The code that a reader of a page runs; not what is marked as needing something more."""
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return "\n".join(code for needed, code, *_ in found if not needed)


def used(code):
    """The modules that code needs, without Python's own."""
    # A notebook's `%matplotlib` and `!pip` are no Python.
    code = "\n".join(line for line in code.splitlines() if line[:1] not in ("%", "!"))
    names = {module for call, module in CALLS.items() if re.search(call, code)}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names)


def module_of(requirement):
    name = re.match(r"[\w-]+", requirement)[0]
    return IMPORTED_AS.get(name, name)


def brought(command):
    """The modules that a `pip install` command brings, as far as pages use them."""
    found = set()
    for name, extras in re.findall(r"([\w.-]+)(?:\[([\w,-]+)\])?", command):
        if name not in ("keras-swift", "."):
            found.add(module_of(name))
            continue
        lines = list(PROJECT["dependencies"])
        for extra in filter(None, extras.split(",")):
            lines += PROJECT["optional-dependencies"][extra]
        found |= {"keras_swift", *map(module_of, lines)}
        for line in lines:
            found |= BRINGS.get(re.match(r"[\w\[\]-]+", line)[0], set())
    return found


@pytest.mark.parametrize(
    "path",
    [path for path in (*(ROOT / name for name in PAGES), *NOTEBOOKS) if used(code_of(path))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_page_needs_only_what_its_commands_install(path):
    text = path.read_text(encoding="utf-8")
    if path in NOTEBOOKS:
        text = PAGES["docs/gallery/index.md"]
    commands = [FIRST, *INSTALL.findall(text)]
    installed = set().union(*map(brought, commands))
    assert used(code_of(path)) <= installed


@pytest.fixture(scope="session")
def python_after(tmp_path_factory):
    """The interpreter of an environment in which only some `pip install` commands were run."""
    made = {}

    def of(commands):
        if commands not in made:
            folder = tmp_path_factory.mktemp("environment")
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            made[commands] = folder / "bin" / "python"
            for command in commands:
                # This project, not the one that is published.
                wanted = [
                    re.sub(r"^keras-swift(?=\[|$)", str(ROOT), one) for one in shlex.split(command)
                ]
                install = [made[commands], "-m", "pip", "install", "--quiet", *wanted]
                subprocess.run(install, check=True)
        return made[commands]

    return of


@pytest.mark.product
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the pages install it")
@pytest.mark.parametrize("name", [name for name in PAGES if used(code_of(ROOT / name))])
def test_the_code_of_a_page_runs_where_only_its_commands_were_run(name, python_after, tmp_path):
    commands = dict.fromkeys([FIRST, *INSTALL.findall(PAGES[name])])
    # The project's own commands, for who has its source.
    commands = tuple(command for command in commands if not command.startswith("-e"))
    (tmp_path / "page.py").write_text(code_of(ROOT / name), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k not in ("KERAS_BACKEND", "PYTHONPATH")}
    found = subprocess.run(
        [python_after(commands), "page.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-3000:]


def test_commands_and_code_are_understood():
    assert brought('-q "keras-swift[torch,plot]" pandas') >= {"torch", "matplotlib", "pandas"}
    assert "sklearn" in brought("keras-swift") and "torch" not in brought("keras-swift")
    assert used("import os\nfrom sklearn.svm import SVC\nfound.to_frame()") == {"sklearn", "pandas"}
