"""Makes a page of each notebook in docs/gallery/ from the outputs that are stored in it."""

import base64
import hashlib
import json
import pathlib
import re

from mkdocs.structure.files import File


def on_files(files, config):
    """Replaces notebooks by Markdown pages, and their figures by files."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        path = pathlib.Path(notebook.abs_src_path)
        text, figures = as_markdown(json.loads(path.read_text(encoding="utf-8")))
        folder = str(pathlib.PurePosixPath(notebook.src_uri).parent)
        page = notebook.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, page, content=text))
        for name, content in figures.items():
            files.append(File.generated(config, f"{folder}/{name}", content=content))
    return files


def as_markdown(notebook):
    """`(text, figures)`: the cells as Markdown, and a dict from file names to bytes."""
    parts, figures = [], {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        # A semicolon at the end only silences Jupyter.
        parts.append(f"```python\n{source.removesuffix(';')}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                content = base64.b64decode("".join(data["image/png"]))
                name = f"figure-{hashlib.sha256(content).hexdigest()[:12]}.png"
                figures[name] = content
                parts.append(f"![What the code above draws]({name})")
                continue
            if "text/html" in data:
                parts.append(as_block("".join(data["text/html"])))
                continue
            text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
            # Colours of a terminal are of no use in a page.
            text = re.sub(r"\x1b\[[0-9;]*m", "", text)
            if text and output.get("name") != "stderr":
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n", figures


def as_block(html):
    """HTML of an output in the style of the page: without styles of its own and empty lines."""
    html = re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
    html = re.sub(r' (border|class|style)="[^"]*"', "", html)
    return f'<div class="output">{" ".join(html.split())}</div>'
