"""The figure class of all plots. Only `_plotting` imports this file, when a plot is drawn."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure that notebooks show as an image.

    Notebooks show pyplot's figures anyway, but others only once pyplot has drawn one.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
