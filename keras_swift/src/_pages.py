"""The pages of the documentation that errors and warnings name."""

from __future__ import annotations

# The folder of the pages in the repository, to be replaced by the site's address once there is one.
DOCS = "docs/"


def read_on(page: str) -> str:
    """The last sentence of a message: where it is explained.

    Args:
        page: a file in docs/, with or without an anchor; `tests/test_pages.py` checks that both
            exist.

    Example:
        >>> read_on("guides/resuming.md#a-search")
        'Read on: docs/guides/resuming.md#a-search'
    """
    return f"Read on: {DOCS}{page}"
