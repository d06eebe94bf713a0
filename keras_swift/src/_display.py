"""HTML for notebooks: a title and a table."""

from __future__ import annotations

import html
from collections.abc import Iterable


def html_table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """The HTML of a title and a table with a row for each `(name, value)`; all text is escaped.

    Colours and fonts are those of the page, which may be light or dark.

    Example:
        >>> html_table("Batch", [("size", "< 32")]).partition("<tr>")[2]
        '<th>size</th><td>&lt; 32</td></tr></table></div>'
    """
    body = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f"<div><strong>{html.escape(title)}</strong><table>{body}</table></div>"
