"""Importing matplotlib when a figure is drawn, and saving one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def import_figure() -> type[Figure]:
    """`matplotlib.figure.Figure`, which draws without a window and without global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib. Install it with `pip install 'keras-swift[plot]'`."
        ) from error
    return Figure


def save(figure: Figure, file: str | os.PathLike[str] | None) -> Figure:
    """Writes the figure where a file is given; returns it."""
    if file is not None:
        figure.savefig(file, dpi=120)
    return figure
