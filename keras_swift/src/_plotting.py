"""The class, the colours and the files of figures; matplotlib is imported when one is drawn."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#767676"


def import_figure() -> type[Figure]:
    """The figures' class, which needs neither a window nor pyplot's global state.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from keras_swift.src._figure import NotebookFigure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib. Install it with `pip install 'keras-swift[plot]'`."
        ) from error
    return NotebookFigure


def save(figure: Figure, file: str | os.PathLike[str] | None) -> Figure:
    """Writes the figure if a file is given; returns it."""
    if file is not None:
        figure.savefig(file, dpi=120)
    return figure
