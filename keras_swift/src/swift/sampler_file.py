"""The file of a sampler: JSON with a format and a version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from keras_swift.src.fitting.atomic import write_atomically
from keras_swift.src.rules import shown

FORMAT = "keras_swift.SwiftSampler"
VERSION = 1
ENTRIES = {"knots", "values", "coefficients", "features", "transform"}


# The entries without a default.
NEEDED = {"knots", "values", "coefficients"}


def checked_config(config: Any) -> dict[str, Any]:
    """What `get_config` returned, as a dict; raises for anything else."""
    if not isinstance(config, Mapping):
        raise TypeError(
            f"`config` must be a mapping that `get_config` returned. Received: {shown(config)}."
        )
    if not NEEDED <= set(config) <= ENTRIES:
        raise ValueError(
            f"`config` must hold the entries {sorted(ENTRIES)}. Received: {sorted(config)}."
        )
    return dict(config)


def write_sampler(path: str, config: dict[str, Any]) -> None:
    """Writes the configuration of a sampler; an existing file is replaced."""
    content = {"format": FORMAT, "version": VERSION, **config}
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_sampler(path: str) -> dict[str, Any]:
    """The configuration that `write_sampler` wrote.

    Raises:
        ValueError: if the file is not JSON, not a sampler or of another version.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"`path` must be a JSON file written by `SwiftSampler.save`. {path} is not valid "
            f"JSON ({error}); it may be truncated."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            "`path` must be a JSON file written by `SwiftSampler.save`, with "
            f'"format": "{FORMAT}". {path} has: {found!r}'
        )
    version = content.pop("version", None)
    if version != VERSION:
        raise ValueError(
            f"`path` must hold a sampler of version {VERSION}. {path} has version {version!r}. "
            "Read it with the release that wrote it."
        )
    del content["format"]
    if set(content) != ENTRIES:
        raise ValueError(
            f"`path` must hold the entries {sorted(ENTRIES)}. {path} has {sorted(content)}."
        )
    return content
