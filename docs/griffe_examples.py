"""Lets an `Example:` with prompts be read as code, like the `Examples:` of Google's style."""

import re

import griffe


class Examples(griffe.Extension):
    """Renames the heading before the docstrings are parsed."""

    def on_object(self, *, obj, **arguments):
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^Example:\n(?= +>>>)", "Examples:\n", obj.docstring.value, flags=re.MULTILINE
            )
